r"""Elementwise operations, y = f(x): the Rescale rule.

.. math:: m = \frac{f(x) - f(x_0)}{x - x_0}

(Shrikumar et al., Learning Important Features Through Propagating Activation
Differences, 2017, eq. 4 and section 3.5.1.) A difference of two nearly equal
floating-point numbers has no digits left, so wherever an algebraic identity gives
the secant without subtracting, it is used; it then needs no switch between secant
and derivative either, and is as smooth as f. The other functions fall back on the
derivative halfway between the two points where the points are close.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..declarations import rule
from ..pairs import Multiplier, Pair, Rule, sum_to, widened
from .lazy import Lazy
from .quotients import NOTHING, bounded, guarded, over

#: Gives the secant (y - y0) / (x - x0) from both sides of x and of y.
type Secant = Callable[..., Tensor]


def secant_rule(secant: Secant) -> Rule:
    """A rule from a secant.

    Args:
        secant: Called as ``secant(x, y, *args, **kwargs)`` with :class:`Pair` s and
            the function's other arguments; returns (y - y0) / (x - x0).
    """
    return of_one(partial(_by_secant, secant, True), secant.__name__)


def lazy_rule(secant: Secant) -> Rule:
    """The same for a secant that is called without y, in the backward pass.

    For functions whose values cost little next to it.
    """
    return of_one(partial(_by_secant, secant, False), secant.__name__)


def _by_secant(
    secant: Secant, of_both: bool, y: Pair, x: Pair, *args: Any, **kwargs: Any
) -> Multiplier:
    dtype = x.input.dtype

    def slope(*sides: Any) -> tuple[Tensor]:
        pairs = (widened(Pair(*sides[k : k + 2])) for k in range(0, len(sides), 2))
        return (secant(*pairs, *args, **kwargs).to(dtype),)

    if not of_both or y.input.shape == x.input.shape:
        kind = None if args or kwargs else secant
        return Lazy(x, slope, torch.mul, y=y if of_both else None, kind=kind)
    (m,) = slope(*x.sides, *y.sides)
    return lambda upstream: ((x, sum_to(upstream * m, x.input)),)


def elementwise(derivative: Callable[..., Tensor]) -> Rule:
    """A rule for any elementwise function, from its derivative.

    Args:
        derivative: f'(x), called with the tensor and the function's other
            arguments. It is evaluated halfway between reference and input where
            these are too close for their difference to carry digits.

    Example:
        >>> import torch.nn.functional as F
        >>> from captum_ehr.propagation import attributions
        >>> softsign = elementwise(lambda x: (1 + x.abs()) ** -2)
        >>> x, x0 = torch.tensor([[3.0]]), torch.tensor([[0.0]])
        >>> run = attributions(F.softsign, (x,), (x0,), rules={F.softsign: softsign})
        >>> run.attributions[0]
        tensor([[0.7500]])
    """
    return of_one(partial(_by_derivative, derivative), "elementwise")


def _by_derivative(
    derivative: Callable[..., Tensor], y: Pair, x: Pair, *args: Any, **kwargs: Any
) -> Multiplier:
    m = guarded(widened(x), y, lambda at: derivative(at, *args, **kwargs))
    m = m.to(x.input.dtype)
    return lambda upstream: ((x, sum_to(upstream * m, x.input)),)


def of_one(rule: Rule, name: str = "") -> Rule:
    """The rule for calls of which the first operand is all that is attributed.

    Of parts and no closure: it pickles where they do.
    """
    checked: Any = partial(_checked, rule)
    checked.__name__ = name or rule.__name__
    return checked


def _checked(rule: Rule, y: Any, x: Any, /, *args: Any, **kwargs: Any) -> Multiplier:
    if isinstance(y, nn.Module):  # which comes first where it has the rule
        return _checked(rule, x, *args, **kwargs)
    others = any(isinstance(o, Pair) for o in (*args, *kwargs.values()))
    if others or not isinstance(x, Pair) or x.input.is_complex():
        return NotImplemented
    return rule(y, x, *args, **kwargs)


#: Decorators of a secant, for the functions that it serves.
secant = partial(rule, make=secant_rule)
lazy_secant = partial(rule, make=lazy_rule, keeps="operands")


# Piecewise linear functions: the secant is exact but for Δx = 0 -----------------


@secant("relu")
def relu(x: Pair, y: Pair, *_: Any, **__: Any) -> Tensor:
    """max(x, 0); at Δx = 0 the derivative."""
    return over(y.delta, x.delta, x.input.sign().relu_())


@secant("leaky_relu")
def leaky_relu(x: Pair, y: Pair, negative_slope: float = 0.01, *_: Any) -> Tensor:
    """max(x, 0) + slope·min(x, 0): only max(x, 0) is not rounded."""
    high = Pair(x.input.clamp(min=0), x.reference.clamp(min=0))
    share = relu(x, high)
    return share + negative_slope * (1 - share)


def absolute(x: Pair, y: Pair) -> Tensor:
    """|x|; 0 between two zeros, as autograd has it."""
    return over(y.delta, x.delta, x.input.sign())


@rule("abs absolute __abs__ fabs", keeps="operands")
def modulus(y: Pair, x: Any, *_: Any) -> Multiplier:
    """|x|, also of a complex number: |z|² - |w|² = Re((z + w)*·(z - w)).

    Computed when it is asked for: what it serves is most often a mask.
    """
    if x.input.is_complex():
        sides = Pair(x.input.abs(), x.reference.abs())
        both = (x.input + x.reference) * sqrt(x, sides)
        return lambda upstream: ((x, upstream * both),)

    def multiplier(upstream: Tensor) -> tuple[tuple[Any, Tensor]]:
        sides = Pair(x.input.abs(), x.reference.abs())
        return secant_rule(absolute)(sides, x)(upstream)  # type: ignore[return-value]

    return multiplier


@secant("hardtanh relu6 threshold hardshrink")
def hard(x: Pair, y: Pair, *args: Any, **kwargs: Any) -> Tensor:
    """clamp, hardtanh, relu6, threshold: slope 1 where y is x, else 0."""
    return over(y.delta, x.delta, (y.input == x.input).to(x.input.dtype))


@secant("floor ceil round trunc fix sign sgn heaviside floor_divide __floordiv__")
def step(x: Pair, y: Pair, *args: Any, **kwargs: Any) -> Tensor:
    """floor, ceil, round, sign: a jump is shared out along the line, rest 0."""
    return over(y.delta, x.delta, 0.0)


@secant("fmod remainder")
def sawtooth(x: Pair, y: Pair, *args: Any, **kwargs: Any) -> Tensor:
    """fmod, remainder, frac: slope 1 but for the jumps, which are shared out."""
    return over(y.delta, x.delta, 1.0)


# Smooth functions with an identity for their differences ------------------------


def phi(t: Tensor) -> Tensor:
    """(1 - e^-t)/t for t ≥ 0, which is overwritten; 1 at 0.

    With s = t/2 that is tanh s/(s + s·tanh s). torch's tanh takes a quarter of the time
    of its expm1, unless s is nearly the smallest number there is.
    """
    t = t.mul_(0.5).add_(torch.finfo(t.dtype).eps / 64)  # lost but where all is 1
    h = t.tanh()
    return h.div_(t.addcmul_(t, h))


def distance(x: Pair) -> Tensor:
    """|Δx|, infinity being as far as NOTHING; 0 between two that are the same."""
    return x.delta.nan_to_num_(0.0, -NOTHING, NOTHING).abs_()


@secant("tanh")
def tanh(x: Pair, y: Pair, *_: Any) -> Tensor:
    """|tanh a - tanh b| = (1 + max)(1 - min)(1 - e^-2|a-b|)/2 of the two values."""
    high, low = torch.maximum(y.input, y.reference), torch.minimum(y.input, y.reference)
    return phi(distance(x).mul_(2)).mul_(high.add_(1)).mul_(1 - low)


@secant("sigmoid expit")
def sigmoid(x: Pair, y: Pair, *_: Any) -> Tensor:
    """|σ(a) - σ(b)| = max·(1 - min)·(1 - e^-|a-b|) of the two values."""
    high, low = torch.maximum(y.input, y.reference), torch.minimum(y.input, y.reference)
    return phi(distance(x)).mul_(high).mul_(1 - low)


@secant("exp")
def exp(x: Pair, y: Pair, *_: Any) -> Tensor:
    """|e^a - e^b| = max·(1 - e^-|a-b|) of the two values."""
    return phi(distance(x)).mul_(torch.maximum(y.input, y.reference))


@secant("expm1")
def expm1(x: Pair, y: Pair, *_: Any) -> Tensor:
    """As exp."""
    return exp(x, Pair(x.input.exp(), x.reference.exp()))


@secant("log")
def log(x: Pair, y: Pair, *_: Any) -> Tensor:
    """Ln a - ln b = log1p((a - b)/b), 1 over the logarithmic mean; ln 0 is NOTHING."""
    low = torch.minimum(x.input, x.reference)
    gap = x.delta.abs() / low
    of_zero = over(y.each(bounded).delta, x.delta, 0.0)
    return torch.where(low == 0, of_zero, over(torch.log1p(gap), gap) / low)


@secant("log1p")
def log1p(x: Pair, y: Pair, *_: Any) -> Tensor:
    """As log."""
    return log(Pair(1 + x.input, 1 + x.reference), y)


@secant("sqrt")
def sqrt(x: Pair, y: Pair, *_: Any) -> Tensor:
    """√a - √b = (a - b)/(√a + √b); nothing between two zeros."""
    return (y.input + y.reference).reciprocal_().nan_to_num_(math.nan, posinf=0.0)


@secant("rsqrt")
def rsqrt(x: Pair, y: Pair, *_: Any) -> Tensor:
    """1/√a - 1/√b = -(a - b)·(r·r0)²/(r + r0), with r the output."""
    both = y.input * y.reference
    return -both * (both / (y.input + y.reference))


@secant("reciprocal")
def reciprocal(x: Pair, y: Pair, *_: Any) -> Tensor:
    """1/a - 1/b = -(a - b)/(a·b)."""
    return -y.input * y.reference


@secant("square")
def square(x: Pair, y: Pair, *_: Any) -> Tensor:
    """a² - b² = (a - b)·(a + b)."""
    return x.input + x.reference


@lazy_secant("silu")
def silu(x: Pair, *_: Any, **__: Any) -> Tensor:
    """x·σ(x): the product rule along one variable, σ̄ + x̄·(secant of σ)."""
    s = Pair(x.input.sigmoid(), x.reference.sigmoid())
    return s.mean + x.mean * sigmoid(x, s)


@lazy_secant("gelu")
def gelu(x: Pair, approximate: str = "none") -> Tensor:
    """x·Φ(x): the product rule along one variable, Φ̄ + x̄·(secant of Φ)."""
    if approximate == "tanh":
        return _gelu_tanh(x)
    near = 5 * torch.finfo(x.input.dtype).eps ** 0.2
    high, low = (side.mul(math.sqrt(0.5)).erf_() for side in x.sides)  # 2Φ - 1
    gap, middle = x.delta.abs_(), x.mean
    far = nn.functional.threshold(gap, near, 0.0).sign_()
    secant = (high - low).abs_().div_(gap.clamp_min(near))
    square = middle * middle
    density = torch.rsub(square, math.log(2 / math.pi) / 2, alpha=0.5).exp_()
    # Closely, the density in the middle and its bend, missing Δx⁴/1600 at most
    bend = square.sub_(1).mul_(gap.clamp_(max=near).square_())
    slope = density.addcmul_(density, bend, value=1 / 24).lerp_(secant, far)
    return high.lerp_(low, 0.5).addcmul_(slope, middle).add_(1).mul_(0.5)


def _gelu_tanh(x: Pair) -> Tensor:
    """x·σ(2u), u = √(2/π)(x + 0.044715 x³): Φ's approximation, by the same rule."""
    a, b = x.sides
    scale, cubic = 2 * math.sqrt(2 / math.pi), 0.044715
    u, u0 = (scale * (side + cubic * side**3) for side in x.sides)
    s = Pair(u.sigmoid(), u0.sigmoid())
    inner = scale * (1 + cubic * (a * a + a * b + b * b))
    return s.mean + x.mean * sigmoid(Pair(u, u0), s) * inner


