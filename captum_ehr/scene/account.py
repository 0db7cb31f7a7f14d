"""The steps on the way from f(x0) to f(x)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .folding import cut
from .history import Band, Item, total_of
from .verdict import misses
from .wording import number

if TYPE_CHECKING:
    from captum_ehr.explanation import Explanation

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


def missing(explanation: Explanation, total: float) -> float:
    """What a sum leaves of one patient's change; 0 where that is rounding."""
    change = float(explanation.f_input[0]) - float(explanation.f_baseline[0])
    return change - total if misses(explanation, change - total) else 0.0


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
    known = [item.value for item in items if not item.is_imputed]
    values = sorted(filter(math.isfinite, known))
    if not known:
        detail = "not measured"
    elif values:
        low, high = number(values[0]), number(values[-1])
        unit = f" {first.unit}" if first.unit else ""
        detail = ("= " + (low if low == high else f"{low} to {high}")) + unit
    return Change(first.name, "item", 0.0, total_of(items), item=first, detail=detail)


def _strength(size: float) -> float:
    return abs(size) if math.isfinite(size) else 0.0
