"""When the factors of lazy multipliers are worked out."""

from __future__ import annotations

from collections.abc import Hashable

from . import tuning
from .pairs import Multiplier
from .rules.lazy import Group, Lazy


class Pending:
    """The lazy multipliers of one reference that wait to be worked out together.

    On a hundred numbers, as in the gates of a cell that runs for every step, most of
    the time goes into starting each operation: small multipliers of a kind wait till
    there is a block of them. Large ones keep their operands for the backward pass,
    unless they keep the results, too; then their factors take less room::

        add ─┬─ small ──────────────▶ waiting ─┬─ a block is full ──▶ worked out
             │                                 └─ close ──▶ grouped ─┐
             ├─ large, of operands alone ──▶ as it is ───────────────┤
             │                                     a gradient comes ─┴▶ worked out
             └─ large, of results too ─────▶ worked out

    Nothing depends on it but time and memory: ``eager`` ones are worked out as they
    come, in one piece.

    Args:
        eager: Whether nothing waits.
    """

    def __init__(self, eager: bool = False) -> None:
        self.eager = eager
        self.waiting: list[Lazy] = []
        self.size = 0

    def add(self, multiplier: Multiplier | None) -> None:
        """Take a multiplier that has just been met; others than lazy ones are done."""
        if not isinstance(multiplier, Lazy):
            return
        if self.eager:
            group = Group(multiplier.factors, multiplier.row)
            group.results = [multiplier.factors(*multiplier.sides)]
            multiplier.group, multiplier.sides = group, ()
        elif multiplier.small:
            self.waiting.append(multiplier)
            self.size += multiplier.operand.shape.numel()
            if self.size > tuning.WAITING:
                for group in self.close():
                    group.factors()
        elif len(multiplier.sides) > 2:
            group = Group(multiplier.factors, multiplier.row)
            multiplier.join(group)
            group.factors()

    def close(self) -> list[Group]:
        """Group what still waits: it is worked out when one of its kind is wanted."""
        groups: dict[Hashable, Group] = {}
        for multiplier in self.waiting:
            x = multiplier.sides[0]
            dtypes = tuple(side.dtype for side in multiplier.sides)
            key = (multiplier.kind, x.shape[1:], dtypes, x.device)
            if key not in groups:
                groups[key] = Group(multiplier.factors, multiplier.row)
            multiplier.join(groups[key])
        self.clear()
        return list(groups.values())

    def clear(self) -> None:
        """Forget what waits."""
        self.waiting, self.size = [], 0
