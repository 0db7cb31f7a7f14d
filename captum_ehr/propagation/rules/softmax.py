r"""softmax, log_softmax and logsumexp, exact through the logarithmic mean.

With :math:`L(u, v) = (u - v)/(\ln u - \ln v)` and :math:`Z = \sum e^x`,

.. math::
    \Delta y_i = L_i\,(\Delta x_i - \Delta \ln Z), \quad L_i = L(y_i, y^0_i), \qquad
    \Delta \ln Z = \sum_j w_j \Delta x_j, \quad w_j = L_j / \sum_k L_k,

the second because probabilities add up to 1 on both sides, so that
:math:`\sum_i \Delta y_i = 0`. Hence :math:`m_i = s_i - w_i \sum_j s_j`, with
:math:`s_i = M_i L_i` for softmax and :math:`s_i = M_i` for log_softmax. A number that
is added to all logits changes nothing, here either. Elementwise Δy/Δx, as in other
DeepLIFT implementations, is wrong wherever one Δx is 0, which is at every pad.
(L: Carlson, The Logarithmic Mean, 1972.)

A logit of -inf stands for :data:`.quotients.NOTHING`: on both sides (masked) it gets no
share, on one side it carries its part of the change.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..declarations import rule
from ..pairs import (
    Multiplier,
    Operand,
    Pair,
    apart,
    reduced_dims,
    together,
    unsqueezed,
    widened,
)
from .lazy import Lazy
from .quotients import NOTHING


@rule("softmax", keeps="operands")
def softmax(y: Pair, x: Pair, dim: int | None = None, *_: Any, **__: Any) -> Multiplier:
    """Y = e^x / Σ e^x along ``dim``."""
    if dim is None:
        return NotImplemented
    axis, dtype = dim, x.input.dtype

    def parts(side: Tensor, side0: Tensor) -> tuple[Tensor, ...]:
        means = logarithmic_means(widened(Pair(side, side0)), axis)[0]
        return means.to(dtype), weights_of(means, axis).to(dtype)

    def share(upstream: Tensor, means: Tensor, weights: Tensor) -> Tensor:
        return less_their_sum(upstream * means, weights, axis)

    if axis in (-1, x.input.dim() - 1):
        axis = -1
        return Lazy(x, parts, share, row=x.input.shape[-1], kind=softmax)
    factors, operand = parts(x.input, x.reference), x.operand
    return lambda upstream: ((operand, share(upstream, *factors)),)


@rule("log_softmax", keeps="operands")
def log_softmax(
    y: Pair, x: Pair, dim: int | None = None, *_: Any, **__: Any
) -> Multiplier:
    """Y = x - ln Σ e^x along ``dim``."""
    if dim is None:
        return NotImplemented
    weights, operand = logsumexp_weights(x, dim), x.operand
    return lambda m: ((operand, less_their_sum(m.clone(), weights, dim)),)


@rule("logsumexp", keeps="operands")
def logsumexp(
    y: Pair, x: Pair, dim: int | tuple[int, ...], keepdim: bool = False
) -> Multiplier:
    """Y = ln Σ e^x along ``dim``."""
    dims, operand = reduced_dims(x, dim), x.operand
    weights = logsumexp_weights(x.each(lambda side: together(side, dims)), -1)
    weights = apart(weights, operand.shape, dims)

    def multiplier(upstream: Tensor) -> tuple[tuple[Operand, Tensor]]:
        m = upstream if keepdim else unsqueezed(upstream, dims)
        return ((operand, weights * m),)

    return multiplier


def logsumexp_weights(x: Pair, dim: int) -> Tensor:
    """Multipliers of ln Σ e^x along ``dim``."""
    return weights_of(logarithmic_means(widened(x), dim)[0], dim).to(x.input.dtype)


def logarithmic_means(x: Pair, dim: int) -> tuple[Tensor, Tensor]:
    """L(y, y0) of the probabilities of logits, and y + y0.

    Δy/Δ ln y; where the two are close, the mean times what the series of the hyperbolic
    tangent says, 1 - (Δ ln y)²/12 + (Δ ln y)⁴/120, faded in so that nothing jumps.
    """
    if not x.input.numel():
        return x.input, x.input
    (y, log_y), (y0, log_y0) = (_probabilities(side, dim) for side in x.sides)
    # A power of 2, so that nothing is left of the series at its end
    near = 2.0 ** (round(math.log2(torch.finfo(y.dtype).eps) / 7) + 1)
    twice = y + y0
    gap = log_y.sub_(log_y0).abs_()
    secant = y.sub_(y0).abs_().div_(gap.clamp_min(near))
    gap.clamp_max_(near)
    square = gap * gap
    bend = torch.mul(square, 1 / 240).sub_(1 / 24).mul_(square).add_(0.5)
    closeness = gap.mul_(-1 / near).add_(1)
    return secant.addcmul_(twice, closeness.mul_(bend)), twice


def _probabilities(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Softmax y and ln y, which keeps its digits where all logits are large."""
    y, high = x.softmax(dim), x.amax(dim, keepdim=True)
    log_y = (x - high).add_(y.amax(dim, keepdim=True).log_())
    return y, log_y.nan_to_num_(torch.nan, torch.inf, NOTHING)


def weights_of(means: Tensor, dim: int) -> Tensor:
    """What each Δx adds to Δ ln Z."""
    return means / means.sum(dim, keepdim=True)


def less_their_sum(s: Tensor, weights: Tensor, dim: int) -> Tensor:
    """The formula's s - w Σ s, which adds up to 0; s is overwritten.

    Where one weight is nearly 1 the digits that matter are those that the difference
    loses. They are what the sum lacks: the same step once more brings them back.
    """
    for _ in range(2):
        s.addcmul_(weights, s.sum(dim, keepdim=True), value=-1)
    return s
