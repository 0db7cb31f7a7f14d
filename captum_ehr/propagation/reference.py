"""The reference pass: it runs the model again and completes what was recorded."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .arguments import positional
from .calls import Call, DivergenceError, check_shapes, out_of_place, written
from .containers import mapped, rewrapped, tensors_in
from .declarations import Kind, label
from .structure import Kept, answer, compared_with_nothing, different, empty_rows
from .tape import Tape


class ReferencePass(TorchFunctionMode):
    """Runs the model on the reference and completes the recorded calls."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self.position = -1
        self.indices: dict[int, tuple[Tensor, str, int | Tensor]] = {}
        self.empty: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        tape = self.tape
        kwargs = kwargs or {}
        entry = tape.table.get(func)
        kind = None if entry is None else entry.kind
        if kind is Kind.NEUTRAL:
            return func(*args, **kwargs)
        if entry is not None and kind is Kind.IGNORE:
            return entry.rule(*args, **kwargs) if entry.rule else None
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
        if position in tape.kept_arguments:
            args, kwargs = self._as_kept(
                func, position, *positional(func, args, kwargs)
            )
        if self.indices:
            self._watch(func, args, kwargs)
        if call is not None:
            return self._meet(call, func, args, kwargs)
        return func(*args, **kwargs)

    def finish(self) -> None:
        """Leave what is small to be worked out together, and see that all was met."""
        self.tape.pending.close()
        seen, recorded = self.position + 1, len(self.tape.functions)
        if seen != recorded:
            raise DivergenceError(
                "The model stopped earlier on the reference than on the input, after "
                f"{seen} of {recorded} torch calls."
            )

    def _meet(self, call: Call, func: Any, args: Any, kwargs: Any) -> Any:
        entry = call.entry
        args, kwargs = positional(func, args, kwargs)
        _, kwargs, target = out_of_place(entry, func, args, kwargs)
        if entry.kind is Kind.EXPAND and entry.rule is not None:
            with self:
                output = entry.rule(*args, **kwargs)
            return _put(target, output)
        if entry.kind in (Kind.STRUCTURE, Kind.FLAG):
            return _put(target, self._answer(call, args, kwargs))
        output = call.function(*args, **kwargs)
        check_shapes(call, output)
        ours = call.output
        call.resolve(args, kwargs, output, self.tape.lasting)
        self.tape.pending.add(call.multiplier)
        if isinstance(output, tuple):
            output = self._with_indices(func, ours, output)
        return _put(target, output)

    def _answer(self, call: Call, args: Any, kwargs: Any) -> Any:
        """The reference's own answer, or the input's where that is kept."""
        theirs, ours = call.function(*args, **kwargs), call.output
        if isinstance(theirs, Tensor) and isinstance(ours, Tensor):
            ours = ours.to(theirs.dtype)
        result = answer(call, theirs, ours, partial(self._absent, call, args, kwargs))
        self.tape.keep(label(call.function), result.kept)
        if call.entry.kind is Kind.FLAG:
            call.resolve(args, kwargs, result.value, self.tape.lasting)
        else:
            self.tape.crossings.append((call.asked, result.crossed))
        return result.value

    def _absent(self, call: Call, args: Any, kwargs: Any) -> Tensor | None:
        """For a question about rows, which of them are 0 on one of the two sides."""
        values = compared_with_nothing(call.entry, args, kwargs)
        if values is not None:
            ours = compared_with_nothing(call.entry, call.args, call.kwargs)
            assert ours is not None
            ours = ours.detach()
            if call.rows:
                return (values == 0) | (ours == 0)
            if call.entry.kind is Kind.FLAG and values.dim() > 2:
                self.empty[id(call)] = empty_rows(values) | empty_rows(ours)
        if not call.rows:
            return None
        empty = self.empty.get(id(call.rows))  # as the comparison has found
        if empty is None:
            empty = empty_rows(args[0]) | empty_rows(call.args[0].detach())
        keepdim = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
        return empty.unsqueeze(-1) if keepdim else empty

    def _as_kept(self, func: Any, position: int, args: Any, kwargs: Any) -> Any:
        """A call's arguments with the input's flags, and how many are others."""
        places: int | Tensor = 0

        def kept(ours: Tensor | Kept, theirs: Any) -> Any:
            nonlocal places
            if not isinstance(ours, Kept):
                return theirs
            places = places + different(theirs, ours.tensor)
            return ours.tensor

        flags, named = self.tape.kept_arguments[position]
        either = (Tensor, Kept)
        args = mapped(kept, tuple(flags), tuple(args), kind=either)
        kwargs = mapped(kept, named, kwargs, kind=either)
        self.tape.keep(label(func), places)
        return args, kwargs

    def _with_indices(self, func: Any, ours: Any, theirs: Any) -> Any:
        """An operation's values at the reference, with the input's own indices."""
        kept = []
        for a, b in zip(ours, theirs):
            if isinstance(b, Tensor) and a.dtype == torch.int64:
                differing = different(a, b)
                if isinstance(differing, Tensor) or differing:
                    self.indices[id(a)] = (a, label(func), differing)
                kept.append(a)
            else:
                kept.append(b)
        return rewrapped(theirs, kept)

    def _watch(self, func: Any, args: Any, kwargs: Any) -> None:
        """Report indices that differ between the sides, where they are used."""
        for tensor in tensors_in((*args, *kwargs.values())):
            if id(tensor) in self.indices:
                _, source, differing = self.indices.pop(id(tensor))
                self.tape.keep(source, differing)


def _put(target: Any, value: Any) -> Any:
    return value if target is None else written(target, value)
