"""The bands of a timeline that have chips: hung from visits, or in rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from captum_ehr.scene.folding import cut, strongest_places
from captum_ehr.scene.history import Band, Item, total_of
from captum_ehr.scene.palette import ColorScale
from captum_ehr.scene.wording import signed

from .figure_page import LINE, MUTED, Page
from .measuring import LEADING, PLAIN, SPACED

_GAP, _PAD, _INSET = 0.05, 0.12, 0.1
"""Between chips, below a band, and at both sides of a chip's words; in inches."""

_RAIL, _HANG, _NAME, _MOST = 0.2, 0.26, 0.85, 1.4
"""From a band's top to its rail, from there to the chips; the least width of a column
of names, and the most that codes alone may ask for; at a font size of 8 points."""


@dataclass(frozen=True)
class Limits:
    """How much is drawn before the rest is folded and counted."""

    max_visits: int  # with chips, per feature
    max_codes: int  # chips per visit
    max_values: int  # lines per continuous feature


@dataclass(frozen=True)
class Canvas:
    """The x axis in inches; the y axis's unit is an inch, downwards."""

    low: float  # the left end
    span: float  # in the axis's own units
    width: float  # in inches

    def to_inches(self, x: float) -> float:
        """Inches from the left end."""
        return (x - self.low) / self.span * self.width

    def to_axis(self, inches: float) -> float:
        """The inverse of :meth:`to_inches`."""
        return self.low + inches / self.width * self.span


@dataclass(frozen=True)
class Panel(ABC):
    """A feature with a height that can be drawn below a given line."""

    page: Page
    band: Band
    canvas: Canvas
    scale: ColorScale
    limits: Limits
    values: bool  # whether attributions are written
    places: tuple[float, ...] = ()  # per step, where it is on the x axis
    remark: str = ""  # what to know about the places

    @property
    @abstractmethod
    def height(self) -> float:
        """In inches."""

    @abstractmethod
    def draw(self, ax: Axes, top: float) -> None:
        """Draw on axes, ``top`` inches below their upper edge."""

    @property
    def line(self) -> float:
        """The distance of lines of notes in inches."""
        return LEADING * self.page.small / 72

    @property
    def unit(self) -> float:
        """What sizes are multiplied with where the font is not of 8 points."""
        return self.page.size / 8

    def note_lines(self, *words: str) -> list[str]:
        """The remark, and what is not shown, in lines as there is room."""
        text = "; ".join(filter(None, [self.remark, *words]))
        room = self.canvas.width - 0.1
        return self.page.wrap(text, room, self.page.small) if text else []

    def note_below(self, top: float, *words: str) -> None:
        """Those lines, at the panel's lower edge."""
        lines = self.note_lines(*words)
        place = self.canvas.to_axis(0.05), top + self.height - 0.06
        look: Any = {"ha": "left", "va": "bottom", **SPACED}
        note(self.page, *place, "\n".join(lines), **look)


