"""One case for every rule: the torch call, and its formula from scalars alone.

A formula is a chain of the three rules of :mod:`oracles`, or of the two pieces below
that are no such chain: the maximum and the order statistics. The multilinear
functions need none: their multiplier is the mean over the straight line of what each
unit of an operand adds, :func:`unit_by_unit`, which no derivative enters into.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import mpmath as mp
import numpy as np
import oracles
import torch
import torch.nn.functional as F
from oracles import Array, Number
from torch import Tensor

Shapes = tuple[tuple[int, ...], ...]


class Case(NamedTuple):
    """A call that one rule serves.

    Args:
        function: The call; its operands are all attributed.
        formula: The same on arrays of numbers; None for a multilinear function.
        shapes: Of the operands.
        domain: Where the operands' values lie.
        line: Whether the rule is the straight line's, so that integrated gradients
            of the whole call give it too.
        scales: Factors of the operands under which the formula is to hold.
    """

    function: Callable[..., Any]
    formula: Callable[..., Array] | None = None
    shapes: Shapes = ((3, 4),)
    domain: tuple[float, float] = (-3.0, 3.0)
    line: bool = False
    scales: tuple[float, ...] = (1e-30, 1e-6, 1.0, 1e6, 1e30)


def unit_by_unit(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    references: Sequence[Tensor],
    upstream: Tensor,
) -> list[Array]:
    """Multipliers of a multilinear function: Simpson's rule is exact to degree 3."""
    found = [torch.zeros_like(x) for x in inputs]
    for share, weight in ((0.0, 1 / 6), (0.5, 4 / 6), (1.0, 1 / 6)):
        line = [x0 + share * (x - x0) for x, x0 in zip(inputs, references)]
        for slot, x in enumerate(inputs):
            zero = torch.zeros_like(x)
            without = function(*line[:slot], zero, *line[slot + 1 :])
            for k in range(x.numel()):
                unit = zero.clone()
                unit.view(-1)[k] = 1.0
                added = function(*line[:slot], unit, *line[slot + 1 :]) - without
                found[slot].view(-1)[k] += weight * (upstream * added).sum()
    return [m.numpy() for m in found]


# The maximum and the order statistics -----------------------------------------------


def greatest(row: Sequence[Number], sign: int = 1) -> Number:
    """The change of a maximum goes to the value that is the highest on both sides."""
    y, y0 = (max(sign * v for v in side) for side in _both(row))
    side = 0 if y >= y0 else 1
    at = [sign * v for v in _both(row)[side]].index((y, y0)[side])
    moved = row[at].value - row[at].reference
    slope = sign * (y - y0) / moved if moved else mp.mpf(1)
    return Number(sign * y, sign * y0, [(row[at], slope)])


def ranked(row: Sequence[Number]) -> list[Number]:
    """Rank by rank: the share of the line on which each value holds it, exactly."""
    x, x0 = ([Fraction(float(v)) for v in side] for side in _both(row))
    cuts = {Fraction(0), Fraction(1)}
    for i, j in itertools.combinations(range(len(row)), 2):
        rate = (x[i] - x0[i]) - (x[j] - x0[j])
        if rate:
            cuts.add(min(max((x0[j] - x0[i]) / rate, Fraction(0)), Fraction(1)))
    held = [[Fraction(0)] * len(row) for _ in row]
    for start, stop in itertools.pairwise(sorted(cuts)):
        at = (start + stop) / 2
        line = [b + at * (a - b) for a, b in zip(x, x0)]
        for rank, i in enumerate(sorted(range(len(row)), key=line.__getitem__)):
            held[rank][i] += stop - start
    sides = [sorted(side) for side in _both(row)]
    return [
        Number(y, y0, [(n, mp.mpf(s.numerator) / s.denominator) for n, s in shares])
        for y, y0, shares in zip(*sides, (list(zip(row, h)) for h in held))
    ]


def _both(row: Sequence[Number]) -> tuple[list[Any], list[Any]]:
    return [n.value for n in row], [n.reference for n in row]


def over_rows(function: Callable[[Sequence[Number]], Any]) -> Callable[[Array], Array]:
    """A function of the last dimension, for each row."""

    def formula(x: Array) -> Array:
        rows = [function(list(row)) for row in x.reshape(-1, x.shape[-1])]
        made = np.array(rows, dtype=object)
        return made.reshape(*x.shape[:-1], *made.shape[1:])

    return formula


