"""What each code does on average over a cohort, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_ehr.scene.palette import LOWERS, RAISES
from captum_ehr.scene.population import TopCode
from captum_ehr.scene.wording import shorten, signed
from captum_ehr.visualization.axes import (
    MUTED,
    ROW,
    label,
    label_margin,
    label_rows,
    one_axes,
    strip,
    write_title,
)

_WIDTH = 6.0


def mean_intervals(
    codes: Sequence[TopCode], title: str, lines: Sequence[str] = ()
) -> tuple[Figure, Axes]:
    """Draw the mean of each code with its interval; those without a number are named.

    Args:
        codes: The codes, the first on top.
        title: The heading.
        lines: Smaller text below it.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: If there is no code.
    """
    if not codes:
        raise ValueError("nothing to show: there is no code.")
    words = [
        shorten(f"{code.code} {code.name}" if code.is_named else code.code, 44)
        for code in codes
    ]
    margins = (label_margin(words), 0.9, 0.75, 0.55)
    figure, ax = one_axes(None, _WIDTH, max(ROW * len(codes), 0.8), margins)
    for row, code in enumerate(codes):
        _draw(ax, row, code)
    ax.axvline(0, color="#999999", lw=0.8, zorder=0)
    label_rows(ax, words)
    strip(ax, "top", "right", "left")
    ax.margins(x=0.12)
    ax.set_xlabel(
        "mean attribution over all samples (raises →, ← lowers)", fontsize=8.5
    )
    write_title(ax, title, lines)
    return figure, ax


def _draw(ax: Axes, row: int, code: TopCode) -> None:
    """One dot, its interval as a line, and its number."""
    if not math.isfinite(code.mean):
        label(ax, signed(code.mean), (0, row), (3, 0), va="center", color=MUTED)
        return
    color = RAISES if code.mean > 0 else LOWERS
    end = code.mean
    if code.interval is not None:
        ax.plot(code.interval, (row, row), color=color, lw=1.6, solid_capstyle="butt")
        end = code.interval[1]
    ax.plot([code.mean], [row], "o", color=color, ms=4.5)
    label(ax, signed(code.mean, 3), (max(end, code.mean), row), (5, 0), va="center")
