"""The two sides of a value: at the input and at the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .containers import leaves


class Operand(NamedTuple):
    """Where a share goes, for rules that need not keep the operand's values.

    The slot says which attributed tensor of the call it is.
    """

    slot: int
    shape: torch.Size
    dtype: torch.dtype


class Pair(NamedTuple):
    """A tensor at the input and at the reference, of the same shape.

    Args:
        input: The value when the model sees the input.
        reference: The value when the model sees the reference.
        slot: Which attributed tensor of the call this is.

    Example:
        >>> x = Pair(torch.tensor([3.0]), torch.tensor([1.0]))
        >>> x.delta, x.mean
        (tensor([2.]), tensor([2.]))
    """

    input: Tensor
    reference: Tensor
    slot: int = -1

    @property
    def delta(self) -> Tensor:
        """Input minus reference."""
        return self.input - self.reference

    @property
    def mean(self) -> Tensor:
        """Halfway between reference and input."""
        return torch.lerp(self.input, self.reference, 0.5)

    @property
    def operand(self) -> Operand:
        """The pair without its values."""
        return Operand(self.slot, self.input.shape, self.input.dtype)

    @property
    def sides(self) -> tuple[Tensor, Tensor]:
        """Both values, the input's first."""
        return self.input, self.reference

    def each(self, function: Callable[[Tensor], Tensor]) -> Pair:
        """A function of both sides."""
        return Pair(function(self.input), function(self.reference), self.slot)

    def at(self, alpha: float) -> Tensor:
        """The point of the straight line at ``alpha``: 0 reference, 1 input."""
        return torch.lerp(self.reference, self.input, alpha)


#: What a multiplier returns: for each attributed operand its share of M.
type Shares = Iterable[tuple[Pair | Operand, Tensor]]

#: Takes the upstream gradients M, one per output, and shares them out.
type Multiplier = Callable[..., Shares]

#: A rule: called like the torch function it serves, with the output in front and
#: every attributed tensor as a :class:`Pair`.
type Rule = Callable[..., Multiplier]


def pure(rule: Rule) -> Rule:
    """Say of a rule that it computes from its arguments alone.

    What it then did for one batch may be done again for the next without calling it:
    see :attr:`captum_ehr.DeepLiftEHR.plans`. It reads no values of tensors (but by
    torch's own calls), and nothing that changes.

    Example:
        >>> from captum_ehr.propagation import elementwise
        >>> softsign = pure(elementwise(lambda x: (1 + x.abs()) ** -2))
        >>> softsign.pure
        True
    """
    marked: Any = partial(rule)
    marked.__name__, marked.pure = getattr(rule, "__name__", "rule"), True
    return marked


def paired(operand: Pair | Tensor) -> Pair:
    """A pair; a constant is the same on both sides."""
    return operand if isinstance(operand, Pair) else Pair(operand, operand)


def pairs_in(value: Any) -> Iterator[Pair]:
    """Every pair in an argument, however nested, in order."""
    return leaves(value, Pair)


def middle(operand: Pair | Tensor | float) -> Tensor | float:
    """The mean of a pair; a constant is its own."""
    return operand.mean if isinstance(operand, Pair) else operand


def sum_to(gradient: Tensor, operand: Tensor | Operand) -> Tensor:
    """Sum a broadcast gradient back to the shape of the operand, real if that is."""
    if gradient.dtype.is_complex and not operand.dtype.is_complex:
        gradient = gradient.real
    if gradient.shape == operand.shape:
        return gradient
    return gradient.sum_to_size(operand.shape)


def reduced_dims(x: Pair, dim: Any) -> tuple[int, ...]:
    """The dimensions that a call reduces, counted from the first; all for none."""
    count = x.input.dim()
    dims = (dim,) if isinstance(dim, int) else tuple(dim or range(count))
    return tuple(d % count for d in dims) if count else ()


def together(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """A tensor with some dimensions made one, the last."""
    return x.movedim(dims, tuple(range(-len(dims), 0))).flatten(x.dim() - len(dims))


def apart(x: Tensor, shape: torch.Size, dims: tuple[int, ...]) -> Tensor:
    """The inverse of :func:`together`: the tensor of a shape that it was."""
    kept = [size for d, size in enumerate(shape) if d not in dims]
    x = x.reshape([*kept, *(shape[d] for d in dims)])
    return x.movedim(tuple(range(-len(dims), 0)), dims)


def unsqueezed(part: Tensor, dims: Iterable[int]) -> Tensor:
    """A reduced tensor with its lost dimensions back, of size 1."""
    for d in sorted(dims):
        part = part.unsqueeze(d)
    return part


def float32_at_least(x: Tensor) -> Tensor:
    """Half precision has no room for differences."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def widened(pair: Pair) -> Pair:
    """The pair in float32 at least."""
    half = pair.input.dtype in (torch.float16, torch.bfloat16)
    return pair.each(Tensor.float) if half else pair


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """For what is worked out in the dtype that it has; where the device knows it."""
    known = torch.amp.autocast_mode.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if known else nullcontext()
