"""One patient, or the codes of a cohort, as a piece of HTML; no script, no network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from captum_ehr.scene import folding, glossary, history, palette, wording
from captum_ehr.scene.account import Change
from captum_ehr.scene.history import Band, Line
from captum_ehr.scene.patient import PatientScene
from captum_ehr.scene.population import PopulationScene

_BARS, _ROW = 112, 62
"""Of a drawing over time the heights of the bars of visits and of a line of values."""

_ROOM, _NARROW = 7.0, 14.0
"""The room for a number in per cent of the width: of a page, and of a phone."""


def patient_html(scene: PatientScene, *, compact: bool = False) -> str:
    """One patient, without the account and the drawings if ``compact``; all escaped.

    A ``div`` of the class ``ehr`` that needs :func:`stylesheet`.

    Chips, dots and cells have ``data-feature``, ``data-code``, ``data-attribution``
    and ``data-value``, visits and their bars ``data-visit`` (from 1), and the whole
    ``data-limit``, the end of its colours, for the scripts of a page to work with.
    """
    return str(_macros().patient(scene, compact=compact))


def render(template: str, **content: Any) -> str:
    """A whole page of a template of this package."""
    page = environment().get_template(template)
    return page.render(stylesheet=Markup(stylesheet()), **content)


def population_html(scene: PopulationScene) -> str:
    """The table of the strongest codes of a cohort; all data is escaped."""
    return str(_macros().codes(scene))


def _macros() -> Any:
    return environment().get_template("patient.html").module


@cache
def stylesheet() -> str:
    """The looks of both, as CSS; every rule is of the class ``ehr``."""
    folder = resources.files("captum_ehr.visualization") / "templates"
    names = ("colors.css", "patient.css")
    files = [(folder / name).read_text(encoding="utf-8") for name in names]
    grey = palette.ColorScale(1.0, False).ramp
    ramp = f".ehr .ramp {{ background: {palette.RAMP}; }}\n"
    ramp += f".ehr .ramp.unsigned {{ background: {grey}; }}\n"
    return "".join(files) + ramp


@cache
def templates(package: str, folder: str) -> Environment:
    """A package's templates; autoescape is on, so data stays text."""
    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def environment() -> Environment:
    """The templates of patients and cohorts."""
    jinja = templates("captum_ehr.visualization", "templates")
    for words in ("number", "output_value", "percent", "signed", "tiny"):
        jinja.filters[words] = getattr(wording, words)
    jinja.globals |= {
        "bridge_bar": bridge_bar,
        "charts": charts,
        "cut": folding.cut,
        "open_chips": folding.OPEN_CHIPS,
        "open_steps": folding.OPEN_STEPS,
        "explained": glossary.explained,
        "several": wording.several,
        "total_of": history.total_of,
        "zip": zip,
    }
    return jinja


