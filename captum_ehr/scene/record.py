"""A patient's record: features, steps, visits, codes and values, with their sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from captum_ehr.explanation.rows import build_rows, frame_of

from .wording import number

if TYPE_CHECKING:
    import pandas as pd

    from captum_ehr.explanation import Explanation

type Kind = Literal["codes", "series", "columns"]

type Ranges = Mapping[tuple[str, str], tuple[float, float]]
"""The usual range of columns, by feature and column."""


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
    def is_named(self) -> bool:
        """True where the name says more than the code."""
        return self.name != self.code

    @property
    def strength(self) -> float:
        """The absolute attribution, 0 where it is not a finite number."""
        return abs(self.attribution) if math.isfinite(self.attribution) else 0.0

    @property
    def value_words(self) -> str:
        """The value with an arrow where it is above or below what is usual."""
        low, high = self.usual
        flag = " ↑" if self.value > high else " ↓" if self.value < low else ""
        return number(self.value) + flag


def total_of(items: Iterable[Item]) -> float:
    """The sum of attributions; NaN where one is not a finite number."""
    parts = [item.attribution for item in items]
    return math.fsum(parts) if all(map(math.isfinite, parts)) else math.nan


def strongest(items: Iterable[Item]) -> list[Item]:
    """Items by the absolute value of their attribution, strongest first."""
    return sorted(items, key=lambda item: -item.strength)


class _Items:
    """What sums a part of the record has."""

    items: tuple[Item, ...]

    @property
    def total(self) -> float:
        """The sum of its attributions, as :func:`total_of` has it."""
        return total_of(self.items)

    @property
    def strength(self) -> float:
        """The sum of its absolute attributions."""
        return math.fsum(item.strength for item in self.items)

    @property
    def ranked(self) -> list[Item]:
        """Its codes or values, strongest first."""
        return strongest(self.items)


@dataclass(frozen=True)
class Step(_Items):
    """One visit, or one step of a time series, of one feature.

    Args:
        visit: Its number in the feature, from 1; None where there are no visits.
        time: In the units of the task; NaN where unknown.
        items: What stands in it, in the data's order.
    """

    visit: int | None
    time: float
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Line(_Items):
    """One column of a time series.

    Args:
        places: Per value, the place of its step in the band.
        items: The values, in the order of the steps.
    """

    places: tuple[int, ...]
    items: tuple[Item, ...]

    @property
    def range(self) -> tuple[float, float]:
        """Its lowest and highest value; NaN where there is none."""
        finite = [item.value for item in self.items if math.isfinite(item.value)]
        return min(finite, default=math.nan), max(finite, default=math.nan)


@dataclass(frozen=True)
class Band(_Items):
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
    def items(self) -> tuple[Item, ...]:  # type: ignore[override]
        """All its codes or values."""
        return tuple(item for step in self.steps for item in step.items)

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
    def numbers(self) -> list[int]:
        """Per step its visit's number, else its place in the order, from 1."""
        order = enumerate(self.steps, 1)
        return [i if step.visit is None else step.visit for i, step in order]

    @property
    def heads(self) -> list[str]:
        """Per step its time, else its number."""
        return [
            number(step.time) if math.isfinite(step.time) else str(place)
            for step, place in zip(self.steps, self.numbers, strict=True)
        ]

    @property
    def lines(self) -> list[Line]:
        """Its columns, strongest first."""
        columns: dict[str, list[tuple[int, Item]]] = {}
        for place, step in enumerate(self.steps):
            for item in step.items:
                columns.setdefault(item.code, []).append((place, item))
        lines = [Line(*zip(*points)) for points in columns.values()]
        return sorted(lines, key=lambda line: -line.strength)


