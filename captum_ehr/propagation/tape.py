"""What the input pass leaves for the reference pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .calls import FALLBACK_NODES, Call
from .diagnostics import Diagnostics, Operation
from .generators import States, put_back, states
from .operations import label
from .registry import Entry, Table


class Tape:
    """What the input pass leaves for the reference pass: the calls, in order.

    Args:
        table: The rules.
        lasting: Whether several references are run against one input, or multipliers
            asked for several times (of several outputs, say). Otherwise each is let go
            as soon as the backward pass has used it.
    """

    def __init__(self, table: Table, lasting: bool = False) -> None:
        self.table = table
        self.lasting = lasting
        self.functions: list[Callable[..., Any]] = []
        self.calls: dict[int, Call] = {}
        self.generators: States = ()
        self.messages: list[str] = []
        self.doubts: list[tuple[Tensor, Callable[[int], str]]] = []
        #: Memory that the model was given as it is, and must not write on.
        self.lent: frozenset[int] = frozenset()
        #: Whether it was about to.
        self.overwritten = False

    def clear(self) -> None:
        """Forget everything, to begin again with copies of the inputs."""
        self.functions.clear()
        self.calls.clear()
        self.overwritten = False
        self.generators = ()
        self.messages.clear()
        self.doubts.clear()
        self.lent = frozenset()

    def note(
        self, entry: Entry, function: Any, args: Any, kwargs: Any, output: Any
    ) -> Call:
        """Record the call that came last."""
        call = Call(entry, function, args, kwargs, output)
        self.calls[len(self.functions) - 1] = call
        return call

    def draws(self) -> None:
        """Remember where the generators stand, before the first random number."""
        self.generators = self.generators or states()

    def rewind(self) -> None:
        """Put the generators back, where the model has used them at all."""
        put_back(self.generators)

    def say(self, count: int | Tensor, message: Callable[[int], str]) -> None:
        """Report what happened so many times, if it did.

        Args:
            count: How many times. A tensor is not waited for, but read when the
                account is asked for.
            message: What to say of that many.
        """
        if isinstance(count, Tensor):
            self.doubts.append((count, message))
        elif count:
            self.messages.append(message(count))

    def diagnostics(self) -> Diagnostics:
        """The account of both passes, to be asked for after the backward pass.

        What the model computed besides, a loss for example, is not on the way.
        """
        used = Counter(
            (c.function, c.entry, c.exact) for c in self.calls.values() if c.used
        )
        counts: Counter[tuple[str, str, bool]] = Counter()
        for (function, entry, exact), calls in used.items():
            name = entry.name if exact else "path_integral"
            counts[label(function), name, exact] += calls
        operations = tuple(
            Operation(name, rule, calls, exact)
            for (name, rule, exact), calls in sorted(counts.items())
        )
        fallbacks = [op for op in operations if not op.exact]
        messages = [
            f"{op.name}: no exact rule; integrated along the straight line with "
            f"{FALLBACK_NODES} nodes ({op.calls} calls)"
            for op in fallbacks
        ]
        messages += self.messages
        for found, message in self.doubts:
            if count := int(found):
                messages.append(message(count))
        return Diagnostics(operations, tuple(dict.fromkeys(messages)))
