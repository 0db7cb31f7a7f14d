"""Multipliers that are worked out row by row, in portions that suit the machine.

A chain of ten elementwise operations on a tensor that does not fit the cache spends
most of its time on fetching fresh memory for each of them; on a hundred numbers, as
in the gates of a cell that runs for every step, on starting each of them. So large
tensors are taken in blocks, and small ones are kept until there is a block of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from ..pairs import Operand, Pair

#: Elements of a block: 256 KiB of float32. Larger ones spend less on starting each
#: operation, smaller ones less on fetching what the last one left.
BLOCK = 1 << 16

#: From x and x0, and y and y0 where they are kept, each ``(rows, row)``, to factors of
#: the same shape.
type Factors = Callable[..., tuple[Tensor, ...]]


class Rowwise:
    """The multiplier of an operation on each row by itself, worked out when wanted.

    Where the operands alone are enough, that is in the backward pass: a model that
    reads one position of its last layer sends no gradient to the others, and padding
    gets none, so their factors need not be found at all.

    Args:
        x: The operation's operand.
        factors: What the upstream gradient meets.
        share: From upstream gradient and factors to the operand's share.
        y: The operation's result, of the same shape, if the factors need it.
        row: Elements of a row, the last axis; 1 where each stands for itself.
        kind: Equal for what the same ``factors`` serve; None where none other are.

    Example:
        >>> x = Pair(torch.tensor([3.0]), torch.tensor([1.0]))
        >>> square = Rowwise(x, lambda x, x0: (x + x0,), torch.mul)
        >>> [(_, share)] = square(torch.tensor([1.0]))
        >>> share
        tensor([4.])
    """

    __slots__ = (
        *("factors", "group", "kind", "late", "operand", "place", "row", "share"),
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
        self.late = y is None
        self.sides: tuple[Tensor, ...] = x.sides if y is None else (*x.sides, *y.sides)
        self.factors = factors
        self.share = share
        self.row = row
        self.kind = kind
        self.group: _Group | None = None
        self.place = 0

    @property
    def small(self) -> bool:
        """Whether it is worth its while to wait for others."""
        x = self.sides[0]
        return self.kind is not None and x.dim() > 1 and x.numel() <= BLOCK // 16

    def join(self, group: _Group) -> None:
        """Leave the factors to be found with those of others."""
        self.group, self.place = group, len(group.sides)
        group.sides.append(self.sides)
        self.sides = ()

    def __call__(self, upstream: Tensor) -> tuple[tuple[Operand, Tensor]]:
        """Share the upstream gradient out."""
        if self.group is not None:
            found = self.group.factors()[self.place]
            return ((self.operand, self.share(upstream, *found)),)

        def shared(m: Tensor, *sides: Tensor) -> tuple[Tensor]:
            return (self.share(m, *self.factors(*sides)),)

        rows = reached(upstream)
        if rows is None:
            operands = (upstream.contiguous(), *self.sides)
            (share,) = in_blocks(shared, *operands, row=self.row)
            return ((self.operand, share),)
        flat = [t.reshape(-1, t.shape[-1]) for t in (upstream, *self.sides)]
        share = torch.zeros_like(flat[0])
        step = BLOCK * torch.get_num_threads() // flat[0].shape[1]
        for some in rows.split(max(step, 1)):
            (part,) = shared(*(t.index_select(0, some) for t in flat))
            share.index_copy_(0, some, part.to(share.dtype))
        return ((self.operand, share.view(upstream.shape)),)


class _Group:
    """Multipliers of one kind: the first whose factors are wanted finds all."""

    __slots__ = ("found", "of", "row", "sides")

    def __init__(self, of: Factors, row: int) -> None:
        self.of = of
        self.row = row
        self.sides: list[tuple[Tensor, ...]] = []
        self.found: list[tuple[Tensor, ...]] = []

    def factors(self) -> list[tuple[Tensor, ...]]:
        """Those of each member."""
        if self.found:
            return self.found
        if len(self.sides) == 1:
            self.found = [in_blocks(self.of, *self.sides[0], row=self.row)]
        else:
            lengths = [len(sides[0]) for sides in self.sides]
            columns = [torch.cat(column) for column in zip(*self.sides)]
            found = in_blocks(self.of, *columns, row=self.row)
            self.found = list(zip(*(part.split(lengths) for part in found)))
        self.sides = []
        return self.found


def reached(upstream: Tensor, most: float = 0.8) -> Tensor | None:
    """The rows (of the last axis) that an upstream gradient reaches.

    Args:
        upstream: The gradient.
        most: The part of all rows from which on to take all is quicker.

    Returns:
        Their numbers; None if they are most, or not worth the search, or on a device
        that would have to be waited for.
    """
    if upstream.dim() < 2 or not _searchable(upstream):
        return None
    return _few(_reach(upstream), most)


def reached_positions(upstream: Tensor) -> Tensor | None:
    """The positions (of the last axis but one) that it reaches in any patient."""
    if upstream.dim() < 3 or not _searchable(upstream):
        return None
    return _few(_reach(upstream).view(-1, upstream.shape[-2]).any(0), 0.5)


def laid_out(part: Tensor, rows: Tensor, count: int, dim: int) -> Tensor:
    """Some of ``count`` rows along an axis in their places, the others 0."""
    shape = list(part.shape)
    shape[dim] = count
    return part.new_zeros(shape).index_copy_(dim, rows, part)


def _searchable(upstream: Tensor) -> bool:
    large = upstream.numel() >= BLOCK and upstream.device.type == "cpu"
    return large and not upstream.is_complex()


def _reach(upstream: Tensor) -> Tensor:
    """Of each row whether it has anything but 0; its first number mostly says so."""
    rows = upstream.flatten(0, -2)
    step = max(BLOCK // rows.shape[1], 1)
    reach = rows[:, 0] != 0
    rest = (~reach).nonzero().squeeze(1)
    if 2 * len(rest) > len(rows):
        return torch.cat([some.abs().sum(-1) for some in rows.split(step)]) != 0
    for some in rest.split(step):
        reach[some] = rows.index_select(0, some).abs_().sum(-1) != 0
    return reach


def _few(reach: Tensor, most: float) -> Tensor | None:
    found = reach.nonzero().squeeze(1)
    return found if len(found) < most * len(reach) else None


def work_out(waiting: Sequence[Rowwise]) -> None:
    """Find the factors of several multipliers, those of a kind together."""
    for found in together(waiting):
        found.factors()


def together(waiting: Sequence[Rowwise]) -> list[_Group]:
    """Join multipliers of a kind, to be worked out when one of them is wanted."""
    groups: dict[Hashable, _Group] = {}
    for one in waiting:
        x = one.sides[0]
        dtypes = tuple(side.dtype for side in one.sides)
        kind = id(one) if one.kind is None else one.kind
        key = (kind, x.shape[1:], dtypes, x.device)
        one.join(groups.setdefault(key, _Group(one.factors, one.row)))
    return list(groups.values())


def in_blocks(
    function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor, row: int = 1
) -> tuple[Tensor, ...]:
    """Run a function of equally shaped tensors on some rows at a time.

    Args:
        function: From tensors of shape ``(n, row)`` (or all of them as they are) to
            tensors of the same shape.
        *tensors: All of one shape.
        row: Elements that belong together, the last axis; 1 if none do.

    Example:
        >>> x = torch.arange(1e5)
        >>> torch.equal(in_blocks(lambda t: (t * t,), x)[0], x * x)
        True
    """
    first = tensors[0]
    step = BLOCK * torch.get_num_threads()
    if first.numel() <= 2 * step or first.device.type != "cpu" or not _alike(tensors):
        return function(*tensors)
    flat = [t.view(-1, row) for t in tensors]
    step = max(step // row, 1)
    found: list[Tensor] = []
    for start in range(0, len(flat[0]), step):
        parts = function(*(t[start : start + step] for t in flat))
        if not found:
            found = [torch.empty_like(flat[0], dtype=part.dtype) for part in parts]
        for whole, part in zip(found, parts):
            whole[start : start + step] = part
    return tuple(whole.view(first.shape) for whole in found)


def _alike(tensors: tuple[Tensor, ...]) -> bool:
    shape = tensors[0].shape
    return all(t.shape == shape and t.is_contiguous() for t in tensors)
