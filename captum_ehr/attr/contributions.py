"""From multipliers to attributions: m·(x - x0), or its sum over each embedding."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from ..propagation.missing import missing, where_known
from ..propagation.recording import compiled

#: Tensors in step: multipliers, inputs and baselines.
type Parts = tuple[Tensor, ...]

#: So many numbers at a time, where sums are all that is kept.
_BLOCK = 2**18


def times_change(
    multipliers: Parts,
    inputs: Parts,
    baselines: Parts,
    summed: Collection[int] = frozenset(),
) -> Parts:
    """Captum's own attributions, in half the memory.

    Embeddings are ``summed`` over the last dimension, where their input's number says.
    """
    return tuple(
        _sums(m, x, b) if k in summed else (x.detach() - b).mul_(m)
        for k, (m, x, b) in enumerate(zip(multipliers, inputs, baselines))
    )


def absolute_sums(*parts: Tensor) -> Tensor:
    """``(batch,)`` in float64: Σ|m·(x - x0)| of multipliers, inputs and baselines."""
    total = torch.zeros((), dtype=torch.float64, device=parts[0].device)
    count = len(parts) // 3
    for sides in zip(parts[:count], parts[count : 2 * count], parts[2 * count :]):
        rows = [part.abs().flatten(1).double().sum(1) for part in _products(*sides)]
        total = total + torch.cat(rows)
    return total


def known(
    multipliers: Parts, inputs: Parts, baselines: Parts
) -> tuple[Parts, Parts, Parts]:
    """The same with 0 at the places where the input or the baseline is missing."""
    places = [missing(x, b) for x, b in zip(inputs, baselines)]

    def filled(values: Sequence[Tensor]) -> Parts:
        pairs = zip(values, places)
        return tuple(where_known(x.detach(), 0.0, p) for x, p in pairs)

    return filled(multipliers), filled(inputs), filled(baselines)


def _sums(m: Tensor, x: Tensor, b: Tensor) -> Tensor:
    parts = [part.sum(-1) for part in _products(m, x, b)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _products(m: Tensor, x: Tensor, b: Tensor) -> Iterator[Tensor]:
    """m·(x - b) of some patients after the other, each in the same small memory."""
    x = x.detach()
    if compiled():
        yield (x - b) * m
        return
    rows = max(1, _BLOCK * len(x) // max(x.numel(), 1))
    for ms, xs, bs in zip(m.split(rows), x.split(rows), b.split(rows)):
        yield (xs - bs).mul_(ms)
