"""The tutorials run from start to end, and hold what they showed when they last did."""

from __future__ import annotations

import ast
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import nbformat
import pytest
from notebooks import ROOT, executed
from versions import PYHEALTH, before

NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
LARGEST = 700_000

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shows(source: str) -> bool:
    """Whether a cell ends in an expression, and so has something to show."""
    if source.startswith("%%capture"):
        return False
    lines = [line for line in source.splitlines() if not line.startswith("%")]
    return isinstance(ast.parse("\n".join(lines)).body[-1], ast.Expr)


def texts(notebook: Any) -> list[str]:
    """Everything that is written in outputs."""
    found = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            found += [text for kind, text in data.items() if kind.startswith("text/")]
            found += [output.get("text", "")]
    return found


@pytest.mark.complete
@pytest.mark.skipif(before(PYHEALTH, "2.1"), reason="written for PyHealth 2.1")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.xdist_group(path.stem))
        for path in NOTEBOOKS
    ],
)
def test_runs_from_start_to_end(path: Path, tmp_path: Path) -> None:
    """In a folder of its own, each in a fresh kernel; every shown cell shows again."""
    committed: Any = nbformat.read(path, as_version=4)
    again = executed(path, tmp_path)
    assert kinds(again) == kinds(committed)
    assert not any(tmp_path.iterdir())


def kinds(notebook: Any) -> list[list[list[str]]]:
    """What each cell shows (text, a table, a picture), or wrote, or raised."""
    return [
        [
            sorted(output.get("data", {})) or [output.output_type]
            for output in cell.outputs
        ]
        for cell in code_cells(notebook)
    ]


@each
def test_every_output_is_committed(path: Path) -> None:
    notebook: Any = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    for cell in code_cells(notebook):
        results = [o for o in cell.outputs if o.output_type == "execute_result"]
        assert len(cell.outputs) == len(results) == int(shows(cell.source)), cell.source


@each
def test_outputs_are_of_no_one_machine(path: Path) -> None:
    """No path, address, time of day, warning or progress bar; and not too large."""
    written = "\n".join(texts(nbformat.read(path, as_version=4)))
    for pattern in (
        r"(?<![\w<./])/(home|root|tmp|work|usr|var|Users|mnt)/",
        r"\b0x[0-9a-f]{6,}",
        r"\b20\d\d-\d\d-\d\d",
        r"\d\d:\d\d:\d\d",
        r"Warning\b",
        r"it/s\b",
    ):
        assert not re.search(pattern, written), pattern
    assert path.stat().st_size < LARGEST


@each
def test_pictures_are_committed_and_not_empty(path: Path) -> None:
    pictures = [
        b64decode(output["data"]["image/png"])
        for cell in code_cells(nbformat.read(path, as_version=4))
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert pictures and all(len(picture) > 5_000 for picture in pictures)


@each
def test_links_lead_somewhere(path: Path) -> None:
    notebook: Any = nbformat.read(path, as_version=4)
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", prose)
    assert all((path.parent / target).is_file() for target in linked)