class ChipsOverTime(Panel):
    """Codes by visit: a rail with a dot per visit, the chips below."""

    @property
    def _room(self) -> int:
        """How many columns of chips stand beside each other."""
        codes = min(self._codes_wide(self.band.items), _MOST * self.unit)
        names = _NAME * self.unit * self._has_names
        return max(1, int(self.canvas.width / max(codes, names)))

    @property
    def _has_names(self) -> bool:
        return any(item.is_named for item in self.band.items)

    @property
    def strongest(self) -> list[int]:
        """The steps that get chips: the strongest, in order."""
        strengths = [step.strength for step in self.band.steps]
        return strongest_places(strengths, min(self.limits.max_visits, self._room))

    @property
    def _rest(self) -> str:
        """What the steps without chips are."""
        strongest = set(self.strongest)
        folded = [s for i, s in enumerate(self.band.steps) if i not in strongest]
        if not folded:
            return ""
        is_full = self._room < min(self.limits.max_visits, len(self.band.steps))
        why = f" (there is room for {self._room})" if is_full else ""
        total = signed(math.fsum(step.total for step in folded), 3)
        return f"+{len(folded)} more visits as dots only{why}, together {total}"

    @property
    def _chip(self) -> float:
        """The height of a chip: of one line, or of two where codes have names."""
        return chip_high(self.page, 1 + self._has_names)

    @property
    def height(self) -> float:
        """In inches."""
        counts = [len(self.band.steps[i].items) for i in self.strongest]
        # One line more where a visit says how many of its codes are not shown.
        lines = max(min(count, self.limits.max_codes + 1) for count in counts)
        notes = len(self.note_lines(self._rest)) * self.line
        hung = (_RAIL + _HANG) * self.unit + lines * (self._chip + _GAP)
        return hung + notes + _PAD

    def draw(self, ax: Axes, top: float) -> None:
        """Draw the rail, the dots, and the columns of chips."""
        steps, rail, canvas = self.strongest, top + _RAIL * self.unit, self.canvas
        hang = rail + _HANG * self.unit
        ax.axhline(rail, color=self.page.ink(0.27), lw=1, zorder=1)
        edge: Any = {"ms": 6 * self.unit, "mec": self.page.ink(MUTED), "mew": 0.6}
        for place, step in zip(self.places, self.band.steps, strict=True):
            color = self.scale.color(step.total)
            ax.plot(place, rail, "o", mfc=color, zorder=3, **edge)
        gap = min(self._wanted_width(), canvas.width / len(steps))
        wanted = [canvas.to_inches(self.places[i]) for i in steps]
        centres = spread(wanted, gap, canvas.width)
        for index, centre in zip(steps, centres, strict=True):
            x = [self.places[index], canvas.to_axis(centre)]
            ax.plot(x, [rail, hang], color=self.page.ink(0.33), lw=0.7, zorder=2)
            self._draw_column(ax, index, (centre, hang, gap - 0.06))
        self.note_below(top, self._rest)

    def _wanted_width(self) -> float:
        """Inches for a column in which the longest line of a chip fits."""
        steps = [self.band.steps[index] for index in self.strongest]
        items = [item for step in steps for item in step.items]
        names = [item.name for item in items if item.is_named]
        wide = self.page.widest(names, self.page.small) + _INSET + 0.06
        return max(self._codes_wide(items), wide, 0.85 * self.unit)

    def _codes_wide(self, items: Sequence[Item]) -> float:
        """Inches for a column in which the first line of each chip fits."""
        words = ["".join(chip_words(item, self.values)[0]) for item in items]
        return self.page.widest(words, self.page.small, "bold") + _INSET + 0.06

    def _draw_column(
        self, ax: Axes, index: int, place: tuple[float, float, float]
    ) -> None:
        """One visit's chips, strongest first, below its leader line."""
        (centre, top, width), high = place, self._chip
        items, rest = cut(self.band.steps[index].ranked, self.limits.max_codes)
        for line, item in enumerate(items):
            box = (centre - width / 2, top + line * (high + _GAP), width, high)
            draw_chip(ax, self, box, item, chip_words(item, self.values))
        if rest:
            y = top + len(items) * (high + _GAP) + high / 2
            total = signed(total_of(rest))
            long, short = f"+{len(rest)} more: {total}", f"+{len(rest)}: {total}"
            is_wide = self.page.wide(long, self.page.small) <= width
            words = self.page.fit(long if is_wide else short, width, self.page.small)
            note(self.page, self.canvas.to_axis(centre), y, words, ha="center")


class ChipRows(Panel):
    """Codes or values without visits: chips in reading order, strongest first."""

    @property
    def _parts(self) -> tuple[Sequence[Item], Sequence[Item]]:
        """What is shown, and what is not."""
        items, most = self.band.ranked, self.limits.max_codes * 6
        return items[:most], items[most:]

    @property
    def _rest(self) -> str:
        rest = self._parts[1]
        return (
            f"+{len(rest)} more, together {signed(total_of(rest), 3)}" if rest else ""
        )

    def _boxes(self) -> list[tuple[Item, tuple[str, str], float, float, float]]:
        """Per chip: the item, its words, left, top and width in inches."""
        boxes, left, top = [], 0.05, 0.1
        most, high = self.canvas.width - 0.1, chip_high(self.page, 1)
        for item in self._parts[0]:
            heads, tails = zip(*chip_words(item, self.values), strict=True)
            words = " ".join(heads), "".join(tails)
            whole = "".join(words)
            size = self.page.wide(whole, self.page.small, "bold")
            width = min(size + _INSET, most)
            if left + width > self.canvas.width and left > 0.05:
                left, top = 0.05, top + high + _GAP
            boxes.append((item, words, left, top, width))
            left += width + 0.07
        return boxes

    @property
    def height(self) -> float:
        """In inches."""
        notes = len(self.note_lines(self._rest)) * self.line
        return self._boxes()[-1][3] + chip_high(self.page, 1) + notes + _PAD

    def draw(self, ax: Axes, top: float) -> None:
        """Draw the chips row by row."""
        high = chip_high(self.page, 1)
        for item, words, left, below, width in self._boxes():
            draw_chip(ax, self, (left, top + below, width, high), item, [words])
        self.note_below(top, self._rest)


