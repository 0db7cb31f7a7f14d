r"""Flags: comparisons of attributed values, and what is made of their answers.

A flag is a step function with the values 0 and 1, and has a secant like any other
function. With d what is compared (x - t for ``x > t``),

.. math:: m = \frac{\Delta\,\mathrm{flag}}{\Delta d}

(Shrikumar et al. 2017, eq. 4). Logic is arithmetic on 0 and 1: and = ab,
or = a + b - ab, xor = a + b - 2ab, not = 1 - a, each with the product rule; and
``where(c, a, b)`` = c·a + (1 - c)·b. ``all`` and ``any`` share their change equally
among the flags that changed with it, which is Shapley's value of both: each of them
alone decides, or all together do.

What a rule here is given as booleans or whole numbers comes as the same in floating
point, 0 and 1 for booleans.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..declarations import Kind, flag, rule
from ..pairs import (
    Multiplier,
    Pair,
    Rule,
    Shares,
    reduced_dims,
    sum_to,
    unsqueezed,
)
from .quotients import NOTHING, bounded, over


@flag("ne __ne__ lt __lt__ gt __gt__ not_equal less greater bool", tags="compares")
def step(y: Pair, a: Any, b: Any = 0.0, *_: Any, **__: Any) -> Multiplier:
    """A comparison of a with b, or a cast to whole numbers: Δy/(Δa - Δb)."""
    b = b if isinstance(b, (Pair, Tensor, int, float)) else 0.0
    da, db = _delta(a), _delta(b)
    m = over(y.delta, torch.broadcast_to(da - db, y.input.shape), 0.0)

    def multiplier(upstream: Tensor) -> Shares:
        for operand, sign in ((a, 1), (b, -1)):
            if isinstance(operand, Pair):
                yield operand, sum_to(sign * upstream * m, operand.input)

    return multiplier


MORE_STEPS = (
    flag(
        "eq __eq__ le __le__ ge __ge__ less_equal greater_equal",
        step,
        tags="compares, equality",
    ),
    flag("int long short byte char signbit", step),
    #: Linear where their result is floating point and keeps its gradient, which a
    #: tensor made of another's numbers does not; the random ones in training only.
    rule(
        "to type type_as tensor as_tensor asarray new_tensor",
        step,
        kind=Kind.CAST,
        tags="casts",
        twins=False,
    ),
    rule(
        "rand randn randint randperm rand_like randn_like randint_like dropout"
        " dropout1d dropout2d dropout3d feature_dropout alpha_dropout"
        " feature_alpha_dropout",
        step,
        kind=Kind.CAST,
        random=True,
    ),
)


def _logic(name: str, slope: Callable[[Any], Any]) -> Rule:
    """The product rule: each operand's slope is taken at the other's mean."""

    def logic(y: Pair, a: Any, b: Any, *_: Any, **__: Any) -> Multiplier:
        def multiplier(upstream: Tensor) -> Shares:
            for operand, other in ((a, b), (b, a)):
                if isinstance(operand, Pair):
                    m = upstream * slope(_mean_truth(other)) * _truth_slope(operand)
                    yield operand, sum_to(m, operand.input)

        return multiplier

    logic.__name__ = name
    return logic


conjunction = _logic("conjunction", lambda other: other)
disjunction = _logic("disjunction", lambda other: 1 - other)
difference = _logic("difference", lambda other: 1 - 2 * other)
LOGICAL = (
    flag("logical_and bitwise_and __and__ __rand__", conjunction),
    flag("logical_or bitwise_or __or__ __ror__", disjunction),
    flag("logical_xor bitwise_xor __xor__ __rxor__", difference),
)


@flag("logical_not bitwise_not __invert__")
def negation(y: Pair, a: Pair, *_: Any, **__: Any) -> Multiplier:
    """Not a: 1 - a."""
    slope = _truth_slope(a)
    return lambda upstream: ((a, -upstream * slope),)


#: The rules of what has another meaning for whole numbers, bit by bit.
LOGIC = (conjunction, disjunction, difference, negation)


@flag("any all", tags="reduces")
def reduction(
    y: Pair, x: Pair, dim: Any = None, keepdim: bool = False, **_: Any
) -> Multiplier:
    """``all`` or ``any``: equal shares for the flags that changed as it did."""
    dims = reduced_dims(x, dim)
    change = y.delta if keepdim else unsqueezed(y.delta, dims)
    moved = _truths(x).delta
    alike = ((moved == change) & (change != 0)).to(moved.dtype)
    count = alike.sum(dims, keepdim=True).clamp_min(1)
    slope = alike / count * _truth_slope(x)

    def multiplier(upstream: Tensor) -> Shares:
        m = upstream if keepdim else unsqueezed(upstream, dims)
        yield x, m * slope

    return multiplier


@flag("count_nonzero", tags="reduces")
def count(y: Pair, x: Pair, dim: Any = None, *_: Any, **__: Any) -> Multiplier:
    """``count_nonzero``: the sum of the flags x ≠ 0."""
    slope, dims = _truth_slope(x), reduced_dims(x, dim)
    return lambda upstream: ((x, unsqueezed(upstream, dims) * slope),)


def choice(c: Pair, a: Any, b: Any) -> Multiplier:
    """``where(c, a, b)`` = c·a + (1 - c)·b by the product rule.

    Scores filled with -∞ go down by as much as :mod:`.softmax` takes for it.
    """
    crossed, weight = c.input != c.reference, c.mean
    seen_a, lost_a = _where_chosen(a, crossed, c.input != 0)
    seen_b, lost_b = _where_chosen(b, crossed, c.input == 0)
    gap = _finite_mean(seen_a) - _finite_mean(seen_b)

    def multiplier(upstream: Tensor) -> Shares:
        yield c, sum_to(torch.where(crossed, upstream * gap, 0.0), c.input)
        for operand, part, lost in ((a, weight, lost_a), (b, 1 - weight, lost_b)):
            if isinstance(operand, Pair):
                share = (upstream * part).masked_fill(lost, 0.0)
                yield operand, sum_to(share, operand.input)

    return multiplier


def _where_chosen(value: Any, crossed: Tensor, at_input: Tensor) -> tuple[Any, Tensor]:
    """A value that stays what it is chosen as where it is else infinite or NaN.

    ``where(n > 0, x / n, 0)`` never shows what it is at n = 0: no change of it is seen,
    and all of the change is the flag's. Also given is where that is.
    """
    if not isinstance(value, Pair):
        return value, crossed
    x, x0 = value.sides
    lost = crossed & ~torch.isfinite(torch.where(at_input, x0, x))
    seen = torch.where(at_input, x, x0)
    return value.each(lambda side: torch.where(lost, seen, side)), lost


def where(y: Pair, c: Pair, a: Any, b: Any, **_: Any) -> Multiplier:
    """``torch.where(c, a, b)``."""
    return choice(c, a, b)


def method_where(y: Pair, a: Any, c: Pair, b: Any, **_: Any) -> Multiplier:
    """``a.where(c, b)``."""
    return choice(c, a, b)


def masked_fill(y: Pair, x: Any, c: Pair, value: Any, **_: Any) -> Multiplier:
    """``x.masked_fill(c, value)``: value where c, else x."""
    return choice(c, value, x)


def item(y: Pair, x: Any, c: Pair, value: Any, **_: Any) -> Multiplier:
    """``x[c] = value``: the same, but that c names x's first dimensions."""
    lacking = [1] * (y.input.dim() - c.input.dim())
    flag, flag0 = (side.reshape(*side.shape, *lacking) for side in c.sides)
    share = choice(Pair(flag, flag0, c.slot), value, x)

    def multiplier(upstream: Tensor) -> Shares:
        for operand, part in share(upstream):
            mine = operand.slot == c.slot
            yield operand, part.reshape(c.input.shape) if mine else part

    return multiplier


