"""The directive ``commands``: a Typer application's commands and options.

Read from the commands' functions and their annotations, which is what a Typer
application is written in; what Typer makes of them differs between its versions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from inspect import Parameter, cleandoc, signature
from typing import Any, get_args, get_type_hints

import typer
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.models import ArgumentInfo

#: What a value is called where the option does not say.
WORDS = {"int": "INTEGER", "Path": "PATH", "str": "TEXT", "float": "NUMBER"}

#: An option in a sentence; elsewhere it stands in quotes of its own, or indented.
OPTION = re.compile(r"(?<![`\w-])--\w[\w-]*")


class Commands(SphinxDirective):
    """``.. commands:: package.module:app`` describes each command of the app."""

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        """A section for each command, in the order of its definition."""
        module, name = self.arguments[0].split(":")
        app: typer.Typer = getattr(import_module(module), name)
        lines = [
            line
            for command in app.registered_commands
            for line in _described(str(app.info.name), command)
        ]
        return self.parse_text_to_nodes(
            StringList([OPTION.sub(r"``\g<0>``", line) for line in lines]),
            allow_section_headings=True,
        )


def _described(program: str, command: Any) -> Iterator[str]:
    """The lines of a command: heading, usage, its help, its options, an example."""
    name = command.name or command.callback.__name__
    rows = list(_rows(command.callback))
    usage = "".join(f" [{words}]" for words, _, option in rows if not option)
    yield from (name, "=" * len(name), "")
    yield from (
        ".. code-block:: console",
        "",
        f"   $ {program} {name} [OPTIONS]{usage}",
    )
    yield from ("", *cleandoc(command.callback.__doc__).splitlines(), "")
    for words, text, _ in rows:
        yield from (f"``{words}``", f"   {text}", "")
    if command.epilog:
        yield from (command.epilog, "")


def _rows(function: Any) -> Iterator[tuple[str, str, bool]]:
    """For each parameter its words, its help, and whether it is an option."""
    hints = get_type_hints(function, include_extras=True)
    for parameter in signature(function).parameters.values():
        kind, *infos = get_args(hints[parameter.name]) or (None,)
        info = next(iter(infos), None)
        if info is None:  # typer's context, of no words
            continue
        if isinstance(info, ArgumentInfo):
            yield info.metavar or parameter.name.upper(), info.help or "", False
        else:
            yield _option(parameter, kind, info), _help(parameter, info), True


def _option(parameter: Parameter, kind: Any, info: Any) -> str:
    name = f"--{parameter.name.replace('_', '-')}"
    if kind is bool:
        return name
    plain = next(one for one in (*get_args(kind), kind) if one is not type(None))
    return f"{name} {info.metavar or WORDS[plain.__name__]}"


def _help(parameter: Parameter, info: Any) -> str:
    default = parameter.default
    unsaid = any(default is one for one in (None, False, Parameter.empty))
    named = not unsaid and default != ""
    return info.help + (f" *Default:* ``{default}``." if named else "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
