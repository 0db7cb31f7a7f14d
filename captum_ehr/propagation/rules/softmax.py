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

A logit of -inf stands for :data:`NOTHING`: on both sides (masked) it gets no share, on
one side it carries its part of the change.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import threshold

from ..declarations import rule
from ..pairs import Multiplier, Operand, Pair, widened
from .elementwise import phi
from .lazy import Lazy


@rule("softmax", keeps="operands")
def softmax(y: Pair, x: Pair, dim: int | None = None, *_: Any, **__: Any) -> Multiplier:
    """Y = e^x / Σ e^x along ``dim``."""
    if dim is None:
        return NotImplemented
    axis, dtype = dim, x.input.dtype

    def parts(side: Tensor, side0: Tensor) -> tuple[Tensor, ...]:
        means = _means(widened(Pair(side, side0)), axis)
        return means.to(dtype), _weights(means, axis).to(dtype)

    def share(upstream: Tensor, means: Tensor, weights: Tensor) -> Tensor:
        return _less_their_sum(upstream * means, weights, axis)

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
    return lambda m: ((operand, _less_their_sum(m.clone(), weights, dim)),)


@rule("logsumexp", keeps="operands")
def logsumexp(
    y: Pair, x: Pair, dim: int | tuple[int, ...], keepdim: bool = False
) -> Multiplier:
    """Y = ln Σ e^x along ``dim``."""
    if not isinstance(dim, int):
        return NotImplemented
    weights, operand = logsumexp_weights(x, dim), x.operand

    def multiplier(upstream: Tensor) -> tuple[tuple[Operand, Tensor]]:
        m = upstream if keepdim else upstream.unsqueeze(dim)
        return ((operand, weights * m),)

    return multiplier


def logarithmic_mean(u: Tensor, v: Tensor, dlog: Tensor) -> Tensor:
    """L(u, v) = max(u, v)·φ(|ln u - ln v|), where that difference is known.

    The difference is overwritten.
    """
    return phi(dlog.abs_()).mul_(torch.maximum(u, v))


def logsumexp_weights(x: Pair, dim: int) -> Tensor:
    """Multipliers of ln Σ e^x along ``dim``."""
    return _weights(_means(widened(x), dim), dim).to(x.input.dtype)


def _means(x: Pair, dim: int) -> Tensor:
    """L of the probabilities; Δ ln y keeps its digits where all logits are large."""
    logs = [_finite(side.log_softmax(dim)) for side in x.sides]
    y, y0 = map(_exp, logs)
    return logarithmic_mean(y, y0, logs[0].sub_(logs[1]))


def _finite(logs: Tensor) -> Tensor:
    """With a number for what is not there; what is NaN stays that. Overwritten."""
    return logs.nan_to_num_(torch.nan, torch.inf, NOTHING)


def _exp(log_y: Tensor) -> Tensor:
    """e^log_y, or 0 long before it is the smallest number; there exp is very slow."""
    least = 2 / 3 * math.log(torch.finfo(log_y.dtype).tiny)
    y = log_y.clamp_min(least).exp_()
    return threshold(y, 1.01 * math.exp(least), 0.0)


def _weights(means: Tensor, dim: int) -> Tensor:
    """What each Δx adds to Δ ln Z."""
    return means / means.sum(dim, keepdim=True)


def _less_their_sum(s: Tensor, weights: Tensor, dim: int) -> Tensor:
    """The formula's s - w Σ s, which adds up to 0; s is overwritten.

    Where one weight is nearly 1 the digits that matter are those that the difference
    loses. They are what the sum lacks: the same step once more brings them back.
    """
    for _ in range(2):
        s.addcmul_(weights, s.sum(dim, keepdim=True), value=-1)
    return s


#: The logit, and the logarithm, of what is not there; finite, so that differences are.
NOTHING = -1e30
