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
from .elementwise import phi


def softmax(y: Pair, x: Pair, dim: int | None = None, *_: Any, **__: Any) -> Multiplier:
    """Y = e^x / Σ e^x along ``dim``."""
    if dim is None:
        return NotImplemented
    x_, y_ = wide(x), wide(y)
    dx, log_z, weights = _normaliser(x_, dim)
    mean = torch.maximum(y_.input, y_.reference).mul_(phi((dx - log_z).abs_()))
    mean, weights = mean.to(x.input.dtype), weights.to(x.input.dtype)

    def multiplier(upstream: Tensor) -> tuple[tuple[Pair, Tensor]]:
        s = upstream * mean
        return ((x, s - weights * s.sum(dim, keepdim=True)),)

    return multiplier


def log_softmax(
    y: Pair, x: Pair, dim: int | None = None, *_: Any, **__: Any
) -> Multiplier:
    """Y = x - ln Σ e^x along ``dim``."""
    if dim is None:
        return NotImplemented
    weights = _normaliser(wide(x), dim)[2].to(x.input.dtype)
    return lambda upstream: ((x, upstream - weights * upstream.sum(dim, keepdim=True)),)


def logsumexp(
    y: Pair, x: Pair, dim: int | tuple[int, ...], keepdim: bool = False
) -> Multiplier:
    """Y = ln Σ e^x along ``dim``."""
    if not isinstance(dim, int):
        return NotImplemented
    weights = _normaliser(wide(x), dim)[2].to(x.input.dtype)

    def multiplier(upstream: Tensor) -> tuple[tuple[Pair, Tensor]]:
        return ((x, weights * (upstream if keepdim else upstream.unsqueeze(dim))),)

    return multiplier


def _normaliser(x: Pair, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Δx, Δ ln Z and the weights w, all of x's number of dimensions.

    As L(u, v) = max(u, v)·φ(|ln u - ln v|), the weights need only differences of
    logarithms: no exponential over- or underflows. Logits that are -inf on both sides
    (masked) have e = 0 and Δx = 0.
    """
    log_z = x.input.logsumexp(dim, keepdim=True)
    log_z0 = x.reference.logsumexp(dim, keepdim=True)
    dx, dz = torch.nan_to_num(x.delta), torch.nan_to_num(log_z - log_z0)
    top = torch.maximum(x.input, x.reference) - torch.maximum(log_z, log_z0)
    weights = top.exp_().mul_(phi(dx.abs())).div_(phi(dz.abs()))
    return dx, dz, weights
