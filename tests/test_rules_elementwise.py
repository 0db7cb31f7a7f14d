"""Elementwise rules against secants with forty digits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from calls import (
    assert_close,
    assert_complete,
    check,
    dtypes,
    examples,
    run_call,
    seeds,
    sides,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from captum_ehr.propagation import Pair, attributions, elementwise
from captum_ehr.propagation.registry import declarations
from captum_ehr.propagation.rules import elementwise as rules

Function = Callable[[Tensor], Tensor]

#: Smooth functions: name in the oracle, function, domain.
SMOOTH: dict[str, tuple[Function, tuple[float, float]]] = {
    "tanh": (torch.tanh, (-3, 3)),
    "sigmoid": (torch.sigmoid, (-4, 4)),
    "exp": (torch.exp, (-4, 4)),
    "expm1": (torch.expm1, (-4, 4)),
    "log": (torch.log, (0.05, 5)),
    "log1p": (torch.log1p, (-0.8, 5)),
    "sqrt": (torch.sqrt, (0.05, 5)),
    "rsqrt": (torch.rsqrt, (0.05, 5)),
    "reciprocal": (torch.reciprocal, (0.1, 5)),
    "square": (torch.square, (-3, 3)),
    "silu": (F.silu, (-4, 4)),
    "gelu": (F.gelu, (-4, 4)),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), (-4, 4)),
    "softplus": (F.softplus, (-4, 4)),
    "selu": (F.selu, (-4, -0.01)),
    "sin": (torch.sin, (-3, 3)),
    "cos": (torch.cos, (-3, 3)),
    "tan": (torch.tan, (-1, 1)),
    "sinh": (torch.sinh, (-3, 3)),
    "cosh": (torch.cosh, (-3, 3)),
    "atan": (torch.atan, (-3, 3)),
    "asin": (torch.asin, (-0.8, 0.8)),
    "acos": (torch.acos, (-0.8, 0.8)),
    "erf": (torch.erf, (-2, 2)),
    "erfc": (torch.erfc, (-2, 2)),
    "log2": (torch.log2, (0.5, 5)),
    "log10": (torch.log10, (0.5, 5)),
    "exp2": (torch.exp2, (-4, 4)),
    "logsigmoid": (F.logsigmoid, (-4, 4)),
    "mish": (F.mish, (-4, 4)),
    "softsign": (F.softsign, (0.1, 4)),
    "cube": (lambda x: x**3, (0.5, 3)),
    "inverse_root": (lambda x: x.pow(-0.5), (0.5, 5)),
    "root": (lambda x: torch.pow(x, 0.5), (0.5, 5)),
}

#: Functions with corners: there the secant is compared where Δx ≠ 0.
CORNERS: dict[str, Function] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "abs": torch.abs,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "softsign": F.softsign,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "floor": torch.floor,
    "sign": torch.sign,
}


def between(
    domain: tuple[float, float], seed: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Two points per element, in the domain; some equal, some close."""
    low, high = domain
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, 12, generator=generator, dtype=dtype)
    b[:3] = a[:3]
    b[3:6] = a[3:6] + (b[3:6] - a[3:6]) * 1e-3
    return low + a * (high - low), low + b * (high - low)


@pytest.mark.parametrize("name", SMOOTH)
@examples
@given(seed=seeds, dtype=dtypes)
def test_smooth_functions_have_the_secant(
    name: str, seed: int, dtype: torch.dtype
) -> None:
    function, domain = SMOOTH[name]
    x, x0 = between(domain, seed, dtype)
    # A float32 secant next to the switch to f' has lost eps / 5e-3 to rounding.
    tolerance = {torch.float64: 1e-8, torch.float32: 5e-4}[dtype]
    check(function, oracles.mapped(name), (x,), (x0,), tolerance, slack=10)


