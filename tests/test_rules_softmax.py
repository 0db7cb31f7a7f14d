"""Softmax and the norms against chains of scalar rules."""

from __future__ import annotations

import math
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

from captum_ehr.propagation import two_passes

Function = Callable[..., Tensor]

shaped = st.sampled_from([((4,), 0), ((2, 3), 1), ((3, 2), 0), ((2, 3, 2), -2)])
scales = st.sampled_from([1e-6, 1e-2, 1.0, 10.0])

SOFT: dict[str, tuple[Callable[[Tensor, int], Tensor], Callable[..., Any]]] = {
    "torch.softmax": (torch.softmax, oracles.softmax),
    "F.softmax": (lambda x, d: F.softmax(x, dim=d), oracles.softmax),
    "method": (lambda x, d: x.softmax(d), oracles.softmax),
    "log_softmax": (lambda x, d: F.log_softmax(x, dim=d), oracles.log_softmax),
    "logsumexp": (
        lambda x, d: torch.logsumexp(x, d, keepdim=True),
        oracles.log_sum_exp,
    ),
    "logsumexp, squeezed": (
        lambda x, d: x.logsumexp(dim=d),
        lambda x, axis: np.squeeze(oracles.log_sum_exp(x, axis), axis),
    ),
}


@pytest.mark.parametrize("name", SOFT)
@examples
@given(shaped=shaped, seed=seeds, dtype=dtypes, scale=scales)
def test_softmax_and_its_kin(
    name: str, shaped: Any, seed: int, dtype: torch.dtype, scale: float
) -> None:
    function, formula = SOFT[name]
    shape, dim = shaped
    x, x0 = sides(shape, seed, dtype, scale)
    ran = run_call(lambda x: function(x, dim), (x,), (x0,))
    (expected,), _ = oracles.oracle(
        lambda x: formula(x, dim), (x,), (x0,), ran.upstream
    )
    # Saturated rows are differences of M's own size: s - w Σs.
    tolerance, floor = (1e-3, 0.01) if dtype is torch.float32 else (1e-9, 1e-4)
    floor *= float(ran.upstream.abs().max())
    assert_close(ran.multipliers[0], expected, tolerance, floor)
    # A difference of probabilities is rounded like the probabilities themselves.
    terms = ran.multipliers[0].double() * (x.double() - x0.double())
    change = ran.upstream.double() * (ran.output.double() - ran.reference.double())
    size = (ran.upstream.abs() * (ran.output.abs() + ran.reference.abs())).sum()
    error = abs(float(terms.sum() - change.sum()))
    rounding = 16 * torch.finfo(dtype).eps * max(1.0, scale)
    assert error <= rounding * float(size + terms.abs().sum())
    assert ran.tape.diagnostics().exact


