"""Any torch function: exact by a rule of its own, or integrated and named."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calls import explained, run_call, sides
from torch import Tensor, nn
from torch.overrides import get_testing_overrides

from captum_ehr.propagation import (
    Attributions,
    attributions,
    default_table,
)
from captum_ehr.propagation.containers import tensors_in
from captum_ehr.propagation.declarations import label

Function = Callable[..., Any]


def weighed(value: Any) -> Tensor:
    """Everything that a function gave in floating point, as one number."""
    parts = [t.to_dense() if t.is_sparse else t for t in tensors_in(value)]
    real = [
        torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in parts
    ]
    flat = torch.cat([t.reshape(-1) for t in real if t.is_floating_point()])
    return (flat @ torch.arange(1, len(flat) + 1).to(flat).cos()).reshape(1)


def adds_up(function: Function, x: Tensor, x0: Tensor) -> Attributions:
    """One explanation of everything that a function gives, of all rows at once."""
    return explained(lambda t: weighed(function(t[0])), x[None], x0[None])


# Functions that are one call ------------------------------------------------------


def _constant(*shape: int) -> Tensor:
    return sides(shape, 17)[0]


SQUARE, THREE = _constant(4, 4), _constant(3, 4, 4)
GRAPH = torch.tensor([[0, 2.0, 0, 1], [0, 0, 0, -1], [3, 0, 1, 0], [0, 0, 0, 0.5]])
COO = GRAPH.double().to_sparse()
CSR = GRAPH.double().to_sparse_csr()
PLACES = torch.tensor([[0, 1, 2, 0]] * 4)
BAGS = torch.tensor([[0, 1, 1], [2, 3, 0]])
TAPS = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)


def assigned(t: Tensor) -> Tensor:
    y = torch.zeros(4, 6, dtype=t.dtype)
    y[:, 1:5] = t.exp()
    y[0] = t[1].tanh().sum()
    y[torch.tensor([2, 3]), torch.tensor([0, 5])] = t[0, :2] * t[1, :2]
    return y.index_add(0, torch.tensor([0, 0]), y[1:3]).masked_fill(y == 0, 2.0)


def looped(t: Tensor) -> Tensor:
    state = torch.zeros(4, dtype=t.dtype)
    for step, row in enumerate(t):
        state = torch.tanh(state + row) if step % 2 else state * row + row
    return state


#: Of a (4, 4) tensor. Every one is exact.
EXACT: dict[str, Function] = {
    "sparse.mm of COO": lambda t: torch.sparse.mm(COO, t.tanh()),
    "sparse.mm of CSR": lambda t: torch.sparse.mm(CSR, t.tanh()),
    "spmm": lambda t: torch.spmm(COO, t.tanh()),
    "COO @": lambda t: COO @ t.tanh(),
    "CSR @": lambda t: CSR @ t.tanh(),
    "embedding_bag, weights": lambda t: F.embedding_bag(BAGS, t.exp()),
    "embedding_bag, sample weights": lambda t: F.embedding_bag(
        BAGS, SQUARE, mode="sum", per_sample_weights=t[:2, :3].exp()
    ),
    "embedding_bag, both": lambda t: F.embedding_bag(
        BAGS, t.exp(), mode="sum", per_sample_weights=t[:2, :3]
    ),
    "bilinear, one side": lambda t: F.bilinear(t.exp(), SQUARE, THREE),
    "bilinear, both sides": lambda t: F.bilinear(t, t.exp(), THREE),
    "einsum of 2": lambda t: torch.einsum("bi,bj,ij->bi", t, t.tanh(), SQUARE),
    "einsum of 3": lambda t: torch.einsum("bi,bj,bk->bijk", t, t.tanh(), t.exp()),
    "baddbmm": lambda t: torch.baddbmm(THREE * t, THREE * t.sin(), THREE * t.exp()),
    "addmm": lambda t: torch.addmm(t, t @ SQUARE, SQUARE * t.exp()),
    "addcmul": lambda t: torch.addcmul(t, t.tanh(), t.exp(), value=0.5),
    "addcdiv": lambda t: torch.addcdiv(t, t.tanh(), t.exp(), value=0.5),
    "lerp": lambda t: torch.lerp(t, t.exp(), t.sigmoid()),
    "lerp between constants": lambda t: torch.lerp(SQUARE, -SQUARE, t.sigmoid()),
    "assignments": assigned,
    "a loop": looped,
    "where": lambda t: torch.where(SQUARE > 0, t.exp(), t),
    "cummax": lambda t: t.cummax(1).values,
    "cummin": lambda t: torch.cummin(t, 0)[0],
    "cumprod": lambda t: t.cumprod(1),
    "logcumsumexp": lambda t: t.logcumsumexp(1),
    "cdist": lambda t: torch.cdist(t, SQUARE),
    "cdist of both": lambda t: torch.cdist(t, t.tanh() + 1, p=1),
    "hypot": lambda t: torch.hypot(t, t.exp()),
    "dist": lambda t: torch.dist(t, t.exp()),
    "cosine_similarity": lambda t: F.cosine_similarity(t, t.exp()),
    "pairwise_distance": lambda t: F.pairwise_distance(t, t.exp(), keepdim=True),
    "PairwiseDistance": lambda t: nn.PairwiseDistance(1)(t, SQUARE),
    "normalize": lambda t: F.normalize(t, p=1),
    "std_mean": lambda t: torch.std_mean(t, 1, keepdim=True),
    "var_mean": lambda t: torch.var_mean(t, correction=0),
    "norm 1": lambda t: t.norm(1, 1),
    "norm inf": lambda t: torch.norm(t, float("inf"), 1),
    "norm -inf": lambda t: torch.norm(t, -float("inf"), 1),
    "prod": lambda t: t.prod(1),
    "trapezoid": lambda t: torch.trapezoid(t.tanh(), dim=1),
    "trapezoid over attributed places": lambda t: torch.trapezoid(t.tanh(), t, dim=1),
    "cumulative_trapezoid": lambda t: torch.cumulative_trapezoid(t.tanh(), dim=1),
    "rfft": lambda t: torch.view_as_real(torch.fft.rfft(t.tanh())),
    "power spectrum": lambda t: torch.fft.rfft(t.tanh()).abs() ** 2,
    "irfft": lambda t: torch.fft.irfft(torch.fft.rfft(t.tanh()) * TAPS),
    "a convolution by fft": lambda t: torch.fft.irfft(
        torch.fft.rfft(t) * torch.fft.rfft(t.tanh())
    ),
    "a quotient of spectra": lambda t: (
        torch.fft.ifft(torch.fft.fft(t.tanh()) / (3 + torch.fft.fft(t.sigmoid()))).real
    ),
    "a product of spectra's matrices": lambda t: (
        torch.fft.fft2(t) @ torch.fft.fft(t.tanh())
    ).abs(),
    "outer": lambda t: torch.outer(t[0], t[1].exp()),
    "multi_dot": lambda t: torch.linalg.multi_dot([t, SQUARE, t.T.tanh()]),
    "vecdot": lambda t: torch.linalg.vecdot(t, t.exp()),
    "diff": lambda t: torch.diff(t.tanh(), dim=1),
    "scatter_reduce": lambda t: torch.ones(4, 3, dtype=t.dtype).scatter_reduce(
        1, PLACES, t.exp(), "mean"
    ),
    "scatter_reduce_": lambda t: torch.ones(4, 3, dtype=t.dtype).scatter_reduce_(
        1, PLACES, t.exp(), "sum"
    ),
    "aminmax": lambda t: torch.aminmax(t.exp(), dim=1),
    "msort": lambda t: torch.msort(t),
    "frac": lambda t: (3 * t).frac(),
    "heaviside": lambda t: torch.heaviside(t, t.new_ones(())) * t,
    "arctan": lambda t: t.arctan() + torch.arcsinh(t),
    "logaddexp2": lambda t: torch.logaddexp2(t, t.sin()),
    "logical_not_": lambda t: ((t * 1).logical_not_() + 1) * t,
    "arctan_": lambda t: (t * 2).arctan_(),
    "hypot_": lambda t: (t * 2).hypot_(t.exp()),
}


@pytest.mark.parametrize("name", EXACT)
def test_functions_are_torchs_own_and_exact(name: str) -> None:
    x, x0 = sides((4, 4), 6)
    run = adds_up(EXACT[name], x, x0)
    assert run.diagnostics.exact, run.diagnostics
    for side, value in ((x, run.f_input), (x0, run.f_reference)):
        torch.testing.assert_close(
            value, weighed(EXACT[name](side)), rtol=1e-12, atol=1e-12
        )


#: Smooth ones without a closed form, and the name that is reported.
INTEGRATED: dict[str, Function] = {
    "atan2": lambda t: torch.atan2(t, 3 + t),
    "xlogy": lambda t: torch.xlogy(t, t.exp()),
    "linalg_inv": lambda t: torch.linalg.inv(t / 5 + 3 * torch.eye(4).to(t)),
    "linalg_solve": lambda t: torch.linalg.solve(3 * torch.eye(4).to(t), t.tanh()),
    "linalg_matrix_exp": lambda t: torch.linalg.matrix_exp(t / 5),
    "scatter_reduce": lambda t: torch.ones(4, 3, dtype=t.dtype).scatter_reduce(
        1, PLACES, t.exp(), "prod"
    ),
    "cross_entropy": lambda t: F.cross_entropy(t, torch.arange(4), reduction="none"),
    "tanh": lambda t: torch.ops.aten.tanh(t),
}


@pytest.mark.parametrize("name", INTEGRATED)
def test_what_has_no_closed_form_is_integrated_and_named(name: str) -> None:
    run = adds_up(INTEGRATED[name], *sides((4, 4), 6))
    assert run.diagnostics.fallbacks == (name,)
    assert any(name in message for message in run.diagnostics.messages)


#: With corners, thresholds or parts out of sight: what adds up less is named.
NAMED: dict[str, Function] = {
    "quantile": lambda t: t.quantile(0.3, dim=1),
    "embedding_bag": lambda t: F.embedding_bag(BAGS, t.exp(), mode="max"),
    "norm": lambda t: torch.norm(t, 0, 1),
    "lp_pool1d": lambda t: F.lp_pool1d(t[:, None], 2, 2),
    "nanmedian": lambda t: t.nanmedian(1).values,
    "mul": lambda t: torch.vmap(lambda row: row * row)(t),
    "matmul": lambda t: torch.vmap(lambda row: SQUARE @ row @ row)(t),
    "layer_norm": lambda t: torch.vmap(lambda row: F.layer_norm(row, (4,)))(t),
    "sin": lambda t: torch.func.vmap(torch.func.grad(lambda r: r.sin().sum()))(t),
    "tensor": lambda t: torch.tensor([t[0, 0].tanh(), t[1, 0]]) + t[2, :2],
    "poisson": lambda t: torch.poisson(t.exp() * 9) + t,
    "normal": lambda t: torch.normal(t, 1.0) + t,
    "gt": lambda t: (t * 1).gt_(0.0) * t,
    "tolist": lambda t: torch.tensor(t[0].tolist()) + t[1],
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_exact_is_named(name: str) -> None:
    run = attributions(
        lambda t: weighed(NAMED[name](t[0])),
        *[(s[None],) for s in sides((4, 4), 6)],
    )
    assert not run.diagnostics.exact
    assert any(message.startswith(name) for message in run.diagnostics.messages)


def test_linear_parts_inside_vmap_are_exact() -> None:
    run = adds_up(lambda t: torch.vmap(lambda row: SQUARE @ row)(t), *sides((4, 4), 6))
    assert run.diagnostics.exact


def test_running_maxima_go_to_where_either_side_has_them() -> None:
    """Written out by hand: 3 is new at place 1; at place 2 the reference's 2 rules."""
    x = torch.tensor([1.0, 3.0, 0.0], dtype=torch.float64)
    x0 = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    ran = run_call(lambda t: t.cummax(0).values, (x,), (x0,))
    m = ran.upstream
    # Δy = (0, 2, 1); x1 carries 2/3 of its own change of 3 at place 1, 1/3 at 2.
    expected = torch.stack([m[0], m[1] * 2 / 3 + m[2] / 3, 0 * m[2]])
    torch.testing.assert_close(ran.multipliers[0], expected)