@pytest.mark.parametrize("name", CORNERS)
@examples
@given(seed=seeds, dtype=dtypes, scale=st.sampled_from([0.5, 1.0, 8.0]))
def test_functions_with_corners_have_the_secant(
    name: str, seed: int, dtype: torch.dtype, scale: float
) -> None:
    x, x0 = sides((4, 5), seed, dtype, scale)
    ran = run_call(CORNERS[name], (x,), (x0,))
    assert_complete(ran, (x,), (x0,))
    moved = x != x0
    slopes = ran.multipliers[0][moved].double() / ran.upstream[moved].double()
    expected = [
        oracles.secant(name, a, b)
        for a, b in zip(x[moved].tolist(), x0[moved].tolist())
    ]
    assert_close(slopes, np.array(expected), 1e-3 if dtype.itemsize == 4 else 1e-9)


@pytest.mark.parametrize(
    ("function", "at", "slope"),
    [
        (F.relu, 2.0, 1.0),
        (F.relu, -2.0, 0.0),
        (F.relu, 0.0, 0.0),
        (F.leaky_relu, 0.0, 0.01),
        (lambda x: x.clamp(-1, 1), 1.0, 1.0),
        (F.leaky_relu, -2.0, 0.01),
        (lambda x: F.leaky_relu(x, 0.3), -2.0, 0.3),
        (lambda x: F.leaky_relu(x, negative_slope=0.3), -2.0, 0.3),
        (torch.abs, -2.0, -1.0),
        (torch.abs, 0.0, 0.0),
        (lambda x: x.clamp(-1, 1), 0.5, 1.0),
        (lambda x: x.clamp(-1, 1), 1.5, 0.0),
        (lambda x: F.softplus(x, threshold=2.0), 3.0, 1.0),
        (F.elu, -1.0, float(np.exp(-1.0))),
        (F.elu, 1.0, 1.0),
        (torch.floor, 0.5, 0.0),
    ],
)
def test_equal_input_and_reference_have_the_derivative(
    function: Function, at: float, slope: float
) -> None:
    x = torch.full((1,), at, dtype=torch.float64)
    ran = run_call(function, (x,), (x,))
    assert_close(ran.multipliers[0] / ran.upstream, np.array([slope]), 1e-12)


@pytest.mark.parametrize("name", SMOOTH)
def test_float32_secants_are_continuous_as_the_difference_vanishes(name: str) -> None:
    function, (low, high) = SMOOTH[name]
    x0 = torch.linspace(low, low + 0.8 * (high - low), 7, dtype=torch.float32)
    for gap in torch.logspace(-6, -0.7, 22).tolist():
        x = x0 + gap
        ran = run_call(function, (x,), (x0,))
        slopes = (ran.multipliers[0] / ran.upstream).double()
        for a, b, slope in zip(x.tolist(), x0.tolist(), slopes.tolist()):
            if a == b:
                continue
            expected = oracles.secant(name, a, b)
            scale = max(abs(expected), 0.1)
            assert abs(slope - expected) <= 1e-4 * scale, (name, a, b)


#: Where the size of f's features is not 1: (name, function, x, x0).
OTHER_SCALES: list[tuple[str, Function, float, float]] = [
    ("log2", torch.log2, 1e-3, 4e-3),
    ("log10", torch.log10, 1e-3, 4e-3),
    ("inverse_root", lambda x: x**-0.5, 1e-3, 4e-3),
    ("root", lambda x: x**0.5, 1e-3, 4e-3),
    ("sin", torch.sin, 1e3, 1e3 + 3.0),
    ("cos", torch.cos, 1e3, 1e3 + 3.0),
    ("exp2", torch.exp2, 100.0, 100.375),
    ("cosh", torch.cosh, 80.0, 80.25),
    ("log", torch.log, 1e-8, 4e-8),
    ("log1p", torch.log1p, 1e-3, 4e-3),
    ("sqrt", torch.sqrt, 1e-8, 4e-8),
    ("rsqrt", torch.rsqrt, 1e-8, 4e-8),
    ("exp", torch.exp, 80.0, 80.25),
    ("reciprocal", torch.reciprocal, 1e-8, 4e-8),
    ("tanh", torch.tanh, 1e-8, 4e-8),
    ("sigmoid", torch.sigmoid, 1e-8, 4e-8),
    ("square", torch.square, 1e4, 1e4 + 1),
    ("gelu", F.gelu, 1e4, -1e4),
    ("silu", F.silu, 1e4, -1e4),
    ("softplus", F.softplus, 1e4, -1e4),
    ("elu", F.elu, 1e4, -1e4),
    ("tanh", torch.tanh, 1e4, -1e4),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("name", "function", "a", "b"), OTHER_SCALES, ids=lambda v: str(v)[:9]
)
def test_secants_hold_at_small_and_large_values(
    name: str, function: Function, a: float, b: float, dtype: torch.dtype
) -> None:
    x, x0 = (torch.tensor([v], dtype=dtype) for v in (a, b))
    ran = run_call(function, (x,), (x0,))
    expected = oracles.secant(name, x.item(), x0.item())
    tolerance = {torch.float32: 1e-3, torch.float64: 1e-9}[dtype]
    assert_close(ran.multipliers[0] / ran.upstream, np.array([expected]), tolerance)


