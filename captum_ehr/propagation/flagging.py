"""The input pass of a model whose flags differ between input and reference.

A tensor of booleans or whole numbers can have no gradient. Where the first two passes
have met comparisons that differ, both are run once more, and each of these flags gets
a *twin*: the same numbers in floating point, in autograd's graph by the rule of
:mod:`.rules.flags`. What the model makes of a flag (casts, logic, sums, products,
``where``, writes) is made of its twin beside; the model itself is given what torch
gives it. What cannot be made of numbers (an index, a length, a branch) takes the
input's flags in both passes, and is reported.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arguments import argument, positional
from .calls import (
    RuleNode,
    attributed_tensors,
    depends,
    is_product,
    out_of_place,
    without_writing,
    written,
)
from .containers import detached, mapped, rewrapped, tensors_in
from .declarations import Entry, Kind, label, overwrites
from .passes import InputPass
from .rules import flags as rules
from .structure import Kept, asks_for_rows


class Flag(NamedTuple):
    """A tensor of booleans or whole numbers, and what stands for it in the graph.

    With the version of its memory when the two were the same.
    """

    tensor: Tensor
    twin: Tensor
    version: int


class FlaggedInputPass(InputPass):
    """An input pass that carries flags as numbers beside what the model is given."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        tape = self.tape
        entry = tape.table.get(func)
        passive = entry is not None and entry.kind in (Kind.NEUTRAL, Kind.IGNORE)
        if passive or not self._has_flags((*args, *(kwargs or {}).values())):
            return super().__torch_function__(func, types, args, kwargs)
        tape.functions.append(func)
        args, kwargs = positional(func, args, kwargs or {})
        if entry is not None and entry.kind in (Kind.STRUCTURE, Kind.CAST):
            tape.asked += 1
        if entry is not None and entry.kind is Kind.EXPAND:
            plain, kwargs, target = out_of_place(entry, func, args, kwargs)
            return self._expand(entry, plain, args, kwargs, [], target)
        name = label(func)
        writes = bool(kwargs.pop("inplace", name in _OPERATORS or overwrites(name)))
        plain = _out_of_place(func) if writes else func
        if self._cannot_be_numbers(plain, args, kwargs):
            return self._kept(entry, func, args, kwargs, writes)
        if entry is not None and entry.kind is Kind.STRUCTURE and "out" not in kwargs:
            return self._answered(entry, func, args, kwargs)
        target = args[0] if writes else kwargs.pop("out", None)
        return self._made(plain, args, kwargs, target)

    # Which tensors are flags --------------------------------------------------------

    def _flag(self, value: Any) -> Flag | None:
        flag = self.tape.flags.get(id(value))
        if flag is not None and flag.version == value._version:
            return flag
        base = value._base if type(value) is Tensor else None
        whole = None if base is None else self._flag(base)
        if base is not None and whole is not None:  # it was written on since
            self._register(value, whole.twin.flatten()[_places(value, base)])
            return self.tape.flags[id(value)]
        if flag is not None:
            del self.tape.flags[id(value)]
            self.tape.messages.append(
                "a flag of attributed values was overwritten where no call shows it; "
                "the change that it makes is not attributed"
            )
        return None

    def _has_flags(self, value: Any) -> bool:
        return any(self._flag(t) is not None for t in tensors_in(value))

    def _twins(self, value: Any) -> Any:
        """An argument with twins in the places of flags."""

        def twin(tensor: Tensor) -> Tensor:
            flag = self._flag(tensor)
            return tensor if flag is None else flag.twin

        return mapped(twin, value)

    def _register(self, tensor: Tensor, twin: Tensor) -> None:
        self.tape.flags[id(tensor)] = Flag(tensor, twin, tensor._version)

    def _overwrite(self, target: Tensor, answer: Tensor, number: Tensor) -> Tensor:
        """Write flags on a tensor, which may be a view of what else is used."""
        self._protect(target)
        if target.is_floating_point():
            return written(target, number)
        base, twin = target._base, number
        if base is not None:
            flag = self._flag(base)
            whole = base.to(number.dtype) if flag is None else flag.twin
            part = number.to(whole.dtype).expand(target.shape)
            twin = whole.flatten().index_put((_places(target, base),), part)
            twin = twin.view(base.shape)
        with torch.no_grad():
            written(target, answer)
        self._register(target if base is None else base, twin)
        return target

    def _write(self, target: Any, result: Any) -> Any:
        if isinstance(target, (tuple, list)):
            return mapped(self._write, target, result)
        known = target is not None and isinstance(result, Tensor)
        if known and (flag := self._flag(result)) is not None:
            return self._overwrite(target, result, flag.twin)
        return super()._write(target, result)

    # Questions ----------------------------------------------------------------------

    def _structure(
        self, func: Any, args: Any, kwargs: Any, output: Any = None, inplace: Any = None
    ) -> Any:
        """A structural call on attributed values: a flag, if it is known to differ."""
        entry = self.tape.table.get(func)
        known = self.tape.asked in self.tape.flagged and inplace is None
        if entry is None or entry.rule is None or not known:
            return super()._structure(func, args, kwargs, output, inplace)
        entry = entry._replace(kind=Kind.FLAG)
        with torch.no_grad():
            answer = func(*args, **kwargs)
        return self._paired(answer, self._node(entry, func, args, kwargs, answer))

    def _answered(self, entry: Entry, func: Any, args: Any, kwargs: Any) -> Any:
        """A structural call on flags."""
        with torch.no_grad():
            answer = func(*args, **kwargs)
        if not isinstance(answer, Tensor) or entry.rule is None:
            return super()._structure(func, args, kwargs, answer)
        cast = entry.rule is rules.step and len(args) == 1
        if cast and (answer.dtype != torch.bool or args[0].dtype == torch.bool):
            self._register(answer, self._twins(args[0]))  # the numbers that they are
            return answer
        entry = entry._replace(kind=Kind.FLAG)
        number = self._node(entry, func, self._twins(args), kwargs, answer)
        return self._paired(answer, number)

    # Numbers ------------------------------------------------------------------------

    def _made(self, plain: Any, args: Any, kwargs: Any, target: Any) -> Any:
        """What a call makes of flags, and beside it what it makes of their twins."""
        with torch.no_grad():
            answer = plain(*args, **kwargs)
        twins, named = self._twins(args), self._twins(kwargs)
        written_on = args and target is args[0]
        if written_on and not twins[0].is_floating_point():
            like = next(t for t in tensors_in((*twins, *named.values())) if depends(t))
            twins = (twins[0].to(like.dtype), *twins[1:])
        known = self.tape.table.get(plain)
        if known is not None and known.kind is Kind.PRODUCT:  # whose dtypes must agree
            twins, named = _real((twins, named))
        entry = self._rule_for(plain, twins, named, answer)
        if entry is None:
            number = _linear(known, plain, twins, named, answer)
            if not any(t.requires_grad for t in tensors_in(number)):
                self._mark(args, kwargs)  # numbers, but none that follow the flags
        else:
            entry = entry._replace(inplace=plain if written_on else None)
            number = self._node(entry, plain, twins, named, answer)
        if not self._counts(plain, answer, number):
            self._mark(args, kwargs)
            return written(target, answer)
        return self._write(target, self._paired(answer, number))

    def _rule_for(
        self, plain: Any, twins: Any, named: Any, answer: Any
    ) -> Entry | None:
        """The entry of a call that is not linear in its twins."""
        entry = self.tape.table.get(plain)
        if (choice := rules.chooses(plain, twins)) is not None:
            return Entry(Kind.RULE, choice)
        if entry is None:
            return None
        if "sum" in entry.tags and answer.dtype == torch.bool:
            return Entry(Kind.FLAG, rules.disjunction)
        if entry.kind is Kind.NATIVE:
            return None
        if entry.kind is Kind.CAST:
            truth = answer.dtype == torch.bool
            return Entry(Kind.FLAG, rules.step) if truth else None
        if entry.kind is Kind.STRUCTURE:
            return entry._replace(kind=Kind.FLAG)
        attributed = attributed_tensors(twins, named)
        ruled = entry.kind is Kind.RULE or is_product(entry, twins, named, attributed)
        return entry if ruled else None

    def _counts(self, plain: Any, answer: Any, number: Any) -> bool:
        """Whether numbers stand for what torch gives, which may have another meaning.

        Differences of booleans are "or else", and small whole numbers overflow.
        """
        entry = self.tape.table.get(plain)
        other = entry is not None and "arithmetic" in entry.tags
        small = isinstance(answer, Tensor) and answer.dtype in _SMALL
        return not (small and other) or torch.equal(number, answer.to(number.dtype))

    def _node(
        self, entry: Entry, function: Any, twins: Any, named: Any, answer: Any
    ) -> Any:
        """A node of the graph, whose rule is given numbers."""
        attributed = attributed_tensors(twins, named)
        numbers = _numbers(answer, attributed[0].dtype)
        call = self.tape.note(entry, function, twins, named, detached(numbers))
        call.rows = asks_for_rows(entry, function, twins, named)
        number = RuleNode.apply(call, [numbers], *attributed)
        return number if isinstance(numbers, Tensor) else rewrapped(numbers, number)

    def _paired(self, answer: Any, number: Any) -> Any:
        """What the model is given, of which floating point is in the graph itself."""
        if isinstance(answer, (tuple, list)):
            return rewrapped(
                answer, [self._paired(a, b) for a, b in zip(answer, number)]
            )
        if not isinstance(answer, Tensor) or not number.requires_grad:
            return answer
        if answer.is_floating_point():
            return number.to(answer.dtype)
        self._register(answer, number)
        return answer

    # What takes the input's in both passes ------------------------------------------

    def _cannot_be_numbers(self, plain: Any, args: Any, kwargs: Any) -> bool:
        """Whether flags stand where a call takes indices, lengths or anything else."""
        entry = self.tape.table.get(plain, _WRITTEN.get(plain))
        if entry is None or entry.kind not in _NUMERIC or "indices first" in entry.tags:
            return True
        index = argument(plain, "index", args, kwargs)
        if entry.kind is Kind.RULE and self._has_flags(index):
            return True
        if entry.rule in rules.LOGIC and "logical" not in label(plain):  # bit by bit
            return any(t.dtype != torch.bool for t in tensors_in(args))
        if entry.kind not in (Kind.NATIVE, Kind.CAST) or "several" in entry.tags:
            return False
        if rules.chooses(plain, self._twins(args)) is not None:
            return False
        rest = [value for key, value in kwargs.items() if key != "out"]
        others = args[1:2] if plain is with_item else (args[1:], rest)
        return self._has_flags(others)

    def _kept(
        self, entry: Entry | None, func: Any, args: Any, kwargs: Any, writes: bool
    ) -> Any:
        self._mark(args, kwargs, targets=int(writes))
        if entry is None or entry.kind in (Kind.NATIVE, Kind.CAST, Kind.STRUCTURE):
            self._protect(args[:1] if writes else ())
            return func(*args, **kwargs)
        return self.dispatch(entry, func, args, kwargs)

    def _mark(self, args: Any, kwargs: Any, targets: int = 0) -> None:
        """Have the call that came last take the input's flags at the reference too."""

        def mark(tensor: Tensor) -> Any:
            return tensor if self._flag(tensor) is None else Kept(tensor.clone())

        rest, named = mapped(mark, (tuple(args[targets:]), kwargs))
        place = len(self.tape.functions) - 1
        self.tape.kept_arguments[place] = (*args[:targets], *rest), named


