"""A patient's history: features, steps or visits, codes and values, with their sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from captum_ehr.explanation.frame import build_rows, frame_of

from .wording import number, shorten, usual_range

if TYPE_CHECKING:
    import pandas as pd

    from captum_ehr.explanation import Explanation
    from captum_ehr.explanation.feature_record import Range

type Kind = Literal["codes", "series", "columns"]

CARRIED = "repeated values may be carried forward"
IMPUTED = "○ not measured: imputed or carried forward"


@dataclass(frozen=True)
class Item:
    """One code or value."""

    feature: str
    code: str  # or the column's name
    name: str  # the code where there is none
    attribution: float  # in units of the explained output
    value: float = math.nan  # raw; NaN for codes
    unit: str = ""  # empty where unknown
    usual: tuple[float, float] = (-math.inf, math.inf)  # infinite where unknown
    measured: bool | None = None  # None where it is not known

    @property
    def is_named(self) -> bool:
        """True where the name says more than the code."""
        return self.name != self.code

    @property
    def strength(self) -> float:
        """The absolute attribution, 0 where it is not a finite number."""
        return abs(self.attribution) if math.isfinite(self.attribution) else 0.0

    @property
    def is_imputed(self) -> bool:
        """True where the value is known not to have been measured."""
        return self.measured is False

    @property
    def flag(self) -> str:
        """An arrow where a value is above or below what is usual, as both are written.

        Example:
            >>> Item("labs", "Cr", "Cr", 0.1, 0.59999996, usual=(0.6, 1.3)).flag
            ''
        """
        low, high = self.usual
        if self.is_imputed or number(self.value) in (number(low), number(high)):
            return ""
        return "↑" if self.value > high else "↓" if self.value < low else ""

    @property
    def value_words(self) -> str:
        """The value with its arrow; a circle where it was not measured."""
        words = "○" if self.is_imputed else number(self.value)
        return f"{words} {self.flag}".rstrip()

    @property
    def reading(self) -> str:
        """The value with its arrow and unit, in words where it was not measured."""
        if self.is_imputed:
            return "not measured"
        return f"{self.value_words} {self.unit}".rstrip()

    @property
    def told(self) -> str:
        """All that is known of a value: the reading, what the model had, what is usual.

        Example:
            >>> Item("labs", "K", "K", 0.1, 3.0, "mmol/L", (3.5, 5.1), False).told
            'not measured, the model was given 3 mmol/L (usual 3.5–5.1)'
        """
        given = f"{number(self.value)} {self.unit}".rstrip()
        more = f", the model was given {given}" if self.is_imputed else ""
        usual = f" ({self.usual_words})" if self.usual_words else ""
        return self.reading + more + usual

    @property
    def usual_words(self) -> str:
        """The usual range as a laboratory prints it; empty where it is unknown."""
        known = any(map(math.isfinite, self.usual))
        return f"usual {usual_range(*self.usual)}" if known else ""

    def short_name(self, width: int) -> str:
        """The name with the unit, in at most ``width`` characters."""
        unit = f" ({shorten(self.unit, 10)})" if self.unit else ""
        return shorten(self.name, width - len(unit)) + unit


def total_of(items: Iterable[Item]) -> float:
    """The sum of attributions; NaN where one is not a finite number."""
    parts = [item.attribution for item in items]
    return math.fsum(parts) if all(map(math.isfinite, parts)) else math.nan


@dataclass(frozen=True)
class Items:
    """Codes or values in the data's order, and their sums."""

    items: tuple[Item, ...]

    @property
    def total(self) -> float:
        """The sum of the attributions, as :func:`total_of` has it."""
        return total_of(self.items)

    @property
    def strength(self) -> float:
        """The sum of the absolute attributions."""
        return math.fsum(item.strength for item in self.items)

    @property
    def ranked(self) -> list[Item]:
        """The strongest first."""
        return sorted(self.items, key=lambda item: -item.strength)

    @property
    def groups(self) -> dict[str, list[Item]]:
        """By feature key, the strongest first."""
        groups: dict[str, list[Item]] = {item.feature: [] for item in self.items}
        for item in self.ranked:
            groups[item.feature].append(item)
        return groups


@dataclass(frozen=True)
class Step(Items):
    """A step of a time series, or a visit of one feature or of all."""

    visit: int | None  # its number, from 1; None where there are no visits
    time: float  # in the task's units; NaN where unknown

    @property
    def is_timed(self) -> bool:
        """True where its time is known."""
        return math.isfinite(self.time)


@dataclass(frozen=True)
class Line(Items):
    """One column of a time series."""

    places: tuple[int, ...]  # per value, the place of its step in the band


