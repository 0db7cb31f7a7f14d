"""Values over time in a timeline: a line per column, its usual range shaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.patheffects import withStroke

from captum_ehr.visualization.axes import MUTED, PLAIN
from captum_ehr.visualization.canvas import Canvas, note
from captum_ehr.visualization.colors import DARK, ColorScale
from captum_ehr.visualization.layout import (
    Band,
    Item,
    Limits,
    number,
    shorten,
    signed,
    total_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINE, _SWING = 0.62, 0.3
_USUAL = "#e3efe3"


@dataclass(frozen=True)
class ValueLines:
    """Values over time: per column a line, dots coloured by attribution."""

    band: Band
    canvas: Canvas
    scale: ColorScale
    places: tuple[float, ...]
    limits: Limits
    remark: str = ""

    @property
    def feature(self) -> str:
        """The feature key."""
        return self.band.feature

    def _lines(self) -> list[list[tuple[float, Item]]]:
        """Per column its points; strongest columns first."""
        lines: dict[str, list[tuple[float, Item]]] = {}
        for place, step in zip(self.places, self.band.steps, strict=True):
            for item in step.items:
                lines.setdefault(item.code, []).append((place, item))
        return sorted(
            lines.values(), key=lambda line: -math.fsum(i.strength for _, i in line)
        )

    @property
    def height(self) -> float:
        """In inches."""
        count = len(self._lines())
        notes = 0.2 if count > self.limits.max_values or self.remark else 0.0
        return 0.3 + min(count, self.limits.max_values) * _LINE + notes

    def draw(self, ax: Axes, top: float) -> None:
        """Draw the strongest columns and count the others."""
        lines = self._lines()
        for row, points in enumerate(lines[: self.limits.max_values]):
            middle = top + 0.3 + (row + 0.5) * _LINE
            self._draw_name(ax, middle, points[0][1])
            self._draw_line(ax, middle, sorted(points, key=lambda point: point[0]))
        hidden = lines[self.limits.max_values :]
        words = [self.remark] if self.remark else []
        if hidden:
            rest = [item for points in hidden for _, item in points]
            total = signed(total_of(rest), 3)
            words.append(f"+{len(hidden)} more columns, together {total}")
        left = self.canvas.to_axis(0.05)
        note(ax, left, top + self.height - 0.13, "; ".join(words), "left")

    def _draw_name(self, ax: Axes, middle: float, item: Item) -> None:
        """A column's name with its unit, and its usual range below."""
        unit = f" ({shorten(item.unit, 10)})" if item.unit else ""
        words = [(shorten(item.name, 27 - len(unit)) + unit, 7.5, "#222222")]
        if any(map(math.isfinite, item.usual)):
            words.append((f"reference {_range_words(*item.usual)}", 6.5, MUTED))
        for line, (text, size, color) in enumerate(words):
            ax.annotate(
                text,
                (0, middle + 0.16 * (line - (len(words) - 1) / 2)),
                xycoords=ax.get_yaxis_transform(),
                xytext=(-8, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=size,
                color=color,
                annotation_clip=False,
                **PLAIN,
            )

    def _draw_line(
        self, ax: Axes, middle: float, points: list[tuple[float, Item]]
    ) -> None:
        """One column's line on a scale of its own, its usual range and values."""
        usual = [bound for bound in points[0][1].usual if math.isfinite(bound)]
        to_y = _scale_of([item.value for _, item in points] + usual, middle + 0.06)
        if usual:
            low, high = (to_y(bound) for bound in points[0][1].usual)
            ax.axhspan(high, low, color=_USUAL, lw=0, zorder=1)
        x = [place for place, _ in points]
        y = [to_y(item.value) for _, item in points]
        ax.plot(x, y, color="#aaaaaa", lw=0.9, zorder=2)
        ax.scatter(
            x,
            y,
            s=30,
            c=[self.scale.color(item.attribution) for _, item in points],
            edgecolors="#555555",
            linewidths=0.5,
            zorder=3,
        )
        self._draw_values(ax, [item for _, item in points], x, y)

    def _draw_values(
        self, ax: Axes, items: list[Item], x: list[float], y: list[float]
    ) -> None:
        """The values that have room, those of the strongest points first."""
        taken: list[float] = []
        for i in sorted(range(len(items)), key=lambda i: -items[i].strength):
            inches = self.canvas.to_inches(x[i])
            if all(abs(inches - other) >= 0.5 for other in taken):
                taken.append(inches)
                ax.text(
                    x[i],
                    y[i] - 0.07,
                    number(items[i].value) + items[i].flag,
                    ha="center",
                    va="bottom",
                    fontsize=6.5,
                    color=DARK,
                    zorder=4,
                    path_effects=[withStroke(linewidth=2, foreground="white")],
                    **PLAIN,
                )


def _scale_of(values: Sequence[float], middle: float) -> Callable[[float], float]:
    """From values to places about a middle, upwards; what is not known stands there.

    An infinite value, where a range has no bound, stands at the edge of the row.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    def place(value: float) -> float:
        if math.isinf(value):
            return middle - math.copysign(0.6 * _SWING, value)
        if math.isnan(value) or low == high:
            return middle
        return middle - _SWING * ((value - low) / (high - low) - 0.5)

    return place


def _range_words(low: float, high: float) -> str:
    """A range as a laboratory prints it.

    Example:
        >>> _range_words(0.6, 1.2), _range_words(-math.inf, 5.0)
        ('0.6–1.2', '< 5')
    """
    if math.isinf(low):
        return f"< {number(high)}"
    return f"> {number(low)}" if math.isinf(high) else f"{number(low)}–{number(high)}"
