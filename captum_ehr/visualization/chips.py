"""The bands of a timeline that have chips: hung from visits, or in rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from captum_ehr.scene.folding import cut, strongest_places
from captum_ehr.scene.history import Band, Item, Step, total_of
from captum_ehr.scene.palette import ColorScale
from captum_ehr.scene.wording import shorten, signed
from captum_ehr.visualization.axes import MUTED, PLAIN

CHIP, CHARACTER = 0.21, 0.066
"""The height of a chip, and the width of a character on it, generously; in inches."""

_GAP, _PAD, _NOTE = 0.05, 0.12, 0.2
_RAIL, _HANG = 0.2, 0.26
_NAMED = 26


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

    band: Band
    canvas: Canvas
    scale: ColorScale
    limits: Limits
    places: tuple[float, ...] = ()  # per step, where it is on the x axis
    remark: str = ""  # what to know about the places

    @property
    @abstractmethod
    def height(self) -> float:
        """In inches."""

    @abstractmethod
    def draw(self, ax: Axes, top: float) -> None:
        """Draw on axes, ``top`` inches below their upper edge."""

    def note_below(self, ax: Axes, top: float, *words: str) -> None:
        """The remark, and what is not shown, at the panel's lower edge."""
        text = "; ".join(filter(None, [self.remark, *words]))
        place = self.canvas.to_axis(0.05), top + self.height - 0.13
        note(ax, *place, text, "left")


class ChipsOverTime(Panel):
    """Codes by visit: a rail with a dot per visit, the chips below."""

    @property
    def strongest(self) -> list[int]:
        """The steps that get chips: the strongest, in order."""
        room = max(1, int(self.canvas.width / 0.7))
        strengths = [step.strength for step in self.band.steps]
        return strongest_places(strengths, min(self.limits.max_visits, room))

    @property
    def folded(self) -> list[Step]:
        """The steps without chips."""
        strongest = set(self.strongest)
        return [step for i, step in enumerate(self.band.steps) if i not in strongest]

    @property
    def height(self) -> float:
        """In inches."""
        counts = [len(self.band.steps[i].items) for i in self.strongest]
        # One line more where a visit says how many of its codes are not shown.
        lines = max(min(count, self.limits.max_codes + 1) for count in counts)
        notes = _NOTE if self.folded or self.remark else 0.0
        return _RAIL + _HANG + lines * (CHIP + _GAP) + notes + _PAD

    def draw(self, ax: Axes, top: float) -> None:
        """Draw the rail, the dots, and the columns of chips."""
        steps, rail, canvas = self.strongest, top + _RAIL, self.canvas
        ax.axhline(rail, color="#bbbbbb", lw=1, zorder=1)
        for place, step in zip(self.places, self.band.steps, strict=True):
            color = self.scale.color(step.total)
            ax.plot(place, rail, "o", ms=6, mfc=color, mec="#555555", mew=0.6, zorder=3)
        gap = min(self._wanted_width(), canvas.width / len(steps))
        wanted = [canvas.to_inches(self.places[i]) for i in steps]
        centres = spread(wanted, gap, canvas.width)
        for index, centre in zip(steps, centres, strict=True):
            x = [self.places[index], canvas.to_axis(centre)]
            ax.plot(x, [rail, rail + _HANG], color="#aaaaaa", lw=0.7, zorder=2)
            self._draw_column(ax, index, (centre, rail + _HANG, gap - 0.08))
        rest = ""
        if self.folded:
            total = signed(math.fsum(step.total for step in self.folded), 3)
            rest = f"+{len(self.folded)} more visits as dots only, together {total}"
        self.note_below(ax, top, rest)

    def _wanted_width(self) -> float:
        """Inches for a column in which the longest chip's text fits, within reason."""
        steps = [self.band.steps[index] for index in self.strongest]
        texts = [chip_text(item, _NAMED) for step in steps for item in step.items]
        return max(max(map(len, texts)) * CHARACTER + 0.2, 0.85)

    def _draw_column(
        self, ax: Axes, index: int, place: tuple[float, float, float]
    ) -> None:
        """One visit's chips, strongest first, below its leader line."""
        centre, top, width = place
        items, rest = cut(self.band.steps[index].ranked, self.limits.max_codes)
        for line, item in enumerate(items):
            box = (centre - width / 2, top + line * (CHIP + _GAP), width)
            draw_chip(ax, self.canvas, self.scale, item, box)
        if rest:
            y = top + len(items) * (CHIP + _GAP) + CHIP / 2
            text = f"+{len(rest)} more: {signed(total_of(rest))}"
            note(ax, self.canvas.to_axis(centre), y, text)


