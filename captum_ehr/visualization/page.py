"""What the report's template shows, as plain data, and its rendering."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from captum_ehr.explanation.sums import strongest as strongest_codes
from captum_ehr.explanation.words import answer, remarks
from captum_ehr.visualization.colors import STOPS, ColorScale
from captum_ehr.visualization.layout import (
    Band,
    Item,
    PatientView,
    VisitRow,
    number,
    patient_view,
    signed,
    strongest,
    total_of,
    visit_rows,
)

if TYPE_CHECKING:
    from captum_ehr.explanation import Explanation

_TOP = 20
_OPEN_VISITS, _OPEN_CODES, _OPEN_LINES, _OPEN_STEPS = 8, 10, 10, 12
_CHART_WIDTH, _CHART_STEP, _CHART_HEIGHT, _CHART_EDGE = (260, 900), 14, 34, 6


@dataclass(frozen=True)
class TopCode:
    """One row of the cohort's table.

    Args:
        rank: From 1.
        feature, code, name, count, patients, mean, mean_abs: As in
            :meth:`captum_ehr.Explanation.top`.
        share: ``mean_abs`` over the strongest code's, 0 to 1.
        color: The colour of ``mean``.
        text: The text colour on it.
        planted: True for codes known to matter.
    """

    rank: int
    feature: str
    code: str
    name: str
    count: int
    patients: int
    mean: float
    mean_abs: float
    share: float
    color: str
    text: str
    planted: bool


@dataclass(frozen=True)
class Block:
    """Visits in a row that are shown, or folded, together."""

    folded: bool
    rows: tuple[VisitRow, ...]

    @property
    def total(self) -> float:
        """The sum of the visits' attributions."""
        return math.fsum(row.total for row in self.rows)


@dataclass(frozen=True)
class Dot:
    """One value in a chart: where, and which."""

    x: float
    y: float
    item: Item
    label: str


@dataclass(frozen=True)
class Line:
    """One column of a time series: its chart, and a value or None per step."""

    name: str
    code: str
    dots: tuple[Dot, ...]
    cells: tuple[Item | None, ...]
    total: float
    strength: float
    low: str
    high: str


@dataclass(frozen=True)
class Series:
    """One continuous feature over time; strongest columns first.

    Args:
        feature: The feature key.
        width: The charts' width in pixels.
        steps: What to call each step.
        lines: The strongest columns.
        hidden: The others.
    """

    feature: str
    width: int
    steps: tuple[str, ...]
    lines: tuple[Line, ...]
    hidden: tuple[Line, ...]


@dataclass(frozen=True)
class PatientSection:
    """One patient of the page."""

    anchor: str
    view: PatientView
    probabilities: tuple[float, float] | None
    features: tuple[tuple[str, float, float], ...]
    blocks: tuple[Block, ...]
    series: tuple[Series, ...]
    columns: tuple[tuple[str, tuple[Item, ...]], ...]


@dataclass(frozen=True)
class ModelSection:
    """One model of the page."""

    anchor: str
    name: str
    summary: tuple[str, ...]
    top: tuple[TopCode, ...]
    codes: int
    planted: tuple[tuple[str, int | None], ...]
    median: float
    worst: float
    rescaled: int
    count: int
    fallbacks: tuple[str, ...]
    messages: tuple[str, ...]
    patients: tuple[PatientSection, ...]


def render(**content: Any) -> str:
    """The page of some content; autoescape is on, so data stays text."""
    environment = Environment(
        loader=PackageLoader("captum_ehr.visualization", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signed"] = signed
    environment.filters["number"] = number
    environment.filters["total"] = total_of
    environment.filters["answer"] = answer
    limits = {"codes": _OPEN_CODES, "steps": _OPEN_STEPS, "stops": STOPS}
    return environment.get_template("report.html").render(limits=limits, **content)


def model_section(
    anchor: str,
    name: str,
    explanation: Explanation,
    planted: Collection[str],
    patients: Sequence[int],
) -> ModelSection:
    """All that the page says of one model.

    Args:
        anchor: The section's id in the page, unique in it.
        name: The model's name to show.
        explanation: The explanation.
        planted: Codes to mark.
        patients: Indices of the patients to show.

    Raises:
        IndexError: If there is no patient of an asked index.
    """
    table = strongest_codes(explanation)
    relative = explanation.relative_delta
    diagnostics = explanation.diagnostics
    return ModelSection(
        anchor,
        name,
        tuple(_summary(explanation)),
        _top_codes(table.head(_TOP), planted),
        len(table),
        _planted_ranks(table["code"].tolist(), planted),
        float(relative.median()) if len(relative) else 0.0,
        float(relative.max()) if len(relative) else 0.0,
        int((explanation.rescale_factor != 1).sum()),
        len(explanation),
        diagnostics.fallbacks,
        tuple(remarks(explanation)),
        tuple(
            patient_section(f"{anchor}p{place}", explanation, index)
            for place, index in enumerate(patients)
        ),
    )


def _summary(explanation: Explanation) -> list[str]:
    from captum_ehr.explanation import summary

    words = summary(explanation)
    return words if explanation.model_name else words[1:]


def _top_codes(table: Any, planted: Collection[str]) -> tuple[TopCode, ...]:
    """The cohort's table from a frame of :meth:`Explanation.top`."""
    rows = table.to_dict("records")
    known = (row["mean_abs"] for row in rows if math.isfinite(row["mean_abs"]))
    most = max(known, default=0.0)
    scale = ColorScale.of(row["mean"] for row in rows)
    return tuple(
        TopCode(
            rank,
            row["feature"],
            row["code"],
            row["name"],
            row["count"],
            row["patients"],
            row["mean"],
            row["mean_abs"],
            row["mean_abs"] / most if 0 < row["mean_abs"] <= most else 0.0,
            scale.color(row["mean"]),
            scale.text(row["mean"]),
            row["code"] in planted,
        )
        for rank, row in enumerate(rows, 1)
    )


def _planted_ranks(
    codes: Sequence[str], planted: Collection[str]
) -> tuple[tuple[str, int | None], ...]:
    """Per planted code its best rank, best first; None where no patient has it."""
    ranks: dict[str, int | None] = dict.fromkeys(sorted(planted))
    for rank, code in enumerate(codes, 1):
        if code in ranks and ranks[code] is None:
            ranks[code] = rank
    return tuple(sorted(ranks.items(), key=lambda pair: pair[1] or math.inf))


def patient_section(
    anchor: str, explanation: Explanation, patient: int
) -> PatientSection:
    """All that the page says of one patient."""
    view = patient_view(explanation, patient)
    probabilities = None
    is_known = math.isfinite(view.f_input) and math.isfinite(view.f_baseline)
    if is_known and has_one_logit(explanation):
        probabilities = (_sigmoid(view.f_baseline), _sigmoid(view.f_input))
    sums = {band.feature: band.total for band in view.bands}
    sizes = (abs(total) for total in sums.values() if math.isfinite(total))
    widest = max(sizes, default=0.0) or 1.0
    return PatientSection(
        anchor,
        view,
        probabilities,
        tuple((key, total, abs(total) / widest) for key, total in sums.items()),
        fold(visit_rows(view)),
        tuple(_series(band) for band in view.bands if band.kind == "series"),
        tuple(
            (band.feature, tuple(strongest(band.steps[0].items)))
            for band in view.bands
            if band.kind == "columns"
        ),
    )


def has_one_logit(explanation: Explanation) -> bool:
    """True where the output is known to be the only logit of a binary model.

    One name of one output says so; without names a logit of index 0 may as well be
    one of many classes, whose sigmoid would be no probability.
    """
    names: Sequence[str] | None = explanation.target_names
    return explanation.output == "logit" and names is not None and len(names) == 1


def _sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))


