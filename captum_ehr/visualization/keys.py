"""What colours mean, as a line below the axes that flows like text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from captum_ehr.scene.palette import TABLE, ColorScale
from captum_ehr.scene.wording import number

from .measuring import PLAIN, Ruler

COLORMAP = ListedColormap([background for background, _ in TABLE], "attribution")
"""The scale of attributions as matplotlib wants it."""

_RAMP, _DOT, _GAP = 0.9, 0.09, 0.06


@dataclass(frozen=True)
class Ramp:
    """Colours from one end of a scale to the other, between two words."""

    colors: Colormap
    low: str
    high: str


@dataclass(frozen=True)
class Dot:
    """A dot, and what it means."""

    color: str
    words: str


type Part = str | Ramp | Dot

type Row = list[tuple[float, Part]]
"""Parts with their places, in inches from the left."""


def scale_key(scale: ColorScale, output: str) -> list[Part]:
    """The key of attributions: symmetric, the limit at both ends."""
    limit = number(scale.limit or 1.0, 2)
    ramp = Ramp(COLORMAP, f"lowers −{limit}", f"+{limit} raises")
    return [ramp, f"attribution ({output})"]


def key_lines(
    ruler: Ruler, parts: Sequence[Part], room: float, size: float
) -> list[Row]:
    """The parts in lines of at most so many inches."""
    rows: list[Row] = []
    at = 0.0
    for part in parts:
        width = _width(ruler, part, size)
        if not rows or at + width > room:
            rows.append([])
            at = 0.0
        rows[-1].append((at, part))
        at += width + 3 * _GAP
    return rows


def _width(ruler: Ruler, part: Part, size: float) -> float:
    def of(words: str) -> float:
        return ruler.wide(words, size)

    if isinstance(part, Ramp):
        return of(part.low) + _GAP + _RAMP + _GAP + of(part.high)
    return _DOT + _GAP + of(part.words) if isinstance(part, Dot) else of(part)


def draw_key(
    ruler: Ruler,
    ax: Axes,
    rows: Sequence[Row],
    corner: tuple[float, float],
    row: float,
    size: float,
) -> None:
    """Lines of a key below a place, in inches from the axes' lower left corner."""
    for line, parts in enumerate(rows):
        middle = corner[1] - (line + 0.5) * row
        for at, part in parts:
            _draw(ruler, ax, part, (corner[0] + at, middle), size)


def _draw(
    ruler: Ruler, ax: Axes, part: Part, place: tuple[float, float], size: float
) -> None:
    corner: Any = ax.transAxes
    inch = ruler.figure.dpi_scale_trans + ScaledTranslation(0, 0, corner)
    style: Any = {"fontsize": size, "va": "center", "transform": inch, **PLAIN}
    x, y = place
    if isinstance(part, Ramp):
        ax.text(x, y, part.low, **style)
        x += ruler.wide(part.low, size) + _GAP
        high = 0.9 * size / 72
        side = ax.inset_axes((x, y - high / 2, _RAMP, high), transform=inch)
        side.imshow(np.linspace(0, 1, 201)[None], cmap=part.colors, aspect="auto")
        side.set_xticks([])
        side.set_yticks([])
        side.grid(visible=False)
        for spine in side.spines.values():
            spine.set_linewidth(0.4)
        x, part = x + _RAMP + _GAP, part.high
    elif isinstance(part, Dot):
        look: Any = {"marker": "o", "ls": "", "ms": 0.6 * size, "color": part.color}
        dot = Line2D([x + _DOT / 2], [y], transform=inch, clip_on=False, **look)
        ax.add_artist(dot)
        x, part = x + _DOT + _GAP, part.words
    ax.text(x, y, part, **style)
