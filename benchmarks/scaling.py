"""How time grows with the length of histories and the size of the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from . import peers
from .data import batch_of, long_histories
from .families import FULL, MEASURED, TINY, Family, Size, named
from .peers import Case
from .speed import (
    FLOOR,
    WARM,
    Spread,
    one_round,
    over_floor,
    quick_methods,
    spread,
)

#: How many different patients there are; larger batches repeat them.
PATIENTS = 32


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        models: Names of families.
        size: Sizes of the models.
        batches: Patients of a batch.
        lengths: Codes of a history.
        seconds: How long a combination is repeated.
        limit: How long one round (a plain forward, a plain forward-and-backward and
            an attribution) may take; what takes longer, or is expected to, is left out.
        fewest: Rounds, at least.
        most: Rounds, at most.
    """

    models: tuple[str, ...] = MEASURED
    size: Size = FULL
    batches: tuple[int, ...] = (1, 32, 256)
    lengths: tuple[int, ...] = (20, 60, 200, 1000)
    seconds: float = 1.5
    limit: float = 8.0
    fewest: int = 2
    most: int = 20


@dataclass(frozen=True)
class Point:
    """One length: milliseconds of the floor and of ours, and how they compare."""

    length: int
    floor: Spread
    ours: Spread
    over_floor: Spread


@dataclass(frozen=True)
class Row:
    """One model and batch.

    Args:
        model: The model's name.
        batch: Patients.
        points: By length, as far as it goes.
        left_out: By length, why it was not measured.
    """

    model: str
    batch: int
    points: list[Point]
    left_out: dict[str, str]


class TooSlowError(Exception):
    """A round takes longer than the limit."""


def quick() -> Settings:
    """Settings that take seconds."""
    return Settings(("MLP (ReLU)",), TINY, (1, 4), (5, 8), 0.1, 0.1, 2, 3)


def jobs(settings: Settings) -> dict[str, Callable[[], Row]]:
    """One per model and batch.

    A model that mixes patients has them explained one by one: a large batch of it says
    no more than a small one, and takes long.
    """
    return {
        f"{family.name}, {batch}": partial(_row, family, batch, settings)
        for family in named(*settings.models)
        for batch in settings.batches
        if batch <= PATIENTS or not family.mixes
    }


def _row(family: Family, batch: int, settings: Settings) -> Row:
    points: list[Point] = []
    left_out = {}
    for length in settings.lengths:
        awaited = expected(length, points)
        if awaited > settings.limit:
            left_out[str(length)] = f"a round is expected to take {awaited:.1f} s"
            continue
        try:
            points.append(
                _point(case_of(family, settings.size, batch, length), length, settings)
            )
        except TooSlowError as error:
            left_out[str(length)] = str(error)
        except (RuntimeError, ValueError, IndexError) as error:
            left_out[str(length)] = peers.refusal(error)
    return Row(family.name, batch, points, left_out)


def case_of(family: Family, size: Size, batch: int, length: int) -> Case:
    """A model and a batch of histories of one length."""
    dataset = long_histories(family.timed or family.schema, PATIENTS, (length, length))
    model = family.build(dataset, size)
    return Case(model, batch_of(dataset, [n % PATIENTS for n in range(batch)]))


def expected(length: int, points: list[Point]) -> float:
    """Seconds of a round, from the longest two that were measured.

    Time is taken to grow as it did between them, and at least in proportion.
    """
    if not points:
        return 0.0
    last = points[-1]
    power = 1.0
    if len(points) > 1:
        grown = _total(last) / _total(points[-2])
        power = max(1.0, float(np.log(grown) / np.log(last.length / points[-2].length)))
    return _total(last) * (length / last.length) ** power


def _total(point: Point) -> float:
    return (point.floor.median + point.ours.median) / 1e3


def _point(case: Case, length: int, settings: Settings) -> Point:
    methods = {name: quick_methods()[name] for name in (*FLOOR, "ours")}
    for _ in range(WARM):
        taken = sum(one_round(methods, case).values())
        if taken > settings.limit:
            raise TooSlowError(f"a round took {taken:.1f} s")
    count = int(np.clip(settings.seconds / taken, settings.fewest, settings.most))
    rounds = [one_round(methods, case) for _ in range(count)]
    return Point(
        length,
        spread([1e3 * sum(one[name] for name in FLOOR) for one in rounds]),
        spread([1e3 * one["ours"] for one in rounds]),
        over_floor("ours", rounds),
    )
