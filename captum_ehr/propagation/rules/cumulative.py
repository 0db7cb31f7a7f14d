r"""Products of many, and what is accumulated step by step; the values stay torch's own.

A step takes what came before and one value more, and each has its multiplier:

.. math:: p_k = p_{k-1} x_k, \qquad
          \Delta p_k = \bar x_k\,\Delta p_{k-1} + \bar p_{k-1}\,\Delta x_k

(:mod:`.products`), or those of a logsumexp of two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..declarations import rule
from ..pairs import Multiplier, Operand, Pair, widened
from .softmax import logsumexp_weights


@rule("prod", keeps="operands")
def prod(
    y: Pair,
    x: Pair,
    dim: int | None = None,
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> Multiplier:
    """torch.prod, halved like a tournament."""
    operand, values = x.operand, _in_rows(x, dtype)
    values = values.each(torch.ravel) if dim is None else values
    axis = 0 if dim is None else dim
    values = values.each(lambda side: side.movedim(axis, 0))
    size, rounds = values.input.shape, []
    while (half := len(values.input) // 2) > 0:
        left = values.each(lambda side: side[:half])
        right = values.each(lambda side: side[half : 2 * half])
        rounds.append((left.mean.conj(), right.mean.conj()))
        values = values.each(
            lambda side: torch.cat(
                [side[:half] * side[half : 2 * half], side[2 * half :]]
            )
        )

    def multiplier(upstream: Tensor) -> tuple[tuple[Operand, Tensor]]:
        m = upstream.reshape(1, *size[1:])
        for left, right in reversed(rounds):
            both, rest = m[: len(left)], m[len(left) :]
            m = torch.cat([both * right, both * left, rest])
        share = m[: size[0]].movedim(0, axis).reshape(operand.shape)
        return ((operand, share.to(operand.dtype)),)

    return multiplier


@rule("cumprod", keeps="operands")
def cumprod(y: Pair, x: Pair, dim: int, dtype: torch.dtype | None = None) -> Multiplier:
    """torch.cumprod."""
    values = _in_rows(x, dtype)
    before = values.each(lambda side: _shifted(side.cumprod(dim), dim, 1.0))
    return _accumulated(x.operand, dim, values.mean.conj(), before.mean.conj())


@rule("logcumsumexp", keeps="operands")
def logcumsumexp(y: Pair, x: Pair, dim: int) -> Multiplier:
    """torch.logcumsumexp."""

    def steps(side: Tensor) -> Tensor:
        before = _shifted(side.logcumsumexp(dim), dim, -torch.inf)
        return torch.stack([before, side])

    passed, taken = logsumexp_weights(_in_rows(x).each(steps), 0)
    return _accumulated(x.operand, dim, passed, taken)


def _accumulated(
    operand: Operand, dim: int, passed: Tensor, taken: Tensor
) -> Multiplier:
    """From the last step to the first.

    Of each step there is the multiplier of what came before, that is passed on, and the
    one of its own value, that is taken.
    """

    def multiplier(upstream: Tensor) -> tuple[tuple[Operand, Tensor]]:
        carry = upstream.reshape(passed.shape).to(passed.dtype, copy=True)
        steps, factors = carry.unbind(dim), passed.unbind(dim)
        for k in range(len(steps) - 1, 0, -1):
            steps[k - 1].addcmul_(steps[k], factors[k])
        share = (carry * taken).reshape(operand.shape)
        return ((operand, share.to(operand.dtype)),)

    return multiplier


def _in_rows(x: Pair, dtype: torch.dtype | None = None) -> Pair:
    """With one dimension at least, in the dtype that torch works in."""
    x = x.each(torch.atleast_1d)
    return widened(x if dtype is None else x.each(lambda side: side.to(dtype)))


def _shifted(values: Tensor, dim: int, first: float) -> Tensor:
    """What came before each step."""
    head = torch.full_like(values.narrow(dim, 0, min(values.shape[dim], 1)), first)
    return torch.cat([head, values.narrow(dim, 0, max(values.shape[dim] - 1, 0))], dim)
