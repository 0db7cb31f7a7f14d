"""The bands of a timeline: chips hung from visits, rows of chips, lines of values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from captum_ehr.visualization.canvas import (
    CHARACTER,
    CHIP,
    Canvas,
    chip_text,
    draw_chip,
    note,
    spread,
)
from captum_ehr.visualization.colors import ColorScale
from captum_ehr.visualization.layout import (
    Band,
    Item,
    Limits,
    PatientView,
    Step,
    signed,
    strongest,
    total_of,
)
from captum_ehr.visualization.lines import ValueLines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GAP, _PAD = 0.05, 0.12
_RAIL, _HANG = 0.2, 0.26
_NAMED = 26


class Panel(Protocol):
    """Something with a height that can be drawn below a given line."""

    @property
    def feature(self) -> str:
        """The feature key."""

    @property
    def height(self) -> float:
        """In inches."""

    def draw(self, ax: Axes, top: float) -> None:
        """Draw on axes, ``top`` inches below their upper edge."""


@dataclass(frozen=True)
class ChipsOverTime:
    """Codes by visit: a rail with a dot per visit, the chips below.

    Args:
        band: The feature.
        canvas: The x axis.
        scale: The colours.
        places: Per step of the band, where it is on the x axis.
        limits: The most visits with chips, the most chips per visit.
        remark: What to know about the places, or nothing.
    """

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

    @property
    def shown(self) -> list[int]:
        """The steps that get chips: the strongest, in order."""
        room = max(1, int(self.canvas.width / 0.7))
        order = range(len(self.band.steps))
        ranked = sorted(order, key=lambda i: -self.band.steps[i].strength)
        return sorted(ranked[: min(self.limits.max_visits, room)])

    @property
    def folded(self) -> list[Step]:
        """The steps without chips."""
        shown = set(self.shown)
        return [s for i, s in enumerate(self.band.steps) if i not in shown]

    @property
    def height(self) -> float:
        """In inches."""
        counts = [len(self.band.steps[i].items) for i in self.shown]
        # One line more where a visit says how many of its codes are not shown.
        lines = max(min(n, self.limits.max_codes + 1) for n in counts)
        notes = 0.2 if self.folded or self.remark else 0.0
        return _RAIL + _HANG + lines * (CHIP + _GAP) + notes + _PAD

    def draw(self, ax: Axes, top: float) -> None:
        """Draw the rail, the dots, and the columns of chips."""
        shown, rail = self.shown, top + _RAIL
        ax.axhline(rail, color="#bbbbbb", lw=1, zorder=1)
        for place, step in zip(self.places, self.band.steps, strict=True):
            ax.plot(
                place,
                rail,
                "o",
                ms=6,
                mfc=self.scale.color(step.total),
                mec="#555555",
                mew=0.6,
                zorder=3,
            )
        gap = min(self._wanted_width(), self.canvas.width / len(shown))
        wanted = [self.canvas.to_inches(self.places[i]) for i in shown]
        centres = spread(wanted, gap, self.canvas.width)
        for index, centre in zip(shown, centres, strict=True):
            x = [self.places[index], self.canvas.to_axis(centre)]
            ax.plot(x, [rail, rail + _HANG], color="#aaaaaa", lw=0.7, zorder=2)
            self._draw_column(ax, index, (centre, rail + _HANG, gap - 0.08))
        words = [self.remark] if self.remark else []
        if self.folded:
            total = signed(math.fsum(step.total for step in self.folded), 3)
            words.append(
                f"+{len(self.folded)} more visits as dots only, together {total}"
            )
        left = self.canvas.to_axis(0.05)
        note(ax, left, top + self.height - 0.13, "; ".join(words), "left")

    def _wanted_width(self) -> float:
        """Inches for a column in which the longest chip's text fits, within reason."""
        texts = [
            len(chip_text(item, _NAMED))
            for index in self.shown
            for item in self.band.steps[index].items
        ]
        return max(max(texts) * CHARACTER + 0.2, 0.85)

    def _draw_column(
        self, ax: Axes, index: int, place: tuple[float, float, float]
    ) -> None:
        """One visit's chips, strongest first, below its leader line."""
        centre, top, width = place
        items = strongest(self.band.steps[index].items)
        is_cut = len(items) > self.limits.max_codes + 1
        shown = items[: self.limits.max_codes] if is_cut else items
        for line, item in enumerate(shown):
            box = (centre - width / 2, top + line * (CHIP + _GAP), width)
            draw_chip(ax, self.canvas, self.scale, item, box)
        if is_cut:
            rest = items[self.limits.max_codes :]
            total = signed(total_of(rest))
            y = top + len(shown) * (CHIP + _GAP) + CHIP / 2
            note(ax, self.canvas.to_axis(centre), y, f"+{len(rest)} more: {total}")


