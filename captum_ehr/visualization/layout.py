"""One patient as the pictures see them: bands of features, steps, codes, values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from captum_ehr.explanation.frame import build_rows, frame_of
from captum_ehr.visualization.colors import ColorScale

if TYPE_CHECKING:
    import pandas as pd

    from captum_ehr.explanation import Explanation

Kind = Literal["codes", "series", "columns"]


@dataclass(frozen=True)
class Limits:
    """How much is drawn before the rest is folded and counted.

    Args:
        max_visits: The most visits per feature with chips.
        max_codes: The most chips per visit.
        max_values: The most lines per continuous feature.
    """

    max_visits: int = 12
    max_codes: int = 6
    max_values: int = 8


@dataclass(frozen=True)
class Item:
    """One code or value.

    Args:
        feature: The feature key.
        code: The code, or the column's name.
        name: The human name; the code where there is none.
        attribution: In units of the explained output.
        value: The raw value; NaN for codes.
        unit: The unit of the value; empty where unknown.
        usual: The least and the greatest usual value; infinite where unknown.
    """

    feature: str
    code: str
    name: str
    attribution: float
    value: float = math.nan
    unit: str = ""
    usual: tuple[float, float] = (-math.inf, math.inf)

    @property
    def flag(self) -> str:
        """An arrow where the value is above or below what is usual."""
        low, high = self.usual
        return " ↑" if self.value > high else " ↓" if self.value < low else ""

    @property
    def is_named(self) -> bool:
        """True where the name says more than the code."""
        return self.name != self.code

    @property
    def strength(self) -> float:
        """The absolute attribution, 0 where it is not a finite number."""
        return abs(self.attribution) if math.isfinite(self.attribution) else 0.0


@dataclass(frozen=True)
class Step:
    """One visit, or one step of a time series, of one feature.

    Args:
        visit: Its number in the feature, from 0; None where there are no visits.
        time: In the units of the task; NaN where unknown.
        items: What stands in it, in the data's order.
    """

    visit: int | None
    time: float
    items: tuple[Item, ...]

    @property
    def total(self) -> float:
        """The sum of its attributions, as :func:`total_of` has it."""
        return total_of(self.items)

    @property
    def strength(self) -> float:
        """The sum of its absolute attributions."""
        return math.fsum(item.strength for item in self.items)


@dataclass(frozen=True)
class Band:
    """One feature of one patient.

    Args:
        feature: The feature key.
        kind: ``"codes"`` for tokens, ``"series"`` for values with steps,
            ``"columns"`` for values without.
        steps: By time where it is known, else by visit; a band without either has
            one step.
    """

    feature: str
    kind: Kind
    steps: tuple[Step, ...]

    @property
    def is_timed(self) -> bool:
        """True where the time of any step is known."""
        return any(math.isfinite(step.time) for step in self.steps)

    @property
    def is_ordered(self) -> bool:
        """True where there are steps: of a series, by time or by visit."""
        has_visits = any(step.visit is not None for step in self.steps)
        return self.kind == "series" or self.is_timed or has_visits

    @property
    def total(self) -> float:
        """The sum of its attributions, as :func:`total_of` has it."""
        return math.fsum(step.total for step in self.steps)

    @property
    def numbers(self) -> list[float]:
        """Per step its visit's number from 1, else its place in the order."""
        order = enumerate(self.steps, 1)
        return [float(i if s.visit is None else s.visit + 1) for i, s in order]


@dataclass(frozen=True)
class PatientView:
    """All that is drawn of one patient.

    Args:
        patient_id: The identifier.
        bands: Per feature, in the explanation's order; empty ones are left out.
        scale: The patient's colour scale, shared by codes and values.
        target: The name of the explained output.
        output: ``"logit"`` or ``"probability"``.
        f_input, f_baseline, delta, relative_delta, total: As in the explanation.
    """

    patient_id: str
    bands: tuple[Band, ...]
    scale: ColorScale
    target: str
    output: str
    f_input: float
    f_baseline: float
    delta: float
    relative_delta: float
    total: float

    @property
    def items(self) -> list[Item]:
        """All codes and values of the patient."""
        return [
            item for band in self.bands for step in band.steps for item in step.items
        ]


@dataclass(frozen=True)
class VisitRow:
    """One visit with the codes of all features at it.

    Args:
        label: What to call it, e.g. ``"visit 2"`` or ``"time 12"``.
        groups: Per feature key, the items, strongest first.
        total: The sum of its attributions.
        strength: The sum of its absolute attributions.
    """

    label: str
    groups: tuple[tuple[str, tuple[Item, ...]], ...]
    total: float
    strength: float


def total_of(items: Iterable[Item]) -> float:
    """The sum of attributions; NaN where one is not a finite number."""
    parts = [item.attribution for item in items]
    return math.fsum(parts) if all(map(math.isfinite, parts)) else math.nan


def strongest(items: Iterable[Item]) -> list[Item]:
    """Items by the absolute value of their attribution, strongest first."""
    return sorted(items, key=lambda item: -item.strength)


