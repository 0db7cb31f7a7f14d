"""Values over time in a timeline: a line per column, its usual range shaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from captum_ehr.scene.folding import with_room
from captum_ehr.scene.history import Item, Line, total_of
from captum_ehr.scene.palette import USUAL, bar_color
from captum_ehr.scene.wording import signed

from .chips import Panel
from .figure_page import MUTED, Page
from .measuring import PLAIN

_TOP, _LINE, _SWING = 0.3, 0.62, 0.3


class ValueLines(Panel):
    """Values over time: per column a line, dots coloured by attribution."""

    @property
    def _words(self) -> list[str]:
        """What the columns without a line are, and what to know of the values."""
        rest = self.band.lines[self.limits.max_values :]
        if not rest:
            return [self.band.note]
        total = total_of(item for line in rest for item in line.items)
        more = f"+{len(rest)} more columns, together {signed(total, 3)}"
        return [more, self.band.note]

    @property
    def _row(self) -> float:
        """The height of a column's line: for its dots and numbers, and for its name."""
        lines = self.band.lines[: self.limits.max_values]
        names = [_name_lines(self.page, line.items[0]) for line in lines]
        high = self.line * max(len(name) + len(usual) for name, usual in names)
        return max(_LINE * self.unit + self.line * self.values, high + 0.08)

    @property
    def height(self) -> float:
        """In inches."""
        rows = min(len(self.band.lines), self.limits.max_values)
        notes = len(self.note_lines(*self._words)) * self.line
        return _TOP * self.unit + rows * self._row + notes + 0.06 * (notes > 0)

    def draw(self, ax: Axes, top: float) -> None:
        """Draw the strongest columns and count the others."""
        for row, line in enumerate(self.band.lines[: self.limits.max_values]):
            middle = top + _TOP * self.unit + (row + 0.5) * self._row
            self._draw_name(ax, middle, line.items[0])
            self._draw_line(ax, middle, line)
        self.note_below(top, *self._words)

    def _draw_name(self, ax: Axes, middle: float, item: Item) -> None:
        """A column's name with its unit, and its usual range below."""
        name, usual = _name_lines(self.page, item)
        for line, text in enumerate([*name, *usual]):
            place = 0, middle + self.line * (line - (len(name) + len(usual) - 1) / 2)
            color = self.page.ink(0.9 if line < len(name) else MUTED)
            style: Any = {"color": color, "ha": "right", "va": "center"}
            style["coords"] = ax.get_yaxis_transform()
            self.page.label(text, place, (-8, 0), **style)

    def _draw_line(self, ax: Axes, middle: float, line: Line) -> None:
        """One column's line on a scale of its own, its usual range and values."""
        points = zip((self.places[at] for at in line.places), line.items, strict=True)
        x, items = zip(*sorted(points, key=lambda point: point[0]))
        usual = [bound for bound in items[0].usual if math.isfinite(bound)]
        swing = _SWING * self.unit
        values = [item.value for item in items]
        to_y = _scale_of(values + usual, middle + 0.06 * (not self.values), swing)
        if usual:
            low, high = (to_y(bound) for bound in items[0].usual)
            ax.axhspan(high, low, color=USUAL, alpha=0.25, lw=0, zorder=1)
        y = [to_y(item.value) for item in items]
        ax.plot(x, y, color=self.page.ink(0.33), lw=0.9, zorder=2)
        self._draw_dots(ax, items, x, y)
        self._draw_values(ax, items, x, y)

    def _draw_dots(
        self, ax: Axes, items: Sequence[Item], x: Sequence[float], y: Sequence[float]
    ) -> None:
        """A dot per value; small and hollow where it was not measured."""
        # Many dots are smaller, so that they do not cover each other.
        dot = max(2.5, min(5.5, 72 * self.canvas.width / len(items))) * self.unit
        for is_hollow in (False, True):
            mine = [i for i, item in enumerate(items) if item.is_imputed == is_hollow]
            sizes = [items[i].attribution for i in mine]
            look: Any = {"s": dot**2, "c": [*map(self.scale.color, sizes)]}
            look |= {"edgecolors": self.page.ink(MUTED), "linewidths": 0.5}
            if is_hollow:
                look = {"s": (0.64 * dot) ** 2, "facecolors": self.page.ink(0)}
                look |= {"edgecolors": [*map(bar_color, sizes)], "linewidths": 0.8}
            if mine:
                ax.scatter([x[i] for i in mine], [y[i] for i in mine], zorder=3, **look)

    def _draw_values(
        self, ax: Axes, items: Sequence[Item], x: Sequence[float], y: Sequence[float]
    ) -> None:
        """The values that have room, those of the strongest points first."""
        halo = [withStroke(linewidth=2, foreground=self.page.ink(0))]
        style: Any = {"ha": "center", "fontsize": self.page.small, "zorder": 4}
        style |= {"color": self.page.ink(1), "path_effects": halo, **PLAIN}
        # What was not measured has no value to show, but an attribution.
        words = ["" if item.is_imputed else item.value_words for item in items]
        sizes = [signed(item.attribution) if self.values else "" for item in items]
        told = [i for i in range(len(items)) if words[i] or sizes[i]]
        room = self.page.widest([*words, *sizes], self.page.small) + 0.06
        inches = [self.canvas.to_inches(x[i]) for i in told]
        for at in with_room(inches, [items[i].strength for i in told], room):
            i = told[at]
            ax.text(x[i], y[i] - 0.06 * self.unit, words[i], va="bottom", **style)
            ax.text(x[i], y[i] + 0.06 * self.unit, sizes[i], va="top", **style)


def names_room(page: Page) -> float:
    """The most inches for names at the left of a timeline."""
    return 0.24 * page.width if page.width > 5 else 0.27 * page.width


def names_wide(page: Page, panel: ValueLines) -> float:
    """The inches that the names of the lines take at the left."""
    lines = panel.band.lines[: panel.limits.max_values]
    names = [words for line in lines for words in _name_lines(page, line.items[0])]
    return page.widest([word for words in names for word in words], page.small)


def _name_lines(page: Page, item: Item) -> tuple[list[str], list[str]]:
    """A column's name with its unit in up to two lines; its usual range, if known."""
    room = names_room(page)
    unit = f" ({item.unit})" if item.unit else ""
    name = page.wrap(item.name + unit, room, page.small, most=2)
    usual = item.usual_words
    return name, [page.fit(usual, room, page.small)] if usual else []


def _scale_of(
    values: Sequence[float], middle: float, swing: float
) -> Callable[[float], float]:
    """From values to places about a middle, upwards; what is not known stands there.

    An infinite value, where a range has no bound, stands at the edge of the row.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    def place(value: float) -> float:
        if math.isinf(value):
            return middle - math.copysign(0.6 * swing, value)
        if math.isnan(value) or low == high:
            return middle
        return middle - swing * ((value - low) / (high - low) - 0.5)

    return place