@pytest.mark.parametrize(
    ("dtype", "gap"), [(torch.float32, 200.0), (torch.float64, 1e3)]
)
@pytest.mark.parametrize("name", SOFT)
def test_logits_whose_maxima_are_far_apart(
    name: str, dtype: torch.dtype, gap: float
) -> None:
    """exp of one side, shifted by the maximum of both, is 0 throughout."""
    function, formula = SOFT[name]
    x = torch.tensor([[0.0, gap], [0.5, -gap]], dtype=dtype)
    x0 = torch.tensor([[0.0, 0.0], [0.25, 1.0]], dtype=dtype)
    check(lambda x: function(x, 0), lambda x: formula(x, 0), (x,), (x0,))
    check(lambda x: function(x, 1), lambda x: formula(x, 1), (x,), (x0,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("fill", [-1e9, -1e4, -math.inf, "finfo"])
def test_masked_logits_get_exactly_nothing(
    fill: float | str, dtype: torch.dtype
) -> None:
    low = torch.finfo(dtype).min if fill == "finfo" else float(fill)
    x, x0 = sides((3, 5), 4, dtype)
    mask = torch.tensor([False, False, True, False, True])
    ran = run_call(lambda x: x.masked_fill(mask, low).softmax(-1), (x,), (x0,))
    assert (ran.multipliers[0][:, mask] == 0).all()
    assert_complete(ran, (x,), (x0,))
    kept = run_call(lambda x: x[:, ~mask].softmax(-1), (x,), (x0,))
    upstream = ran.upstream[:, ~mask]
    (expected,), _ = oracles.oracle(
        lambda x: oracles.softmax(x, -1), (x[:, ~mask],), (x0[:, ~mask],), upstream
    )
    assert_close(
        ran.multipliers[0][:, ~mask], expected, 1e-3 if dtype.itemsize == 4 else 1e-9
    )
    assert kept.tape.diagnostics().exact


@pytest.mark.parametrize("low", [-1e9, -math.inf])
def test_a_mask_that_is_added(low: float) -> None:
    x, x0 = sides((2, 4), 4)
    mask = torch.tensor([0.0, low, 0.0, 0.0], dtype=torch.float64)
    check(
        lambda x: torch.softmax(x + mask, -1),
        lambda x: oracles.softmax(x + mask.numpy(), -1),
        (x,),
        (x0,),
        1e-6,
    )


def test_huge_logits() -> None:
    x = torch.tensor([[1e4, -1e4, 9999.0]], dtype=torch.float64)
    x0 = torch.tensor([[-1e4, 1e4, -1e4]], dtype=torch.float64)
    for name in ("torch.softmax", "log_softmax", "logsumexp"):
        function, formula = SOFT[name]
        check(
            lambda x, f=function: f(x, 1),
            lambda x, f=formula: f(x, 1),
            (x,),
            (x0,),
            1e-9,
        )


@pytest.mark.parametrize("name", ["torch.softmax", "log_softmax"])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 1e6), (torch.float64, 1e6), (torch.float64, 1e16)],
)
def test_a_winner_keeps_the_digits_in_which_it_differs_from_1(
    name: str, dtype: torch.dtype, size: float
) -> None:
    """Its multiplier is as small as the others' are, its change as large."""
    function, formula = SOFT[name]
    x = torch.tensor([[2 * size, size, 0.0], [-size, 3.0, 2.0]], dtype=dtype)
    x0 = torch.tensor([[0.0, 0.0, 0.0], [1.0, size, -size]], dtype=dtype)
    ran = run_call(lambda x: function(x, 1), (x,), (x0,))
    expected, _ = oracles.oracle(lambda x: formula(x, 1), (x,), (x0,), ran.upstream)
    change = x.double() - x0.double()
    found = ran.multipliers[0].double() * change
    for row, right in zip(found, torch.from_numpy(expected[0]) * change):
        tolerance = 32 * torch.finfo(dtype).eps * float(right.abs().max())
        torch.testing.assert_close(row, right, rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["torch.softmax", "log_softmax"])
