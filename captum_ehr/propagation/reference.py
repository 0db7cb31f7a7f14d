"""The reference pass: it runs the model again and completes what was recorded."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .arguments import positional
from .calls import Call, DivergenceError, check_shapes, out_of_place, written
from .containers import rewrapped, tensors_in
from .operations import label
from .registry import NEUTRAL, Kind
from .rules.rows import BLOCK, Rowwise, work_out
from .structure import different, structural_value
from .tape import Tape


class ReferencePass(TorchFunctionMode):
    """Runs the model on the reference and completes the recorded calls."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self.position = -1
        self.indices: dict[int, tuple[Tensor, str, int | Tensor]] = {}
        self.waiting: list[Rowwise] = []
        self.size = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        tape = self.tape
        kwargs = kwargs or {}
        entry = tape.table.get(func)
        if entry is NEUTRAL:
            return func(*args, **kwargs)
        if entry is not None and entry.kind is Kind.IGNORE:
            return None
        self.position = position = self.position + 1
        try:
            recorded = tape.functions[position]
        except IndexError:
            recorded = None
        if recorded is not func and recorded != func:
            raise DivergenceError(
                f"The model called {label(func)} on the reference where it called "
                f"{label(recorded) if recorded else 'nothing more'} on the input "
                f"(call {position}). It takes another path for the reference; choose "
                "a reference of the same structure, e.g. baselines='unk'."
            )
        call = tape.calls.get(position)
        if self.indices:
            self._watch(func, args, kwargs)
        if call is not None:
            return self._meet(call, func, args, kwargs)
        return func(*args, **kwargs)

    def _meet(self, call: Call, func: Any, args: Any, kwargs: Any) -> Any:
        entry = call.entry
        args, kwargs = positional(func, args, kwargs)
        _, kwargs, target = out_of_place(entry, func, args, kwargs)
        if entry.kind is Kind.EXPAND and entry.rule is not None:
            with self:
                output = entry.rule(*args, **kwargs)
            return _put(target, output)
        if entry.kind is Kind.STRUCTURE:
            value, crossed = structural_value(call, args, kwargs)
            threshold = isinstance(value, Tensor) and value.dtype == torch.bool
            self.tape.say(crossed, partial(_crossing, func, threshold))
            return _put(target, value)
        output = call.function(*args, **kwargs)
        check_shapes(call, output)
        ours = call.output
        call.resolve(args, kwargs, output, self.tape.lasting)
        if isinstance(call.multiplier, Rowwise):
            self._wait(call.multiplier)
        if isinstance(output, tuple):
            output = self._with_indices(func, ours, output)
        return _put(target, output)

    def _wait(self, multiplier: Rowwise) -> None:
        """Keep what is small till there is a block of it, what is late for later."""
        if multiplier.small:
            self.waiting.append(multiplier)
            self.size += multiplier.operand.shape.numel()
            if self.size > BLOCK // 2:
                work_out(self.waiting)
                self.waiting, self.size = [], 0
        elif not multiplier.late:
            work_out([multiplier])

    def _with_indices(self, func: Any, ours: Any, theirs: Any) -> Any:
        """An operation's values at the reference, with the input's own indices."""
        kept = []
        for a, b in zip(ours, theirs):
            if isinstance(b, Tensor) and b.dtype == torch.int64:
                apart = different(a, b)
                if isinstance(apart, Tensor) or apart:
                    self.indices[id(a)] = (a, label(func), apart)
                kept.append(a)
            else:
                kept.append(b)
        return rewrapped(theirs, kept)

    def _watch(self, func: Any, args: Any, kwargs: Any) -> None:
        """Report indices that differ between the sides, where they are used."""
        for tensor in tensors_in((*args, *kwargs.values())):
            if id(tensor) in self.indices:
                _, source, apart = self.indices[id(tensor)]
                self.tape.say(apart, partial(_other_indices, source, func))


def _put(target: Any, value: Any) -> Any:
    return value if target is None else written(target, value)


def _crossing(func: Any, threshold: bool, count: int) -> str:
    """What to say of a structural call that answers differently on both sides."""
    if threshold:
        return (
            f"{label(func)}: a threshold on attributed values differs between input "
            f"and reference ({count} values); the change that it makes is not "
            "attributed"
        )
    return (
        f"{label(func)}: differs between input and reference; the input's is kept for "
        "both, so f(x0) is the model's output with the input's structure"
    )


def _other_indices(source: str, func: Any, _: int) -> str:
    """What to say where indices that differ are used."""
    return (
        f"{source}: its indices differ between input and reference, and {label(func)} "
        "uses them; the input's are kept for both"
    )