#: How a call is treated of which numbers can be made.
_NUMERIC = {
    *(Kind.NATIVE, Kind.OVERWRITE, Kind.RULE, Kind.PRODUCT, Kind.QUOTIENT),
    *(Kind.CAST, Kind.IDENTITY, Kind.STRUCTURE),
}

#: Python's operators that write on what stands left of them.
_OPERATORS = {
    f"__i{name}__": getattr(torch.Tensor, f"__{name}__")
    for name in ("and", "or", "xor", "add", "sub", "mul", "truediv", "pow")
}


#: What is too small for most numbers.
_SMALL = (torch.bool, torch.uint8, torch.int8)


def with_item(x: Tensor, index: Any, value: Any) -> Tensor:
    """``x[index] = value`` on a copy."""
    copied = x.clone()
    copied[index] = value
    return copied


def with_values(x: Tensor, source: Tensor, *_: Any) -> Tensor:
    """``x.copy_(source)`` on a copy."""
    return x.clone().copy_(source)


#: Linear calls that torch has in place alone.
_WRITTEN = {
    with_item: Entry(Kind.NATIVE),
    with_values: Entry(Kind.NATIVE, tags=frozenset({"several"})),
}


def _places(view: Tensor, base: Tensor) -> Tensor:
    """Which elements of a tensor, counted row by row, a view of it shows."""
    numbers = torch.arange(base.numel(), device=base.device).view(base.shape)
    laid_out = torch.empty_like(base, dtype=torch.long).copy_(numbers)
    start = view.storage_offset() - base.storage_offset()
    return laid_out.as_strided(view.size(), view.stride(), start)