@dataclass(frozen=True)
class Band(Items):
    """One feature of one patient."""

    feature: str
    kind: Kind  # tokens, values with steps, or values without
    steps: tuple[Step, ...]  # by time where it is known, else by visit; else one

    @property
    def is_timed(self) -> bool:
        """True where the time of any step is known."""
        return any(step.is_timed for step in self.steps)

    @property
    def is_ordered(self) -> bool:
        """True where there are steps: of a series, by time or by visit."""
        has_visits = any(step.visit is not None for step in self.steps)
        return self.kind == "series" or self.is_timed or has_visits

    @property
    def numbers(self) -> list[int]:
        """Per step its visit's number, else its place in the order, from 1."""
        return [step.visit or place for place, step in enumerate(self.steps, 1)]

    @property
    def heads(self) -> list[str]:
        """Per step its time, else its number."""
        pairs = zip(self.steps, self.numbers, strict=True)
        return [number(step.time if step.is_timed else place) for step, place in pairs]

    @property
    def lines(self) -> list[Line]:
        """Its columns, strongest first."""
        columns: dict[str, list[tuple[Item, int]]] = {}
        for place, step in enumerate(self.steps):
            for item in step.items:
                columns.setdefault(item.code, []).append((item, place))
        lines = [Line(*zip(*points)) for points in columns.values()]
        return sorted(lines, key=lambda line: -line.strength)

    @property
    def note(self) -> str:
        """What to know of the values of a time series, if anything.

        PyHealth carries values forward to where there are none, which then look alike.
        """
        if self.kind != "series":
            return ""
        if any(item.is_imputed for item in self.items):
            return IMPUTED
        unknown = all(item.measured is None for item in self.items)
        pairs = (pair for line in self.lines for pair in pairwise(line.items))
        return CARRIED if unknown and any(a.value == b.value for a, b in pairs) else ""


def bands_of(explanation: Explanation) -> tuple[Band, ...]:
    """The features of the one patient of an explanation; padding is nowhere."""
    rows = build_rows(explanation)
    frame = frame_of(rows)
    # Where the times of a feature are no clock, those of others may be none too,
    # unless it is said what they are.
    said = [key for key, record in explanation.features.items() if record.times]
    if (np.isnan(rows["time"]) & ~np.isnan(rows["_time"])).any():
        frame["time"] = frame["time"].where(frame["feature"].isin(said))
    bands = []
    for key, record in explanation.features.items():
        part = frame[frame["feature"] == key]
        if not len(part):
            continue
        is_flat = record.time is not None and record.time.shape == record.values.shape
        # A token is an item; a time series is a row of values per step.
        kind: Kind = "codes"
        if not record.is_token:
            kind = "series" if record.values.ndim > 2 or is_flat else "columns"
        if kind == "columns":
            part = part.assign(time=math.nan)
        items = _items(part, explanation.ranges.get(key, {}))
        apart = kind == "series" and record.values.ndim == 2
        bands.append(Band(tuple(items), key, kind, _steps(part, items, apart)))
    return tuple(bands)


def _items(rows: pd.DataFrame, ranges: Mapping[str, Range]) -> list[Item]:
    """The codes or values of one feature."""
    columns = ("feature", "code", "name", "attribution", "value", "unit")
    unknown = (-math.inf, math.inf)
    measured = rows["measured"].to_numpy(dtype=object, na_value=None).tolist()
    known = zip(*(rows[column].tolist() for column in columns), measured, strict=True)
    return [
        Item(key, code, name, size, value, unit or "", ranges.get(code, unknown), seen)
        for key, code, name, size, value, unit, seen in known
    ]


def _steps(rows: pd.DataFrame, items: Sequence[Item], apart: bool) -> tuple[Step, ...]:
    """Items by visit and time, or each ``apart``; in order of time, then of visit."""
    groups: dict[tuple[int, float | None, int], list[Item]] = {}
    visits = (rows["visit"].fillna(-1).astype("int64") + 1).tolist()
    places = zip(visits, rows["time"].tolist(), items, strict=True)
    for place, (visit, time, item) in enumerate(places):
        known = None if math.isnan(time) else time
        groups.setdefault((visit, known, place if apart else 0), []).append(item)
    steps = [
        Step(tuple(group), visit or None, math.nan if time is None else time)
        for (visit, time, _), group in groups.items()
    ]
    if all(step.is_timed for step in steps):
        steps.sort(key=lambda step: (step.time, step.visit or 0))
    return tuple(steps)


def visits_of(bands: Sequence[Band]) -> tuple[Step, ...]:
    """The patient's coded visits, all features together, in order.

    Steps of different features are one visit where their times agree; features
    without times, where their visit numbers agree. Codes with neither make one row
    without a place in time, the first.
    """
    visits: dict[tuple[int, float], list[Item]] = {}
    for band in bands:
        for step in band.steps if band.kind == "codes" else ():
            kind = 1 if step.is_timed else 2 if step.visit else 0
            place = (0.0, step.time, step.visit or 0)[kind]
            visits.setdefault((kind, place), []).extend(step.items)
    nowhere = None, math.nan
    return tuple(
        Step(tuple(items), *(nowhere, (None, place), (int(place), math.nan))[kind])
        for (kind, place), items in sorted(visits.items())
    )
