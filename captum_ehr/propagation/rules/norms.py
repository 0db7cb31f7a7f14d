r"""Norms, variances and standard deviations, whose values stay torch's own.

With :math:`c = x - \mathrm{mean}(x)` and a bar for the mean of both sides,

.. math::
    \Delta \lVert x \rVert_2 = \sum_i \frac{\bar x_i}{\bar y}\,\Delta x_i, \qquad
    \Delta \mathrm{var}(x) = \sum_i \frac{2\,\bar c_i}{n - k}\,\Delta x_i, \qquad
    \Delta \sqrt v = \frac{\Delta v}{2\,\bar y}

as squares have it, :math:`a^2 - b^2 = (a + b)(a - b)`; that the centring moves too adds
nothing, for :math:`\sum_i \bar c_i = 0`. The same holds for complex numbers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..declarations import Declaration, rule
from ..pairs import Multiplier, Operand, Pair, Shares, sum_to, widened
from .elementwise import absolute
from .extrema import amax, amin
from .quotients import guarded

Dims = tuple[int, ...]


@rule("linalg_vector_norm vector_norm", keeps="operands")
def vector_norm(
    y: Pair,
    x: Pair,
    ord: float = 2,
    dim: Any = None,
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> Multiplier:
    """torch.linalg.vector_norm, but for the number of entries that are not 0."""
    if ord == 0 or (x.input.is_complex() and ord != 2):
        return NotImplemented
    operand, dims = x.operand, _dims(x, dim)
    x = widened(x if dtype is None else x.each(lambda side: side.to(dtype)))
    if ord == 2:
        length = x.each(lambda side: _norm(side, 2, dims)).mean
        return _spread(operand, _quotient(x.mean, length), dims, keepdim)
    size = x.each(torch.abs)
    slope = absolute(x, size)
    if math.isinf(ord):
        (_, share), *_ = (amax if ord > 0 else amin)(size, size, dims, True)(
            torch.ones_like(_norm(size.input, ord, dims))
        )
        slope = slope * share
    elif ord != 1:
        slope = slope * _powers(size, ord, dims)
    return _spread(operand, slope, dims, keepdim)


def _powers(size: Pair, p: float, dims: Dims) -> Tensor:
    """Of (Σ s^p)^(1/p), in units of the larger norm, so that no power overflows."""
    ends = size.each(lambda side: _norm(side, p, dims))
    unit = torch.maximum(*ends.sides)
    unit = unit.masked_fill(unit == 0, 1.0)
    size, ends = (pair.each(lambda side: side / unit) for pair in (size, ends))
    powers = size.each(lambda side: side**p)
    total = powers.each(lambda side: side.sum(dims, keepdim=True))
    root = guarded(total, ends, lambda at: at ** (1 / p - 1) / p)
    return root * guarded(size, powers, lambda at: p * at ** (p - 1))


def _moments(name: str, root: bool, with_mean: bool) -> Declaration:
    """A variance or, its root, a standard deviation; some calls give the mean too."""

    def moments(
        y: Any,
        x: Pair,
        dim: Any = None,
        unbiased: bool = True,
        keepdim: bool = False,
        *,
        correction: float | None = None,
    ) -> Multiplier:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        dims, values = _dims(x, dim), widened(x)
        less = float(unbiased) if correction is None else correction
        count = math.prod(x.input.shape[d] for d in dims)
        middle = values.mean
        slope = 2 * (middle - middle.mean(dims, keepdim=True)) / max(count - less, 0)
        if root:

            def deviation(side: Tensor) -> Tensor:
                return torch.std(side, dims, correction=less, keepdim=True)

            slope = _quotient(slope, 2 * values.each(deviation).mean)
        first = _spread(x.operand, slope, dims, keepdim)
        if not with_mean:
            return first
        mean = torch.full_like(slope, 1 / max(count, 1))
        second = _spread(x.operand, mean, dims, keepdim)
        return lambda m, m_mean: (*first(m), *second(m_mean))

    moments.__name__ = name
    return rule(name, moments, keeps="operands")


MOMENTS = (
    _moments("var", root=False, with_mean=False),
    _moments("std", root=True, with_mean=False),
    _moments("var_mean", root=False, with_mean=True),
    _moments("std_mean", root=True, with_mean=True),
)


@rule("hypot", keeps="operands")
def hypot(y: Pair, a: Any, b: Any) -> Multiplier:
    """√(a² + b²): M·ā/ȳ and M·b̄/ȳ."""
    length = widened(y).mean

    def multiplier(upstream: Tensor) -> Shares:
        for side in (a, b):
            if isinstance(side, Pair):
                share = upstream * _quotient(widened(side).mean, length)
                yield side, sum_to(share, side.operand).to(side.input.dtype)

    return multiplier


def _spread(operand: Operand, slope: Tensor, dims: Dims, keepdim: bool) -> Multiplier:
    """From what stands for some dimensions back to all that is in them."""

    def multiplier(upstream: Tensor) -> tuple[tuple[Operand, Tensor]]:
        if not keepdim:
            for d in sorted(dims):
                upstream = upstream.unsqueeze(d)
        return ((operand, (upstream * slope).to(operand.dtype)),)

    return multiplier


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """a/b; 0 over 0, as of a norm between two zeros."""
    return a / b.masked_fill(b == 0, math.inf)


def _dims(x: Pair, dim: Any) -> Dims:
    count = x.input.dim()
    dims = (dim,) if isinstance(dim, int) else tuple(dim or range(count))
    return tuple(d % count for d in dims) if count else ()


def _norm(side: Tensor, ord: float, dims: Dims) -> Tensor:
    return torch.linalg.vector_norm(side, ord, dims, keepdim=True)
