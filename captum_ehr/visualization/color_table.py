"""A table of colours: its cells, their numbers, the words of its columns, its sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Normalize

from captum_ehr.scene.folding import with_room
from captum_ehr.scene.palette import ColorScale
from captum_ehr.scene.wording import rounded

from .figure_page import MUTED, Page
from .keys import COLORMAP
from .measuring import LEADING, PLAIN

_SHARE, _ABSENT, _UPRIGHT = 0.92, 0.08, 1.3
"""The size of numbers in cells, of that of notes; the ink of what is not there; the
most inches of a column's words, beyond which they are cut."""


def draw_cells(
    page: Page,
    cells: np.ndarray,
    scale: ColorScale,
    shown: tuple[int, int],
    values: bool | None,
) -> None:
    """The coloured table; what sums the rest has no colour.

    Args:
        page: The page, with its rows.
        cells: Of shape (rows, columns), NaN where nothing is.
        scale: The colours.
        shown: How many rows and columns stand for themselves; a last one beyond them
            sums what is not shown.
        values: Whether to write the numbers; None to write them where all have room,
            True to refuse where they have none.
    """
    ax, limit, face = page.ax, scale.limit or 1.0, page.ink(0)
    rows, columns = cells.shape
    ax.set_facecolor(page.ink(_ABSENT))
    ax.grid(visible=False)
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    narrow = min(page.inner[0] / columns, page.inner[1] / rows)
    look: Any = {"cmap": COLORMAP, "norm": Normalize(-limit, limit)}
    look |= {"edgecolors": face, "linewidth": min(0.8, 5 * narrow)}
    ax.pcolormesh(*edges, np.ma.masked_invalid(cells), **look)
    ax.set_ylim(rows - 0.5, -0.5)
    cover: Any = {"facecolor": face, "edgecolor": "none", "zorder": 1}
    if shown[0] < rows:
        ax.axhspan(shown[0] - 0.5, rows - 0.5, **cover)
    if shown[1] < columns:
        ax.axvspan(shown[1] - 0.5, columns - 0.5, **cover)
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(axis="both", length=0)
    _write_values(page, cells, scale, shown, values)


def _write_values(
    page: Page,
    cells: np.ndarray,
    scale: ColorScale,
    shown: tuple[int, int],
    values: bool | None,
) -> None:
    """The number of each cell, upright where that is how all have room."""
    if values is False:
        return
    ax, size = page.ax, _SHARE * page.small
    cell = page.inner[0] / cells.shape[1], page.inner[1] / cells.shape[0]
    words = rounded(np.nan_to_num(cells).ravel().tolist())
    wide, high = page.widest(words, size) + 0.03, 1.1 * size / 72
    is_upright = bool(wide > cell[0])
    if max(wide / cell[is_upright], high / cell[not is_upright]) > 1:
        if values:
            raise ValueError(
                "values=True: there is no room for numbers in cells of "
                f"{cell[0]:.2f} × {cell[1]:.2f} inches. Ask for fewer columns or rows, "
                "a greater width or a smaller fontsize."
            )
        return
    style: Any = {"ha": "center", "va": "center", "fontsize": size, **PLAIN}
    style["rotation"] = 90 if is_upright else 0
    for (row, column), text in zip(np.ndindex(cells.shape), words, strict=True):
        amount = float(cells[row, column])
        if math.isnan(amount):
            continue
        is_rest = row >= shown[0] or column >= shown[1]
        color = page.ink(1) if is_rest else scale.text(amount)
        ax.text(column, row, text, color=color, zorder=2, **style)


def draw_circles(page: Page, cells: np.ndarray) -> None:
    """A small circle in the upper left corner of cells, ``(count, 2)``."""
    ax, step = page.ax, page.inner[0] / max(1.0, np.ptp(page.ax.get_xlim()))
    look: Any = {"s": min(7.0, (14 * step) ** 2), "facecolors": page.ink(0)}
    look |= {"edgecolors": page.ink(MUTED), "linewidths": 0.6, "zorder": 3}
    rows, columns = cells.T
    ax.scatter(columns - 0.36, rows - 0.32, **look)


def label_columns(page: Page, labels: Sequence[str]) -> None:
    """The words below the columns: upright where there is no room, some left out."""
    ax, cell = page.ax, page.inner[0] / len(labels)
    wide = page.widest(labels, page.small) + 0.06
    is_upright = wide > cell
    words = [page.fit(label, _UPRIGHT, page.small) for label in labels]
    # A last column of the rest, "90 more", always says so.
    step = max(1, math.ceil((LEADING * page.small / 72) / cell)) if is_upright else 1
    places = [place for place in range(len(labels)) if place % step == 0]
    last = len(labels) - 1
    places = [place for place in places if last - place >= step] + [last]
    ax.set_xticks(places, [words[i] for i in places], **PLAIN)
    ax.tick_params(axis="x", rotation=90 if is_upright else 0, labelsize=page.small)


def column_sums(page: Page, totals: Sequence[float], words: Sequence[str]) -> None:
    """The sums of columns above them; of the strongest where not all have room."""
    cell, size = page.inner[0] / len(totals), page.small
    is_upright = page.widest(words, size) + 0.06 > cell
    room = LEADING * size / 72 if is_upright else 0.99 * cell
    places = [place * cell for place in range(len(totals))]
    style: Any = {"ha": "center", "va": "bottom", "color": page.ink(MUTED)}
    style["rotation"] = 90 if is_upright else 0
    for column in with_room(places, list(map(abs, totals)), room):
        page.label(words[column], (column, -0.5), (0, 4), **style)


def row_sums(page: Page, words: Sequence[str], columns: int) -> None:
    """The sums of rows at their right, and what they are."""
    right, color = columns - 0.5, page.ink(MUTED)
    for row, total in enumerate(words):
        page.label(total, (right, row), (6, 0), va="center", color=color)
    style: Any = {"va": "bottom", "fontweight": "bold", "color": color}
    page.label("sum", (right, -0.5), (6, 4), **style)


def sums_wide(page: Page, words: Sequence[str]) -> float:
    """The inches that the sums of rows take at the right."""
    head = page.wide("sum", page.small, "bold")
    return max(page.widest(words, page.small), head) + 6 / 72
