"""What happened while an explanation was computed, in plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Operation:
    """One kind of operation on the way from the inputs to the output.

    Args:
        name: The torch function's or module's name, e.g. ``"softmax"``.
        rule: The name of the rule that gave its multiplier, e.g. ``"softmax"``.
        calls: How many times the model called it.
        exact: False where the multiplier is approximate (the path-integral
            fallback) or where the rule could not account for the change.
    """

    name: str
    rule: str
    calls: int
    exact: bool = True


@dataclass(frozen=True)
class Structure:
    """What is the input's in both passes, since it cannot be attributed.

    Args:
        operation: The torch function's name.
        places: At how many places its answer at the reference would be another.
        shift: How far, at most, f(x0) is from the model's own output at the reference
            for all that was kept.
        without: Why there is no such output, if there is none.
    """

    operation: str
    places: int
    shift: float = 0.0
    without: str = ""

    @property
    def message(self) -> str:
        """What to say of it; nothing if f(x0) is the model's own all the same."""
        if not self.shift and not self.without:
            return ""
        much = f"up to {self.shift:.2g} from the model's own output at the reference"
        return (
            f"{self.operation}: differs between input and reference at {self.places} "
            "place(s) that cannot be attributed (which positions there are, an index, a"
            " branch, what is missing); the input's is kept for both, and f(x0) is "
            + (self.without or much)
        )


@dataclass(frozen=True)
class Diagnostics:
    """The account that every explanation gives of itself.

    Args:
        operations: The non-linear operations that the model ran, by name.
        messages: Everything that was approximated, fell back, could not be
            attributed or did not add up, in words; empty when all is exact.
        notes: What to know when reading the numbers, although nothing is inexact.
        structure: What was kept for the reference as it is at the input, also where
            that changes nothing.
        cancellation: ``Σ|attributions| / |f(x) - f(x0)|``, the largest of all
            patients': 1 where nothing cancels; 0 if it was not worked out.
        rewrites: What ran in a faster form of its own in place of the model's code,
            by name; it gives the same numbers.

    Example:
        >>> report = Diagnostics((Operation("gelu", "elementwise", 2),))
        >>> report.exact, report.fallbacks
        (True, ())
        >>> (report + report).operations[0].calls
        4
    """

    operations: tuple[Operation, ...] = ()
    messages: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())
    structure: tuple[Structure, ...] = field(default=())
    cancellation: float = 0.0
    rewrites: tuple[str, ...] = ()

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Names of the operations that no exact rule served."""
        return tuple(op.name for op in self.operations if not op.exact)

    @property
    def exact(self) -> bool:
        """True when nothing fell back and there is nothing to report."""
        return not self.fallbacks and not self.messages

    def __add__(self, other: Diagnostics) -> Diagnostics:
        """One account of two batches, or two slices of one."""
        if not isinstance(other, Diagnostics):
            return NotImplemented
        both = self, other
        return Diagnostics(
            _counted(self.operations, other.operations),
            tuple(dict.fromkeys(m for report in both for m in report.messages)),
            tuple(dict.fromkeys(note for report in both for note in report.notes)),
            tuple(dict.fromkeys(kept for report in both for kept in report.structure)),
            max(report.cancellation for report in both),
            tuple(dict.fromkeys(name for report in both for name in report.rewrites)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Diagnostics:
        """The inverse of :meth:`to_dict`."""
        return cls(
            tuple(Operation(**op) for op in data["operations"]),
            tuple(data["messages"]),
            tuple(data.get("notes", ())),
            tuple(Structure(**kept) for kept in data.get("structure", ())),
            float(data.get("cancellation", 0.0)),
            tuple(data.get("rewrites", ())),
        )


def _counted(
    some: tuple[Operation, ...], others: tuple[Operation, ...]
) -> tuple[Operation, ...]:
    """The calls of both, by name."""
    if not (some and others):
        return some or others
    calls: Counter[tuple[str, str, bool]] = Counter()
    for op in (*some, *others):
        calls[op.name, op.rule, op.exact] += op.calls
    return tuple(
        Operation(name, rule, count, exact)
        for (name, rule, exact), count in sorted(calls.items())
    )