def windows(sizes: tuple[int, ...], stride: int = 1) -> Callable[[Array], Array]:
    """A max-pool over windows that may overlap; the last dimensions are spatial."""

    def formula(x: Array) -> Array:
        n = len(sizes)
        counts = [(x.shape[k - n] - s) // stride + 1 for k, s in enumerate(sizes)]
        found = np.empty((*x.shape[:-n], *counts), dtype=object)
        for index in np.ndindex(found.shape):
            corner = [i * stride for i in index[-n:]]
            part = tuple(slice(c, c + s) for c, s in zip(corner, sizes))
            found[index] = greatest(list(x[(*index[:-n], *part)].reshape(-1)))
        return found

    return formula


# Elementwise ------------------------------------------------------------------------

S, D = oracles.SCALAR, mp.mpf


def _clip(x: Any, low: float, high: float) -> Any:
    return min(max(x, D(low)), D(high))


#: Functions of one scalar, by label: the call, the formula and the domain.
ELEMENTWISE: dict[str, tuple[Any, Callable[[Any], Any], tuple[float, float]]] = {
    "relu": (F.relu, S["relu"], (-3, 3)),
    "leaky_relu": (F.leaky_relu, lambda x: x if x > 0 else x * D(0.01), (-3, 3)),
    "abs": (torch.abs, abs, (-3, 3)),
    "__abs__": (lambda x: abs(x), abs, (-3, 3)),
    "absolute": (torch.absolute, abs, (-3, 3)),
    "clamp_min": (lambda x: x.clamp_min(0.3), lambda x: max(x, D(0.3)), (-3, 3)),
    "clamp_max": (lambda x: x.clamp_max(0.3), lambda x: min(x, D(0.3)), (-3, 3)),
    "clamp": (lambda x: x.clamp(-1, 0.5), lambda x: _clip(x, -1, 0.5), (-3, 3)),
    "hardtanh": (F.hardtanh, S["hardtanh"], (-3, 3)),
    "relu6": (F.relu6, S["relu6"], (-3, 9)),
    "threshold": (
        lambda x: F.threshold(x, 0.2, -1.0),
        lambda x: x if x > 0.2 else D(-1),
        (-3, 3),
    ),
    "hardshrink": (
        lambda x: F.hardshrink(x, 0.3),
        lambda x: x if abs(x) > 0.3 else D(0),
        (-3, 3),
    ),
    "floor": (torch.floor, mp.floor, (-3, 3)),
    "ceil": (torch.ceil, mp.ceil, (-3, 3)),
    "round": (torch.round, mp.nint, (-3, 3)),
    "trunc": (torch.trunc, lambda x: mp.sign(x) * mp.floor(abs(x)), (-3, 3)),
    "fix": (torch.fix, lambda x: mp.sign(x) * mp.floor(abs(x)), (-3, 3)),
    "sign": (torch.sign, mp.sign, (-3, 3)),
    "floor_divide": (
        lambda x: torch.floor_divide(x, 0.75),
        lambda x: mp.floor(x / D(0.75)),
        (-3, 3),
    ),
    "__floordiv__": (lambda x: x // 0.75, lambda x: mp.floor(x / D(0.75)), (-3, 3)),
    "fmod": (
        lambda x: torch.fmod(x, 0.75),
        lambda x: x - D(0.75) * mp.sign(x) * mp.floor(abs(x) / D(0.75)),
        (-3, 3),
    ),
    "remainder": (
        lambda x: torch.remainder(x, 0.75),
        lambda x: x - D(0.75) * mp.floor(x / D(0.75)),
        (-3, 3),
    ),
    "frac": (
        torch.frac,
        lambda x: x - mp.sign(x) * mp.floor(abs(x)),
        (-3, 3),
    ),
    "sgn": (torch.sgn, mp.sign, (-3, 3)),
    "tanh": (torch.tanh, mp.tanh, (-3, 3)),
    "sigmoid": (torch.sigmoid, S["sigmoid"], (-4, 4)),
    "expit": (torch.special.expit, S["sigmoid"], (-4, 4)),
    "exp": (torch.exp, mp.exp, (-4, 4)),
    "expm1": (torch.expm1, mp.expm1, (-4, 4)),
    "log": (torch.log, mp.log, (0.05, 5)),
    "log1p": (torch.log1p, mp.log1p, (-0.8, 5)),
    "sqrt": (torch.sqrt, mp.sqrt, (0.05, 5)),
    "rsqrt": (torch.rsqrt, S["rsqrt"], (0.05, 5)),
    "reciprocal": (torch.reciprocal, S["reciprocal"], (0.1, 5)),
    "square": (torch.square, S["square"], (-3, 3)),
    "silu": (F.silu, S["silu"], (-4, 4)),
    "gelu": (F.gelu, S["gelu"], (-4, 4)),
    "gelu, tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        S["gelu_tanh"],
        (-4, 4),
    ),
    "softplus": (
        F.softplus,
        lambda x: x if x > 20 else S["softplus"](x),
        (-4, 4),
    ),
    "elu": (lambda x: F.elu(x, 0.5), lambda x: oracles._elu(x, D(0.5)), (-3, 3)),
    "selu": (F.selu, S["selu"], (-3, 3)),
    "celu": (
        lambda x: F.celu(x, 0.5),
        lambda x: x if x > 0 else mp.expm1(2 * x) / 2,
        (-3, 3),
    ),
    "sin": (torch.sin, mp.sin, (-3, 3)),
    "cos": (torch.cos, mp.cos, (-3, 3)),
    "tan": (torch.tan, mp.tan, (-1, 1)),
    "sinh": (torch.sinh, mp.sinh, (-3, 3)),
    "cosh": (torch.cosh, mp.cosh, (-3, 3)),
    "atan": (torch.atan, mp.atan, (-3, 3)),
    "asin": (torch.asin, mp.asin, (-0.8, 0.8)),
    "acos": (torch.acos, mp.acos, (-0.8, 0.8)),
    "erf": (torch.erf, mp.erf, (-2, 2)),
    "erfc": (torch.erfc, mp.erfc, (-2, 2)),
    "log2": (torch.log2, S["log2"], (0.5, 5)),
    "log10": (torch.log10, mp.log10, (0.5, 5)),
    "exp2": (torch.exp2, S["exp2"], (-4, 4)),
    "log_sigmoid": (F.logsigmoid, S["logsigmoid"], (-4, 4)),
    "softsign": (F.softsign, S["softsign"], (-4, 4)),
    "asinh": (torch.asinh, mp.asinh, (-3, 3)),
    "acosh": (torch.acosh, mp.acosh, (1.1, 4)),
    "atanh": (torch.atanh, mp.atanh, (-0.8, 0.8)),
    "arcsin": (torch.arcsin, mp.asin, (-0.8, 0.8)),
    "arccos": (torch.arccos, mp.acos, (-0.8, 0.8)),
    "arctan": (torch.arctan, mp.atan, (-3, 3)),
    "arcsinh": (torch.arcsinh, mp.asinh, (-3, 3)),
    "arccosh": (torch.arccosh, mp.acosh, (1.1, 4)),
    "arctanh": (torch.arctanh, mp.atanh, (-0.8, 0.8)),
    "logit": (torch.logit, lambda x: mp.log(x / (1 - x)), (0.05, 0.95)),
    "mish": (F.mish, S["mish"], (-4, 4)),
    "hardsigmoid": (F.hardsigmoid, lambda x: _clip(x / 6 + 0.5, 0, 1), (-5, 5)),
    "hardswish": (F.hardswish, lambda x: x * _clip(x / 6 + 0.5, 0, 1), (-5, 5)),
    "softshrink": (F.softshrink, lambda x: x - _clip(x, -0.5, 0.5), (-3, 3)),
    "tanhshrink": (F.tanhshrink, lambda x: x - mp.tanh(x), (-3, 3)),
    "prelu": (
        lambda x: F.prelu(x, x.new_tensor([0.25])),
        lambda x: x if x > 0 else x / 4,
        (-3, 3),
    ),
    "rrelu": (
        F.rrelu,
        lambda x: x if x > 0 else x * (D(1) / 8 + D(1) / 3) / 2,
        (-3, 3),
    ),
    "pow": (lambda x: x**3, lambda x: x**3, (0.5, 3)),
    "pow, of a root": (lambda x: x**-0.5, S["rsqrt"], (0.5, 3)),
    "__rpow__": (lambda x: 2.5**x, lambda x: D(2.5) ** x, (-3, 3)),
    "__rdiv__": (lambda x: 2.5 / x, lambda x: D(2.5) / x, (0.1, 5)),
    "max": (
        lambda x: torch.maximum(x, x.new_tensor(0.25)),
        lambda x: max(x, D(0.25)),
        (-3, 3),
    ),
    "fmax": (
        lambda x: torch.fmax(x, x.new_tensor(0.25)),
        lambda x: max(x, D(0.25)),
        (-3, 3),
    ),
    "fmin": (
        lambda x: torch.fmin(x, x.new_tensor(0.25)),
        lambda x: min(x, D(0.25)),
        (-3, 3),
    ),
    "min": (
        lambda x: torch.min(x, x.new_tensor(0.25)),
        lambda x: min(x, D(0.25)),
        (-3, 3),
    ),
}

# Multilinear ------------------------------------------------------------------------

_KINDS = ("conv", "conv_transpose")
_spatial = {1: (3,), 2: (3, 2), 3: (2, 2, 2)}


def _linear(function: Any, *shapes: tuple[int, ...]) -> Case:
    scales = (1e-30, 1e-6, 1.0, 1e6, 1e30)[: 5 if len(shapes) == 2 else 4]
    return Case(function, None, shapes, line=True, scales=scales)


def _convolution(n: int, name: str) -> Case:
    return _linear(getattr(F, name), (1, 2, *_spatial[n]), (2, 2, *[2] * n), (2,))


#: Linear in each operand, by label.
MULTILINEAR: dict[str, Case] = {
    "mul": _linear(torch.mul, (2, 1, 3), (4, 1)),
    "matmul": _linear(torch.matmul, (2, 1, 2, 3), (2, 3, 2)),
    "vdot": _linear(torch.vdot, (3,), (3,)),
    "inner": _linear(torch.inner, (2, 3), (4, 3)),
    "outer": _linear(torch.outer, (2,), (3,)),
    "ger": _linear(torch.ger, (2,), (3,)),
    "__rmatmul__": _linear(Tensor.__rmatmul__, (3, 2), (2, 3)),
    "einsum": _linear(partial(torch.einsum, "ij,jk,ki->i"), (2, 3), (3, 2), (2, 2)),
    "linear": _linear(F.linear, (2, 3), (4, 3), (4,)),
    "bilinear": _linear(F.bilinear, (4, 2), (4, 3), (5, 2, 3)),
    **{f"{c}{n}d": _convolution(n, f"{c}{n}d") for n in (1, 2, 3) for c in _KINDS},
    "addmm": _linear(torch.addmm, (2, 2), (2, 3), (3, 2)),
    "addmv": _linear(torch.addmv, (2,), (2, 3), (3,)),
    "addbmm": _linear(torch.addbmm, (2, 2), (2, 2, 3), (2, 3, 2)),
    "baddbmm": _linear(torch.baddbmm, (2, 2, 2), (2, 2, 3), (2, 3, 2)),
    "addr": _linear(torch.addr, (2, 3), (2,), (3,)),
    "addcmul": _linear(torch.addcmul, (2, 3), (2, 3), (3,)),
    "lerp": _linear(torch.lerp, (2, 3), (2, 3), (2, 3)),
    "tensordot": _linear(partial(torch.tensordot, dims=1), (2, 3), (3, 2)),
    "kron": _linear(torch.kron, (2, 2), (1, 3)),
    "chain_matmul": _linear(torch.chain_matmul, (2, 3), (3, 2), (2, 2)),
    "cross": _linear(partial(torch.cross, dim=1), (2, 3), (2, 3)),
    "linalg_cross": _linear(torch.linalg.cross, (3, 3), (3, 3)),
    "trapezoid": _linear(torch.trapezoid, (3, 4), (3, 4)),
    "trapz": _linear(torch.trapz, (3, 4), (3, 4)),
    "conv_tbc": _linear(torch.conv_tbc, (4, 1, 2), (2, 2, 3), (3,)),
}
