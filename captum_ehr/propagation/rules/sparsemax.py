r"""Sparsemax, the projection on the simplex, as one piecewise linear operation.

.. math:: y = \max(z - \tau(z), 0), \qquad
          \tau = \Big(\sum_{i \in S} z_i - 1\Big)/|S|, \quad S = \{i : y_i > 0\}

(Martins & Astudillo, From Softmax to Sparsemax, 2016.) Along the straight line from
the reference to the input the support S changes at a few points; between two of them
the derivative is constant, so that with the length w of each piece

.. math:: m = \sum_{\text{pieces}} w\; 1_S \circ \big(M - \mathrm{mean}_S(M)\big)

is exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pairs import Multiplier, Pair


def sparsemax(module: Any, y: Pair, x: Pair) -> Multiplier:
    """A module that maps rows of ``module.dim`` values to the simplex.

    As in AdaCare, rows are runs of that many values in memory order.
    """
    width = x.input.shape[module.dim]
    start, stop = (side.reshape(-1, width).double() for side in (x.reference, x.input))
    pieces = _pieces(start, stop, (y.reference > 0).reshape(-1, width))

    def multiplier(upstream: Tensor) -> tuple[tuple[Pair, Tensor]]:
        m = upstream.reshape(-1, width)
        total = torch.zeros_like(m)
        for support, length in pieces:
            s, w = support.to(m.dtype), length.to(m.dtype)
            mean = (m * s).sum(1, keepdim=True) / s.sum(1, keepdim=True)
            total += w * s * (m - mean)
        return ((x, total.reshape(x.input.shape)),)

    return multiplier


def _pieces(
    start: Tensor, stop: Tensor, support: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """The supports that the line passes through, each with its length.

    With the support fixed, every z - τ is linear along the line; the first one to
    change its sign leaves the support or enters it.
    """
    slope, supports = stop - start, []
    at = torch.zeros_like(start[:, :1])
    for _ in range(4 * start.shape[1] + 1):
        size = support.sum(1, keepdim=True)
        tau0 = ((start * support).sum(1, keepdim=True) - 1) / size
        above = start - tau0
        rate = slope - (slope * support).sum(1, keepdim=True) / size
        turns = torch.where(support, rate < 0, rate > 0)
        when = torch.where(turns, -above / rate.masked_fill(~turns, 1.0), 2.0)
        when = when.clamp_min(at)
        first, which = when.min(1, keepdim=True)
        end = first.clamp_max(1.0)
        supports.append((support, end - at))
        at = end
        if bool((at >= 1).all()):
            break
        flip = torch.zeros_like(support).scatter(1, which, first < 1)
        support = support ^ flip
    return supports