def chooses(function: Any, args: Any) -> Rule | None:
    """The rule of a call that chooses between values by a flag in twin form.

    That is ``where``, ``masked_fill``, or the write of one value at a flag.
    """
    name = getattr(function, "__name__", "")
    if len(args) != 3 or name not in ("where", "masked_fill", "with_item"):
        return None
    place = 0 if name == "where" and function is not torch.Tensor.where else 1
    flag, value = args[place], args[2]
    attributed = isinstance(flag, Tensor) and flag.is_floating_point()
    several = isinstance(value, Tensor) and value.numel() > 1
    if not attributed or (several and name == "with_item"):
        return None
    if name == "where":
        return method_where if place else where
    return item if name == "with_item" else masked_fill


def _delta(value: Any) -> Any:
    """Δ, of infinities too; 0 for a constant."""
    if not isinstance(value, Pair):
        return 0.0
    if not value.input.is_floating_point():
        return value.delta
    high, low = (bounded(side) for side in value.sides)
    return high - low


def _finite_mean(value: Any) -> Any:
    if isinstance(value, Pair):
        return torch.lerp(bounded(value.input), bounded(value.reference), 0.5)
    if isinstance(value, Tensor):
        return bounded(value) if value.is_floating_point() else value
    value = float(value)
    return math.copysign(NOTHING, value) if math.isinf(value) else value


def _truths(x: Any) -> Pair:
    return Pair(*((side != 0).to(side.dtype) for side in x.sides))


def _truth_slope(x: Pair) -> Tensor:
    """Δ(x ≠ 0)/Δx: 1 for a flag that changed, as well as for one that did not."""
    return over(_truths(x).delta, x.delta, 1.0)


def _mean_truth(value: Any) -> Any:
    if isinstance(value, Pair):
        return _truths(value).mean
    return (value != 0).float() if isinstance(value, Tensor) else float(value)
