"""Linear layers: autograd's own gradient, M W, taken where there is one.

A model that reads one position of its last layer sends no gradient to the others, and
padding gets none; their rows of M are 0, and need no multiplying.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..pairs import Multiplier, Operand
from .rows import BLOCK, reached


def large(x: Tensor) -> bool:
    """Whether a linear layer's input is large enough to look for empty rows."""
    shaped = x.dim() > 2 and x.numel() >= BLOCK
    return shaped and x.device.type == "cpu" and x.is_floating_point()


def linear(x: Tensor, weight: Tensor, *_: Tensor | None) -> Multiplier:
    """Y = x Wᵀ + b with a constant W: M W."""
    operand = Operand(0, x.shape, x.dtype)

    def multiplier(upstream: Tensor) -> tuple[tuple[Operand, Tensor]]:
        rows = reached(upstream, 0.5)
        matrix = weight.to(upstream.dtype)  # under autocast it is another
        if rows is None:
            return ((operand, torch.matmul(upstream, matrix).to(operand.dtype)),)
        few = upstream.reshape(-1, upstream.shape[-1]).index_select(0, rows) @ matrix
        share = torch.zeros(operand.shape, dtype=operand.dtype)
        share.view(-1, operand.shape[-1]).index_copy_(0, rows, few.to(operand.dtype))
        return ((operand, share),)

    return multiplier
