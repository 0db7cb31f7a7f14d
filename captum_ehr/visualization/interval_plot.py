"""What each code does on average, or otherwise in a group, and how sure that is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from captum_ehr.scene.intervals import Estimate, estimates
from captum_ehr.scene.palette import LOWERS, RAISES
from captum_ehr.visualization.axes import (
    LINE,
    MUTED,
    axis_label,
    label,
    label_rows,
    room_for_words,
    strip,
    thin_ticks,
    words_wide,
)
from captum_ehr.visualization.layout import Looks, Page, ink, open_page
from captum_ehr.visualization.plot_arguments import at_least_one

if TYPE_CHECKING:
    import pandas as pd

_WIDTH = 8.5


def intervals(
    table: pd.DataFrame,
    ax: Axes | FigureBase | None = None,
    *,
    k: int = 20,
    width: float | None = None,
    fontsize: float | None = None,
    title: bool | str = True,
    subtitle: bool | str = True,
) -> tuple[Figure, Axes]:
    """Draw the numbers of a table with their intervals; those without one are named.

    Args:
        table: Of :meth:`captum_ehr.Explanation.top` with a level (means), of
            :meth:`~captum_ehr.Explanation.groups` (differences; filled where the
            ``q_value`` is at most .05), of :meth:`~captum_ehr.Explanation.across`
            (lines from the lowest model to the highest), ``codes`` and ``groups`` of
            a :class:`captum_ehr.Cohort`, or one sample's of
            :meth:`captum_ehr.DeepLiftShapEHR.spread` (a standard deviation to each
            side). Rows in another order, or some of them, are drawn as they come.
        ax: Axes to draw on, or a figure; by default a new figure of fitting size,
            independent of pyplot.
        k: How many rows; fewer where axes are given that have no room for them.
        width: The width of a new figure in inches; its height follows.
        fontsize: The size of ordinary text in points; by default 0.8 times the
            ``font.size`` of matplotlib's style.
        title: A heading in place of this figure's own; False for none.
        subtitle: The smaller text below it, likewise.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: If the table has no rows or no intervals, is not of codes, or ``k``
            is less than 1.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> explanation = DeepLiftEHR(tiny_model()[0]).explain(tiny_model()[1])
        >>> figure, ax = intervals(explanation.top(level=0.95), k=2)
        >>> [text.get_text() for text in ax.get_yticklabels()]
        ['E11.9', 'I50.9']
    """
    at_least_one(k=k)
    page = open_page(ax, Looks(width, fontsize, title, subtitle), _WIDTH)
    said = estimates(table, k)
    most = page.rows(min(k, len(table)), said.head, said.lines, 5.0)
    rows, rest = said.rows[:most], len(table) - min(most, len(said.rows))
    labels, left = page.row_labels([row.label for row in rows])
    page.reserve(left, 0.1, page.row * len(rows))
    ax = page.ax
    strip(page, ax, "top", "right", "left")
    label_rows(page, ax, labels)
    ends = [end for row in rows for end in (row.value, *(row.ends or ()))]
    ends = [0.0, *filter(math.isfinite, ends)]
    sides = [
        [row.words for row in rows if (row.value < 0) is is_left]
        for is_left in (True, False)
    ]
    room = (words_wide(page, side) if side else 0.1 for side in sides)
    room_for_words(page, ax, (min(ends), max(ends)), *room)
    thin_ticks(ax, 0.1)
    for place, row in enumerate(rows):
        _draw(page, place, row)
    ax.axvline(0, color=ink(ax, LINE), lw=0.8, zorder=0)
    axis_label(page, ax, said.axis)
    page.finish(said.head, said.lines, notes=[f"+{rest} more"] if rest else ())
    return page.figure, ax


def _draw(page: Page, place: int, row: Estimate) -> None:
    """One dot, its interval as a line, and its number."""
    ax = page.ax
    look: Any = {"va": "center", "size": page.small}
    if math.isnan(row.value):
        label(ax, row.words, (0, place), (3, 0), color=ink(ax, MUTED), **look)
        return
    color = RAISES if row.value > 0 else LOWERS
    low, high = row.ends or (row.value, row.value)
    ax.plot((low, high), (place, place), color=color, lw=1.6, solid_capstyle="butt")
    fill = color if row.is_marked else ax.get_facecolor()
    ax.plot([row.value], [place], "o", color=color, mfc=fill, ms=4.5)
    end, shift = (low, -5) if row.value < 0 else (high, 5)
    look["ha"] = "right" if row.value < 0 else "left"
    label(ax, row.words, (end, place), (shift, 0), **look)
