"""What autodoc and napoleon have to be told about the docstrings of this package."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any, NamedTuple

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer


class _Named(NamedTuple):
    field: None


FIELD = vars(_Named)["field"]


def process(
    app: Sphinx, what: str, name: str, object_: Any, options: Any, lines: list[str]
) -> None:
    """Ready a docstring for napoleon, which reads it next."""
    if what in ("data", "type"):
        lines[:] = _comment(name, object_)
    if what in ("attribute", "data", "property", "type"):
        # In "The scale: logit or probability" napoleon would take the scale for a type.
        # It looks at the first line alone, which now is an empty comment.
        lines[:0] = ["..", ""]
    elif what == "method" and inspect.isfunction(object_):
        _drop_receiver(next(iter(inspect.signature(object_).parameters), "self"), lines)


def skip(
    app: Sphinx, what: str, name: str, object_: Any, skipped: bool, options: Any
) -> bool | None:
    """Leave out the fields of named tuples: they are among the parameters."""
    return True if type(object_) is type(FIELD) else None


def _comment(name: str, value: Any) -> list[str]:
    """What is said of a constant where it is assigned, below the package it is in."""
    package, _, short = name.rpartition(".")
    for path, module in sorted(sys.modules.items()):
        if path.startswith(f"{package}.") and vars(module).get(short) is value:
            said = ModuleAnalyzer.for_module(path).find_attr_docs().get(("", short))
            if said is not None:
                return list(said)
    return []


def _drop_receiver(name: str, lines: list[str]) -> None:
    """Methods that are functions of a module document what they are called on."""
    entry = re.compile(rf"(\s+){name}: ")
    start = next((i for i, line in enumerate(lines) if entry.match(line)), None)
    if name == "self" or start is None:
        return
    indent = len(lines[start]) - len(lines[start].lstrip())
    end = start + 1
    while end < len(lines) and lines[end].startswith(" " * (indent + 1)):
        end += 1
    last = end == len(lines) or not lines[end].strip()
    first = lines[start - 1].strip() == "Args:"
    del lines[start - 1 if first and last else start : end]


def setup(app: Sphinx) -> dict[str, bool]:
    """Docstrings before napoleon gets them, whose priority is 500."""
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
