"""What each code does on average over a cohort, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_ehr.scene.palette import LOWERS, RAISES
from captum_ehr.scene.population import TopCode
from captum_ehr.scene.wording import signed
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

_WIDTH = 8.5


def mean_intervals(
    codes: Sequence[TopCode],
    title: str,
    lines: Sequence[str] = (),
    ax: Axes | None = None,
    *,
    width: float | None = None,
    fontsize: float | None = None,
) -> tuple[Figure, Axes]:
    """Draw the mean of each code with its interval; those without a number are named.

    Args:
        codes: The codes, the first on top.
        title: The heading.
        lines: Smaller text below it.
        ax: Where to draw; by default a new figure of fitting size, without pyplot.
        width: The width of a new figure in inches; its height follows.
        fontsize: The size of ordinary text in points.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: If there is no code.
    """
    if not codes:
        raise ValueError("nothing to show: there is no code.")
    page = open_page(ax, Looks(width, fontsize), _WIDTH)
    names = [
        f"{code.code} {code.name}" if code.is_named else code.code for code in codes
    ]
    labels, left = page.row_labels(names)
    page.reserve(left, 0.1, page.row * len(codes))
    ax = page.ax
    strip(page, ax, "top", "right", "left")
    label_rows(page, ax, labels)
    numbers = [signed(code.mean, 3) for code in codes]
    ends = [0.0, *(end for code in codes for end in (code.interval or ()))]
    ends = [
        end for end in [*ends, *(code.mean for code in codes)] if math.isfinite(end)
    ]
    room_for_words(page, ax, (min(ends), max(ends)), 0.1, words_wide(page, numbers))
    thin_ticks(ax, 0.1)
    for row, code in enumerate(codes):
        _draw(page, row, code)
    ax.axvline(0, color=ink(ax, LINE), lw=0.8, zorder=0)
    axis_label(page, ax, "mean attribution over all samples   (raises →, ← lowers)")
    page.finish(title, lines)
    return page.figure, ax


def _draw(page: Page, row: int, code: TopCode) -> None:
    """One dot, its interval as a line, and its number."""
    ax = page.ax
    look: Any = {"va": "center", "size": page.small}
    if not math.isfinite(code.mean):
        muted = ink(ax, MUTED)
        label(ax, signed(code.mean), (0, row), (3, 0), color=muted, **look)
        return
    color = RAISES if code.mean > 0 else LOWERS
    end = code.mean
    if code.interval is not None:
        ax.plot(code.interval, (row, row), color=color, lw=1.6, solid_capstyle="butt")
        end = code.interval[1]
    ax.plot([code.mean], [row], "o", color=color, ms=4.5)
    label(ax, signed(code.mean, 3), (max(end, code.mean), row), (5, 0), **look)
