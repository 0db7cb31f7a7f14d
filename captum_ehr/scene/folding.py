"""What is shown at once, and what is folded and counted; no sum is lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .history import Step

OPEN_VISITS, OPEN_CHIPS, OPEN_LINES, OPEN_STEPS = 8, 10, 8, 12
"""How many visits, chips of a group, lines of values and steps a page shows at once."""


@dataclass(frozen=True)
class Block:
    """Visits in a row that are shown, or folded, together."""

    folded: bool
    visits: tuple[Step, ...]

    @property
    def total(self) -> float:
        """The sum of the visits' attributions."""
        return math.fsum(visit.total for visit in self.visits)


def strongest_places(strengths: Sequence[float], most: int) -> list[int]:
    """The places of the largest strengths, in order; of equal ones the first.

    Example:
        >>> strongest_places([1.0, 5.0, 2.0, 9.0], 2)
        [1, 3]
    """
    ranked = sorted(range(len(strengths)), key=lambda place: -strengths[place])
    return sorted(ranked[:most])


def with_room(
    places: Sequence[float], strengths: Sequence[float], room: float
) -> set[int]:
    """Which of some numbers can be written without meeting, the strongest first.

    Example:
        >>> with_room([0.0, 1.0, 5.0], [1.0, 3.0, 2.0], 2.0)
        {1, 2}
    """
    chosen: set[int] = set()
    for i in sorted(range(len(places)), key=lambda i: -strengths[i]):
        if all(abs(places[i] - places[j]) >= room for j in chosen):
            chosen.add(i)
    return chosen


def cut[T](items: Sequence[T], most: int) -> tuple[Sequence[T], Sequence[T]]:
    """The first items and the others; one alone is not worth leaving out.

    Example:
        >>> cut("abcd", 3), cut("abcde", 3)
        (('abcd', ''), ('abc', 'de'))
    """
    place = len(items) if len(items) <= most + 1 else most
    return items[:place], items[place:]


def fold(visits: Sequence[Step], most: int = OPEN_VISITS) -> tuple[Block, ...]:
    """Keep the strongest visits open and fold runs of others, in order.

    Returns:
        Blocks that together have all visits in order; a single weak visit between
        two strong ones, or at an end, is not worth folding.
    """
    count = len(visits)
    if count <= most + 2:
        return (Block(False, tuple(visits)),) if visits else ()
    opened = set(strongest_places([visit.strength for visit in visits], most))
    beside = opened | {-1, count}
    opened |= {i for i in range(count) if i - 1 in beside and i + 1 in beside}
    starts = [i for i in range(count) if i == 0 or (i in opened) != ((i - 1) in opened)]
    return tuple(
        Block(start not in opened, tuple(visits[start:stop]))
        for start, stop in zip(starts, [*starts[1:], count], strict=True)
    )
