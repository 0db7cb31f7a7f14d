"""What the input pass leaves for the reference pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .calls import FALLBACK_NODES, Call
from .declarations import Entry, label
from .diagnostics import Diagnostics, Operation, Structure
from .generators import States, put_back, torchs_own
from .pending import Pending
from .registry import Table
from .state import State, address_of


class Tape:
    """What the input pass leaves for the reference pass: the calls, in order.

    Args:
        table: The rules.
        lasting: Whether several references are run against one input, or multipliers
            asked for several times (of several outputs, say). Otherwise each is let go
            as soon as the backward pass has used it.
        seeks_missing: Whether missing values (NaN) are looked for, be it in the inputs
            or in what the model makes of them and does not use (``where(n > 0, x / n,
            0)``), which has no share.
        eager: Whether multipliers are worked out as they come, each by itself, and
            nothing waits for the backward pass; the same in more time and memory.
    """

    call_type: type[Call] = Call

    def __init__(
        self,
        table: Table,
        lasting: bool = False,
        seeks_missing: bool = True,
        eager: bool = False,
    ) -> None:
        self.table = table
        self.lasting = lasting
        self.seeks_missing = seeks_missing
        self.pending = Pending(eager)
        #: What the present pass has noted of views, each with what puts it back.
        self.entered: dict[State, Callable[[], str]] = {}
        #: Which calls that may be structure are flags that differ: found by one pair
        #: of passes, used by the next.
        self.flagged: frozenset[int] = frozenset()
        self.clear()

    def clear(self) -> None:
        """Forget what was recorded, to begin again with copies of the inputs."""
        self.pending.clear()
        self.functions: list[Callable[..., Any]] = []
        self.calls: dict[int, Call] = {}
        self.messages: list[str] = []
        #: Memory of inputs that the model was given as they are.
        self.borrowed: frozenset[int] = frozenset()
        #: Where the model was about to write on what it has no copy of.
        self.overwritten: int | None = None
        #: Where generators stood before they were drawn from: torch's, users' own.
        self.drawn_from: States = {}
        #: Whether numbers were drawn from Python's or NumPy's own generator.
        self.draws_globals = False
        #: How many calls that may be structure the input pass has met.
        self.asked = 0
        self.flags: dict[int, Any] = {}
        self.kept_arguments: dict[int, tuple[Any, Any]] = {}
        self.crossings: list[tuple[int, int | Tensor]] = []
        self.kept: list[tuple[str, int | Tensor]] = []
        self.own_outputs: list[Callable[[], float | str]] = []

    def crossed(self) -> frozenset[int]:
        """Which flags have been found to differ, of which that was not known."""
        crossed = {asked for asked, count in self.crossings if _readable(count)}
        return frozenset(crossed) - self.flagged

    def note(
        self, entry: Entry, function: Any, args: Any, kwargs: Any, output: Any
    ) -> Call:
        """Record the call that came last."""
        call = self.call_type(entry, function, args, kwargs, output)
        call.asked, call.tolerant = self.asked, self.seeks_missing
        self.calls[len(self.functions) - 1] = call
        return call

    def enter(self, state: State, *roots: nn.Module) -> None:
        """Have what a forward writes on a view last no longer than this pass."""
        if state not in self.entered:
            self.entered[state] = state.begin(*roots)

    def leave(self) -> None:
        """The pass has ended, in whichever way."""
        for end in self.entered.values():
            if lasting := end():
                self.messages.append(lasting)
        self.entered.clear()

    def borrows(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in memory of the user's, which no pass may write on."""
        address = address_of(tensor)
        borrowed = [state for state in self.entered if state.must_copy(address)]
        return bool(borrowed) or address in self.borrowed

    def draws(self, generator: torch.Generator | None) -> None:
        """Remember where a generator (None: torch's own) stands, before it is used."""
        for each in torchs_own() if generator is None else (generator,):
            if each not in self.drawn_from:
                self.drawn_from[each] = each.get_state()

    def rewind(self) -> None:
        """Put the generators back, where the model has used them at all."""
        put_back(self.drawn_from)

    def keep(self, name: str, count: int | Tensor) -> None:
        """Note that so many answers are the input's, for the reference too."""
        if isinstance(count, Tensor) or count:
            self.kept.append((name, count))

    def diagnostics(self) -> Diagnostics:
        """The account of both passes, to be asked for after the backward pass.

        What the model computed besides, a loss for example, is not on the way.
        """
        used = [c for c in self.calls.values() if c.used]
        # first by objects, of which there are few: names take longer than the counting
        same = Counter((c.function, c.entry, c.exact) for c in used)
        counts: Counter[tuple[str, str, bool]] = Counter()
        for (function, entry, exact), calls in same.items():
            name = entry.name if exact else "path_integral"
            counts[label(function), name, exact] += calls
        operations = tuple(
            Operation(name, rule, calls, exact)
            for (name, rule, exact), calls in sorted(counts.items())
        )
        structure = self._structure()
        messages = (
            *(
                f"{op.name}: no exact rule; integrated along the straight line with "
                f"{FALLBACK_NODES} nodes ({op.calls} calls)"
                for op in operations
                if not op.exact
            ),
            *self.messages,
            *(kept.message for kept in structure if kept.message),
        )
        unique = tuple(dict.fromkeys(messages))
        return Diagnostics(operations, unique, structure=structure)

    def _structure(self) -> tuple[Structure, ...]:
        """What was kept for the reference, and how far that moves f(x0)."""
        places: Counter[str] = Counter()
        for name, count in self.kept:
            places[name] += int(count)
        if not any(places.values()):
            return ()
        shifts = [measure() for measure in self.own_outputs]
        shift = max((s for s in shifts if not isinstance(s, str)), default=0.0)
        why = next((s for s in shifts if isinstance(s, str)), "")
        kept = ((name, count) for name, count in places.items() if count)
        return tuple(Structure(name, count, shift, why) for name, count in kept)


def _readable(count: int | Tensor) -> bool:
    """Whether there are any; a tensor without values has none."""
    if not isinstance(count, Tensor):
        return bool(count)
    return not count.is_meta and bool(count != 0)  # of a plan, not how many