def test_a_modulus_is_shared_between_real_and_imaginary_part() -> None:
    """|3 + 4i| - |0 + 1i| = 4 = (3·3 + 5·3)/6."""
    x = torch.tensor([3.0, 4.0], dtype=torch.float64)
    x0 = torch.tensor([0.0, 1.0], dtype=torch.float64)
    ran = run_call(lambda t: torch.complex(t[0], t[1]).abs(), (x,), (x0,))
    expected = ran.upstream * torch.tensor([3 / 6, 5 / 6], dtype=torch.float64)
    torch.testing.assert_close(ran.multipliers[0], expected)


# Every function of one tensor -----------------------------------------------------

#: Not functions of their argument: random numbers, a random start, other memory.
NOT_FUNCTIONS = frozenset(
    "backward share_memory_ set_ uniform_ normal_ kaiming_uniform_ lobpcg".split()
)

#: Round to fewer digits than their argument has.
ROUNDING = frozenset("float half bfloat16".split())


def _of_one_tensor(x: Tensor, by_name: bool) -> Iterator[tuple[Function, Function]]:
    """torch's overridable functions that autograd can take at this tensor alone.

    Each with a call of it that gives the tensor by its place, or by the name that torch
    tells those who override the function.
    """
    seen = set()
    for function, stand_in in get_testing_overrides().items():
        name, entry = label(function), default_table().get(function)
        if name in NOT_FUNCTIONS or (name, entry) in seen:
            continue
        try:
            operand = next(iter(inspect.signature(stand_in).parameters))
            call = _named(function, operand) if by_name else function
            value = weighed(call(x * 1))
            torch.autograd.grad(value, x)
        except Exception:  # hundreds of functions refuse, each in its own way
            continue
        if value.isfinite():
            seen.add((name, entry))
            yield function, call


def _named(function: Function, operand: str) -> Function:
    return lambda t: function(**{operand: t})


@pytest.mark.parametrize(
    "by_name, least", [(False, 250), (True, 190)], ids=["by place", "by name"]
)
@pytest.mark.filterwarnings("ignore")
def test_every_function_of_one_tensor_adds_up_or_is_named(
    by_name: bool, least: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, x0 = torch.rand((2, 3, 3), generator=generator, dtype=torch.float64) * 0.6 + 0.2
    silent, unnamed, count = [], [], 0
    for function, call in _of_one_tensor(x.clone().requires_grad_(), by_name):
        name = label(function)
        run = attributions(
            lambda t, call=call: weighed(call(t[0] * 1)), (x[None],), (x0[None],)
        )
        count += 1
        change = abs(float(run.f_input - run.f_reference))
        complete = abs(float(run.delta)) <= 1e-10 * max(change, 1e-3)
        if run.diagnostics.exact and not complete and name not in ROUNDING:
            silent.append(name)
        ruled = default_table().get(function) is not None or change == 0
        if not ruled and not run.diagnostics.fallbacks:
            unnamed.append(name)
    assert not silent
    assert not unnamed
    assert count > least
