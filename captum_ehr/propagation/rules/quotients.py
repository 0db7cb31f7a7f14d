"""Δy/Δx of nearly equal numbers, where it loses its digits, and of infinite ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..pairs import Pair, float32_at_least, widened


def guarded(x: Pair, y: Pair, derivative: Callable[[Tensor], Tensor]) -> Tensor:
    """Δy/Δx, or Simpson's mean of the derivative where that is the better known.

    The secant loses eps·|y|/|Δx| to rounding; what the derivative's mean may miss
    shows in how much its middle differs from its ends. The step is bounded besides,
    so that a periodic function is not mistaken for a straight one. x is in float32 at
    least, y in the dtype in which it was rounded.
    """
    dx, middle = x.delta, derivative(x.mean)
    simpson = (derivative(x.input) + 4 * middle + derivative(x.reference)) / 6
    rounding = 2 * torch.finfo(y.input.dtype).eps
    y = widened(y)
    unsure = torch.maximum(y.input.abs(), y.reference.abs())
    straight = (simpson - middle).abs() * dx.abs() <= rounding * unsure
    close = dx.abs() <= (1e-4 * x.mean.abs()).clamp_min_(0.5)
    same = dx == 0
    secant = y.delta / (dx + same.to(dx.dtype))
    slope = torch.where(straight & close | same, simpson, secant)
    # What is infinite has no slope, and most often no part; what is NaN stays that
    slope.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return slope.masked_fill_(y.input.isnan() | y.reference.isnan(), torch.nan)


def over(numerator: Tensor, dx: Tensor, limit: float | Tensor = 1.0) -> Tensor:
    """numerator/dx for a numerator that is accurate at every dx; its limit at 0.

    The numerator is 0 where dx is. Without masks: selecting by a random one costs as
    much as twenty multiplications.
    """
    same = 1 - dx.sign().abs_()
    quotient = numerator / (dx + same)
    if isinstance(limit, Tensor):
        return quotient.addcmul_(same, limit)
    return quotient.add_(same, alpha=limit)


#: The logit, and the logarithm, of what is not there; finite, so that differences are.
NOTHING = -1e30


def bounded(side: Tensor) -> Tensor:
    """A value of which -inf is as far down as NOTHING, and inf as far up."""
    return float32_at_least(side).nan_to_num(torch.nan, -NOTHING, NOTHING)
