"""One torch call, seen from both sides: what it took, what it gave, its multiplier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch

from .generators import States, put_back
from .operations import label
from .pairs import Multiplier, Pair
from .registry import Entry, Kind
from .rules.integral import path_integral

#: Nodes of the quadrature that serves operations without a rule.
FALLBACK_NODES = 32


class DivergenceError(RuntimeError):
    """The model ran other operations on the reference than on the input."""


class Call:
    """One recorded call: what went in and came out, then the rule's multiplier."""

    __slots__ = (
        *("args", "entry", "exact", "function", "kwargs", "lasting", "multiplier"),
        *("output", "used"),
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
        self.used = False

    def resolve(self, args: Any, kwargs: Any, output: Any, lasting: bool) -> None:
        """Meet the reference's side: from now on there is a multiplier."""
        slots = count()
        paired = [_pair(a, b, slots) for a, b in zip(self.args, args)]
        named = {k: _pair(a, kwargs[k], slots) for k, a in self.kwargs.items()}
        result = _pair_outputs(self.output, output)
        self.multiplier = self.serve(result, paired, named)
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
            rule = path_integral(self.function, FALLBACK_NODES)
            served = rule(result, *args, **kwargs)
        return served

    def shelter(self, memory: int) -> None:
        """Copy what is recorded in memory that is about to be overwritten."""
        self.args = _sheltered(self.args, memory)
        self.kwargs = {k: _sheltered(v, memory) for k, v in self.kwargs.items()}
        self.output = _sheltered(self.output, memory)


def _shape_of(output: Any) -> Any:
    """What stands for an output of which a rule needs no more, and keeps no memory."""
    if isinstance(output, Tensor) and output.numel() > _LITTLE:
        return output.new_empty(1).expand(output.shape)
    return output


#: Elements of an output that it is no use to let go.
_LITTLE = 1 << 12


def _sheltered(value: Any, memory: int) -> Any:
    if isinstance(value, Tensor):
        return value.clone() if value.untyped_storage().data_ptr() == memory else value
    if type(value) in (list, tuple):
        return type(value)(_sheltered(item, memory) for item in value)
    return value


class Node(torch.autograd.Function):
    """A call's place in autograd's graph: its backward is the rule's multiplier."""

    @staticmethod
    def forward(ctx: Any, call: Call, output: list[Any], *attributed: Tensor) -> Any:
        """Hand on what the call gave; its list hides it from autograd till then."""
        ctx.call = call
        made = output[0]
        return tuple(made) if isinstance(made, (tuple, list)) else made

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
        for pair, share in call.multiplier(*upstream):
            if pair.slot >= 0:
                earlier = shares[pair.slot]
                shares[pair.slot] = share if earlier is None else earlier + share
        if not call.lasting:  # the rest of the backward pass can have its memory
            call.multiplier = _spent
        return (None, None, *shares)


def _spent(*_: Tensor) -> Any:
    raise RuntimeError(
        "The multipliers of this reference have been asked for; with "
        "Tape(..., lasting=True) they stay."
    )


def out_of_place(
    entry: Entry, func: Any, kwargs: Any
) -> tuple[Any, dict[str, Any], bool]:
    """The same call without its side effect, and whether it had one."""
    if entry.kind is Kind.OVERWRITE:
        return func, kwargs, True
    if entry.inplace is not None:
        return entry.inplace, kwargs, True
    if "inplace" in kwargs:
        rest = {key: value for key, value in kwargs.items() if key != "inplace"}
        return func, rest, bool(kwargs["inplace"])
    return func, kwargs, False


def without_writing(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function that an in-place one is named after; others are themselves."""
    name = label(func)
    if name.endswith("_") and not name.endswith("__"):
        return getattr(torch.Tensor, name[:-1], func)
    return func


def replaying(func: Callable[..., Any], state: States) -> Callable[..., Any]:
    """A function that draws the same random numbers whenever it is called."""

    @wraps(func)
    def replay(*args: Any, **kwargs: Any) -> Any:
        put_back(state)
        return func(*args, **kwargs)

    return replay


def check_shapes(call: Call, output: Any) -> None:
    """Both sides must have the same shapes to be compared at all."""
    if isinstance(output, Tensor) and output.shape == call.output.shape:
        return
    for ours, theirs in zip(tensors_in(call.output), tensors_in(output)):
        if ours.shape != theirs.shape:
            raise DivergenceError(
                f"{label(call.function)} gave shape {tuple(theirs.shape)} on the "
                f"reference and {tuple(ours.shape)} on the input."
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
    found = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Tensor):
            if value.requires_grad and not value.is_leaf:
                found.append(value)
        elif isinstance(value, (list, tuple)):
            found += filter(depends, tensors_in(value))
    return found


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


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in an argument or output, however nested, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


def rewrapped(like: Any, parts: Any) -> Any:
    """Several outputs in the type that torch returns them in, e.g. with names."""
    if isinstance(like, tuple) and type(like) is not tuple:
        return type(like)(parts)
    return parts if isinstance(like, Tensor) else type(like)(parts)


def detached(value: Any) -> Any:
    """The same without autograd's history."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: detached(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(detached(item) for item in value)
    if type(value) is list:
        return [detached(item) for item in value]
    return value


def _pair(ours: Any, theirs: Any, slots: Iterator[int]) -> Any:
    """The two sides of an argument; pairs for what is attributed."""
    if isinstance(ours, Tensor):
        return Pair(ours.detach(), theirs, next(slots)) if depends(ours) else ours
    if type(ours) in (list, tuple):
        return type(ours)(_pair(a, b, slots) for a, b in zip(ours, theirs))
    return ours


def _pair_outputs(ours: Any, theirs: Any) -> Any:
    if isinstance(ours, Tensor):
        return Pair(ours, theirs)
    return [_pair_outputs(a, b) for a, b in zip(ours, theirs)]