def test_what_is_added_to_all_logits_gets_nothing(
    name: str, dtype: torch.dtype
) -> None:
    function, _ = SOFT[name]
    x, x0 = ((64 * t).round() / 64 for t in sides((6, 5), 3, dtype, 3.0))
    ran = run_call(lambda x: function(x, 1), (x,), (x0,))
    total = ran.multipliers[0].sum(1).abs()
    assert (total <= 8 * torch.finfo(dtype).eps * ran.multipliers[0].abs().sum(1)).all()
    for by, by0 in ((1024.0, 1024.0), (-512.0, 2048.0)):  # no digit of x is lost
        moved = run_call(lambda x: function(x, 1), (x + by,), (x0 + by0,))
        assert_close(moved.multipliers[0], ran.multipliers[0].double().numpy(), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["torch.softmax", "logsumexp"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_logit_that_is_there_on_one_side_only_carries_its_part(
    name: str, dtype: torch.dtype, side: int
) -> None:
    """-inf counts as -1e30, in the logarithms and in the change alike."""
    function, _ = SOFT[name]
    both = list(sides((2, 4), 5, dtype))
    both[side] = both[side].index_fill(1, torch.tensor([1, 3]), -math.inf)
    ran = run_call(lambda x: function(x, 1), (both[0],), (both[1],))
    found = ran.multipliers[0].double()
    assert found.isfinite().all() and (found[:, [1, 3]] != 0).all()
    x, x0 = (t.double().clamp_min(-1e30) for t in both)
    change = ran.upstream.double() * (ran.output.double() - ran.reference.double())
    torch.testing.assert_close(
        (found * (x - x0)).sum(1), change.sum(1), rtol=1e-5, atol=1e-6
    )
    low = run_call(lambda x: function(x, 1), *((t.clamp_min(-1e30),) for t in both))
    assert_close(low.multipliers[0], found.numpy(), 1e-6)


def test_equal_sides_give_the_derivative() -> None:
    x, _ = sides((2, 4), 8)
    for function, _ in SOFT.values():
        ran = run_call(lambda x, f=function: f(x, 1), (x,), (x,))
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(function(leaf, 1), leaf, ran.upstream)
        assert_close(ran.multipliers[0], expected.numpy(), 1e-12)


def test_softmax_is_a_chain_that_sums_like_its_path_integral() -> None:
    """Both are complete; of a chain the shares are its own."""
    x, x0 = sides((3, 4), 2)
    ran = run_call(lambda x: torch.softmax(x, 1), (x,), (x0,))
    (line,) = oracles.integrated(
        lambda x: torch.softmax(x, 1), (x,), (x0,), ran.upstream, 64
    )
    total = float((torch.from_numpy(line) * (x - x0)).sum())
    delta = float((ran.upstream * (ran.output - ran.reference)).sum())
    assert total == pytest.approx(delta, rel=1e-9)
    assert_complete(ran, (x,), (x0,))
    assert np.abs(line - ran.multipliers[0].numpy()).max() > 1e-4


# Norms ----------------------------------------------------------------------------

WEIGHT = torch.tensor([0.5, -1.5, 2.0, 0.25], dtype=torch.float64)
BIAS = torch.tensor([0.1, 0.2, -3.0, 0.0], dtype=torch.float64)


def _weights(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return WEIGHT.to(dtype), BIAS.to(dtype)


@examples
@given(
    shape=st.sampled_from([(4,), (2, 4), (2, 2, 4)]),
    seed=seeds,
    dtype=dtypes,
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    eps=st.sampled_from([1e-5, 1e-12, 1e-2]),
)
def test_layer_norm(
    shape: tuple[int, ...], seed: int, dtype: torch.dtype, scale: float, eps: float
) -> None:
    x, x0 = sides(shape, seed, dtype, scale)
    w, b = _weights(dtype)
    check(
        lambda x: F.layer_norm(x, (4,), w, b, eps),
        lambda x: oracles.standardise(x, (-1,), eps, True) * w.numpy(),
        (x,),
        (x0,),
        slack=10,
    )


@examples
@given(seed=seeds, dtype=dtypes, eps=st.sampled_from([None, 1e-6, 1e-2]))
def test_rms_norm(seed: int, dtype: torch.dtype, eps: float | None) -> None:
    x, x0 = sides((3, 4), seed, dtype)
    w, _ = _weights(dtype)
    used = torch.finfo(dtype).eps if eps is None else eps
    check(
        lambda x: F.rms_norm(x, (4,), w, eps),
        lambda x: oracles.standardise(x, (-1,), used, False) * w.numpy(),
        (x,),
        (x0,),
        slack=10,
    )


def _grouped(x: Any, groups: int, eps: float) -> Any:
    flat = x.reshape(x.shape[0], groups, -1)
    return oracles.standardise(flat, (-1,), eps, True).reshape(x.shape)


@examples
@given(
    shape=st.sampled_from([(2, 4), (1, 4, 3), (1, 4, 2, 2)]),
    groups=st.sampled_from([1, 2]),
    seed=seeds,
    dtype=dtypes,
)
def test_group_norm(
    shape: tuple[int, ...], groups: int, seed: int, dtype: torch.dtype
) -> None:
    x, x0 = sides(shape, seed, dtype)
    w, b = _weights(dtype)
    column = w.numpy().reshape(-1, *[1] * (len(shape) - 2))
    check(
        lambda x: F.group_norm(x, groups, w, b),
        lambda x: _grouped(x, groups, 1e-5) * column,
        (x,),
        (x0,),
        slack=10,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_instance_norm(dtype: torch.dtype) -> None:
    x, x0 = sides((2, 4, 5), 3, dtype)
    w, b = _weights(dtype)
    check(
        lambda x: F.instance_norm(x, weight=w, bias=b, eps=1e-3),
        lambda x: _grouped(x, 4, 1e-3) * w.numpy()[:, None],
        (x,),
        (x0,),
        slack=10,
    )


def test_layer_norm_over_two_dimensions_and_without_weights() -> None:
    x, x0 = sides((2, 3, 4), 3)
    check(
        lambda x: F.layer_norm(x, (3, 4)),
        lambda x: oracles.standardise(x, (-2, -1), 1e-5, True),
        (x,),
        (x0,),
    )


def test_a_constant_row_has_finite_multipliers() -> None:
    x, _ = sides((2, 4), 3)
    flat = torch.full_like(x, 0.7)
    for reference in (flat, torch.zeros_like(x)):
        ran = run_call(lambda x: F.layer_norm(x, (4,)), (x,), (reference,))
        assert ran.multipliers[0].isfinite().all()
        assert_complete(ran, (x,), (reference,))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: F.layer_norm(x, (4,), w),
        lambda x, w: F.rms_norm(x, (4,), w),
        lambda x, w: F.group_norm(x, 2, w),
    ],
    ids=["layer_norm", "rms_norm", "group_norm"],
)
def test_an_attributed_weight_is_integrated_and_reported(function: Function) -> None:
    (x, x0), (w, w0) = sides((3, 4), 1), sides((4,), 2)
    ran = run_call(function, (x, w), (x0, w0))
    assert all(m.isfinite().all() for m in ran.multipliers)
    assert len(ran.tape.diagnostics().fallbacks) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.layer_norm(x, (4,)),
        lambda x: F.rms_norm(x, (4,)),
        lambda x: F.group_norm(x, 2),
        lambda x: F.instance_norm(x[None]),
        lambda x: F.layer_norm(x * 400, (4,)),
        lambda x: F.group_norm(x * 400, 1),
        lambda x: torch.softmax(x, -1),
        lambda x: F.log_softmax(x, -1),
    ],
)
def test_half_precision_is_as_in_float32(
    function: Function, dtype: torch.dtype
) -> None:
    x, x0 = (t.to(dtype) for t in sides((3, 4), 6, torch.float32))
    ran = run_call(function, (x,), (x0,))
    leaf = x.float().requires_grad_()
    wide = two_passes(function, (leaf,), (x0.float(),))
    (expected,) = torch.autograd.grad(wide.output, leaf, ran.upstream.float())
    found = ran.multipliers[0].float()
    assert found.isfinite().all()
    assert (found - expected).abs().max() <= 0.05 * expected.abs().max()


def test_rows_that_are_whole_tensors_are_not_taken_for_one_row() -> None:
    x, x0 = sides((4, 1), 3)

    def call(x: Tensor) -> Tensor:
        return torch.stack([(row.softmax(-1) * row).sum() for row in x])

    ran = run_call(call, (x,), (x0,))
    assert_close(ran.multipliers[0], ran.upstream[:, None].numpy(), 1e-12)
