"""What the input pass leaves for the reference pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .calls import FALLBACK_NODES, Call, tensors_in
from .diagnostics import Diagnostics, Operation
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
        self.writes: set[int] = set()
        self.generators: list[tuple[str, Tensor]] = []
        self.messages: list[str] = []
        #: Memory that the model was given as it is, and must not write on.
        self.lent: frozenset[int] = frozenset()

    def clear(self) -> None:
        """Forget everything, to begin again with copies of the inputs."""
        self.functions.clear()
        self.calls.clear()
        self.writes.clear()
        self.generators.clear()
        self.messages.clear()
        self.lent = frozenset()

    def note(
        self, entry: Entry, function: Any, args: Any, kwargs: Any, output: Any
    ) -> Call:
        """Record the call that came last."""
        call = Call(entry, function, args, kwargs, output)
        self.calls[len(self.functions) - 1] = call
        return call

    def draws(self, args: Any) -> None:
        """Remember where the generators stand, before the first random number."""
        if not self.generators:
            self.generators.append(("cpu", torch.get_rng_state()))
            for device in {t.device for t in tensors_in(args) if t.is_cuda}:
                state = torch.cuda.get_rng_state(device)
                self.generators.append((str(device), state))

    def rewind(self) -> None:
        """Put the generators back, where the model has used them at all."""
        for device, state in self.generators:
            if device == "cpu":
                torch.set_rng_state(state)
            else:
                torch.cuda.set_rng_state(state, device)

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
        return Diagnostics(operations, tuple(dict.fromkeys(messages + self.messages)))
