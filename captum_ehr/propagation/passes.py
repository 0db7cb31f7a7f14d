"""The input pass: it runs the model and records what needs a rule.

A :class:`torch.overrides.TorchFunctionMode` sees every torch call of an unmodified
model, whichever module, function or operator it comes from. In the input pass each
call that needs a rule becomes one node of autograd's graph; in the reference pass
(:mod:`.reference`) the same calls come in the same order, and each node's rule is
told both sides and gives its multiplier. Autograd's own backward pass is then the
chain rule.

Modes are local to their thread, and nothing is written on the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _set_grad_enabled
from torch._C._functorch import maybe_current_level
from torch.overrides import TorchFunctionMode

from .arguments import positional
from .calls import (
    Call,
    attached,
    attributed_tensors,
    hides,
    is_product,
    out_of_place,
    written,
)
from .containers import detached, mapped, same, tensors_in
from .declarations import Entry, Kind, label
from .generators import alone, moved, replaying, states, torchs_own
from .rules.linear import large, linear_layer
from .state import address_of
from .structure import asks_for_rows
from .tape import Tape

#: Options with which a call writes on other arguments than its first.
_BESIDE = frozenset({"max_norm", "training", "use_input_stats"})

_NEUTRAL, _NATIVE = Kind.NEUTRAL, Kind.NATIVE  # asked for every call

#: Of a function that no declaration names.
_UNKNOWN = Entry(Kind.RULE)


class BeginAgain(BaseException):
    """The pass is to be run anew: it was about to write on what is the user's.

    No exception that a model is likely to catch; if it does, the tape knows.
    """


class InputPass(TorchFunctionMode):
    """Runs the model on the input and records every call that needs a rule.

    In its methods ``live`` are the attributed tensors of a call, ``target`` is what it
    writes on (or None), and ``plain`` the function that does the same elsewhere.
    """

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        tape = self.tape
        entry = tape.table.get(func)
        kwargs = kwargs or {}
        kind = _UNKNOWN.kind if entry is None else entry.kind
        if kind is _NEUTRAL:
            return func(*args, **kwargs)
        if kind is _NATIVE:
            tape.functions.append(func)
            if not kwargs:
                return func(*args)
            if "out" not in kwargs:
                self._protect_beside(args, kwargs)
                return func(*args, **kwargs)
            return self.dispatch(entry, func, args, kwargs)
        if entry is not None and kind is Kind.IGNORE:
            return entry.rule(*args, **kwargs) if entry.rule else None
        tape.functions.append(func)
        return self.dispatch(entry, func, args, kwargs)

    def dispatch(self, entry: Entry | None, func: Any, args: Any, kwargs: Any) -> Any:
        """A call that may need a rule."""
        if maybe_current_level() is not None:
            return self._transformed(entry, func, args, kwargs)
        if entry is not None and entry.kind is Kind.CAST and not entry.random:
            self.tape.asked += 1
            return self._cast(func, args, kwargs)
        args, kwargs = positional(func, args, kwargs)
        if entry is not None and entry.random and kwargs.get("training", True):
            self.tape.draws(kwargs.get("generator"))
        if kwargs:
            self._protect_beside(args, kwargs)
        if entry is not None and entry.kind in (Kind.STRUCTURE, Kind.CAST):
            self.tape.asked += 1
        plain, rest, target = out_of_place(entry, func, args, kwargs)
        live = attributed_tensors(args, rest)
        if target is not None:
            self._protect(target)
        if not live:
            if "out" in kwargs:
                return self._write(target, plain(*args, **rest))
            output = func(*args, **kwargs)
            if isinstance(output, np.ndarray):
                self._check_borrowed(args[0])  # NumPy may write on it, unseen
            return output
        if entry is None:
            return self._unknown(plain, args, rest, live, target)
        if entry.kind is Kind.RULE or is_product(entry, args, kwargs, live):
            return self.record(entry, plain, args, rest, live, target)
        if entry.kind is Kind.EXPAND:
            whole = entry.whole and entry.whole(live, *args, **rest)
            if whole:
                entry = Entry(Kind.RULE, whole, output=False)
                return self.record(entry, plain, args, rest, live, target)
            return self._expand(entry, plain, args, rest, live, target)
        if "out" in kwargs:
            return self._write(target, self.dispatch(entry, func, args, rest))
        if entry.kind is Kind.STRUCTURE:
            return self._structure(func, args, kwargs)
        if entry.kind is Kind.IDENTITY:
            return args[0].view_as(args[0])
        if entry.kind is Kind.CAST:
            return self._cast(func, args, kwargs)
        if func is F.linear and live[0] is args[0] and not kwargs:
            return self._linear(entry, args) if large(*args[:2]) else func(*args)
        return func(*args, **kwargs)

    def _linear(self, entry: Entry, args: Any) -> Any:
        """A linear layer; the reference has no part in its gradient."""
        x = args[0]
        with torch.no_grad():
            output = F.linear(*args)
        call = Call(entry, F.linear, (), {}, None)
        call.multiplier = linear_layer(*args)
        return attached(call, output, [x])

    def _cast(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A call that is structure where its result can have no gradient."""
        output = func(*args, **kwargs)
        if not isinstance(output, Tensor) or output.requires_grad:
            return output
        if not attributed_tensors(args, kwargs):
            return output
        return self._structure(func, args, kwargs, output)

    def _expand(
        self, entry: Entry, plain: Any, args: Any, kwargs: Any, live: Any, target: Any
    ) -> Any:
        """Run a function's parts instead of the function."""
        assert entry.rule is not None
        position = len(self.tape.functions) - 1
        with self:
            result = entry.rule(*args, **kwargs)
        if result is NotImplemented:
            return self._unknown(plain, args, kwargs, live, target)
        self.tape.calls[position] = Call(entry, plain, (), {}, None)
        return self._write(target, result)

    def record(
        self, entry: Entry, plain: Any, args: Any, kwargs: Any, live: Any, target: Any
    ) -> Any:
        """Run the call, and put its rule where autograd would have its derivative."""
        _set_grad_enabled(False)  # the context manager takes as long as a small call
        try:
            # a node's views may not be written on
            output = mapped(_of_its_own, plain(*args, **kwargs))
        finally:
            _set_grad_enabled(True)
        call = self.tape.note(entry, plain, args, kwargs, detached(output))
        return self._write(target, attached(call, output, live))

    def _unknown(
        self, plain: Any, args: Any, kwargs: Any, live: Any, target: Any
    ) -> Any:
        """A call that no rule names: integrated, if it is differentiable at all."""
        before = states(torchs_own())
        with torch.enable_grad():
            trial = plain(*args, **kwargs)
        inplace = plain if args and target is args[0] else None
        if not any(t.requires_grad for t in tensors_in(trial)):
            self._structure(plain, args, kwargs, trial, inplace)
            return self._write(target, trial)
        random = moved(before) and (
            alone() or not same(trial, plain(*args, **kwargs))  # else it was another's
        )
        if random:
            plain = replaying(plain, before)
            self.tape.drawn_from = before | self.tape.drawn_from
        entry = Entry(Kind.RULE, None, inplace and plain, random)
        return self.record(entry, plain, args, kwargs, live, target)

    def _transformed(self, entry: Any, func: Any, args: Any, kwargs: Any) -> Any:
        """A call inside torch.func (vmap, grad), whose tensors no rule can serve."""
        hidden = [t for t in tensors_in((*args, *kwargs.values())) if hides(t)]
        if hidden and (
            entry is None
            or entry.kind in (Kind.RULE, Kind.EXPAND, Kind.STRUCTURE)
            or is_product(entry, args, kwargs, hidden)
        ):
            self.tape.messages.append(
                f"{label(func)}: inside torch.vmap or torch.func, where no rule can "
                "serve; its derivative at the input was used"
            )
        return func(*args, **kwargs)

    def _structure(
        self, func: Any, args: Any, kwargs: Any, output: Any = None, inplace: Any = None
    ) -> Any:
        known = self.tape.table.get(func, _UNKNOWN)
        rows = asks_for_rows(known, func, args, kwargs)
        with torch.no_grad():
            args, kwargs = detached(args), detached(kwargs)
            output = func(*args, **kwargs) if output is None else output
        if isinstance(output, np.ndarray):
            self._check_borrowed(args[0])  # NumPy may write on it, unseen
        rule = None if inplace else known.rule
        entry = Entry(Kind.STRUCTURE, rule, inplace, tags=known.tags)
        self.tape.note(entry, func, args, kwargs, detached(output)).rows = rows
        return output

    def _write(self, target: Any, result: Any) -> Any:
        """What a call gave, where it was to be written, if it was."""
        if target is None:
            return result
        self._protect(target)
        return written(target, result)

    def _protect_beside(self, args: Any, kwargs: Any) -> None:
        """The same for what a call writes on beside its first argument.

        That is a table of embeddings that renormalises its rows, or the statistics of
        a normalisation in training. Others that have an option of this name are
        suspected in vain, which costs a copy.
        """
        if _BESIDE.isdisjoint(kwargs):
            return
        if kwargs.get("max_norm") is not None:
            self._protect(args[1:2])
        if kwargs.get("training") or kwargs.get("use_input_stats"):
            self._protect(args[1:3])

    def _protect(self, target: Any) -> None:
        """Copy what is recorded in memory that is about to be overwritten."""
        for tensor in tensors_in(target):
            self._check_borrowed(tensor)
            memory = address_of(tensor)
            for call in self.tape.calls.values():
                call.protect(memory)

    def _check_borrowed(self, target: Any) -> None:
        if isinstance(target, Tensor) and self.tape.borrows(target):
            self.begin_again(address_of(target))

    def begin_again(self, overwritten: int = 0) -> None:
        """Break the pass off, for a new one in which this memory may be written on."""
        self.tape.overwritten = overwritten
        raise BeginAgain


def _of_its_own(output: Tensor) -> Tensor:
    return output.clone() if output._is_view() or output.requires_grad else output
