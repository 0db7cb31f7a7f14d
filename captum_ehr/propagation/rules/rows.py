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

#: From x, x0, y, y0, each ``(rows, row)``, to factors of the same shape.
type Factors = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]


class Rowwise:
    """The multiplier of an operation on each row by itself, worked out when wanted.

    Args:
        y: The operation's result.
        x: Its operand, of the same shape.
        factors: What the upstream gradient meets.
        share: From upstream gradient and factors to the operand's share.
        row: Elements of a row, the last axis; 1 where each stands for itself.
        kind: Equal for what the same ``factors`` serve; None where none other are.

    Example:
        >>> x = Pair(torch.tensor([3.0]), torch.tensor([1.0]))
        >>> y = Pair(x.input**2, x.reference**2)
        >>> square = Rowwise(y, x, lambda x, x0, y, y0: (x + x0,), torch.mul)
        >>> [(_, share)] = square(torch.tensor([1.0]))
        >>> share
        tensor([4.])
    """

    __slots__ = ("factors", "found", "kind", "operand", "row", "share", "sides")

    def __init__(
        self,
        y: Pair,
        x: Pair,
        factors: Factors,
        share: Callable[..., Tensor],
        row: int = 1,
        kind: Hashable = None,
    ) -> None:
        self.operand = x.operand
        self.sides: tuple[Tensor, ...] = (*x.sides, *y.sides)
        self.factors = factors
        self.share = share
        self.row = row
        self.kind = kind
        self.found: tuple[Tensor, ...] = ()

    @property
    def small(self) -> bool:
        """Whether it is worth its while to wait for others."""
        x = self.sides[0]
        return self.kind is not None and x.dim() > 1 and x.numel() < BLOCK // 16

    def __call__(self, upstream: Tensor) -> tuple[tuple[Operand, Tensor]]:
        """Share the upstream gradient out."""
        if not self.found:
            work_out([self])
        return ((self.operand, self.share(upstream, *self.found)),)


def work_out(waiting: Sequence[Rowwise]) -> None:
    """Find the factors of several multipliers, those of a kind together."""
    groups: dict[Hashable, list[Rowwise]] = {}
    for one in waiting:
        x, y = one.sides[0], one.sides[2]
        kind = id(one) if one.kind is None else one.kind
        key = (kind, x.shape[1:], x.dtype, y.dtype, x.device)
        groups.setdefault(key, []).append(one)
    for group in groups.values():
        first = group[0]
        sides: Sequence[Tensor] = first.sides
        if len(group) > 1:
            sides = [torch.cat(column) for column in zip(*(one.sides for one in group))]
        factors = in_blocks(first.factors, *sides, row=first.row)
        if len(group) > 1:
            lengths = [len(one.sides[0]) for one in group]
            columns = zip(*(factor.split(lengths) for factor in factors))
        else:
            columns = zip(*([factor] for factor in factors))
        for one, found in zip(group, columns):
            one.found, one.sides = found, ()


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
