"""Large tensors in portions that suit the machine, and only where a gradient comes.

A chain of ten elementwise operations on a tensor that does not fit the cache spends
most of its time on fetching fresh memory for each of them: large tensors are taken in
blocks. What no gradient reaches is not looked at: a model that reads one position of
its last layer sends none to the others, and padding gets none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .. import tuning
from ..recording import compiled, opaque, written_down


def reached(upstream: Tensor, most: float = tuning.FEW_ROWS) -> Tensor | None:
    """The rows (of the last axis) that an upstream gradient reaches, by their numbers.

    None if they are most of all, or not worth the search, or on a device that would
    have to be waited for.
    """
    if upstream.dim() < 2 or not _searchable(upstream):
        return None
    return _few(_reach(upstream), most)


def reached_positions(upstream: Tensor) -> Tensor | None:
    """The positions (of the last axis but one) that it reaches in any patient."""
    if upstream.dim() < 3 or not _searchable(upstream):
        return None
    return _few(
        _reach(upstream).view(-1, upstream.shape[-2]).any(0), tuning.FEW_PRODUCTS
    )


def laid_out(part: Tensor, rows: Tensor, count: int, dim: int) -> Tensor:
    """Some of ``count`` rows along an axis in their places, the others 0."""
    shape = list(part.shape)
    shape[dim] = count
    return part.new_zeros(shape).index_copy_(dim, rows, part)


def _searchable(upstream: Tensor) -> bool:
    if written_down() or upstream.device.type != "cpu" or upstream.is_complex():
        return False
    return upstream.numel() >= tuning.BLOCK


def _reach(upstream: Tensor) -> Tensor:
    """Of each row whether it has anything but 0; its first number mostly says so."""
    rows = upstream.flatten(0, -2)
    step = max(tuning.BLOCK // rows.shape[1], 1)
    reach = rows[:, 0] != 0
    rest = (~reach).nonzero().squeeze(1)
    if 2 * len(rest) > len(rows):
        return torch.cat([some.abs().sum(-1) for some in rows.split(step)]) != 0
    for some in rest.split(step):
        reach[some] = rows.index_select(0, some).abs_().sum(-1) != 0
    return reach


def _few(reach: Tensor, most: float) -> Tensor | None:
    rows = reach.nonzero().squeeze(1)
    return rows if len(rows) < most * len(reach) else None


def in_blocks(
    function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor, row: int = 1
) -> tuple[Tensor, ...]:
    """Run a function of equally shaped tensors on some rows at a time.

    It is given tensors of shape ``(n, row)``, or all of them as they are; ``row`` is 1
    where no elements belong together.

    Example:
        >>> x = torch.arange(1e5)
        >>> torch.equal(in_blocks(lambda t: (t * t,), x)[0], x * x)
        True
    """
    first = tensors[0]
    if compiled() or first.device.type != "cpu":
        return function(*tensors)
    if first.numel() <= 2 * tuning.BLOCK * torch.get_num_threads():
        return function(*tensors)
    if not all(t.shape == first.shape and t.is_contiguous() for t in tensors):
        return function(*tensors)
    return opaque(partial(_blockwise, function, row), *tensors)


def _blockwise(
    function: Callable[..., tuple[Tensor, ...]], row: int, *tensors: Tensor
) -> tuple[Tensor, ...]:
    first = tensors[0]
    step = tuning.BLOCK * torch.get_num_threads()
    flat = [t.view(-1, row) for t in tensors]
    step = max(step // row, 1)
    wholes: list[Tensor] = []
    for start in range(0, len(flat[0]), step):
        parts = function(*(t[start : start + step] for t in flat))
        if not wholes:
            wholes = [torch.empty_like(flat[0], dtype=part.dtype) for part in parts]
        for whole, part in zip(wholes, parts):
            whole[start : start + step] = part
    return tuple(whole.view(first.shape) for whole in wholes)
