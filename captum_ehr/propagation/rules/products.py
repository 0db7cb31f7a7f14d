r"""Products of two attributed operands: each gets the mean of the other.

.. math:: ab - a_0b_0 = \bar b\,(a - a_0) + \bar a\,(b - b_0),
          \qquad \bar a = (a + a_0)/2

which is the Aumann-Shapley value of the product on the straight line from the
reference to the input (Aumann & Shapley, Values of Non-Atomic Games, 1974). With
only one operand attributed a product is linear, and autograd's own gradient exact.
Of complex numbers it is the conjugate, as in autograd's gradients.

A quotient y = a/b is what times b gives a; that product's rule, solved for Δy, gives

.. math:: y - y_0 = \frac{(a - a_0) - \bar y\,(b - b_0)}{\bar b}

As a times 1/b it would add up too, but where one of b and b_0 is nearly 0 the shares
would be as large as its inverse, to cancel in the sum. Of two signs, each side of b is
taken without its own, so that there is nothing to divide by that may be 0.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import tuning
from ..declarations import Kind, rule
from ..pairs import Multiplier, Pair, Shares, paired, sum_to, widened
from ..recording import compiled, opaque
from .blocks import laid_out, reached_positions
from .elementwise import exp, log
from .integral import multilinear
from .quotients import guarded, over

MULTILINEAR = (
    rule(
        "inner outer ger __rmatmul__ einsum linear bilinear conv1d conv2d conv3d"
        " conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc convolution addmm"
        " addmv addbmm baddbmm addr addcmul lerp tensordot kron chain_matmul multi_dot"
        " cross vdot vecdot trapezoid trapz cumulative_trapezoid",
        make=multilinear,
        kind=Kind.PRODUCT,
    ),
    # torch.cross takes the first dimension of three by default, this one the last
    rule(torch.linalg.cross, make=multilinear, kind=Kind.PRODUCT),
)
#: The same with some values of an option.
SOMETIMES = (
    rule(
        "scatter_reduce",
        make=partial(multilinear, option="reduce", values=("sum", "mean")),
    ),
    rule("index_reduce", make=partial(multilinear, option="reduce", values=("mean",))),
    rule(
        F.embedding_bag,
        make=partial(multilinear, option="mode", values=("mean", "sum")),
        tags="indices first",
    ),
    rule(torch.embedding_bag, tags="indices first"),  # its modes are numbers
)


@rule(
    "mul multiply __mul__ __rmul__ __imul__",
    kind=Kind.PRODUCT,
    keeps="operands",
    tags="arithmetic",
)
def product(y: Pair, a: Pair, b: Pair, *_: Any, **__: Any) -> Multiplier:
    """Y = a·b elementwise, with broadcasting: M·b̄ and M·ā."""
    a_mean, b_mean = a.mean.conj(), b.mean.conj()
    left, right = a.operand, b.operand

    def multiplier(upstream: Tensor) -> Shares:
        yield left, sum_to(upstream * b_mean, left)
        yield right, sum_to(upstream * a_mean, right)

    return multiplier


@rule("div divide true_divide __truediv__ __itruediv__", kind=Kind.QUOTIENT)
def quotient(y: Pair, a: Any, b: Any, *_: Any, **kwargs: Any) -> Multiplier:
    """Y = a/b: M/b̄ and -M·ȳ/b̄, for b of one sign.

    With s and s0 the signs, M·(s + s0)/(|b| + |b0|) and -M·(s0·y + s·y0)/(|b| + |b0|).
    """
    if not isinstance(b, Pair):  # rounded: a step like floor and trunc
        m = over(y.delta, torch.broadcast_to(a.delta, y.input.shape), 0.0)
        return lambda upstream: ((a, sum_to(upstream * m, a.input)),)
    if kwargs.get("rounding_mode"):
        return NotImplemented
    sign, sign0 = b.input.sgn().conj(), b.reference.sgn().conj()
    size = b.input.abs().add_(b.reference.abs())
    slope_a = ((sign + sign0) / size).conj()
    slope_b = ((sign0 * y.input + sign * y.reference) / -size).conj()

    def multiplier(upstream: Tensor) -> Shares:
        if isinstance(a, Pair):
            yield a, sum_to(upstream * slope_a, a.input)
        yield b, sum_to(upstream * slope_b, b.input)

    return multiplier


@rule("__rdiv__ __rtruediv__")
def reversed_quotient(y: Pair, b: Pair, a: Pair | Tensor | float) -> Multiplier:
    """``a / b`` where torch calls ``b.__rtruediv__(a)``."""
    return quotient(y, a, b)


@rule("matmul mm bmm mv dot __matmul__", kind=Kind.PRODUCT, keeps="operands")
def matrix_product(y: Pair, a: Pair, b: Pair, *_: Any, **__: Any) -> Multiplier:
    """Y = AB, batched and broadcast: M B̄ᵀ and Āᵀ M."""
    a_mean, b_mean = a.mean.conj(), b.mean.conj()
    first, second = a.operand, b.operand

    def multiplier(upstream: Tensor) -> Shares:
        left, right, m = a_mean, b_mean, upstream
        if left.dim() == 1:
            left, m = left.unsqueeze(0), m.unsqueeze(-2 if b_mean.dim() > 1 else -1)
        if right.dim() == 1:
            right, m = right.unsqueeze(-1), m.unsqueeze(-1)
        searched = m.dim() > 2 and not compiled() and m.numel() >= tuning.BLOCK
        shares = partial(opaque, _matrix_shares) if searched else _matrix_shares
        share_a, share_b = shares(left, right, m)
        share_a = share_a.squeeze(-2) if a_mean.dim() == 1 else share_a
        share_b = share_b.squeeze(-1) if b_mean.dim() == 1 else share_b
        yield first, sum_to(share_a, first)
        yield second, sum_to(share_b, second)

    return multiplier


def _matrix_shares(left: Tensor, right: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """M B̄ᵀ and Āᵀ M, from the rows of M that are not 0."""
    rows = reached_positions(m)
    if rows is None:
        share_a = torch.matmul(m, right.transpose(-1, -2))
        return share_a, torch.matmul(left.transpose(-1, -2), m)
    few = m.index_select(-2, rows)
    part = torch.matmul(few, right.transpose(-1, -2))
    share_a = laid_out(part, rows, m.shape[-2], -2)
    return share_a, torch.matmul(left.index_select(-2, rows).transpose(-1, -2), few)


@rule("pow __pow__ __ipow__ float_power")
def power(
    y: Pair, base: Pair | Tensor | float, exponent: Pair | Tensor | float, *_: Any
) -> Multiplier:
    """Y = b^e. A constant exponent is elementwise; else y = exp(e·ln b)."""
    if y.input.is_complex():
        return NotImplemented
    if not isinstance(exponent, Pair):
        return _constant_exponent(y, base, exponent)  # type: ignore[arg-type]
    if not isinstance(base, (Pair, Tensor)):
        base = y.input.new_full((), base)
    y, exponent = widened(y), widened(exponent)
    bases = paired(base).each(lambda side: side.to(y.input.dtype))
    least = torch.finfo(y.input.dtype).tiny  # stands for 0
    logs = bases.each(lambda side: side.masked_fill(side == 0, least).log())
    powers = Pair(exponent.input * logs.input, exponent.reference * logs.reference)
    zero = (bases.input == 0) | (bases.reference == 0)
    slope = torch.where(zero, over(y.delta, powers.delta), exp(powers, y))

    def multiplier(upstream: Tensor) -> Shares:
        m = upstream * slope
        yield exponent, sum_to(m * logs.mean, exponent.input)
        if isinstance(base, Pair):
            yield base, sum_to(m * exponent.mean * log(bases, logs), base.input)

    return multiplier


def _constant_exponent(y: Pair, x: Pair, n: Tensor | float) -> Multiplier:
    """b^n for a constant n; a square has an identity, (a² - b²) = (a - b)(a + b)."""
    if not isinstance(n, Tensor) and n == 2:
        m = x.input + x.reference
    elif not isinstance(n, Tensor) and n in (0, 1):
        m = torch.full_like(x.input, float(n))
    else:
        m = guarded(x, y, lambda at: n * at ** (n - 1))
    return lambda upstream: ((x, sum_to(upstream * m, x.input)),)


@rule("__rpow__")
def reversed_power(y: Pair, exponent: Pair, base: Tensor | float) -> Multiplier:
    """``b ** e`` where torch calls ``e.__rpow__(b)``."""
    return power(y, base, exponent)