def fold(rows: Sequence[VisitRow]) -> tuple[Block, ...]:
    """Keep the strongest visits open and fold runs of others, in order.

    Args:
        rows: The visits in order.

    Returns:
        Blocks that together have all visits in order; a single weak visit between
        two strong ones is not worth folding.
    """
    if len(rows) <= _OPEN_VISITS + 2:
        return (Block(False, tuple(rows)),) if rows else ()
    ranked = sorted(range(len(rows)), key=lambda i: -rows[i].strength)
    is_open = [False] * len(rows)
    for i in ranked[:_OPEN_VISITS]:
        is_open[i] = True
    for i in range(1, len(rows) - 1):
        is_open[i] = is_open[i] or (is_open[i - 1] and is_open[i + 1])
    blocks: list[Block] = []
    start = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or is_open[i] != is_open[start]:
            blocks.append(Block(not is_open[start], tuple(rows[start:i])))
            start = i
    return tuple(blocks)


def _series(band: Band) -> Series:
    """A continuous feature's charts and table, strongest columns first."""
    timed = band.is_timed
    labels = tuple(
        number(step.time)
        if math.isfinite(step.time)
        else f"step {i + 1 if step.visit is None else step.visit + 1}"
        for i, step in enumerate(band.steps)
    )
    columns: dict[str, list[Item | None]] = {}
    for i, step in enumerate(band.steps):
        for item in step.items:
            columns.setdefault(item.code, [None] * len(band.steps))[i] = item
    places = _places([step.time for step in band.steps] if timed else [])
    places = places or _places([float(i) for i in range(len(band.steps))])
    least, most = _CHART_WIDTH
    width = min(max(_CHART_STEP * len(band.steps), least), most)
    lines = [_line(cells, places, labels, width) for cells in columns.values()]
    lines.sort(key=lambda line: -line.strength)
    heads = tuple(f"time {label}" for label in labels) if timed else labels
    return Series(
        band.feature,
        width,
        heads,
        tuple(lines[:_OPEN_LINES]),
        tuple(lines[_OPEN_LINES:]),
    )


def _places(times: Sequence[float]) -> list[float]:
    """Where steps are in a chart, 0 to 1; a step without a time is at the left."""
    known = [time for time in times if math.isfinite(time)]
    if not known:
        return []
    low, span = min(known), max(known) - min(known)
    if not span:
        return [0.5] * len(times)
    return [(time - low) / span if math.isfinite(time) else 0.0 for time in times]


def _line(
    cells: Sequence[Item | None],
    places: Sequence[float],
    labels: Sequence[str],
    width: int,
) -> Line:
    """One column's chart, drawn between its own lowest and highest value."""
    height, edge = _CHART_HEIGHT, _CHART_EDGE
    items = [item for item in cells if item is not None]
    finite = [item.value for item in items if math.isfinite(item.value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    dots = []
    for item, place, label in zip(cells, places, labels, strict=True):
        if item is None or not math.isfinite(item.value):
            continue
        share = (item.value - low) / (high - low) if high > low else 0.5
        x = edge + place * (width - 2 * edge)
        y = height - edge - share * (height - 2 * edge)
        dots.append(Dot(round(x, 1), round(y, 1), item, label))
    return Line(
        items[0].name,
        items[0].code,
        tuple(dots),
        tuple(cells),
        total_of(items),
        math.fsum(item.strength for item in items),
        number(low) if finite else "–",
        number(high) if finite else "–",
    )