def spread(wanted: Sequence[float], gap: float, width: float) -> list[float]:
    """Move places as little as possible until they are ``gap`` apart.

    Example:
        >>> spread([1.0, 1.2, 5.0], 1.0, 6.0)
        [0.6, 1.6, 5.0]
    """
    # With i * gap taken off, "gap apart" is "not decreasing": isotonic regression,
    # by pooling neighbours that are the wrong way round.
    pools: list[tuple[float, int]] = []
    for rank, place in enumerate(wanted):
        mean, count = place - rank * gap, 1
        while pools and pools[-1][0] > mean:
            before, members = pools.pop()
            mean = (mean * count + before * members) / (count + members)
            count += members
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    low, high = gap / 2, max(gap / 2, width - gap / 2 - (len(wanted) - 1) * gap)
    return [min(max(mean, low), high) + rank * gap for rank, mean in enumerate(flat)]


def chip_high(page: Page, lines: int) -> float:
    """The height in inches of a chip with so many lines."""
    return (lines * LEADING * page.small + 2.5) / 72


def chip_words(item: Item, has_value: bool) -> list[tuple[str, str]]:
    """What stands on a chip: the code, or the column and its value; a name below.

    Returns:
        Per line what may be cut, and what may not.

    Example:
        >>> failure = Item("conditions", "I50", "heart failure", 0.1)
        >>> chip_words(failure, False), chip_words(failure, True)[0]
        ([('I50', ''), ('heart failure', '')], ('I50', ' +0.10'))
    """
    tail = f" {signed(item.attribution)}" if has_value else ""
    if not math.isnan(item.value):
        return [(item.name, f" = {item.reading}{tail}")]
    return [(item.code, tail), *([(item.name, "")] if item.is_named else [])]


def draw_chip(
    ax: Axes,
    panel: Panel,
    box: tuple[float, float, float, float],
    item: Item,
    words: Sequence[tuple[str, str]],
) -> None:
    """A box, at its left and top edge, width and height in inches, with its words."""
    (left, top, width, high), canvas, page = box, panel.canvas, panel.page
    unit = canvas.span / canvas.width
    background, text = panel.scale.pair(item.attribution)
    ax.add_patch(
        FancyBboxPatch(
            (canvas.to_axis(left), top),
            width * unit,
            high,
            boxstyle=f"round,pad=0,rounding_size={0.06 * unit}",
            mutation_aspect=1 / unit,
            facecolor=background,
            edgecolor=page.ink(LINE),
            linewidth=0.5,
            zorder=3,
        )
    )
    middle, step = canvas.to_axis(left + width / 2), high / len(words)
    style: Any = {"ha": "center", "va": "center", "fontsize": page.small, "zorder": 4}
    for line, (head, tail) in enumerate(words):
        weight = "normal" if line else "bold"
        room = width - 0.6 * _INSET
        if tail:
            room -= page.wide(tail, page.small, weight)
        shown = page.fit(head, room, page.small, weight) + tail
        look: Any = {"color": text, "fontweight": weight, **style, **PLAIN}
        ax.text(middle, top + (line + 0.5) * step, shown, **look)


def note(page: Page, x: float, y: float, text: str, **look: Any) -> None:
    """A small muted remark at a place of the axes."""
    style = {"va": "center", "fontsize": page.small, "zorder": 4, **PLAIN} | look
    page.ax.text(x, y, text, color=page.ink(MUTED), **style)