@dataclass(frozen=True)
class ChipRows:
    """Codes or values without visits: chips in reading order, strongest first."""

    band: Band
    canvas: Canvas
    scale: ColorScale
    limit: int

    @property
    def feature(self) -> str:
        """The feature key."""
        return self.band.feature

    def _boxes(self) -> list[tuple[Item, float, float, float]]:
        """Per chip: the item, left, top and width in inches."""
        boxes, left, top = [], 0.05, 0.1
        items = strongest(item for step in self.band.steps for item in step.items)
        for item in items[: self.limit]:
            text = chip_text(item, 32)
            width = min(len(text) * CHARACTER + 0.2, self.canvas.width - 0.1)
            if left + width > self.canvas.width and left > 0.05:
                left, top = 0.05, top + CHIP + _GAP
            boxes.append((item, left, top, width))
            left += width + 0.07
        return boxes

    @property
    def _hidden(self) -> list[Item]:
        items = strongest(item for step in self.band.steps for item in step.items)
        return items[self.limit :]

    @property
    def height(self) -> float:
        """In inches."""
        notes = 0.2 if self._hidden else 0.0
        return self._boxes()[-1][2] + CHIP + notes + _PAD

    def draw(self, ax: Axes, top: float) -> None:
        """Draw the chips row by row."""
        for item, left, below, width in self._boxes():
            draw_chip(ax, self.canvas, self.scale, item, (left, top + below, width))
        if self._hidden:
            total = signed(total_of(self._hidden), 3)
            text = f"+{len(self._hidden)} more, together {total}"
            note(ax, self.canvas.to_axis(0.05), top + self.height - 0.13, text, "left")


def plan_panels(view: PatientView, canvas: Canvas, limits: Limits) -> list[Panel]:
    """The panel of each band of a patient.

    Where some features have times and others only an order, the latter are spread
    evenly over the axis and say so.
    """
    any_time = any(band.is_timed for band in view.bands)
    panels: list[Panel] = []
    for band in view.bands:
        if not band.is_ordered:
            limit = limits.max_codes * 6
            panels.append(ChipRows(band, canvas, view.scale, limit))
            continue
        places, remark = _step_places(band, canvas, any_time)
        if band.kind == "codes":
            panels.append(
                ChipsOverTime(band, canvas, view.scale, places, limits, remark)
            )
        else:
            panels.append(ValueLines(band, canvas, view.scale, places, limits, remark))
    return panels


def _step_places(
    band: Band, canvas: Canvas, any_time: bool
) -> tuple[tuple[float, ...], str]:
    """Where a band's steps are on the x axis, and what to know about it."""
    steps, margin = band.steps, 0.06 * canvas.span
    if band.is_timed:
        known = [step.time for step in steps if math.isfinite(step.time)]
        missing = len(steps) - len(known)
        places = [
            step.time if math.isfinite(step.time) else min(known) for step in steps
        ]
        order = f"{missing} visit(s) without a time stand at the left"
        return tuple(places), order if missing else ""
    if not any_time:
        return tuple(band.numbers), ""
    share = (canvas.span - 2 * margin) / max(len(steps) - 1, 1)
    spots = tuple(canvas.low + margin + i * share for i in range(len(steps)))
    return spots, "in order, evenly spaced: no times to go by"
