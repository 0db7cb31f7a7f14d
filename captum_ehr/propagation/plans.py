"""Plans: what an explanation did once, done again on the next batch of its shapes.

The first batch of a key runs the passes, the second writes down what they do
(:mod:`.recording`), the third runs what was written; as long as the plans before it are
used. A plan that is no faster is
dropped; a batch on which a guard changes takes the passes. The key is all that the
computation depends on but values; what the model is made of is watched (:mod:`.watch`),
and a model of which something was exchanged starts anew.

With a compiler one program serves all shapes (:mod:`.compiling`): the second batch of
whatever shapes makes it, and what it does not serve takes the way above.

A plan holds its code, some 350 bytes a call, and by reference the model's tensors, not
those of any batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import torch
from cachetools import LRUCache
from torch import Tensor

from .program import PlanChanged, Program
from .recording import PlanRefused, recorded_program
from .watch import Watched

#: Plans of one explainer; the one that was not used for longest makes room.
MOST = 64

#: Calls of all plans of one explainer, of some 350 bytes each: 90 MB.
MOST_CALLS = 1 << 18

#: Calls of a graph that is compiled, at most.
LARGEST = 4000

#: Makes a program of a function and tensors, and runs it on them.
type Make = Callable[..., tuple[Sequence[Tensor], Program]]

#: Batches on which guards have changed, more than not, before a plan is dropped.
CHANGES = 3


class PlanState(NamedTuple):
    """What has become of one key.

    Args:
        shapes: Of the tensors that it is for; None if it is compiled for all.
        state: ``"seen"`` (once, by the passes), ``"ready"``, ``"refused"`` or
            ``"dropped"``.
        reason: Why it was refused or dropped.
        replays: Batches that it has served.
        changes: Batches on which a guard changed.
        calls: The aten calls of a replay.
    """

    shapes: tuple[tuple[int, ...], ...] | None
    state: str
    reason: str
    replays: int
    changes: int
    calls: int


@dataclass
class _Entry:
    shapes: tuple[tuple[int, ...], ...] | None
    state: str = "seen"
    reason: str = ""
    #: The program and what else there is to know; one place, as threads share it.
    made: tuple[Program, Any] | None = None
    replays: int = 0
    changes: int = 0
    passes: list[float] = field(default_factory=list)
    fastest: float = float("inf")

    @property
    def calls(self) -> int:
        """The aten calls of a replay."""
        made = self.made
        return 0 if made is None else made[0].calls

    @property
    def unmeasured(self) -> bool:
        """Whether the passes, warm by now, are to be timed once more."""
        once = self.replays == 1 and len(self.passes) < 2
        return once and self.shapes is not None

    @property
    def slow(self) -> bool:
        """Whether it is no faster than the passes, the quickest of each."""
        sized = self.shapes is not None  # else batches are not alike
        return sized and self.replays > 2 and self.fastest >= min(self.passes)

    def give_up(self, state: str, reason: str) -> None:
        self.state, self.reason = state, reason
        self.made = None


class Plans:
    """The plans of one explainer, which several threads may use at once."""

    def __init__(self, most: int = MOST) -> None:
        self._entries: LRUCache[Hashable, _Entry] = LRUCache(most)
        self._model: Watched | None = None
        #: What passes have told of batches of a form; forgotten with the model.
        self.known: dict[Hashable, Any] = {}
        self._made, self._served = 0, 0  # how many plans, and by them how many batches
        self._lock = Lock()

    def __reduce__(self) -> Any:  # copies too: plans hold code and the model's tensors
        return Plans, (int(self._entries.maxsize),)

    def states(self) -> tuple[PlanState, ...]:
        """What has become of each key, the one that was used last at the end."""
        with self._lock:
            return tuple(
                PlanState(e.shapes, e.state, e.reason, e.replays, e.changes, e.calls)
                for e in self._entries.values()
            )

    def run[T](
        self,
        key: Hashable,
        tensors: Sequence[Tensor],
        passes: Callable[[], T],
        core: Callable[..., tuple[Sequence[Tensor], Any]],
        finish: Callable[[Sequence[Tensor], Any], T | None],
        unfit: Callable[[T], str],
        make: Make | None = None,
    ) -> T:
        """By the passes, by a plan, or by both.

        Args:
            key: All that the computation depends on, but the model and values.
            tensors: What the computation starts from.
            passes: The computation, without any plan.
            core: The same from the tensors to tensors, and what else there is to know
                of the result; that is the same each time.
            finish: From these to the result; None where it takes the passes.
            unfit: Why there can be no plan, by a result of the passes; or nothing.
            make: :func:`compiled_for_all`, where the key says nothing of sizes.
        """
        entry, constants = self._entry(key, None if make else tensors)
        result, made = None, entry.made
        if made is not None and not entry.unmeasured:
            result = _replayed(entry, made, tensors, finish)
            self._served += result is not None
        elif entry.state == "seen" and entry.passes and self._worth_while():
            make = partial(make or recorded_program, constants=constants)
            result = _made(entry, make, tensors, core, finish)
            self._made += 1
            self._make_room()
        if result is None:
            start = time.perf_counter()
            result = passes()
            entry.passes = [*entry.passes[:1], time.perf_counter() - start]
            if entry.state == "seen" and (reason := unfit(result)):
                entry.give_up("refused", reason)
        return result

    def _worth_while(self) -> bool:
        """Whether the plans so far have been used, all but two of them once.

        Where shapes never come a third time, as in a cohort of many lengths, writing
        them down is all that plans would do.
        """
        return self._served + 2 > self._made

    def _make_room(self) -> None:
        with self._lock:
            while sum(e.calls for e in self._entries.values()) > MOST_CALLS:
                self._entries.popitem()

    def refuse(self, reason: str) -> None:
        """Note why there is no plan at all."""
        with self._lock:
            self._entries[reason] = _Entry((), "refused", reason)

    def know(self, form: Hashable, told: Any) -> None:
        """Remember what passes have told of batches of a form, of as many as plans."""
        with self._lock:
            if len(self.known) >= self._entries.maxsize:
                self.known.clear()
            self.known[form] = told

    def of(self, parts: Sequence[Any], apart: Sequence[Any] = ()) -> None:
        """Those of this model: all begins anew where something of it was exchanged.

        Takes what :class:`.watch.Watched` takes, and raises what it raises.
        """
        with self._lock:
            if self._model is None or not self._model.same(parts):
                self._entries.clear()
                self._model, self.known = None, {}
                self._made, self._served = 0, 0
                self._model = Watched(parts, apart)

    def reason(self, key: Hashable) -> str:
        """Why a key has no plan; empty if it has, or may yet have."""
        with self._lock:
            entry = self._entries.get(key)
            return "" if entry is None else entry.reason

    def _entry(
        self, key: Hashable, tensors: Sequence[Tensor] | None
    ) -> tuple[_Entry, Sequence[Tensor]]:
        with self._lock:
            if key not in self._entries:
                sized = tensors is not None
                shapes = tuple(tuple(x.shape) for x in tensors or ())
                self._entries[key] = _Entry(shapes if sized else None)
            constants = () if self._model is None else self._model.tensors
            return self._entries[key], constants


def compiled_for_all(
    function: Callable[..., Sequence[Tensor]],
    tensors: Sequence[Tensor],
    constants: Sequence[Tensor] = (),
) -> tuple[Sequence[Tensor], Program]:
    """As :func:`.recording.recorded_program`, for tensors of other sizes too.

    Raises:
        PlanRefused: If it cannot be written down or compiled, or is too large.
    """
    from .compiling import CompileError, compiled_program

    _, plan = recorded_program(function, tensors, constants)
    if plan.calls > LARGEST:
        raise PlanRefused(
            f"its graph of {plan.calls} calls is too large to compile; {LARGEST} are "
            "the most"
        )
    try:
        program = compiled_program(function, tensors)
    except CompileError as error:
        raise PlanRefused(f"it was not compiled: {error}") from error
    with torch.no_grad():
        return program.run(*tensors), program


def _made[T](
    entry: _Entry,
    make: Make,
    tensors: Sequence[Tensor],
    core: Callable[..., tuple[Sequence[Tensor], Any]],
    finish: Callable[[Sequence[Tensor], Any], T | None],
) -> T | None:
    extras: list[Any] = []

    def outputs(*given: Tensor) -> Sequence[Tensor]:
        results, extra = core(*given)
        extras.append(extra)
        return results

    try:
        results, program = make(outputs, tensors)
    except PlanRefused as refusal:
        entry.give_up("refused", str(refusal))
        return None
    except Exception as error:  # the batch's, which the passes meet too, or a plan's
        entry.changes += 1
        if entry.changes > CHANGES:
            entry.give_up("refused", f"{type(error).__name__}: {error}")
        return None
    entry.made, entry.state = (program, extras[0]), "ready"
    return finish(results, extras[0])


def _replayed[T](
    entry: _Entry,
    made: tuple[Program, Any],
    tensors: Sequence[Tensor],
    finish: Callable[[Sequence[Tensor], Any], T | None],
) -> T | None:
    start, (program, extra) = time.perf_counter(), made
    result = None
    try:
        with torch.no_grad():
            outputs = program.run(*(x.detach() for x in tensors))
        result = finish(outputs, extra)
    except (PlanChanged, RuntimeError, IndexError):  # shapes that depend on values
        pass
    if result is None:
        entry.changes += 1
        if entry.changes > entry.replays + CHANGES:
            entry.give_up("dropped", "on most batches the model takes another way")
        return None
    entry.replays += 1
    entry.fastest = min(entry.fastest, time.perf_counter() - start)
    if entry.slow:
        entry.give_up("dropped", "it is no faster than the passes")
    return result