def _out_of_place(func: Any) -> Any:
    """The same call without its side effect; itself if there is none."""
    name = label(func)
    if name in ("__setitem__", "copy_"):
        return with_item if name == "__setitem__" else with_values
    return _OPERATORS.get(name, without_writing(func))


def _linear(
    entry: Entry | None, plain: Any, twins: Any, named: Any, answer: Any
) -> Any:
    """A linear call of twins; a cast changes their dtype at most."""
    known = _WRITTEN[with_item] if entry is None else entry
    if known.kind is Kind.IDENTITY or "casts" in known.tags:
        real = answer.is_floating_point()
        return twins[0].to(answer.device, answer.dtype if real else twins[0].dtype)
    return plain(*twins, **named)


def _real(value: Any) -> Any:
    """The same with whole numbers in the dtype of the twins beside them."""
    dtype = next(t.dtype for t in tensors_in(value) if depends(t))

    def real(tensor: Tensor) -> Tensor:
        other = tensor.is_floating_point() or tensor.is_complex()
        return tensor if other else tensor.to(dtype)

    return mapped(real, value)


def _numbers(answer: Any, dtype: torch.dtype) -> Any:
    """Flags as 0 and 1; of several outputs the first, the others being indices."""
    if isinstance(answer, (tuple, list)):
        return rewrapped(answer, [_numbers(answer[0], dtype), *answer[1:]])
    real = isinstance(answer, Tensor) and not answer.is_floating_point()
    return answer.to(dtype) if real else answer