@dataclass(frozen=True)
class Visit(_Items):
    """One visit with the codes of all features at it.

    Args:
        label: What to call it, e.g. ``"visit 2"`` or ``"time 12"``.
        number: From 1, where it goes by its number; else None.
        time: NaN where it goes not by time.
        items: Feature by feature, in the features' order.
    """

    label: str
    number: int | None
    time: float
    items: tuple[Item, ...]

    @property
    def groups(self) -> list[tuple[str, list[Item]]]:
        """Per feature key, the codes, strongest first."""
        groups: dict[str, list[Item]] = {}
        for item in self.ranked:
            groups.setdefault(item.feature, []).append(item)
        order = dict.fromkeys(item.feature for item in self.items)
        return [(feature, groups[feature]) for feature in order]


def bands_of(one: Explanation, ranges: Ranges) -> tuple[Band, ...]:
    """The features of the one patient of an explanation; padding is nowhere.

    Args:
        one: An explanation of one patient.
        ranges: The usual range of columns.
    """
    frame = _by_one_clock(one)
    bands = []
    for key, record in one.features.items():
        rows = frame[frame["feature"] == key]
        if not len(rows):
            continue
        is_flat = record.time is not None and record.time.shape == record.values.shape
        # A token is an item; a time series is a row of values per step.
        kind: Kind = "codes"
        if not record.is_token:
            kind = "series" if record.values.ndim > 2 or is_flat else "columns"
        if kind == "columns":
            rows = rows.assign(time=math.nan)
        apart = kind == "series" and record.values.ndim == 2
        bands.append(Band(key, kind, _steps(rows, _items(rows, ranges), apart)))
    return tuple(bands)


def _by_one_clock(one: Explanation) -> pd.DataFrame:
    """The rows of a patient; without times where those of any feature are no clock.

    Where some are gaps since the visit before, the others may be too.
    """
    rows = build_rows(one)
    frame = frame_of(rows)
    if (np.isnan(rows["time"]) & ~np.isnan(rows["_time"])).any():
        frame["time"] = math.nan
    return frame


def _items(rows: pd.DataFrame, ranges: Ranges) -> list[Item]:
    """The codes or values of one feature."""
    columns = ("feature", "code", "name", "attribution", "value", "unit")
    unknown = (-math.inf, math.inf)
    return [
        Item(*words, unit or "", ranges.get((words[0], words[1]), unknown))
        for *words, unit in zip(*(rows[c].tolist() for c in columns), strict=True)
    ]


def _steps(rows: pd.DataFrame, items: Sequence[Item], apart: bool) -> tuple[Step, ...]:
    """Items by visit and time; in order of time, then of visit.

    Args:
        rows: Of one feature.
        items: Per row.
        apart: True where each item is a step of its own.
    """
    groups: dict[tuple[int, float | None, int], list[Item]] = {}
    visits = (rows["visit"].fillna(-1).astype("int64") + 1).tolist()
    places = zip(visits, rows["time"].tolist(), items, strict=True)
    for place, (visit, time, item) in enumerate(places):
        known = None if math.isnan(time) else time
        groups.setdefault((visit, known, place if apart else 0), []).append(item)
    steps = [
        Step(visit or None, math.nan if time is None else time, tuple(group))
        for (visit, time, _), group in groups.items()
    ]
    if all(math.isfinite(step.time) for step in steps):
        steps.sort(key=lambda step: (step.time, step.visit or 0))
    return tuple(steps)


def visits_of(bands: Sequence[Band], time_label: str = "time") -> tuple[Visit, ...]:
    """The patient's coded visits, all features together, in order.

    Steps of different features are one visit where their times agree; features
    without times, where their visit numbers agree. Codes with neither make one row
    without a place in time.
    """
    visits: dict[tuple[int, float], list[Item]] = {}
    for band in bands:
        for step in band.steps if band.kind == "codes" else ():
            key = (1, step.time) if math.isfinite(step.time) else (2, step.visit or 0)
            if key == (2, 0):
                key = (0, 0)
            visits.setdefault(key, []).extend(step.items)
    words = ("all codes", f"{time_label} {{}}", "visit {}")
    return tuple(
        Visit(
            words[kind].format(number(place)),
            int(place) if kind == 2 else None,
            place if kind == 1 else math.nan,
            tuple(items),
        )
        for (kind, place), items in sorted(visits.items())
    )
