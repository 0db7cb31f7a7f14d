"""What each code does on average, or otherwise in a group, and how sure that is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from captum_ehr.scene.intervals import Estimate, estimates
from captum_ehr.scene.palette import LOWERS, RAISES

from .figure_page import LINE, MUTED, Looks, Page, open_page
from .plot_arguments import at_least_one

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
    page.lay_rows([row.label for row in rows])
    ends = [end for row in rows for end in (row.value, *(row.ends or ()))]
    ends = [0.0, *filter(math.isfinite, ends)]
    words, values = [row.words for row in rows], [row.value for row in rows]
    page.room_for_words((min(ends), max(ends)), words, values, 0.1)
    page.thin_ticks()
    for place, row in enumerate(rows):
        _draw(page, place, row)
    page.ax.axvline(0, color=page.ink(LINE), lw=0.8, zorder=0)
    page.axis_label(said.axis)
    return page.finish(said.head, said.lines, notes=[f"+{rest} more"] * (rest > 0))


def _draw(page: Page, place: int, row: Estimate) -> None:
    """One dot, its interval as a line, and its number."""
    ax, look = page.ax, dict[str, Any](va="center")
    if math.isnan(row.value):
        page.label(row.words, (0, place), (3, 0), color=page.ink(MUTED), **look)
        return
    color = RAISES if row.value > 0 else LOWERS
    low, high = row.ends or (row.value, row.value)
    ax.plot((low, high), (place, place), color=color, lw=1.6, solid_capstyle="butt")
    fill = color if row.is_marked else ax.get_facecolor()
    ax.plot([row.value], [place], "o", color=color, mfc=fill, ms=4.5)
    end, shift = (low, -5) if row.value < 0 else (high, 5)
    look["ha"] = "right" if row.value < 0 else "left"
    page.label(row.words, (end, place), (shift, 0), **look)
