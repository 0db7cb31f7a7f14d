"""Products, quotients and powers against chains of scalar rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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

Function = Callable[..., Tensor]
Formula = Callable[..., Any]

#: Pairs of shapes that broadcast.
BROADCAST = [
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((1, 3), (2, 1)),
    ((), (2, 2)),
    ((2, 1, 2), (3, 1)),
    ((3,), (3,)),
]
shapes = st.sampled_from(BROADCAST)


def two(
    shapes: tuple[Any, Any], seed: int, dtype: torch.dtype, **kwargs: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Operands of these shapes, at the input and at the reference."""
    found = [sides(s, seed + i, dtype, **kwargs) for i, s in enumerate(shapes)]
    return [x for x, _ in found], [x0 for _, x0 in found]


@pytest.mark.parametrize(
    "function",
    [torch.mul, torch.multiply, Tensor.mul, lambda a, b: a * b],
    ids=["mul", "multiply", "method", "operator"],
)
@examples
@given(shapes=shapes, seed=seeds, dtype=dtypes, scale=st.sampled_from([1e-4, 1, 1e4]))
def test_product(
    function: Function, shapes: Any, seed: int, dtype: torch.dtype, scale: float
) -> None:
    check(function, lambda a, b: a * b, *two(shapes, seed, dtype, scale=scale))


def test_product_in_every_dtype_has_the_formula() -> None:
    a, b = torch.tensor([2.0, 5.0]), torch.tensor([3.0, 7.0])
    zero = torch.zeros(2)
    ran = run_call(torch.mul, (a, b), (zero, b))
    assert torch.equal(ran.multipliers[0], ran.upstream * b)
    assert torch.equal(ran.multipliers[1], ran.upstream * a / 2)


@pytest.mark.parametrize(
    "function",
    [torch.div, torch.true_divide, Tensor.divide, lambda a, b: a / b],
    ids=["div", "true_divide", "method", "operator"],
)
@examples
@given(shapes=shapes, seed=seeds, dtype=dtypes)
def test_quotient(
    function: Function, shapes: Any, seed: int, dtype: torch.dtype
) -> None:
    check(function, oracles.quotient, *two(shapes, seed, dtype, positive=True))


@pytest.mark.parametrize("seed", range(3))
def test_where_a_divisor_changes_its_sign_the_change_is_its_own(seed: int) -> None:
    (a, b), (a0, b0) = two(((4, 5), (4, 5)), seed, torch.float64)
    ran = run_call(torch.div, (a, b), (a0, b0))
    y, y0, alike = a / b, a0 / b0, b * b0 > 0
    expected = (
        torch.where(alike, 2 / (b + b0), 0.0),
        torch.where(alike, -(y + y0) / (b + b0), (y - y0) / (b - b0)),
    )
    for found, slope in zip(ran.multipliers, expected):
        torch.testing.assert_close(found, slope * ran.upstream)


@examples
@given(seed=seeds, dtype=dtypes)
def test_constant_over_attributed(seed: int, dtype: torch.dtype) -> None:
    x, x0 = sides((2, 3), seed, dtype, positive=True)
    c = torch.arange(3, dtype=dtype)
    for function, formula in (
        (lambda x: 2 / x, lambda x: oracles.quotient(2.0, x)),
        (lambda x: c / x, lambda x: oracles.quotient(c.numpy(), x)),
        (lambda x: torch.div(c, x), lambda x: oracles.quotient(c.numpy(), x)),
    ):
        check(function, formula, (x,), (x0,))


MATRICES = [
    ((2, 3), (3, 2)),
    ((2, 2, 3), (2, 3, 1)),
    ((2, 3), (2, 3, 2)),
    ((2, 1, 2, 3), (2, 3, 2)),
    ((3,), (3,)),
    ((3,), (3, 2)),
    ((2, 3), (3,)),
    ((3,), (2, 3, 2)),
    ((2, 2, 3), (3,)),
]


@pytest.mark.parametrize("function", [torch.matmul, lambda a, b: a @ b])
@examples
@given(shapes=st.sampled_from(MATRICES), seed=seeds, dtype=dtypes)
def test_matrix_product(
    function: Function, shapes: Any, seed: int, dtype: torch.dtype
) -> None:
    check(function, lambda a, b: a @ b, *two(shapes, seed, dtype))


