"""The way from f(x0) to f(x), feature by feature or code by code."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .folding import cut
from .history import Band, Item, total_of
from .wording import number, several

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


@dataclass(frozen=True)
class Account:
    """What is summed, and whether it leads from one output to the other.

    Where a method promises no sum, every step begins at 0.
    """

    f_baseline: float
    f_input: float
    baseline: str
    probabilities: tuple[float, float]
    adds_up: bool

    def by_feature(self, bands: Iterable[Band]) -> tuple[Change, ...]:
        """A step per feature."""
        steps = (Change(band.feature, "feature", 0.0, band.total) for band in bands)
        return self._chained(list(steps))

    def by_item(self, bands: Iterable[Band]) -> tuple[Change, ...]:
        """The strongest codes and columns, what is left, and what is missing."""
        head, tail = item_steps(bands)
        shown = list(head)
        if tail:
            rest = math.fsum(step.size for step in tail)
            words = several(len(tail), "other", "other codes and values")
            shown.append(Change(words, "rest", 0.0, rest))
        return self._chained(shown)

    def _chained(self, steps: Sequence[Change]) -> tuple[Change, ...]:
        return tuple(self._whole(steps)) if self.adds_up else tuple(steps)

    def _whole(self, steps: Sequence[Change]) -> Iterator[Change]:
        """Each step from where the one before ends, between the two outputs."""
        words = f"baseline ({self.baseline})" if self.baseline else "baseline"
        at, end = self.f_baseline, self.f_input
        before, after = self.probabilities
        yield Change(words, "output", at, at, before)
        for step in steps:
            size = step.size
            yield Change(
                step.name, step.kind, at, at + size, item=step.item, detail=step.detail
            )
            at += size
        # What a picture could show; less is rounding.
        least = max(1e-3 * abs(end - self.f_baseline), 1e-6 * abs(end))
        if abs(end - at) > least:
            yield Change("not attributed", "missing", at, end)
        yield Change("this patient", "output", end, end, after)


def item_steps(bands: Iterable[Band]) -> tuple[Sequence[Change], Sequence[Change]]:
    """A step per code and column, each from 0: the strongest, and all others."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in (item for band in bands for item in band.items):
        groups.setdefault((item.feature, item.code), []).append(item)
    steps = [_item_step(items) for items in groups.values()]
    steps.sort(key=lambda step: -_strength(step.size))
    return cut(steps, STRONGEST)


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