def bridge_bar(
    changes: Sequence[Change], step: Change, scale: palette.ColorScale
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
    color = palette.UNKNOWN if step.kind == "missing" else scale.bar(step.size)
    return round(min(share), 2), round(width, 2), color


def charts(scene: PatientScene) -> list[dict[str, Any]]:
    """The drawing of visits and the strongest lines of values; that of the others."""
    bands = [band for band in scene.bands if band.kind == "series"]
    lines = [(line, band) for band in bands for line in band.lines]
    lines.sort(key=lambda pair: -pair[0].strength)
    head, tail = folding.cut(lines, folding.OPEN_LINES)
    drawn = [_chart(scene, head, True), _chart(scene, tail, False)]
    return [chart for chart in drawn if chart["bars"] or chart["rows"]]


def _chart(
    scene: PatientScene, lines: Sequence[tuple[Line, Band]], has_bars: bool
) -> dict[str, Any]:
    """Visits and values over time: from the left in per cent, from the top in pixels.

    So a drawing is as wide as there is room for, and its letters keep their size.
    """
    axis = scene.axis

    def to_x(place: float) -> float:
        return round(100 * (place - axis.low) / (axis.high - axis.low), 2)

    bars, zero, thickness = _bars(scene, to_x) if has_bars else ([], 0.0, 0.0)
    top = _BARS if bars else 8
    return {
        "foot": top + len(lines) * _ROW,
        "axis": axis.label,
        "ticks": [(to_x(place), wording.number(place)) for place in axis.ticks],
        "bars": bars,
        "zero": zero,
        "thickness": thickness,
        "rows": [
            (line, *_row(scene, line, band, to_x, top + place * _ROW))
            for place, (line, band) in enumerate(lines)
        ],
        "total": history.total_of(item for line, _ in lines for item in line.items),
    }


def _bars(
    scene: PatientScene, to_x: Callable[[float], float]
) -> tuple[list[tuple[Any, ...]], float, float]:
    """A bar per visit with a place, up where it raises; zero's place; their width.

    Of each bar: the visit, its number from 1, the middle, the top, the height, where
    its words stand, and for which widths there is room for them; see :func:`_rooms`.
    """
    placed = [
        (visit, number, to_x(place))
        for number, visit in enumerate(scene.visits, 1)
        for place in [visit.time if scene.axis.is_time else visit.visit]
        if place is not None and math.isfinite(place)
    ]
    totals = [0.0 if math.isnan(v.total) else v.total for v, *_ in placed]
    rise, fall = max([0.0, *totals]), -min([0.0, *totals])
    unit = (_BARS - 56) / ((rise + fall) or 1.0)
    zero = round(30 + rise * unit, 1)
    places = [x for *_, x in placed]
    gaps = [right - left - 0.2 for left, right in zip(places, places[1:])]
    rooms = _rooms(places, list(map(abs, totals)))
    bars = []
    for i, total in enumerate(totals):
        height = round(max(1.5, abs(total) * unit), 1)
        top = round(zero - height if total >= 0 else zero, 1)
        words = round(top - 4 if total >= 0 else zero + height + 11, 1)
        bars.append((*placed[i], top, height, words, rooms[i]))
    return bars, zero, round(max(0.4, min([1.8, *gaps])), 2)


def _rooms(places: Sequence[float], strengths: Sequence[float]) -> list[str]:
    """Where numbers can be written: anywhere, on a page (``"roomy"``), or nowhere."""
    wide, narrow = (
        folding.with_room(places, strengths, room) for room in (_ROOM, _NARROW)
    )
    return [
        "anywhere" if i in narrow else "roomy" if i in wide else ""
        for i in range(len(places))
    ]


def _row(
    scene: PatientScene,
    line: Line,
    band: Band,
    to_x: Callable[[float], float],
    top: float,
) -> tuple[Any, ...]:
    """One column's values between the lowest and the highest, usual bounds included.

    Returns:
        Where its name stands, the place and height of the usual range or None, and
        per value: itself, when it was, where it is, and where its words have room.
    """
    usual = line.items[0].usual
    values = [item.value for item in line.items]
    finite = [value for value in (*values, *usual) if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    def to_y(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(top + 54 - 18 * min(max(share, -0.2), 1.2), 1)

    places, heads = scene.axis.places(band)[0], band.heads
    known = [
        (item, heads[place], to_x(places[place]), to_y(item.value))
        for item, place in zip(line.items, line.places, strict=True)
        if math.isfinite(item.value)
    ]
    # What was not measured has no number.
    told = [i for i, (item, *_) in enumerate(known) if not item.is_imputed]
    strengths = [known[i][0].strength for i in told]
    rooms = dict(zip(told, _rooms([known[i][2] for i in told], strengths)))
    dots = [(*dot, rooms.get(i, "")) for i, dot in enumerate(known)]
    upper, lower = to_y(usual[1]), to_y(usual[0])
    is_known = any(map(math.isfinite, usual))
    return top + 14, (upper, round(lower - upper, 1)) if is_known else None, dots
