"""Linear layers: autograd's own gradient, M W, taken where there is one.

A model that reads one position of its last layer sends no gradient to the others, and
padding gets none; their rows of M are 0, and need no multiplying.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..pairs import Multiplier, Operand
from .rows import BLOCK, laid_out, reached


def large(x: Tensor, weight: Tensor) -> bool:
    """Whether a linear layer's input is large enough to look for empty rows."""
    shaped = x.dim() > 2 and weight.dim() == 2 and x.numel() >= BLOCK
    return shaped and x.device.type == "cpu" and x.is_floating_point()


def linear(x: Tensor, weight: Tensor, *_: Tensor | None) -> Multiplier:
    """Y = x Wᵀ + b with a constant W: M W."""
    operand = Operand(0, x.shape, x.dtype)
    version = weight._version

    def multiplier(upstream: Tensor) -> tuple[tuple[Operand, Tensor]]:
        if weight._version != version:  # as autograd says of its own
            raise RuntimeError(
                f"linear: its weight, of shape {tuple(weight.shape)}, was overwritten "
                "after the call; give the layer a copy of what the model writes on."
            )
        rows = reached(upstream, 0.5)
        matrix = weight.to(upstream.dtype)  # under autocast it is another
        if rows is None:
            return ((operand, torch.matmul(upstream, matrix).to(operand.dtype)),)
        flat = upstream.reshape(-1, upstream.shape[-1])
        part = (flat.index_select(0, rows) @ matrix).to(operand.dtype)
        share = laid_out(part, rows, len(flat), 0)
        return ((operand, share.view(operand.shape)),)

    return multiplier
