"""Values over time in a timeline: a line per column, its usual range shaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from captum_ehr.scene.folding import with_room
from captum_ehr.scene.history import Item, Line, total_of
from captum_ehr.scene.palette import DARK, bar_color
from captum_ehr.scene.wording import signed
from captum_ehr.visualization.axes import MUTED, PLAIN, label
from captum_ehr.visualization.chips import Panel

_TOP, _LINE, _SWING, _NOTE = 0.3, 0.62, 0.3, 0.2
_USUAL = "#e3efe3"


class ValueLines(Panel):
    """Values over time: per column a line, dots coloured by attribution."""

    @property
    def height(self) -> float:
        """In inches."""
        count, most = len(self.band.lines), self.limits.max_values
        notes = _NOTE if count > most or self.remark or self.band.note else 0.0
        return _TOP + min(count, most) * _LINE + notes

    def draw(self, ax: Axes, top: float) -> None:
        """Draw the strongest columns and count the others."""
        lines, most = self.band.lines, self.limits.max_values
        for row, line in enumerate(lines[:most]):
            middle = top + _TOP + (row + 0.5) * _LINE
            self._draw_name(ax, middle, line.items[0])
            self._draw_line(ax, middle, line)
        rest = ""
        if lines[most:]:
            total = total_of(item for line in lines[most:] for item in line.items)
            rest = f"+{len(lines) - most} more columns, together {signed(total, 3)}"
        self.note_below(ax, top, rest, self.band.note)

    def _draw_name(self, ax: Axes, middle: float, item: Item) -> None:
        """A column's name with its unit, and its usual range below."""
        words = [(item.short_name(27), 7.5, "#222222")]
        if item.usual_words:
            words.append((item.usual_words, 6.5, MUTED))
        for line, (text, size, color) in enumerate(words):
            place = 0, middle + 0.16 * (line - (len(words) - 1) / 2)
            style: Any = {"size": size, "color": color, "ha": "right", "va": "center"}
            label(ax, text, place, (-8, 0), coords=ax.get_yaxis_transform(), **style)

    def _draw_line(self, ax: Axes, middle: float, line: Line) -> None:
        """One column's line on a scale of its own, its usual range and values."""
        points = zip((self.places[at] for at in line.places), line.items, strict=True)
        x, items = zip(*sorted(points, key=lambda point: point[0]))
        usual = [bound for bound in items[0].usual if math.isfinite(bound)]
        to_y = _scale_of([item.value for item in items] + usual, middle + 0.06)
        if usual:
            low, high = (to_y(bound) for bound in items[0].usual)
            ax.axhspan(high, low, color=_USUAL, lw=0, zorder=1)
        y = [to_y(item.value) for item in items]
        ax.plot(x, y, color="#aaaaaa", lw=0.9, zorder=2)
        for is_hollow in (False, True):
            mine = [i for i, item in enumerate(items) if item.is_imputed == is_hollow]
            colors = [self.scale.color(items[i].attribution) for i in mine]
            edges = [bar_color(items[i].attribution) for i in mine]
            look: Any = {"c": colors, "s": 30, "edgecolors": "#555555"}
            if is_hollow:
                look = {"c": "white", "s": 12, "edgecolors": edges}
            if mine:
                places = [x[i] for i in mine], [y[i] for i in mine]
                ax.scatter(*places, linewidths=0.5 + 0.3 * is_hollow, zorder=3, **look)
        self._draw_values(ax, items, x, y)

    def _draw_values(
        self, ax: Axes, items: Sequence[Item], x: Sequence[float], y: Sequence[float]
    ) -> None:
        """The values that have room, those of the strongest points first."""
        halo = [withStroke(linewidth=2, foreground="white")]
        style: Any = {"ha": "center", "va": "bottom", "fontsize": 6.5, "zorder": 4}
        style |= {"color": DARK, "path_effects": halo, **PLAIN}
        told = [i for i, item in enumerate(items) if not item.is_imputed]
        inches = [self.canvas.to_inches(x[i]) for i in told]
        for at in with_room(inches, [items[i].strength for i in told], 0.5):
            i = told[at]
            ax.text(x[i], y[i] - 0.07, items[i].value_words, **style)


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