def shorten(text: str, width: int) -> str:
    """One line of at most ``width`` characters; what is cut off shows as "…".

    Example:
        >>> shorten("congestive heart failure", 12)
        'congestive …'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"


def number(value: float) -> str:
    """A raw value as a clinician writes it: four significant digits.

    Example:
        >>> number(98.60000038), number(0.0), number(float("nan"))
        ('98.6', '0', 'not a number')
    """
    return "not a number" if math.isnan(value) else f"{value:.4g}"


def signed(attribution: float, digits: int = 2) -> str:
    """An attribution with its sign; tiny ones keep a digit.

    Example:
        >>> signed(0.1234), signed(-0.00012), signed(0.0)
        ('+0.12', '-1e-04', '0')
    """
    if math.isnan(attribution):
        return "not a number"
    if attribution == 0:
        return "0"
    small = abs(attribution) < 0.5 * 10**-digits
    return f"{attribution:+.0e}" if small else f"{attribution:+.{digits}f}"


def patient_view(
    explanation: Explanation,
    patient: int,
    ranges: Mapping[tuple[str, str], tuple[float, float]] | None = None,
) -> PatientView:
    """Lay one patient out.

    Args:
        explanation: The explanation.
        patient: The patient's index in it.
        ranges: The usual range of columns, by feature and column.

    Raises:
        IndexError: If there is no such patient.
    """
    one = explanation[patient]
    frame = _by_one_clock(one)
    bands = []
    for key, record in one.features.items():
        own = frame[frame["feature"] == key]
        if not len(own):
            continue
        # A token is an item; a time series is a row of values per step.
        kind: Kind = "codes"
        if not record.is_token:
            is_stepped = record.values.ndim > 2 or _is_flat_series(explanation, key)
            kind = "series" if is_stepped else "columns"
        visits = [None if one < 0 else one for one in _integers(own["visit"])]
        items = _row_items(key, own, ranges or {})
        times = own["time"].tolist()
        if kind == "columns":
            times = [math.nan] * len(items)
        apart = kind == "series" and record.values.ndim == 2
        steps = _steps(visits, times, items, apart)
        bands.append(Band(key, kind, steps))
    scale = ColorScale.of(item.attribution for band in bands for item in _items(band))
    return PatientView(
        one.patient_ids[0],
        tuple(bands),
        scale,
        one.target_label(0),
        one.output,
        float(one.f_input[0]),
        float(one.f_baseline[0]),
        float(one.delta[0]),
        float(one.relative_delta[0]),
        float(one.total[0]),
    )


def _by_one_clock(one: Explanation) -> pd.DataFrame:
    """The rows of a patient; without times where those of any feature are no clock.

    Where some are gaps since the visit before, the others may be too.
    """
    rows = build_rows(one)
    frame = frame_of(rows)
    if (np.isnan(rows["time"]) & ~np.isnan(rows["_time"])).any():
        frame["time"] = math.nan
    return frame


def _row_items(
    key: str,
    rows: pd.DataFrame,
    ranges: Mapping[tuple[str, str], tuple[float, float]],
) -> list[Item]:
    """The codes or values of one feature."""
    columns = ("code", "name", "attribution", "value", "unit")
    unknown = (-math.inf, math.inf)
    return [
        Item(
            key,
            code,
            name,
            attribution,
            value,
            unit or "",
            ranges.get((key, code), unknown),
        )
        for code, name, attribution, value, unit in zip(
            *(rows[column].tolist() for column in columns), strict=True
        )
    ]


def _items(band: Band) -> list[Item]:
    return [item for step in band.steps for item in step.items]


def _integers(column: pd.Series) -> list[int]:
    """A nullable integer column as a list, -1 where there is nothing."""
    numbers: list[int] = column.fillna(-1).astype("int64").tolist()
    return numbers


def _is_flat_series(explanation: Explanation, key: str) -> bool:
    record = explanation.features[key]
    return record.time is not None and record.time.shape == record.values.shape


def _steps(
    visits: Sequence[int | None],
    times: Sequence[float],
    items: Sequence[Item],
    apart: bool,
) -> tuple[Step, ...]:
    """Group items by visit and time; in order of time, then of visit.

    Args:
        visits: Per item, its visit or None.
        times: Per item, its time or NaN.
        items: The items.
        apart: True where each item is a step of its own.
    """
    groups: dict[tuple[int | None, float | None, int], list[Item]] = {}
    for place, (visit, time, item) in enumerate(zip(visits, times, items, strict=True)):
        known = None if math.isnan(time) else time
        groups.setdefault((visit, known, place if apart else 0), []).append(item)
    steps = [
        Step(visit, math.nan if time is None else time, tuple(group))
        for (visit, time, _), group in groups.items()
    ]
    if all(not math.isnan(step.time) for step in steps):
        steps.sort(key=lambda step: (step.time, step.visit or 0))
    return tuple(steps)


def visit_rows(view: PatientView) -> tuple[VisitRow, ...]:
    """The patient's coded visits, all features together, in order.

    Steps of different features are one visit where their times agree; features
    without times, where their visit numbers agree. Codes with neither make one row
    without a place in time.
    """
    rows: dict[tuple[int, float], list[Step]] = {}
    for band in view.bands:
        if band.kind != "codes":
            continue
        for step in band.steps:
            if math.isfinite(step.time):
                key = (1, step.time)
            elif step.visit is not None:
                key = (2, float(step.visit))
            else:
                key = (0, 0.0)
            rows.setdefault(key, []).append(step)
    return tuple(_row(key, steps) for key, steps in sorted(rows.items()))


def _row(key: tuple[int, float], steps: Sequence[Step]) -> VisitRow:
    """One visit out of the steps of all features at it."""
    kind, place = key
    label = ("all codes", f"time {number(place)}", f"visit {int(place) + 1}")[kind]
    by_feature: dict[str, list[Item]] = {}
    for step in steps:
        for item in step.items:
            by_feature.setdefault(item.feature, []).append(item)
    return VisitRow(
        label,
        tuple((key, tuple(strongest(items))) for key, items in by_feature.items()),
        math.fsum(step.total for step in steps),
        math.fsum(step.strength for step in steps),
    )
