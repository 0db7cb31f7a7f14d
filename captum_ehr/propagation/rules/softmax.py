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

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import threshold

from ..pairs import Multiplier, Pair, wide
from .elementwise import phi
from .rows import Rowwise


def softmax(y: Pair, x: Pair, dim: int | None = None, *_: Any, **__: Any) -> Multiplier:
    """Y = e^x / Σ e^x along ``dim``."""
    if dim is None:
        return NotImplemented
    axis, dtype = dim, x.input.dtype

    def parts(side: Tensor, side0: Tensor) -> tuple[Tensor, ...]:
        change, y_, dz, dlog = _normaliser(wide(Pair(side, side0)), axis)
        mean = logarithmic_mean(*y_.sides, dlog)
        return mean.to(dtype), _weights(change, y_, dz).to(dtype)

    def share(upstream: Tensor, mean: Tensor, weights: Tensor) -> Tensor:
        s = upstream * mean
        return s.addcmul_(weights, s.sum(axis, keepdim=True), value=-1)

    if axis in (-1, x.input.dim() - 1):
        axis = -1
        return Rowwise(x, parts, share, row=x.input.shape[-1], kind=softmax)
    factors, operand = parts(x.input, x.reference), x.operand
    return lambda upstream: ((operand, share(upstream, *factors)),)


def log_softmax(
    y: Pair, x: Pair, dim: int | None = None, *_: Any, **__: Any
) -> Multiplier:
    """Y = x - ln Σ e^x along ``dim``."""
    if dim is None:
        return NotImplemented
    weights = logsumexp_weights(x, dim)
    return lambda upstream: ((x, upstream - weights * upstream.sum(dim, keepdim=True)),)


def logsumexp(
    y: Pair, x: Pair, dim: int | tuple[int, ...], keepdim: bool = False
) -> Multiplier:
    """Y = ln Σ e^x along ``dim``."""
    if not isinstance(dim, int):
        return NotImplemented
    weights = logsumexp_weights(x, dim)

    def multiplier(upstream: Tensor) -> tuple[tuple[Pair, Tensor]]:
        return ((x, weights * (upstream if keepdim else upstream.unsqueeze(dim))),)

    return multiplier


def logarithmic_mean(u: Tensor, v: Tensor, dlog: Tensor) -> Tensor:
    """L(u, v) = max(u, v)·φ(|ln u - ln v|), where that difference is known.

    The difference is overwritten.
    """
    return phi(dlog.abs_()).mul_(torch.maximum(u, v))


def logsumexp_weights(x: Pair, dim: int) -> Tensor:
    """Multipliers of ln Σ e^x along ``dim``."""
    change, y, dz, _ = _normaliser(wide(x), dim)
    return _weights(change, y, dz).to(x.input.dtype)


def _normaliser(x: Pair, dim: int) -> tuple[Tensor, Pair, Tensor, Tensor]:
    """Δx, values y = e^x/Z, Δ ln Z and Δ ln y.

    Δ ln y keeps its digits where all logits are large; Δ ln Z = Δx - Δ ln y at every
    element, of which the mean by y is taken. Logits that are -inf on both sides
    (masked) do not change.
    """
    logs = [side.log_softmax(dim).clamp_min_(_NOTHING) for side in x.sides]
    y, y0 = map(_exp, logs)
    dlog = logs[0].sub_(logs[1])
    change = x.delta.nan_to_num_()
    dz = (change - dlog).mul_(y).sum(dim, keepdim=True)
    return change, Pair(y, y0), dz, dlog


def _exp(log_y: Tensor) -> Tensor:
    """e^log_y, or 0 long before it is the smallest number; there exp is very slow."""
    least = 2 / 3 * math.log(torch.finfo(log_y.dtype).tiny)
    y = log_y.clamp_min(least).exp_()
    return threshold(y, 1.01 * math.exp(least), 0.0)


def _weights(change: Tensor, y: Pair, dz: Tensor) -> Tensor:
    """L(e, e0)/L(Z, Z0), both over the larger Z, so that no exponential overflows.

    e over the larger Z is y on that side, and y times the ratio of the Z on the other.
    Δx and y are overwritten.
    """
    ratio = phi(dz.abs())
    larger, smaller = dz.relu(), (-dz).relu_()
    u = y.input.mul_(smaller.neg_().exp_().div_(ratio))
    v = y.reference.mul_(larger.neg_().exp_().div_(ratio))
    return logarithmic_mean(u, v, change)


#: The logarithm of what is not there; finite, so that differences are.
_NOTHING = -1e30
