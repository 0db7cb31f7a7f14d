"""Multipliers of operations on each row by itself, worked out when wanted."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

import torch
from torch import Tensor

from .. import tuning
from ..pairs import Operand, Pair
from ..recording import compiled, opaque
from .blocks import in_blocks, reached

#: From x and x0, and y and y0 where they are kept, each ``(rows, row)``, to factors of
#: the same shape.
type Factors = Callable[..., tuple[Tensor, ...]]


class Lazy:
    """A multiplier whose factors are found where a gradient comes, and only then.

    Or before, with those of others: see :mod:`captum_ehr.propagation.pending`.

    Args:
        x: The operation's operand.
        factors: What the upstream gradient meets.
        share: From upstream gradient and factors to the operand's share.
        y: The operation's result, of the same shape, if the factors need it.
        row: Elements of a row, the last axis; 1 where each stands for itself.
        kind: Equal for what the same ``factors`` serve; None where none other are.

    Example:
        >>> x = Pair(torch.tensor([3.0]), torch.tensor([1.0]))
        >>> square = Lazy(x, lambda x, x0: (x + x0,), torch.mul)
        >>> [(_, share)] = square(torch.tensor([1.0]))
        >>> share
        tensor([4.])
    """

    __slots__ = (
        "factors",
        "group",
        "kind",
        "operand",
        "place",
        "row",
        "share",
        "sides",
    )

    def __init__(
        self,
        x: Pair,
        factors: Factors,
        share: Callable[..., Tensor],
        *,
        y: Pair | None = None,
        row: int = 1,
        kind: Hashable = None,
    ) -> None:
        self.operand = x.operand
        self.sides: tuple[Tensor, ...] = x.sides if y is None else (*x.sides, *y.sides)
        self.factors = factors
        self.share = share
        self.row = row
        self.kind = kind
        self.group: Group | None = None
        self.place = 0

    @property
    def small(self) -> bool:
        """Whether it is worth its while to wait for others."""
        x = self.sides[0]
        if self.kind is None or x.dim() < 2 or compiled():
            return False
        return x.numel() <= tuning.SMALL

    def join(self, group: Group) -> None:
        """Leave the factors to be found with those of others."""
        self.group, self.place = group, len(group.sides)
        group.sides.append(self.sides)
        self.sides = ()

    def __call__(self, upstream: Tensor) -> tuple[tuple[Operand, Tensor]]:
        """Share the upstream gradient out."""
        if self.group is not None:
            factors = self.group.factors()[self.place]
            return ((self.operand, self.share(upstream, *factors)),)

        shared = partial(_shared, self.factors, self.share, self.row)
        if not compiled() and upstream.numel() >= tuning.BLOCK:
            return ((self.operand, opaque(shared, upstream, *self.sides)),)
        return ((self.operand, shared(upstream, *self.sides)),)


def _shared(
    factors: Factors,
    share: Callable[..., Tensor],
    row: int,
    upstream: Tensor,
    *sides: Tensor,
) -> Tensor:
    """The operand's share, of the rows that the gradient reaches."""

    def block(m: Tensor, *sides: Tensor) -> tuple[Tensor]:
        return (share(m, *factors(*sides)),)

    rows = reached(upstream)
    if rows is None:
        (whole,) = in_blocks(block, upstream.contiguous(), *sides, row=row)
        return whole
    flat = [t.reshape(-1, t.shape[-1]) for t in (upstream, *sides)]
    whole = torch.zeros_like(flat[0])
    step = tuning.BLOCK * torch.get_num_threads() // flat[0].shape[1]
    for some in rows.split(max(step, 1)):
        (part,) = block(*(t.index_select(0, some) for t in flat))
        whole.index_copy_(0, some, part.to(whole.dtype))
    return whole.view(upstream.shape)


class Group:
    """Lazy multipliers of one kind: the first whose factors are wanted finds all.

    It knows their operands, not them: nothing here refers to itself, and what nobody
    wants is let go at once.
    """

    __slots__ = ("results", "row", "sides", "work")

    def __init__(self, work: Factors, row: int) -> None:
        self.work = work
        self.row = row
        self.sides: list[tuple[Tensor, ...]] = []
        self.results: list[tuple[Tensor, ...]] = []

    def factors(self) -> list[tuple[Tensor, ...]]:
        """Those of each member."""
        if self.results:
            return self.results
        if len(self.sides) == 1:
            self.results = [in_blocks(self.work, *self.sides[0], row=self.row)]
        else:
            lengths = [len(sides[0]) for sides in self.sides]
            columns = [torch.cat(column) for column in zip(*self.sides)]
            factors = in_blocks(self.work, *columns, row=self.row)
            self.results = list(zip(*(part.split(lengths) for part in factors)))
        self.sides = []
        return self.results