@lazy_secant("softplus")
def softplus(x: Pair, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """ln(1 + e^βx)/β, linear above the threshold."""

    def derivative(at: Tensor) -> Tensor:
        return torch.sigmoid(at * beta).masked_fill(at * beta > threshold, 1.0)

    values = [torch.nn.functional.softplus(s, beta, threshold) for s in x.sides]
    return guarded(x, Pair(values[0], values[1]), derivative)


@secant("elu")
def elu(
    x: Pair, y: Pair, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0
) -> Tensor:
    """X above 0, α(e^x - 1) below; between the two the plain secant."""
    low = x.each(lambda side: input_scale * side.clamp(max=0))
    high = x.each(lambda side: side.clamp(min=0))
    below = alpha * input_scale * exp(low, low.each(torch.exp))
    share = relu(x, high)
    return scale * (share + below * (1 - share))


@secant("selu")
def selu(x: Pair, y: Pair, *_: Any, **__: Any) -> Tensor:
    """λ·elu(x, α) with the constants of Klambauer et al. (2017)."""
    return 1.0507009873554805 * elu(x, y, alpha=1.6732632423543772)


# Functions with no identity worth having, from their derivatives -----------------

DERIVATIVES = (
    rule("sin", elementwise(torch.cos)),
    rule("cos", elementwise(lambda x: -x.sin())),
    rule("tan", elementwise(lambda x: 1 + x.tan() ** 2)),
    rule("sinh", elementwise(torch.cosh)),
    rule("cosh", elementwise(torch.sinh)),
    rule("asin", elementwise(lambda x: torch.rsqrt(1 - x * x))),
    rule("acos", elementwise(lambda x: -torch.rsqrt(1 - x * x))),
    rule("atan", elementwise(lambda x: 1 / (1 + x * x))),
    rule("asinh", elementwise(lambda x: torch.rsqrt(1 + x * x))),
    rule("acosh", elementwise(lambda x: torch.rsqrt(x * x - 1))),
    rule("atanh", elementwise(lambda x: 1 / (1 - x * x))),
    rule("erf", elementwise(lambda x: torch.exp(-x * x) * (2 / math.sqrt(math.pi)))),
    rule("erfc", elementwise(lambda x: torch.exp(-x * x) * (-2 / math.sqrt(math.pi)))),
    rule("log2", elementwise(lambda x: 1 / (x * math.log(2)))),
    rule("log10", elementwise(lambda x: 1 / (x * math.log(10)))),
    rule("exp2", elementwise(lambda x: torch.exp2(x) * math.log(2))),
    rule("logsigmoid", elementwise(lambda x: torch.sigmoid(-x))),
    rule("celu", elementwise(lambda x, alpha=1.0: torch.exp((x / alpha).clamp(max=0)))),
    rule("softsign", elementwise(lambda x: (1 + x.abs()) ** -2)),
)
