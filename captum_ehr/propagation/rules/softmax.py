r"""softmax, log_softmax and logsumexp, exact through the logarithmic mean.

With :math:`L(u, v) = (u - v)/(\ln u - \ln v)`, :math:`e = \exp(x)` and
:math:`Z = \sum e`,

.. math::
    \Delta \ln Z = \sum_j w_j \Delta x_j, \quad w_j = L(e_j, e^0_j)/L(Z, Z^0), \qquad
    \Delta y_i = L(y_i, y^0_i)\,(\Delta x_i - \Delta \ln Z),

so that :math:`m_i = s_i - w_i \sum_j s_j` with :math:`s_i = M_i L(y_i, y^0_i)`.
Elementwise Δy/Δx, as in other DeepLIFT implementations, is wrong wherever one Δx
is 0, which is at every pad. (L: Carlson, The Logarithmic Mean, 1972.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pairs import Multiplier, Pair, wide
from .blocks import in_blocks
from .elementwise import phi


def softmax(y: Pair, x: Pair, dim: int | None = None, *_: Any, **__: Any) -> Multiplier:
    """Y = e^x / Σ e^x along ``dim``."""
    if dim is None:
        return NotImplemented
    axis, dtype = dim, x.input.dtype

    def parts(*sides: Tensor) -> tuple[Tensor, ...]:
        x_, y_ = wide(Pair(sides[0], sides[1])), wide(Pair(sides[2], sides[3]))
        weights, log_ratio = _normaliser(x_, axis)
        mean = torch.maximum(y_.input, y_.reference).mul_(phi(log_ratio.abs_()))
        return mean.to(dtype), weights.to(dtype)

    sides = (x.input, x.reference, y.input, y.reference)
    if axis in (-1, x.input.dim() - 1):
        axis = -1
        mean, weights = in_blocks(parts, *sides, row=x.input.shape[-1])
    else:
        mean, weights = parts(*sides)

    def multiplier(upstream: Tensor) -> tuple[tuple[Pair, Tensor]]:
        s = upstream * mean
        return ((x, s.addcmul_(weights, s.sum(axis, keepdim=True), value=-1)),)

    return multiplier


def log_softmax(
    y: Pair, x: Pair, dim: int | None = None, *_: Any, **__: Any
) -> Multiplier:
    """Y = x - ln Σ e^x along ``dim``."""
    if dim is None:
        return NotImplemented
    weights = _normaliser(wide(x), dim)[0].to(x.input.dtype)
    return lambda upstream: ((x, upstream - weights * upstream.sum(dim, keepdim=True)),)


def logsumexp(
    y: Pair, x: Pair, dim: int | tuple[int, ...], keepdim: bool = False
) -> Multiplier:
    """Y = ln Σ e^x along ``dim``."""
    if not isinstance(dim, int):
        return NotImplemented
    weights = _normaliser(wide(x), dim)[0].to(x.input.dtype)

    def multiplier(upstream: Tensor) -> tuple[tuple[Pair, Tensor]]:
        return ((x, weights * (upstream if keepdim else upstream.unsqueeze(dim))),)

    return multiplier


def _normaliser(x: Pair, dim: int) -> tuple[Tensor, Tensor]:
    """The weights w, and Δ ln y.

    As L(u, v) = max(u, v)·φ(|ln u - ln v|), the weights need only differences of
    logarithms: no exponential over- or underflows. These are taken from ln y, which
    keeps its digits where all logits are large; Δ ln Z = Δx - Δ ln y at every element,
    of which the mean by y is taken. Logits that are -inf on both sides (masked) have
    e = 0 and Δx = 0.
    """
    log_y, log_y0 = x.input.log_softmax(dim), x.reference.log_softmax(dim)
    log_y, log_y0 = log_y.clamp_min_(_NOTHING), log_y0.clamp_min_(_NOTHING)
    dx, dlog = torch.nan_to_num(x.delta), log_y - log_y0
    dz = (dx - dlog).mul_(log_y.exp()).sum(dim, keepdim=True)
    # ln(max(e, e0) / max(Z, Z0)), from the side whose Z is the larger
    smaller = (dz < 0).to(dz.dtype)
    top = torch.lerp(log_y.add_((-dx).relu_()), log_y0.add_(dx.relu()), smaller)
    weights = top.exp_().mul_(phi(dx.abs_())).div_(phi(dz.abs_()))
    return weights, dlog


#: The logarithm of what is not there; finite, so that differences are.
_NOTHING = -1e30
