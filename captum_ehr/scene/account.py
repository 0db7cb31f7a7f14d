"""The way from f(x0) to f(x), feature by feature or code by code."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from .folding import cut
from .history import Band, Item, total_of
from .wording import number, several

if TYPE_CHECKING:
    from .patient import PatientScene

STRONGEST = 10
"""How many codes and columns of a patient come first."""


@dataclass(frozen=True)
class Change:
    """A step on the way from f(x0) to f(x)."""

    name: str
    kind: Literal["output", "feature", "item", "rest", "missing"]
    start: float  # the output before it; NaN where that is no number
    end: float  # the output after it
    probability: float = math.nan  # of an output that has one
    item: Item | None = None  # the first of those that an item's step sums
    detail: str = ""  # how often it stands there, or its values

    @property
    def size(self) -> float:
        """How far it moves the output."""
        return self.end - self.start


def by_feature(scene: PatientScene) -> tuple[Change, ...]:
    """A step per feature."""
    steps = (Change(band.feature, "feature", 0.0, band.total) for band in scene.bands)
    return tuple(_chained(scene, steps))


def by_item(scene: PatientScene) -> tuple[Change, ...]:
    """The strongest codes and columns, what is left, and what is missing."""
    head, tail = item_steps(scene.bands)
    shown = list(head)
    if tail:
        rest = math.fsum(step.size for step in tail)
        words = several(len(tail), "other", "other codes and values")
        shown.append(Change(words, "rest", 0.0, rest))
    return tuple(_chained(scene, shown))


def is_missing(amount: float, start: float, end: float) -> bool:
    """Whether it is as much as a picture could show; less is rounding."""
    scale = max(abs(start), abs(end))
    return abs(amount) > max(1e-3 * abs(end - start), 1e-6 * scale)


def _chained(scene: PatientScene, steps: Iterable[Change]) -> Iterator[Change]:
    """Each step from where the one before ends, between the two outputs.

    Where a method promises no sum, every step begins at 0, and there are no others.
    """
    if not scene.adds_up:
        yield from steps
        return
    words = f"baseline ({scene.baseline})" if scene.baseline else "baseline"
    at, end = scene.f_baseline, scene.f_input
    before, after = scene.probabilities or (math.nan, math.nan)
    yield Change(words, "output", at, at, before)
    for step in steps:
        yield replace(step, start=at, end=at + step.size)
        at += step.size
    if is_missing(end - at, scene.f_baseline, end):
        yield Change("not attributed", "missing", at, end)
    yield Change("this patient", "output", end, end, after)


def item_steps(bands: Iterable[Band]) -> tuple[Sequence[Change], Sequence[Change]]:
    """A step per code and column, each from 0: the strongest, and all others."""
    steps = [_item_step(items) for items in by_code(bands).values()]
    steps.sort(key=lambda step: -_strength(step.size))
    return cut(steps, STRONGEST)


def by_code(bands: Iterable[Band]) -> dict[tuple[str, str], list[Item]]:
    """All codes and values of one patient, by feature and code."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in (item for band in bands for item in band.items):
        groups.setdefault((item.feature, item.code), []).append(item)
    return groups


def _item_step(items: Sequence[Item]) -> Change:
    first, count = items[0], len(items)
    detail = f"×{count}" if count > 1 else ""
    values = sorted(item.value for item in items if math.isfinite(item.value))
    if values:
        low, high = number(values[0]), number(values[-1])
        unit = f" {first.unit}" if first.unit else ""
        detail = ("= " + (low if low == high else f"{low} to {high}")) + unit
    return Change(first.name, "item", 0.0, total_of(items), item=first, detail=detail)


def _strength(size: float) -> float:
    return abs(size) if math.isfinite(size) else 0.0
