"""The calculus a second time: one scalar at a time, from the formulas alone.

A :class:`Number` is a scalar at the input and at the reference, with forty digits.
It knows three rules, and everything else is a chain of them:

- a sum is linear;
- a product gives each factor the mean of the other;
- f(x) has the multiplier (f(x) - f(x0)) / (x - x0), or f'(x) where x = x0.

Two are what a rule says of what is sought, solved for it: :func:`solved_quotient` of
a = y·b, and :func:`log_sum_exp` of Σ e^(x - ln Z) = 1.

Arrays of numbers are numpy object arrays, so ``@``, ``.sum()`` and broadcasting are
Python loops over these three rules. Nothing here knows torch's implementation.

The rules of single operations with one path from operand to result (elementwise
functions, products of two) are also what integrated gradients along the straight
line give, :func:`integrated`. Softmax, the norms and the recurrent cells are chains,
for which a path integral of the whole gives other multipliers with the same sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import mpmath as mp
import numpy as np
import torch
from torch import Tensor

mp.mp.dps = 40

Array = np.ndarray[Any, Any]
_clock = itertools.count()


class Number:
    """A scalar on both sides, with its parents and their multipliers."""

    __slots__ = ("born", "parents", "reference", "value")

    def __init__(
        self, value: Any, reference: Any, parents: Sequence[tuple[Number, Any]] = ()
    ) -> None:
        self.value = mp.mpf(value)
        self.reference = mp.mpf(reference)
        self.parents = tuple(parents)
        self.born = next(_clock)

    @property
    def mean(self) -> Any:
        return (self.value + self.reference) / 2

    def __add__(self, other: Any) -> Number:
        o = lift(other)
        return Number(
            self.value + o.value, self.reference + o.reference, [(self, 1), (o, 1)]
        )

    __radd__ = __add__

    def __mul__(self, other: Any) -> Number:
        if not isinstance(other, Number):
            c = mp.mpf(float(other))
            return Number(self.value * c, self.reference * c, [(self, c)])
        parents = [(self, other.mean), (other, self.mean)]
        return Number(
            self.value * other.value, self.reference * other.reference, parents
        )

    __rmul__ = __mul__

    def __neg__(self) -> Number:
        return self * -1

    def __sub__(self, other: Any) -> Number:
        return self + (-other)

    def __rsub__(self, other: Any) -> Number:
        return -self + other

    def through(self, function: Callable[[Any], Any], slope: Any = None) -> Number:
        """function(self), by the secant; ``slope`` is the value where x = x0."""
        y, y0 = function(self.value), function(self.reference)
        size = max(abs(self.value), abs(self.reference))
        if abs(self.value - self.reference) > size * mp.mpf(10) ** (-mp.mp.dps // 2):
            m = (y - y0) / (self.value - self.reference)
        else:
            m = mp.diff(function, self.value) if slope is None else slope(self.value)
        return Number(y, y0, [(self, m)])


def lift(value: Any) -> Number:
    """A number; a constant is the same on both sides."""
    return value if isinstance(value, Number) else Number(float(value), float(value))


def numbers(value: Any, reference: Any) -> Array:
    """An array of numbers from two arrays or tensors."""
    a, b = (np.asarray(v, dtype=np.float64) for v in (value, reference))
    found = np.empty(a.shape, dtype=object)
    for index in np.ndindex(a.shape):
        found[index] = Number(float(a[index]), float(b[index]))
    return found


def multipliers(
    outputs: Array, upstream: Array, leaves: Sequence[Array]
) -> list[Array]:
    """The chain rule, from the last number back to the first."""
    total: dict[int, Any] = {}
    seen: dict[int, Number] = {}
    for number, m in zip(np.asarray(outputs).flat, np.asarray(upstream).flat):
        total[number.born] = total.get(number.born, 0) + mp.mpf(float(m))
        _collect(number, seen)
    for born in sorted(seen, reverse=True):
        m = total.get(born, 0)
        if m == 0:
            continue
        for parent, factor in seen[born].parents:
            total[parent.born] = total.get(parent.born, 0) + m * factor
    return [
        np.array([float(total.get(n.born, 0)) for n in leaf.flat]).reshape(leaf.shape)
        for leaf in leaves
    ]


def _collect(number: Number, seen: dict[int, Number]) -> None:
    stack = [number]
    while stack:
        item = stack.pop()
        if item.born not in seen:
            seen[item.born] = item
            stack.extend(parent for parent, _ in item.parents)


def oracle(
    function: Callable[..., Array],
    inputs: Sequence[Tensor],
    references: Sequence[Tensor],
    upstream: Tensor,
) -> tuple[list[Array], Array]:
    """Multipliers of each input, and Δoutput, of a function of arrays of numbers."""
    leaves = [numbers(x.double(), x0.double()) for x, x0 in zip(inputs, references)]
    outputs = np.asarray(function(*leaves))
    delta = np.array([float(n.value - n.reference) for n in outputs.flat])
    found = multipliers(outputs, upstream.double().numpy(), leaves)
    return found, delta.reshape(outputs.shape)


# Elementwise functions ------------------------------------------------------------


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def _elu(x: Any, alpha: Any = 1, scale: Any = 1) -> Any:
    return scale * (x if x > 0 else alpha * mp.expm1(x))


def _softplus(x: Any, beta: Any = 1) -> Any:
    return mp.log1p(mp.exp(beta * x)) / beta


def _gelu_tanh(x: Any) -> Any:
    inner = mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)
    return x * (1 + mp.tanh(inner)) / 2


#: By name, each function as a textbook has it.
SCALAR: dict[str, Callable[[Any], Any]] = {
    "relu": lambda x: max(x, mp.mpf(0)),
    "leaky_relu": lambda x: x if x > 0 else x * mp.mpf("0.01"),
    "abs": abs,
    "tanh": mp.tanh,
    "sigmoid": _sigmoid,
    "exp": mp.exp,
    "expm1": mp.expm1,
    "log": mp.log,
    "log1p": mp.log1p,
    "sqrt": mp.sqrt,
    "rsqrt": lambda x: 1 / mp.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "square": lambda x: x * x,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: x * mp.ncdf(x),
    "gelu_tanh": _gelu_tanh,
    "softplus": _softplus,
    "elu": _elu,
    "selu": lambda x: _elu(
        x, mp.mpf("1.6732632423543772"), mp.mpf("1.0507009873554805")
    ),
    "celu": _elu,
    "sin": mp.sin,
    "cos": mp.cos,
    "tan": mp.tan,
    "sinh": mp.sinh,
    "cosh": mp.cosh,
    "atan": mp.atan,
    "asin": mp.asin,
    "acos": mp.acos,
    "erf": mp.erf,
    "erfc": mp.erfc,
    "log2": lambda x: mp.log(x) / mp.log(2),
    "log10": mp.log10,
    "exp2": lambda x: mp.mpf(2) ** x,
    "logsigmoid": lambda x: -mp.log1p(mp.exp(-x)),
    "mish": lambda x: x * mp.tanh(_softplus(x)),
    "softsign": lambda x: x / (1 + abs(x)),
    "hardtanh": lambda x: min(max(x, mp.mpf(-1)), mp.mpf(1)),
    "relu6": lambda x: min(max(x, mp.mpf(0)), mp.mpf(6)),
    "floor": mp.floor,
    "sign": mp.sign,
    "inverse_root": lambda x: x ** mp.mpf(-0.5),
    "root": lambda x: x ** mp.mpf(0.5),
    "cube": lambda x: x**3,
}


def secant(name: str, x: float, x0: float) -> float:
    """(f(x) - f(x0)) / (x - x0) for two different points."""
    f, a, b = SCALAR[name], mp.mpf(x), mp.mpf(x0)
    return float((f(a) - f(b)) / (a - b))


def mapped(name: str) -> Callable[[Array], Array]:
    """A function of SCALAR on arrays of numbers."""
    return each(SCALAR[name])


def each(function: Callable[[Any], Any], slope: Any = None) -> Callable[[Array], Array]:
    """A function of one scalar on arrays of numbers."""
    return lambda x: np.frompyfunc(lambda n: n.through(function, slope), 1, 1)(x)


exp = each(mp.exp, mp.exp)
log = each(mp.log, lambda x: 1 / x)
tanh = each(mp.tanh, lambda x: 1 - mp.tanh(x) ** 2)
sigmoid = each(_sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x)))
relu = each(SCALAR["relu"], lambda x: mp.mpf(x > 0))
inverse = each(SCALAR["reciprocal"], lambda x: -1 / x**2)


# Chains ---------------------------------------------------------------------------


def quotient(a: Any, b: Array) -> Array:
    """What times b is a, for b of one sign."""
    return np.frompyfunc(lambda a, b: solved_quotient(lift(a), b), 2, 1)(a, b)


def power(base: Array, exponent: Array) -> Array:
    """exp(e · ln b)."""
    return exp(exponent * log(base))


def solved_quotient(a: Number, b: Number) -> Number:
    """a/b as the y of a = y·b: b̄ Δy = Δa - ȳ Δb."""
    y, y0 = a.value / b.value, a.reference / b.reference
    return Number(y, y0, [(a, 1 / b.mean), (b, -(y + y0) / 2 / b.mean)])


def logarithmic_mean(u: Any, v: Any) -> Any:
    """(u - v)/(ln u - ln v); forty digits leave enough of close ones."""
    apart = abs(u - v) > max(u, v) * mp.mpf(10) ** (-mp.mp.dps // 2)
    return (u - v) / (mp.log(u) - mp.log(v)) if apart else (u + v) / 2


def _log_sum_exp(row: Sequence[Number]) -> Number:
    """Σ Δy = 0 with Δy = L(y, y0)(Δx - Δ ln Z); no shift by the maximum is needed."""
    z, z0 = (
        sum(map(mp.exp, side)) for side in zip(*((n.value, n.reference) for n in row))
    )
    means = [
        logarithmic_mean(mp.exp(n.value) / z, mp.exp(n.reference) / z0) for n in row
    ]
    weights = [mean / sum(means) for mean in means]
    return Number(mp.log(z), mp.log(z0), list(zip(row, weights)))


def log_sum_exp(x: Array, axis: int) -> Array:
    """ln Σ exp."""
    found = np.apply_along_axis(lambda row: [_log_sum_exp(row)], axis, np.asarray(x))
    return np.asarray(found)


def log_softmax(x: Array, axis: int) -> Array:
    """x - ln Σ exp."""
    return x - log_sum_exp(x, axis)


def softmax(x: Array, axis: int) -> Array:
    """exp(x - ln Σ exp): multipliers through the logarithmic mean."""
    return exp(log_softmax(x, axis))


def standardise(x: Array, axes: tuple[int, ...], eps: float, centred: bool) -> Array:
    """Centre, square, mean, root, and what times the root is the centred value."""
    count = int(np.prod([x.shape[a] for a in axes]))
    if centred:
        x = x - x.sum(axis=axes, keepdims=True) * (1 / mp.mpf(count))
    squares = np.frompyfunc(lambda n: n.through(lambda v: v * v), 1, 1)(x)
    mean = np.asarray(squares.sum(axis=axes, keepdims=True)) * (1 / mp.mpf(count))
    sigma = each(mp.sqrt)(mean + eps)
    return np.asarray(np.frompyfunc(solved_quotient, 2, 1)(x, sigma))


def attention(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """softmax(QKᵀ/√d + mask) V."""
    scores = (q @ np.swapaxes(k, -1, -2)) * (1 / float(np.sqrt(q.shape[-1])))
    if mask is not None:
        scores = scores + mask
    return softmax(scores, -1) @ v


Weights = Sequence[Array | None]


def _affine(x: Array, weight: Array, bias: Array | None) -> Array:
    y = x @ weight.T
    return y if bias is None else y + bias


def gru_step(x: Array, h: Array, w: Weights) -> Array:
    """One step of torch.nn.GRUCell."""
    a = np.split(_affine(x, w[0], w[2]), 3, axis=-1)  # type: ignore[arg-type]
    b = np.split(_affine(h, w[1], w[3]), 3, axis=-1)  # type: ignore[arg-type]
    r, z = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
    n = tanh(a[2] + r * b[2])
    return n - z * n + z * h


def lstm_step(x: Array, h: Array, c: Array, w: Weights) -> tuple[Array, Array]:
    """One step of torch.nn.LSTMCell, with the projection as a fifth weight."""
    gates = _affine(x, w[0], w[2]) + _affine(h, w[1], w[3])  # type: ignore[arg-type]
    i, f, g, o = np.split(gates, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)
    return (h @ w[4].T if len(w) > 4 and w[4] is not None else h), c


def rnn_step(x: Array, h: Array, w: Weights, unit: Any = tanh) -> Array:
    """One step of torch.nn.RNNCell."""
    return unit(_affine(x, w[0], w[2]) + _affine(h, w[1], w[3]))  # type: ignore[arg-type]


# Integrated gradients of one operation --------------------------------------------


def integrated(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    references: Sequence[Tensor],
    upstream: Tensor,
    nodes: int = 300,
) -> list[Array]:
    """The gradient's mean over the straight line, by Gauss-Legendre, in float64."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    totals = [torch.zeros_like(x, dtype=torch.float64) for x in inputs]
    for point, weight in zip((points + 1) / 2, weights / 2):
        line = [
            (x0 + point * (x - x0)).double().requires_grad_()
            for x, x0 in zip(inputs, references)
        ]
        slopes = torch.autograd.grad(function(*line), line, upstream.double())
        for total, slope in zip(totals, slopes):
            total += weight * slope
    return [total.numpy() for total in totals]
