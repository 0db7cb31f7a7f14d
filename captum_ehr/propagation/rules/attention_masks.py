"""Masks of attention, a few queries at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Mask(NamedTuple):
    """Who may see what.

    Args:
        given: ``(masks, queries or 1, keys or 1)``, boolean or to be added; None where
            a query may see the keys up to its own position.
        numbers: ``(heads,)``, which of the masks each has; None if one is for all.
        positions: ``(queries,)``, where they stand.
    """

    given: Tensor | None
    numbers: Tensor | None
    positions: Tensor

    def of_queries(self, rows: Tensor) -> Mask:
        """For some queries alone."""
        given = self.given
        if given is not None and given.shape[1] > 1:
            given = given.index_select(1, rows)
        return Mask(given, self.numbers, self.positions.index_select(0, rows))

    def added(self, queries: slice, key: Tensor) -> tuple[Tensor, Tensor]:
        """What is added to scores of some queries, and who of these may see nothing.

        Of all masks; they may see all, so that there is no 0/0.
        """
        mask = self.given
        if mask is None:
            keys = torch.arange(key.shape[1], device=key.device)
            mask = (self.positions[queries, None] >= keys)[None]
        elif mask.shape[1] > 1:
            mask = mask[:, queries]
        if mask.dtype == torch.bool:
            bias = torch.zeros_like(mask, dtype=key.dtype)
            bias.masked_fill_(~mask, -math.inf)
        else:
            bias = mask.to(key.dtype)
        blind = (bias == -math.inf).all(-1, keepdim=True)
        return bias.masked_fill(blind, 0.0), blind

    def of_heads(self, some: Tensor, heads: slice) -> Tensor:
        """Of what there is of every mask, what belongs to some heads."""
        numbers = self.numbers
        return some if numbers is None else some.index_select(0, numbers[heads])


def mask_of(
    mask: Tensor | None, causal: bool, lead: Sequence[int], query: Tensor
) -> Mask | None:
    """What F.scaled_dot_product_attention is given, of heads in the shape ``lead``.

    Example:
        >>> seen = torch.tensor([[True, False]])
        >>> bias, blind = mask_of(seen, False, (2,), torch.ones(2, 3, 1)).added(
        ...     slice(0, 3), torch.ones(2, 2, 1)
        ... )
        >>> bias
        tensor([[[0., -inf]]])
    """
    if mask is None and not causal:
        return None
    positions = torch.arange(query.shape[-2], device=query.device)
    if mask is None:
        return Mask(None, None, positions)
    for dim, stride in enumerate(mask.stride()):  # what is repeated is needed once
        mask = mask.narrow(dim, 0, 1) if stride == 0 else mask
    count, numbers = math.prod(mask.shape[:-2]), None
    if count > 1:
        numbers = torch.arange(count, device=mask.device).view(mask.shape[:-2])
        numbers = numbers.expand(*lead).flatten()
    return Mask(mask.reshape(count, *mask.shape[-2:]), numbers, positions)
