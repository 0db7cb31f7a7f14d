"""What figures share on their axes: frames, labels, rows, the values of bars, ticks.

Nothing here touches pyplot, so no figure stays open and no backend is chosen.
Every text is drawn with :data:`~captum_ehr.visualization.measuring.PLAIN`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from captum_ehr.scene.wording import rounded
from captum_ehr.visualization.layout import Page, figure_of, ink
from captum_ehr.visualization.measuring import PLAIN, SPACED, widest

FRACTION = "axes fraction"
"""Places as shares of the axes."""

BAR, EDGE, LINE, MUTED = 0.7, 0.53, 0.4, 0.67
"""How much ink bars without a sign, outlines, frames and notes have."""


def strip(page: Page, ax: Axes, *sides: str) -> None:
    """Take the frame away at some sides, mute the ticks, and say them in our size."""
    for side in sides:
        ax.spines[side].set_visible(False)
    for spine in ax.spines.values():
        spine.set_color(ink(ax, LINE))
    ax.tick_params(labelsize=page.small, color=ink(ax, LINE))
    ax.grid(visible=False, axis="y")
    ax.set_axisbelow(True)


def label(
    ax: Axes,
    text: str,
    place: tuple[float, float],
    offset: tuple[float, float],
    size: float,
    *,
    coords: Any = "data",
    **style: Any,
) -> None:
    """A text some points away from a place, as it is, also outside of the axes."""
    ax.annotate(
        text,
        place,
        xycoords=coords,
        xytext=offset,
        textcoords="offset points",
        fontsize=size,
        annotation_clip=False,
        **PLAIN,
        **style,
    )


def axis_label(page: Page, ax: Axes, text: str, axis: str = "x") -> None:
    """What an axis shows, in as many lines as its length needs."""
    wide, high = axes_size(ax)
    lines = page.wrap(text, max(wide if axis == "x" else high, 0.5), page.size)
    ax.set(**{f"{axis}label": "\n".join(lines)})
    words = ax.xaxis.label if axis == "x" else ax.yaxis.label
    words.set(fontsize=page.size, **SPACED, **PLAIN)


def axes_size(ax: Axes) -> tuple[float, float]:
    """The width and height of axes in inches."""
    box, dpi = ax.get_window_extent(), figure_of(ax).dpi
    return box.width / dpi, box.height / dpi


def label_rows(page: Page, ax: Axes, labels: Sequence[str]) -> None:
    """One row per label, the first on top."""
    ax.set_yticks(range(len(labels)), labels, **PLAIN)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0, labelsize=page.size)


def bar_values(
    page: Page,
    ax: Axes,
    ends: Sequence[float],
    values: Sequence[float],
    words: Sequence[str] | None = None,
    first: int = 0,
) -> None:
    """Write each bar's value outside its end: right of what raises, else left."""
    words = rounded(values) if words is None else words
    for row, (end, value, text) in enumerate(zip(ends, values, words), first):
        align, shift = ("right", -3) if value < 0 else ("left", 3)
        look: Any = {"ha": align, "va": "center"}
        label(ax, text, (end, row), (shift, 0), page.small, **look)


def room_for_words(
    page: Page, ax: Axes, reach: tuple[float, float], left: float, right: float
) -> None:
    """The limits of an axis on which words stand beyond both ends of what is drawn.

    Args:
        page: The page.
        ax: The axes.
        reach: The least and the greatest that is drawn.
        left: Inches that words need at the left of it.
        right: And at the right.
    """
    low, high = reach
    span, wide = (high - low) or abs(high) or 1.0, axes_size(ax)[0]
    unit = span / max(wide - left - right, 0.2 * wide)
    ax.set_xlim(low - left * unit, high + right * unit)


def words_wide(page: Page, words: Sequence[str]) -> float:
    """The inches that the widest of some numbers takes beside a bar."""
    return widest(page.figure, words, page.small) + 0.08


def thin_ticks(
    ax: Axes,
    around: float = 0.0,
    known: Sequence[tuple[float, str]] | None = None,
) -> None:
    """Leave out ticks of the x axis whose numbers would meet, or leave the axes.

    Args:
        ax: The axes, with the limits that they shall have.
        around: How far numbers may stand out at the sides, in inches.
        known: The ticks and their words; by default those that there are.
    """
    low, high = sorted(ax.get_xlim())
    if known is None:
        places = [float(place) for place in ax.get_xticks() if low <= place <= high]
        words = ax.xaxis.get_major_formatter().format_ticks(places)
        known = list(zip(places, words, strict=True))
    ax.set_xticks([place for place, _ in known], [word for _, word in known], **PLAIN)
    dpi, box = figure_of(ax).dpi, ax.get_window_extent()
    kept, end = [], box.x0 - around * dpi
    for tick, text in zip(known, ax.get_xticklabels(), strict=True):
        extent = text.get_window_extent()
        if extent.x0 >= end and extent.x1 <= box.x1 + around * dpi:
            kept.append(tick)
            end = extent.x1 + 0.06 * dpi
    ax.set_xticks([place for place, _ in kept], [word for _, word in kept], **PLAIN)
