"""One torch call, seen from both sides: what it took, what it gave, its multiplier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch

from . import tuning
from .containers import mapped, tensors_in
from .declarations import Entry, Kind, label
from .generators import undisturbed
from .pairs import Multiplier, Operand, Pair
from .recording import compiled
from .rules.integral import path_integral
from .state import address_of

#: Nodes of the quadrature that serves operations without a rule.
FALLBACK_NODES = 32


class DivergenceError(RuntimeError):
    """The model ran other operations on the reference than on the input."""


class Call:
    """One recorded call: what went in and came out, then the rule's multiplier."""

    __slots__ = (
        *("args", "asked", "entry", "exact", "function", "kwargs", "lasting"),
        *("multiplier", "output", "rows", "protected", "tolerant", "used"),
    )

    def __init__(
        self,
        entry: Entry,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> None:
        self.entry = entry
        self.function = function
        self.args: Any = args
        self.kwargs: Any = kwargs
        self.output = output if entry.output else _shape_of(output)
        self.multiplier: Multiplier | None = None
        self.exact = True
        self.lasting = True
        self.protected = False
        self.used = False
        self.asked = 0  # how many calls that may be structure the model had made
        self.tolerant = False  # whether what is NaN on one side may be seen by nobody
        self.rows: Any = False  # whether it asks if there is anything in whole rows

    def resolve(self, args: Any, kwargs: Any, output: Any, lasting: bool) -> None:
        """Meet the reference's side: from now on there is a multiplier."""
        slots, protected = count(), self.protected

        def pair(ours: Tensor, theirs: Tensor) -> Any:
            if not depends(ours):
                return ours
            if theirs.dtype is not ours.dtype:
                theirs = _as(ours, theirs)
            theirs = theirs.clone() if protected else theirs
            return Pair(ours.detach(), theirs, next(slots))

        paired = [
            pair(a, b) if isinstance(a, Tensor) else mapped(pair, a, b)
            for a, b in zip(self.args, args)
        ]
        named = {k: mapped(pair, a, kwargs[k]) for k, a in self.kwargs.items()}
        output = mapped(Tensor.clone, output) if protected else output
        self.multiplier = self.serve(_pair_outputs(self.output, output), paired, named)
        self.lasting = lasting
        if not lasting:
            self.args = self.kwargs = self.output = None

    def serve(self, result: Any, args: Any, kwargs: Any) -> Multiplier:
        """The multiplier that the rule gives, or else the path integral."""
        served: Any = NotImplemented
        if self.entry.rule is not None:
            served = self.entry.rule(result, *args, **kwargs)
        if served is NotImplemented:
            self.exact = False
            random, function = self.entry.random, self.function
            function = undisturbed()(function) if random else function
            rule = path_integral(function, FALLBACK_NODES)
            served = rule(result, *args, **kwargs)
        if not callable(served):
            raise TypeError(
                f"The rule {self.entry.name!r} of {label(self.function)} returned "
                f"{served!r}. A rule returns a function that takes the upstream "
                "gradients and gives pairs of an operand and its share, or "
                "NotImplemented. See captum_ehr.propagation.elementwise."
            )
        return served

    def protect(self, memory: int) -> None:
        """Copy what is recorded in memory that is about to be overwritten.

        In the reference pass it will be too, and is copied when it is met.
        """
        recorded = (self.args, self.kwargs, self.output)
        if any(_lies_in(tensor, memory) for tensor in tensors_in(recorded)):
            self.protected = True
            self.args, self.kwargs, self.output = mapped(
                lambda t: t.clone() if _lies_in(t, memory) else t, recorded
            )


def _lies_in(tensor: Tensor, memory: int) -> bool:
    return address_of(tensor) == memory


def _shape_of(output: Any) -> Any:
    """What stands for an output of which a rule needs no more, and keeps no memory."""
    if compiled() or not isinstance(output, Tensor):
        return output
    if output.numel() > tuning.LITTLE:
        return output.new_empty(1).expand(output.shape)
    return output


class RuleNode(torch.autograd.Function):
    """A call's place in autograd's graph: its backward is the rule's multiplier."""

    @staticmethod
    def forward(ctx: Any, call: Call, output: list[Any], *attributed: Tensor) -> Any:
        """Hand on what the call gave; its list hides it from autograd till then."""
        ctx.call = call
        value = output[0]
        return value if isinstance(value, Tensor) else tuple(tensors_in(value))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Share the upstream gradients out by the rule's multiplier."""
        call: Call = ctx.call
        if call.multiplier is None:
            raise DivergenceError(
                f"{label(call.function)} ran on the input but not on the reference."
            )
        call.used = True
        shares: list[Tensor | None] = [None] * (len(ctx.needs_input_grad) - 2)
        for operand, share in _checked(call, call.multiplier(*upstream)):
            if call.tolerant:
                share = torch.where(torch.isfinite(share), share, 0.0)
            if operand.slot >= 0:
                earlier = shares[operand.slot]
                shares[operand.slot] = share if earlier is None else earlier + share
        if not call.lasting:  # the rest of the backward pass can have its memory
            call.multiplier = _spent
        return (None, None, *shares)


def _checked(call: Call, shares: Any) -> Iterator[tuple[Pair | Operand, Tensor]]:
    """What a multiplier gives, as it gives it, if that is what it should."""
    for item in shares if hasattr(shares, "__iter__") else [shares]:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise TypeError(
                f"The rule {call.entry.name!r} of {label(call.function)} shares the up"
                f"stream gradient out in a {type(item).__name__}; expected was a list "
                "of pairs, each of an operand and its share, of the operand's shape."
            )
        yield item[0], item[1]


def attached(call: Call, output: Any, attributed: Sequence[Tensor]) -> Any:
    """What a call gave, with its rule in the place of autograd's derivatives."""
    result = RuleNode.apply(call, [output], *attributed)
    if isinstance(output, Tensor):
        return result
    parts = iter(result)
    return mapped(lambda _: next(parts), output)


def _spent(*_: Tensor) -> Any:
    raise RuntimeError(
        "The multipliers of this reference have been asked for; with "
        "Tape(..., lasting=True) they stay."
    )


def out_of_place(
    entry: Entry | None, func: Any, args: Any, kwargs: Any
) -> tuple[Any, dict[str, Any], Any]:
    """The same call without its side effect, and what it writes on (or None)."""
    if "out" in kwargs:
        rest = {key: value for key, value in kwargs.items() if key != "out"}
        return func, rest, kwargs["out"]
    if entry is None:
        plain = without_writing(func)
        return plain, kwargs, args[0] if plain is not func else None
    if entry.kind is Kind.OVERWRITE:
        return func, kwargs, args[0]
    if "inplace" in kwargs:
        rest = {key: value for key, value in kwargs.items() if key != "inplace"}
        return func, rest, args[0] if kwargs["inplace"] else None
    if entry.inplace is not None:
        return entry.inplace, kwargs, args[0]
    return func, kwargs, None


def without_writing(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function that an in-place one is named after; others are themselves."""
    name = label(func)
    if not name.endswith("_") or name.endswith("__"):
        return func

    @wraps(func)
    def on_a_copy(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        return func(tensor.clone(), *args, **kwargs)

    return getattr(torch.Tensor, name[:-1], on_a_copy)


def written(target: Any, value: Any) -> Any:
    """Put a call's value where it was to be written, if it was; with its gradient."""
    if target is None:
        return value
    targets = tensors_in(target)

    def put(part: Tensor) -> Tensor:
        place = next(targets)
        if place.shape != part.shape:  # as torch does with what is given for out=
            place.resize_(part.shape)
        return place.copy_(part)

    return mapped(put, value)


def check_shapes(call: Call, output: Any) -> None:
    """Both sides must have the same shapes to be compared at all."""
    if isinstance(output, Tensor) and output.shape == call.output.shape:
        return
    ours, theirs = (
        ", ".join(str(tuple(t.shape)) for t in tensors_in(side)) or "none"
        for side in (call.output, output)
    )
    if ours != theirs:
        raise DivergenceError(
            f"{label(call.function)} gave shape {theirs} on the reference and {ours} on"
            " the input."
        )


def is_product(entry: Entry, args: Any, kwargs: Any, attributed: list[Tensor]) -> bool:
    """Whether a product has two attributed factors, a quotient a divisor."""
    if entry.kind is Kind.PRODUCT:
        return len(attributed) > 1
    if entry.kind is Kind.QUOTIENT:
        rounded = kwargs.get("rounding_mode") is not None
        return rounded or len(attributed) > 1 or attributed[0] is not args[0]
    return False


def attributed_tensors(args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors of a call that depend on the attributed inputs, in order."""
    live = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Tensor):
            if value.requires_grad and not value.is_leaf:
                live.append(value)
        elif isinstance(value, (list, tuple, dict)):
            live += filter(depends, tensors_in(value))
    return live


def depends(tensor: Tensor) -> bool:
    """Whether a tensor comes from the attributed inputs.

    The model gets these as copies, so a leaf that requires a gradient is a parameter
    met outside a view.
    """
    return tensor.requires_grad and not tensor.is_leaf


def hides(tensor: Tensor) -> bool:
    """Whether what torch.func has wrapped comes from the attributed inputs."""
    while functorch.is_functorch_wrapped_tensor(tensor):
        if depends(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return depends(tensor)


def _as(ours: Tensor, theirs: Tensor) -> Tensor:
    """Of a flag the numbers 0 and 1, if that is how the input's side is kept."""
    number = ours.is_floating_point() and not theirs.is_floating_point()
    return theirs.to(ours.dtype) if number and not theirs.is_complex() else theirs


def _pair_outputs(ours: Any, theirs: Any) -> Any:
    """Pairs of the outputs; in a list where there are several, or by name."""
    if isinstance(ours, Tensor):
        same = theirs.dtype is ours.dtype
        return Pair(ours, theirs if same else _as(ours, theirs))
    if isinstance(ours, (list, tuple)):
        return [_pair_outputs(a, b) for a, b in zip(ours, theirs)]
    if isinstance(ours, dict):
        return {key: _pair_outputs(a, theirs[key]) for key, a in ours.items()}
    return ours