def test_float64_derivatives_hold_where_f_bends_within_the_guard() -> None:
    x0 = torch.tensor([1e-4], dtype=torch.float64)
    x = x0 + 5e-6
    ran = run_call(torch.log2, (x,), (x0,))
    expected = oracles.secant("log2", x.item(), x0.item())
    assert_close(ran.multipliers[0] / ran.upstream, np.array([expected]), 1e-8)


@pytest.mark.parametrize("name", ["tanh", "exp", "log", "gelu", "square", "silu"])
def test_local_integrated_gradients_agree(name: str) -> None:
    function, domain = SMOOTH[name]
    x, x0 = between(domain, 7, torch.float64)
    ran = run_call(function, (x,), (x0,))
    (expected,) = oracles.integrated(function, (x,), (x0,), ran.upstream)
    assert_close(ran.multipliers[0], expected, 1e-9)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.pow(0),
        lambda x: x.pow(1),
        lambda x: x**2,
        lambda x: x.pow(exponent=3),
        lambda x: x.pow(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)),
        lambda x: torch.float_power(x, 2),
        lambda x: F.threshold(x, 0.2, -1.0),
        lambda x: F.hardshrink(x, 0.3),
        lambda x: torch.clamp(x, max=0.3),
        lambda x: x.clip(-0.2, 0.2),
        lambda x: x.clamp_min(0.1),
        lambda x: F.softplus(x, beta=3.0, threshold=2.0),
        lambda x: F.elu(x, alpha=0.4),
        lambda x: F.celu(x, alpha=0.4),
        lambda x: x.round(),
        lambda x: x.trunc(),
        lambda x: torch.special.expit(x),
    ],
)
def test_options_are_heeded(function: Function) -> None:
    x, x0 = sides((40, 3), 3)
    ran = run_call(function, (x,), (x0,))
    # softplus jumps by ln(1 + e^-threshold)/beta where it turns linear.
    assert_complete(ran, (x,), (x0,), slack=10)
    assert ran.tape.diagnostics().exact


def test_powers_at_zero_are_finite() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    exponents = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    ran = run_call(lambda x: x**exponents, (zero,), (zero,))
    assert ran.multipliers[0].isfinite().all()


def test_a_bound_that_is_attributed_gets_its_share() -> None:
    x, x0 = (torch.full((1,), v, dtype=torch.float64) for v in (-1.0, -1.0))
    low, low0 = (torch.full((1,), v, dtype=torch.float64) for v in (2.0, 0.0))
    ran = run_call(lambda x, low: torch.clamp(x, min=low), (x, low), (x0, low0))
    assert_complete(ran, (x, low), (x0, low0))


def test_a_users_elementwise_rule_is_the_secant() -> None:
    softsign = elementwise(lambda x: (1 + x.abs()) ** -2)
    x, x0 = sides((9,), 1)
    ran = run_call(F.softsign, (x,), (x0,))
    y = Pair(F.softsign(x), F.softsign(x0))
    ((_, share),) = softsign(y, Pair(x, x0, 0))(ran.upstream)
    assert torch.equal(share, ran.multipliers[0])


HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@HALF
@pytest.mark.parametrize("name", SMOOTH)
def test_half_precision_gives_multipliers_near_the_secant(
    name: str, dtype: torch.dtype
) -> None:
    function, (low, high) = SMOOTH[name]
    x = torch.linspace(low + 0.5 * (high - low), high, 9).to(dtype)
    x0 = torch.full_like(x, low + 0.2 * (high - low))
    ran = run_call(function, (x,), (x0,))
    slopes = ran.multipliers[0].double() / ran.upstream.double()
    expected = [oracles.secant(name, a, b) for a, b in zip(x.tolist(), x0.tolist())]
    assert_close(slopes, np.array(expected), 0.03)


@HALF
@pytest.mark.parametrize("name", ["tanh", "gelu", "sin", "softplus", "softsign"])
def test_half_precision_of_close_points_is_not_their_rounding(
    name: str, dtype: torch.dtype
) -> None:
    """Two steps apart: Δy/Δx would be 0 or twice too large."""
    function, (low, high) = SMOOTH[name]
    x0 = torch.linspace(low + 0.3 * (high - low), high, 9).to(dtype)
    x = (x0.float() * (1 + 2 * torch.finfo(dtype).eps)).to(dtype)
    ran = run_call(function, (x,), (x0,))
    slopes = ran.multipliers[0].double() / ran.upstream.double()
    expected = [
        oracles.secant(name, a, b) if a != b else slope
        for a, b, slope in zip(x.tolist(), x0.tolist(), slopes.tolist())
    ]
    assert_close(slopes, np.array(expected), 0.1)


def _plain(name: str) -> Callable[[Tensor], Tensor]:
    function = getattr(torch, name, None) or getattr(F, name, None)
    function = function or getattr(torch.special, name)
    arguments = {"clamp_min": (0.1,), "clamp_max": (0.1,), "threshold": (0.1, 0.0)}
    arguments["floor_divide"] = (0.7,)
    arguments |= dict.fromkeys(["fmod", "remainder"], (0.7,))
    return lambda x: function(x, *arguments.get(name, ()))


NAMES = [
    "frac",
    *(
        name
        for declaration in declarations([rules])
        for name in declaration.names
        if name[0] != "_" and name not in ("heaviside", "acosh", "fabs")
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_number_gets_no_share(name: str) -> None:
    """A patient whose output is NaN has no attributions that look like some."""
    nan = float("nan")
    x = torch.tensor([[0.5, 0.3], [nan, 0.2], [0.1, 0.4]], dtype=torch.float64)
    x0 = torch.tensor([[0.2, 0.1], [0.1, 0.1], [nan, 0.1]], dtype=torch.float64)
    function = _plain(name)
    run = attributions(lambda t: function(t).sum(1), (x,), (x0,))
    assert name in ("sign", "sgn") or bool(run.f_input[1].isnan())
    assert bool(run.attributions[0][0].isfinite().all())
    for row, output in ((1, run.f_input[1]), (2, run.f_reference[2])):
        assert not output.isnan() or run.attributions[0][row].isnan().any()


@pytest.mark.parametrize("name", "sqrt log log10 log2 log1p asin acos atanh".split())
def test_outside_of_a_functions_domain_there_is_no_share(name: str) -> None:
    x, x0 = torch.tensor([[-3.0], [0.5]]), torch.tensor([[0.5], [0.2]])
    run = attributions(lambda t: _plain(name)(t).sum(1), (x,), (x0,))
    assert run.attributions[0].isnan().tolist() == [[True], [False]]


def test_infinities_that_the_model_drops_have_no_share() -> None:
    x, x0 = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    run = attributions(lambda t: t.log10().masked_fill(t == 0, 0.0).sum(1), (x,), (x0,))
    expected = torch.tensor([[0.0, math.log10(2)]])
    torch.testing.assert_close(run.attributions[0], expected)
