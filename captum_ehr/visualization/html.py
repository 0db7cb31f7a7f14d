"""One patient, or the codes of a cohort, as a piece of HTML; no script, no network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from captum_ehr.scene import folding, palette, record, wording
from captum_ehr.scene.patient import Change, PatientScene
from captum_ehr.scene.population import PopulationScene
from captum_ehr.scene.record import Item, Line, Visit

_LEFT, _RIGHT, _WIDTH = 204, 868, 1000
"""Where the axis of a drawing begins and ends, and the drawing's width."""

_BARS, _ROW, _FOOT = 100, 48, 34
"""The heights of the bars of visits, of a line of values and of the axis's words."""

_ROOM, _NAME = 46, 26
"""The room for a number in a drawing, and the most characters of a name."""


def patient_html(scene: PatientScene, *, compact: bool = False) -> str:
    """One patient: title, account, history, codes and values; all data is escaped.

    Chips, dots and cells have ``data-feature``, ``data-code``, ``data-attribution``
    and ``data-value``, visits and their bars ``data-visit`` (from 1), and the whole
    ``data-limit``, the end of its colours, for the scripts of a page to work with.

    Args:
        scene: The patient.
        compact: Without the account and the drawings, as for a notebook.

    Returns:
        A ``div`` of the class ``ehr`` that needs :func:`stylesheet`.
    """
    macros: Any = environment().get_template("patient.html").module
    return str(macros.patient(scene, compact=compact))


def render(template: str, **content: Any) -> str:
    """A whole page of a template of this package."""
    page = environment().get_template(template)
    return page.render(stylesheet=Markup(stylesheet()), **content)


def population_html(scene: PopulationScene) -> str:
    """The table of the strongest codes of a cohort; all data is escaped.

    Args:
        scene: The cohort.

    Returns:
        A ``div`` of the class ``ehr`` that needs :func:`stylesheet`.
    """
    macros: Any = environment().get_template("patient.html").module
    return str(macros.codes(scene))


@cache
def stylesheet() -> str:
    """The looks of both, as CSS; every rule is of the class ``ehr``."""
    file = resources.files("captum_ehr.visualization") / "templates" / "patient.css"
    ramp = f".ehr .ramp {{ background: {palette.RAMP}; }}\n"
    return file.read_text(encoding="utf-8") + ramp


