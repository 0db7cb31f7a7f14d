"""No circles: every file of the package can be read after those that it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def modules(root: Path, package: str = "captum_ehr") -> dict[str, Path]:
    """Every file of a package by its module's name."""
    files = {}
    for path in (root / package).rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = path
    return files


def imported(name: str, path: Path, files: Mapping[str, Path]) -> Iterator[str]:
    """What a file imports of the package: inside functions and TYPE_CHECKING too."""
    parents = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            inside = [f"{base}.{alias.name}" for alias in node.names]
            found = [module for module in inside if module in files]
            yield from found
            if len(found) < len(inside) and base in files:
                yield base


def circle(root: Path, package: str = "captum_ehr") -> list[str]:
    """A circle of files that import each other, empty if there is none."""
    files = modules(root, package)
    graph = {name: {*imported(name, path, files)} for name, path in files.items()}
    # A package's own file gathers names; it may do so lazily, from any of its files.
    graph[package] = set()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_import_each_other() -> None:
    assert not circle(ROOT)


@pytest.mark.parametrize(
    "line",
    [
        "from .b import x",
        "from . import b",
        "from p.b import x",
        "import p.b",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import x",
        "def f():\n    from .b import x",
    ],
)
def test_a_circle_is_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/__init__.py").touch()
    (tmp_path / "p/a.py").write_text(f"{line}\n")
    (tmp_path / "p/b.py").write_text("from .c import y\n")
    (tmp_path / "p/c.py").write_text("")
    assert not circle(tmp_path, "p")
    (tmp_path / "p/c.py").write_text("from .a import z\n")
    assert {"p.a", "p.b", "p.c"} <= {*circle(tmp_path, "p")}


def test_no_two_files_have_one_name() -> None:
    names: dict[str, list[Path]] = {}
    for path in modules(ROOT).values():
        names.setdefault(path.name, []).append(path)
    names.pop("__init__.py")
    assert not {name: paths for name, paths in names.items() if len(paths) > 1}


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in modules(ROOT).values()
    }
    assert not {path: n for path, n in lengths.items() if n > 400}
