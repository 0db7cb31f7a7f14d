"""What the panels of a timeline draw with: inches, chips and remarks.

The axes' y unit is one inch, downwards; a :class:`Canvas` converts inches to the x
axis's time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.patches import FancyBboxPatch

from captum_ehr.visualization.axes import MUTED, PLAIN
from captum_ehr.visualization.colors import ColorScale
from captum_ehr.visualization.layout import Item, number, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHIP = 0.21
"""The height of a chip in inches."""

CHARACTER = 0.066
"""The width of a character on a chip, in inches, generously."""


@dataclass(frozen=True)
class Canvas:
    """The x axis in inches.

    Args:
        low: The axis's left end, in its own units.
        span: Its length in its own units.
        width: Its length in inches.
    """

    low: float
    span: float
    width: float

    def to_inches(self, x: float) -> float:
        """Inches from the left end."""
        return (x - self.low) / self.span * self.width

    def to_axis(self, inches: float) -> float:
        """The inverse of :meth:`to_inches`."""
        return self.low + inches / self.width * self.span


def spread(wanted: Sequence[float], gap: float, width: float) -> list[float]:
    """Move places as little as possible until they are ``gap`` apart.

    Args:
        wanted: Places in increasing order.
        gap: The least distance.
        width: Places stay ``gap / 2`` within 0 and this, if there is room.

    Example:
        >>> spread([1.0, 1.2, 5.0], 1.0, 6.0)
        [0.6, 1.6, 5.0]
    """
    # With i * gap taken off, "gap apart" is "not decreasing": isotonic regression,
    # by pooling neighbours that are the wrong way round.
    pools: list[tuple[float, int]] = []
    for place, one in enumerate(wanted):
        mean, count = one - place * gap, 1
        while pools and pools[-1][0] > mean:
            before, members = pools.pop()
            mean = (mean * count + before * members) / (count + members)
            count += members
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    low, high = gap / 2, max(gap / 2, width - gap / 2 - (len(wanted) - 1) * gap)
    return [min(max(mean, low), high) + place * gap for place, mean in enumerate(flat)]


def draw_chip(
    ax: Axes,
    canvas: Canvas,
    scale: ColorScale,
    item: Item,
    box: tuple[float, float, float],
) -> None:
    """A rounded box with a code and, where there is room, its name or value.

    Args:
        ax: The axes.
        canvas: Their x axis.
        scale: The patient's colours.
        item: The code or value.
        box: Left and top edge and width, in inches.
    """
    left, top, width = box
    unit = canvas.span / canvas.width
    ax.add_patch(
        FancyBboxPatch(
            (canvas.to_axis(left), top),
            width * unit,
            CHIP,
            boxstyle=f"round,pad=0,rounding_size={0.06 * unit}",
            mutation_aspect=1 / unit,
            facecolor=scale.color(item.attribution),
            edgecolor="#999999",
            linewidth=0.5,
            zorder=3,
        )
    )
    ax.text(
        canvas.to_axis(left + width / 2),
        top + CHIP / 2,
        chip_text(item, int(width / CHARACTER)),
        ha="center",
        va="center",
        fontsize=7,
        color=scale.text(item.attribution),
        zorder=4,
        clip_on=True,
        **PLAIN,
    )


def chip_text(item: Item, width: int) -> str:
    """What stands on a chip of ``width`` characters: the code, then what fits.

    Example:
        >>> failure = Item("conditions", "I50", "heart failure", 0.1)
        >>> chip_text(failure, 18), chip_text(failure, 12), chip_text(failure, 2)
        ('I50 heart failure', 'I50 heart f…', 'I…')
    """
    rest = ""
    if not math.isnan(item.value):
        unit = f" {item.unit}" if item.unit else ""
        rest = f" = {number(item.value)}{unit}{item.flag}"
    elif item.is_named:
        rest = f" {item.name}"
    whole = " ".join((item.code + rest).split())
    if len(whole) <= width:
        return whole
    room = width - len(item.code) - 1
    # A name cut to a few letters says nothing; one cut later still does.
    if math.isnan(item.value) and item.is_named and room >= 8:
        return f"{item.code} {shorten(item.name, room)}"
    return shorten(item.code, width)


def note(ax: Axes, x: float, y: float, text: str, align: str = "center") -> None:
    """A small muted remark at a place of the axes."""
    ax.text(
        x,
        y,
        text,
        ha=align,
        va="center",
        fontsize=6.5,
        color=MUTED,
        zorder=4,
        **PLAIN,
    )