@cache
def environment() -> Environment:
    """The templates; autoescape is on, so data stays text."""
    jinja = Environment(
        loader=PackageLoader("captum_ehr.visualization", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for words in ("output_value", "percent", "short", "signed", "tiny"):
        jinja.filters[words] = getattr(wording, words)
    jinja.globals |= {
        "bar_color": palette.bar_color,
        "bridge_bar": bridge_bar,
        "charts": charts,
        "cut": folding.cut,
        "open_chips": folding.OPEN_CHIPS,
        "open_steps": folding.OPEN_STEPS,
        "several": wording.several,
        "total_of": record.total_of,
        "zip": zip,
    }
    return jinja


def bridge_bar(
    changes: Sequence[Change], step: Change
) -> tuple[float, float, str] | None:
    """The bar of a step from f(x0) to f(x): left and width in per cent, and colour.

    Nothing where an output is no number. Outputs are marks, not lengths from zero.
    """
    ends = [end for change in changes for end in (change.start, change.end)]
    if not (math.isfinite(step.start) and math.isfinite(step.end)):
        return None
    finite = [end for end in ends if math.isfinite(end)]
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    share = [4 + 92 * (end - low) / span for end in (step.start, step.end)]
    width = max(abs(share[1] - share[0]), 0.8)
    if step.kind == "output":
        return round(share[0] - 0.4, 2), 0.8, palette.OUTPUT
    color = palette.bar_color(step.end - step.start)
    return round(min(share), 2), round(width, 2), color


class Tick(NamedTuple):
    """A place on the axis and its words."""

    x: float
    text: str


class Bar(NamedTuple):
    """The sum of a visit; its place among the visits, from 1; its words, with room."""

    visit: Visit
    number: int
    centre: float
    x: float
    y: float
    width: float
    height: float
    fill: str
    text_y: float | None


class Dot(NamedTuple):
    """A value, when it was, and whether there is room for its words."""

    item: Item
    head: str
    x: float
    y: float
    fill: str
    text: bool


class Row(NamedTuple):
    """A column's values; the place and height of their usual range."""

    line: Line
    head: Item
    name: str
    y: float
    usual: tuple[float, float] | None
    dots: list[Dot]


class Chart(NamedTuple):
    """Visits and values over time, in units of the drawing."""

    width: int
    height: int
    left: int
    right: int
    foot: int
    axis: str
    ticks: list[Tick]
    zero: float
    bars: list[Bar]
    rows: list[Row]

    @property
    def total(self) -> float:
        """The sum of its values' attributions."""
        return record.total_of(item for row in self.rows for item in row.line.items)


def charts(scene: PatientScene) -> list[Chart]:
    """Visits and the strongest lines of values, and the weaker lines."""
    if not scene.axis.is_shown:
        return []
    lines = [
        (line, places, band.heads)
        for band in scene.bands
        if band.kind == "series"
        for places in [scene.axis.places(band)[0]]
        for line in band.lines
    ]
    lines.sort(key=lambda entry: -entry[0].strength)
    shown, rest = folding.cut(lines, folding.OPEN_LINES)
    parts = [(shown, True), (rest, False)] if rest else [(shown, True)]
    return [_chart(scene, part, first) for part, first in parts]


def _chart(
    scene: PatientScene,
    lines: Sequence[tuple[Line, Sequence[float], Sequence[str]]],
    has_visits: bool,
) -> Chart:
    axis = scene.axis
    scale = (_RIGHT - _LEFT) / (axis.high - axis.low)

    def to_x(place: float) -> float:
        return round(_LEFT + (place - axis.low) * scale, 1)

    bars, zero = _bars(scene, to_x) if has_visits else ([], 0.0)
    top = _BARS if bars else 8
    rows = [
        _row(scene, *line, to_x, top + place * _ROW) for place, line in enumerate(lines)
    ]
    foot = top + len(rows) * _ROW
    ticks = [Tick(to_x(at), wording.number(at)) for at in _ticks(scene)]
    size = (_WIDTH, foot + _FOOT, _LEFT, _RIGHT, foot)
    return Chart(*size, axis.label, ticks, zero, bars, rows)


def _ticks(scene: PatientScene) -> list[float]:
    """Round places on the axis, visits or steps at their numbers."""
    axis = scene.axis
    if axis.only is not None:
        return [axis.only]
    rough = (axis.high - axis.low) / 8
    power = 10 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough)
    step = step if axis.is_time else max(1, round(step))
    first, last = math.ceil(axis.low / step), math.floor(axis.high / step)
    return [place * step for place in range(first, last + 1)]


def _bars(
    scene: PatientScene, to_x: Callable[[float], float]
) -> tuple[list[Bar], float]:
    """A bar per visit with a place, up where it raises; and the line of zero."""
    placed = [
        (to_x(place), number, visit)
        for number, visit in enumerate(scene.visits, 1)
        for place in [visit.time if scene.axis.is_time else visit.number]
        if place is not None and math.isfinite(place)
    ]
    totals = [v.total if math.isfinite(v.total) else 0.0 for *_, v in placed]
    rise, fall = max([0.0, *totals]), -min([0.0, *totals])
    unit = (_BARS - 44) / ((rise + fall) or 1.0)
    zero = round(18 + rise * unit, 1)
    gaps = [right[0] - left[0] - 2 for left, right in zip(placed, placed[1:])]
    width = round(max(3.0, min([12.0, *gaps])), 1)
    has_room = _with_room([x for x, *_ in placed], [abs(total) for total in totals])
    bars = []
    for place, ((x, number, visit), total) in enumerate(zip(placed, totals)):
        height = round(max(1.5, abs(total) * unit), 1)
        top = zero - height if total >= 0 else zero
        beside = top - 4 if total >= 0 else zero + height + 11
        text_y = round(beside, 1) if place in has_room else None
        fill = palette.bar_color(visit.total)
        corner = round(x - width / 2, 1), round(top, 1)
        bars.append(Bar(visit, number, x, *corner, width, height, fill, text_y))
    return bars, zero


def _with_room(places: Sequence[float], strengths: Sequence[float]) -> set[int]:
    """Of places those whose numbers do not meet, the strongest first."""
    chosen: list[int] = []
    for i in sorted(range(len(places)), key=lambda i: -strengths[i]):
        if all(abs(places[i] - places[j]) >= _ROOM for j in chosen):
            chosen.append(i)
    return set(chosen)


def _row(
    scene: PatientScene,
    line: Line,
    places: Sequence[float],
    heads: Sequence[str],
    to_x: Callable[[float], float],
    top: float,
) -> Row:
    """One column, between its own lowest and highest value."""
    bounds = [bound for bound in line.items[0].usual if math.isfinite(bound)]
    finite = [item.value for item in line.items if math.isfinite(item.value)]
    low, high = min(finite + bounds, default=0.0), max(finite + bounds, default=0.0)

    def to_y(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(top + 40 - 18 * min(max(share, -0.2), 1.2), 1)

    known = [
        (to_x(places[place]), heads[place], item)
        for place, item in zip(line.places, line.items, strict=True)
        if math.isfinite(item.value)
    ]
    has_room = _with_room([x for x, *_ in known], [i.strength for *_, i in known])
    dots = [
        Dot(item, head, x, to_y(item.value), scene.scale.color(item.attribution), room)
        for place, (x, head, item) in enumerate(known)
        for room in [place in has_room]
    ]
    usual = None
    if bounds:
        upper, lower = to_y(line.items[0].usual[1]), to_y(line.items[0].usual[0])
        usual = upper, round(lower - upper, 1)
    head = line.items[0]
    unit = f" ({wording.shorten(head.unit, 10)})" if head.unit else ""
    name = wording.shorten(head.name, _NAME - len(unit)) + unit
    return Row(line, head, name, top + 36, usual, dots)
