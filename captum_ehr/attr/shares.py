"""From multipliers to attributions: m·(x - x0), or its sum over each embedding."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor

#: Tensors in step: multipliers, inputs and baselines.
type Parts = tuple[Tensor, ...]

#: So many numbers at a time, where sums are all that is kept.
_BLOCK = 2**18


def times_change(multipliers: Parts, inputs: Parts, baselines: Parts) -> Parts:
    """Captum's own attributions, in half the memory."""
    sides = zip(multipliers, inputs, baselines)
    return tuple((x.detach() - b).mul_(m) for m, x, b in sides)


def summing(embedded: Collection[int]) -> Callable[[Parts, Parts, Parts], Parts]:
    """The same, summed over the last dimension of the inputs that are embeddings.

    Args:
        embedded: Which of the inputs these are.
    """

    def sums(multipliers: Parts, inputs: Parts, baselines: Parts) -> Parts:
        made: list[Tensor] = []
        for k, sides in enumerate(zip(multipliers, inputs, baselines)):
            if k in embedded:
                made.append(_sums(*sides))
            else:
                made += times_change(*((side,) for side in sides))
        return tuple(made)

    return sums


def absolute_sums(multipliers: Parts, inputs: Parts, baselines: Parts) -> Tensor:
    """``(batch,)`` in float64: Σ|m·(x - x0)| over all inputs."""
    total = torch.zeros((), dtype=torch.float64, device=inputs[0].device)
    for sides in zip(multipliers, inputs, baselines):
        rows = [part.abs().flatten(1).double().sum(1) for part in _products(*sides)]
        total = total + torch.cat(rows)
    return total


def _sums(m: Tensor, x: Tensor, b: Tensor) -> Tensor:
    parts = [part.sum(-1) for part in _products(m, x, b)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _products(m: Tensor, x: Tensor, b: Tensor) -> Iterator[Tensor]:
    """m·(x - b) of some patients after the other, each in the same small memory."""
    x = x.detach()
    rows = max(1, _BLOCK * len(x) // max(x.numel(), 1))
    for ms, xs, bs in zip(m.split(rows), x.split(rows), b.split(rows)):
        yield (xs - bs).mul_(ms)