class ChipRows(Panel):
    """Codes or values without visits: chips in reading order, strongest first."""

    @property
    def _parts(self) -> tuple[Sequence[Item], Sequence[Item]]:
        """What is shown, and what is not."""
        items, most = self.band.ranked, self.limits.max_codes * 6
        return items[:most], items[most:]

    def _boxes(self) -> list[tuple[Item, float, float, float]]:
        """Per chip: the item, left, top and width in inches."""
        boxes, left, top = [], 0.05, 0.1
        for item in self._parts[0]:
            text = chip_text(item, 32)
            width = min(len(text) * CHARACTER + 0.2, self.canvas.width - 0.1)
            if left + width > self.canvas.width and left > 0.05:
                left, top = 0.05, top + CHIP + _GAP
            boxes.append((item, left, top, width))
            left += width + 0.07
        return boxes

    @property
    def height(self) -> float:
        """In inches."""
        notes = _NOTE if self._parts[1] else 0.0
        return self._boxes()[-1][2] + CHIP + notes + _PAD

    def draw(self, ax: Axes, top: float) -> None:
        """Draw the chips row by row."""
        for item, left, below, width in self._boxes():
            draw_chip(ax, self.canvas, self.scale, item, (left, top + below, width))
        if rest := self._parts[1]:
            total = signed(total_of(rest), 3)
            self.note_below(ax, top, f"+{len(rest)} more, together {total}")


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


def draw_chip(
    ax: Axes,
    canvas: Canvas,
    scale: ColorScale,
    item: Item,
    box: tuple[float, float, float],
) -> None:
    """A box, at its left and top edge and width in inches, with a code or value."""
    left, top, width = box
    unit = canvas.span / canvas.width
    background, text = scale.pair(item.attribution)
    ax.add_patch(
        FancyBboxPatch(
            (canvas.to_axis(left), top),
            width * unit,
            CHIP,
            boxstyle=f"round,pad=0,rounding_size={0.06 * unit}",
            mutation_aspect=1 / unit,
            facecolor=background,
            edgecolor="#999999",
            linewidth=0.5,
            zorder=3,
        )
    )
    middle = canvas.to_axis(left + width / 2), top + CHIP / 2
    words = chip_text(item, int(width / CHARACTER))
    style = {"ha": "center", "va": "center", "fontsize": 7, "zorder": 4, **PLAIN}
    ax.text(*middle, words, color=text, clip_on=True, **style)


def chip_text(item: Item, width: int) -> str:
    """What stands on a chip of ``width`` characters: the code, then what fits.

    Example:
        >>> failure = Item("conditions", "I50", "heart failure", 0.1)
        >>> chip_text(failure, 18), chip_text(failure, 12), chip_text(failure, 2)
        ('I50 heart failure', 'I50 heart f…', 'I…')
    """
    rest = ""
    is_value = not math.isnan(item.value)
    if is_value:
        rest = f" = {item.reading}"
    elif item.is_named:
        rest = f" {item.name}"
    whole = " ".join((item.code + rest).split())
    if len(whole) <= width:
        return whole
    room = width - len(item.code) - 1
    # A name cut to a few letters says nothing; one cut later still does.
    if not is_value and item.is_named and room >= 8:
        return f"{item.code} {shorten(item.name, room)}"
    return shorten(item.code, width)


def note(ax: Axes, x: float, y: float, text: str, align: str = "center") -> None:
    """A small muted remark at a place of the axes."""
    style = {"va": "center", "fontsize": 6.5, "color": MUTED, "zorder": 4, **PLAIN}
    ax.text(x, y, text, ha=align, **style)