#: Every other function that is linear in each of two operands.
BILINEAR: dict[str, tuple[Function, Formula, tuple[Any, Any]]] = {
    "mm": (torch.mm, lambda a, b: a @ b, ((2, 3), (3, 2))),
    "bmm": (torch.bmm, lambda a, b: a @ b, ((2, 2, 3), (2, 3, 2))),
    "mv": (torch.mv, lambda a, b: a @ b, ((2, 3), (3,))),
    "dot": (torch.dot, lambda a, b: a @ b, ((3,), (3,))),
    "vdot": (torch.vdot, lambda a, b: a @ b, ((3,), (3,))),
    "inner": (torch.inner, lambda a, b: a @ b.T, ((2, 3), (4, 3))),
    "outer": (torch.outer, lambda a, b: a[:, None] * b, ((2,), (3,))),
    "linear": (F.linear, lambda a, b: a @ b.T, ((2, 3), (4, 3))),
    "einsum": (
        lambda a, b: torch.einsum("bij,bkj->bik", a, b),
        lambda a, b: a @ np.swapaxes(b, 1, 2),
        ((2, 2, 3), (2, 2, 3)),
    ),
    "einsum of a list": (
        lambda a, b: torch.einsum("bij,bkj->bik", [a, b]),
        lambda a, b: a @ np.swapaxes(b, 1, 2),
        ((2, 2, 3), (2, 2, 3)),
    ),
    "tensordot": (
        lambda a, b: torch.tensordot(a, b, dims=1),
        lambda a, b: a @ b,
        ((2, 3), (3, 2)),
    ),
    "conv1d": (
        F.conv1d,
        lambda a, b: np.stack(
            [sum(a[:, c, t : t + 2] @ b[:, c].T for c in range(2)) for t in range(3)],
            axis=-1,
        ),
        ((1, 2, 4), (2, 2, 2)),
    ),
    "kron": (
        torch.kron,
        lambda a, b: (a[:, None] * b[None, :]).reshape(-1),
        ((2,), (3,)),
    ),
}


