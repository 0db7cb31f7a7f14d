"""Large tensors block by block, so that what a formula needs in between stays in cache.

A chain of twenty elementwise operations on a tensor that does not fit the cache spends
most of its time on fetching fresh memory for each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Elements of a block: 128 KiB of float32, and as many as torch gives to one thread.
BLOCK = 1 << 15


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