@pytest.mark.parametrize("name", BILINEAR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bilinear_functions(name: str, dtype: torch.dtype) -> None:
    function, formula, shapes = BILINEAR[name]
    inputs, references = two(shapes, 5, dtype)
    ran = check(function, formula, inputs, references)
    if dtype is torch.float64:
        expected = oracles.integrated(function, inputs, references, ran.upstream, 4)
        for m, e in zip(ran.multipliers, expected):
            assert_close(m, e, 1e-12)


#: Of three and more operands: no scalar order of products, the straight line.
MULTILINEAR: dict[str, tuple[Function, tuple[Any, ...]]] = {
    "einsum": (
        lambda a, b, c: torch.einsum("ij,jk,ki->i", a, b, c),
        ((2, 3), (3, 2), (2, 2)),
    ),
    "bilinear": (F.bilinear, ((4, 2), (4, 3), (5, 2, 3))),
    "addcmul": (torch.addcmul, ((2, 3), (2, 3), (3,))),
    "addmm": (torch.addmm, ((2, 2), (2, 3), (3, 2))),
    "baddbmm": (torch.baddbmm, ((2, 2, 2), (2, 2, 3), (2, 3, 2))),
    "lerp": (torch.lerp, ((2, 3), (2, 3), (2, 3))),
    "linear": (F.linear, ((2, 3), (4, 3), (4,))),
    "chain_matmul": (torch.chain_matmul, ((2, 3), (3, 2), (2, 2), (2, 3))),
    "conv2d": (F.conv2d, ((1, 2, 4, 4), (3, 2, 2, 2), (3,))),
}


@pytest.mark.filterwarnings("ignore:torch.chain_matmul")
@pytest.mark.parametrize("name", MULTILINEAR)
def test_multilinear_functions_are_integrated_exactly(name: str) -> None:
    function, shapes = MULTILINEAR[name]
    inputs, references = two(shapes, 2, torch.float64)  # type: ignore[arg-type]
    ran = run_call(function, inputs, references)
    expected = oracles.integrated(function, inputs, references, ran.upstream, 5)
    for m, e in zip(ran.multipliers, expected):
        assert_close(m, e, 1e-12)
    assert_complete(ran, inputs, references)
    assert ran.tape.diagnostics().exact


@examples
@given(shapes=shapes, seed=seeds, dtype=dtypes)
def test_power_with_both_sides_attributed(
    shapes: Any, seed: int, dtype: torch.dtype
) -> None:
    (base, base0), (e, e0) = (
        sides(shapes[0], seed, dtype, positive=True),
        sides(shapes[1], seed + 1, dtype),
    )
    check(torch.pow, oracles.power, (base, e), (base0, e0), slack=10)


@examples
@given(seed=seeds, dtype=dtypes, base=st.sampled_from([0.3, 2.0, 7.5]))
def test_power_of_a_constant(seed: int, dtype: torch.dtype, base: float) -> None:
    x, x0 = sides((2, 3), seed, dtype)
    bases = torch.full((3,), base, dtype=dtype)
    log_base = oracles.mp.log(oracles.mp.mpf(bases[0].item()))
    formula = oracles.each(lambda v: oracles.mp.exp(v * log_base))
    for function in (lambda x: base**x, lambda x: torch.pow(bases, x)):
        check(function, formula, (x,), (x0,))


@examples
@given(seed=seeds, dtype=dtypes, exponent=st.sampled_from([-1.0, 0.5, 1.5, 2.0, 3.0]))
def test_power_with_a_constant_exponent(
    seed: int, dtype: torch.dtype, exponent: float
) -> None:
    x, x0 = (t + 0.5 for t in sides((2, 3), seed, dtype, positive=True))
    formula = oracles.each(lambda v: v ** oracles.mp.mpf(exponent))
    for function in (
        lambda x: x**exponent,
        lambda x: torch.pow(x, torch.tensor(exponent, dtype=dtype)),
    ):
        tolerance = {torch.float64: 1e-8, torch.float32: 1e-3}[dtype]
        check(function, formula, (x,), (x0,), tolerance, slack=10)


def test_zero_to_an_attributed_power_is_finite() -> None:
    x, x0 = torch.full((2,), 1.0), torch.full((2,), 2.0)
    ran = run_call(lambda x: 0.0**x, (x,), (x0,))
    assert ran.multipliers[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_power_of_zero_on_one_side_has_its_share(dtype: torch.dtype) -> None:
    b, b0 = torch.tensor([[0.0, 0.0, 3.0, 0.0, 0.0], [2.0, 0.5, 0.0, 1.5, 0.0]])
    e, e0 = torch.tensor([[1.5, 0.01, 2.0, 0.0, 2.0], [2.0, 0.02, 1.0, 2.0, 1.0]])
    sides = [[t.to(dtype) for t in side] for side in ((b, e), (b0, e0))]
    ran = run_call(torch.pow, *sides)
    shares = [m * (x - x0) for m, x, x0 in zip(ran.multipliers, *sides)]
    change = ran.upstream * (ran.output - ran.reference)
    tolerance = 1000 * torch.finfo(dtype).eps
    torch.testing.assert_close(sum(shares), change, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["dot", "vdot", "vecdot"])
def test_products_of_complex_vectors_are_complete(name: str) -> None:
    function = getattr(torch, name, torch.linalg.vecdot)

    def call(a: Tensor, b: Tensor) -> Tensor:
        return torch.view_as_real(function(*map(torch.view_as_complex, (a, b))))

    inputs, references = two(((3, 2), (3, 2)), 4, torch.float64)
    ran = run_call(call, inputs, references)
    assert_complete(ran, inputs, references)
    assert ran.tape.diagnostics().exact


#: One function called by its arguments' names.
KEYWORDS: dict[str, tuple[Function, Function]] = {
    "matmul": (lambda a, b: torch.matmul(input=a, other=b), torch.matmul),
    "other alone": (lambda a, b: torch.matmul(a, other=b), torch.matmul),
    "mul": (lambda a, b: torch.mul(input=a, other=b), torch.mul),
    "div": (lambda a, b: torch.div(input=a, other=b), torch.div),
    "div by a constant": (
        lambda a, b: torch.div(input=a, other=2.0) @ b,
        lambda a, b: a / 2 @ b,
    ),
    "pow": (lambda a, b: torch.pow(input=a, exponent=2) + b, lambda a, b: a**2 + b),
    "tanh": (lambda a, b: torch.tanh(input=a) + b, lambda a, b: a.tanh() + b),
    "gelu": (lambda a, b: F.gelu(input=a) + b, lambda a, b: F.gelu(a) + b),
    "softmax": (
        lambda a, b: torch.softmax(input=a, dim=-1) + b,
        lambda a, b: a.softmax(-1) + b,
    ),
    "F.softmax": (
        lambda a, b: F.softmax(input=a, dim=-1) + b,
        lambda a, b: a.softmax(-1) + b,
    ),
    "einsum": (
        lambda a, b: torch.einsum("ij,jk->ik", a, b),
        torch.matmul,
    ),
    "layer_norm": (
        lambda a, b: F.layer_norm(input=a, normalized_shape=(3,)) + b,
        lambda a, b: F.layer_norm(a, (3,)) + b,
    ),
    "linear": (lambda a, b: F.linear(input=a, weight=b), F.linear),
    "detach": (lambda a, b: torch.detach(input=a) * b, torch.mul),
}


@pytest.mark.parametrize("name", KEYWORDS)
def test_arguments_may_come_by_name(name: str) -> None:
    by_name, plain = KEYWORDS[name]
    inputs, references = two(((3, 3), (3, 3)), 1, torch.float64, positive=True)
    ran, same = (run_call(f, inputs, references) for f in (by_name, plain))
    for m, e in zip(ran.multipliers, same.multipliers):
        assert_close(m, e.numpy(), 1e-14)
    assert_complete(ran, inputs, references)
