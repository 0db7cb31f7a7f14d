"""Whatever stands in for a torch function gives what torch gives, in every dtype."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calls import in_turn
from torch import Tensor, nn

from captum_ehr.propagation import attributions, two_passes

Function = Callable[[Tensor], Any]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ORDERS = (1, 2, 3, 2.5, 0.5, -1, float("inf"), -float("inf"))


def flat(values: Any) -> Tensor:
    return torch.cat([t.reshape(-1) for t in values if t is not None])


@cache
def _heads(width: int, dtype: torch.dtype, longer: bool) -> nn.Module:
    torch.manual_seed(0)
    options = {"add_zero_attn": longer, "add_bias_kv": longer, "dtype": dtype}
    module = nn.MultiheadAttention(width, 2, batch_first=True, **options)
    # In training, as torch has a path for inference that no pass is on
    return module.train().requires_grad_(False)


def _attention(query: Tensor, need_weights: bool, longer: bool = False) -> Tensor:
    module = _heads(query.shape[1], query.dtype, longer)
    x, length = query[None], len(query)
    masks = {
        "key_padding_mask": torch.arange(length)[None] == length - 1,
        "attn_mask": torch.ones(length, length).triu(1).bool(),
    }
    return flat(module(x, x, x, need_weights=need_weights, **masks))


def _static(x: Tensor) -> Tensor:
    """Keys and values of the caller's own, of another length."""
    width = x.shape[1]
    weight = torch.eye(width, dtype=x.dtype)
    own = torch.linspace(-1, 1, 2 * 5 * width // 2).to(x.dtype).view(2, 5, width // 2)
    found = F.multi_head_attention_forward(
        *(x[:, None],) * 3,
        *(width, 2, weight.repeat(3, 1), None, None, None, True, 0.0, weight, None),
        static_k=own,
        static_v=own.flip(0),
    )
    return flat(found)


MOMENTS: dict[str, Function] = {
    f"{f.__name__} {form}": (
        lambda x, f=f, a=a, k=k: flat(
            v if isinstance(v := f(x, *a, **k), tuple) else (v,)
        )
    )
    for f in (torch.var, torch.std, torch.var_mean, torch.std_mean)
    for form, a, k in (
        ("of all", (), {}),
        ("of a dimension", (1,), {}),
        ("of dimensions, kept", (), {"dim": (0, 1), "keepdim": True}),
        ("axis", (), {"axis": 1}),
        ("biased", (False,), {}),
        ("biased by name", (), {"unbiased": False}),
        ("four places", (1, False, True), {}),
        ("corrected by half", (1,), {"correction": 1.5}),
        ("not corrected", (), {"dim": 0, "correction": 0}),
        ("no dimension", (), {"dim": ()}),
    )
}

NORMS: dict[str, Function] = {
    f"{name} {p}": lambda x, f=f, p=p: f(x, p)
    for p in ORDERS
    for name, f in {
        "vector_norm": lambda x, p: torch.linalg.vector_norm(x, p, 1),
        "norm": lambda x, p: x.norm(p, dim=1, keepdim=True),
        "norm of all": lambda x, p: torch.norm(x, p=p),
        "normalize": F.normalize,
        "dist": lambda x, p: torch.dist(x, x.flip(1) * 0.5, p),
        "pairwise_distance": lambda x, p: F.pairwise_distance(x, x.flip(1) * 0.5, p),
        "cdist": lambda x, p: torch.cdist(x, x.flip(1) * 0.5, abs(p)),
    }.items()
}

OTHERS: dict[str, Function] = {
    "mish": F.mish,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "softshrink": lambda x: F.softshrink(x, lambd=0.3),
    "tanhshrink": F.tanhshrink,
    "glu": lambda x: F.glu(x, dim=1),
    "softmin": lambda x: F.softmin(x, 1, dtype=torch.float64),
    "prelu": lambda x: F.prelu(x, torch.full((x.shape[1],), 0.3, dtype=x.dtype)),
    "rrelu": lambda x: F.rrelu(x, upper=0.5),
    "addcdiv": lambda x: torch.addcdiv(x, x.flip(1), x.abs() + 1, value=0.5),
    "logaddexp": lambda x: torch.logaddexp(x, x.flip(1)),
    "logaddexp2": lambda x: torch.logaddexp2(x, x.flip(1)),
    "logcumsumexp": lambda x: torch.logcumsumexp(x, 1),
    "logcumsumexp of a number": lambda x: x[0, 0].logcumsumexp(0),
    "logit": lambda x: torch.logit(x.sigmoid()),
    "logit, bounded": lambda x: torch.logit(x, 1e-2),
    "cumprod": lambda x: (1 + 0.05 * x / x.abs().max()).cumprod(1),
    "cumprod, dtype": lambda x: x.cumprod(dim=1, dtype=torch.float64),
    "cumprod of a number": lambda x: x[0, 0].cumprod(0),
    "cumprod of nothing": lambda x: torch.cat([x[:, :0].cumprod(1), x], 1),
    "prod": lambda x: (1 + 0.05 * x / x.abs().max()).prod(1),
    "prod of all": lambda x: (x / x.abs().max()).prod(),
    "prod, dtype": lambda x: torch.prod(x, 1, keepdim=True, dtype=torch.float64),
    "prod of nothing": lambda x: x[:, :0].prod(1) + x.sum(1),
    "prod of a number": lambda x: x[0, 0].prod(0) * x[0, 1].prod(),
    "norm, dtype": lambda x: torch.norm(x, dim=1, dtype=torch.float64),
    "vector_norm, dtype": lambda x: torch.linalg.vector_norm(x, dtype=torch.float64),
    "linalg.norm": lambda x: torch.linalg.norm(x),
    "linalg.norm of a dimension": lambda x: torch.linalg.norm(x, 1, (1,), True),
    "linalg.norm, dtype": lambda x: torch.linalg.norm(x, dim=1, dtype=torch.float64),
    "Frobenius": lambda x: torch.norm(x, "fro", dim=(0, 1)),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x.flip(1) + 1),
    "cosine of a vector": lambda x: F.cosine_similarity(x, x.new_ones(x.shape[1])),
    "cosine of all rows": lambda x: F.cosine_similarity(x[:, None], x[None], dim=-1),
    "cosine of two dtypes": lambda x: F.cosine_similarity(x, x.double().flip(1)),
    "cosine of integers": lambda x: F.cosine_similarity(x, torch.arange(x.shape[1])),
    "cosine of zeros": lambda x: F.cosine_similarity(x * 0, x),
    "aminmax": lambda x: flat(torch.aminmax(x)),
    "aminmax, kept": lambda x: flat(torch.aminmax(x, dim=1, keepdim=True)),
    "amax, no dimension": lambda x: torch.amax(x, dim=None),
    "msort": torch.msort,
    "hypot": lambda x: torch.hypot(x, x.flip(1)),
    "frac": torch.frac,
    "clamp": lambda x: x.clamp(max=1.3, min=-1.1),
    "clamp, the wrong way round": lambda x: x.clamp(1, -1),
    "clamp by a tensor": lambda x: x.clamp(max=x.flip(1)),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    "attention, causal": lambda x: F.scaled_dot_product_attention(
        *(x[None],) * 3, is_causal=True, scale=0.3
    ),
    "heads": lambda x: _attention(x, True),
    "heads, fused": lambda x: _attention(x, False),
    "heads and more keys": lambda x: _attention(x, True, longer=True),
    "heads and more keys, fused": lambda x: _attention(x, False, longer=True),
    "heads, static keys": _static,
}

CALLS = {**MOMENTS, **NORMS, **OTHERS}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name, size", in_turn(CALLS, [4, 130]))
@pytest.mark.filterwarnings("ignore:(var|std).*degrees")
def test_outputs_are_torchs(name: str, size: int, dtype: torch.dtype) -> None:
    function, largest = CALLS[name], 1e4 if dtype == torch.float16 else 1e10
    generator = torch.Generator().manual_seed(0)
    for scale in (1.0, 300.0, largest):
        sides = torch.randn(2, 3, size, generator=generator) * scale
        x, x0 = sides.to(dtype)
        try:
            expected = function(x), function(x0)
        except RuntimeError:
            return  # torch has no such thing in half precision
        leaf = x.clone().requires_grad_()
        found = two_passes(function, (leaf,), (x0,))
        eps = torch.finfo(dtype).eps
        for own, torchs in zip(
            (found.output.detach(), found.reference_output), expected
        ):
            much = float(torchs.abs().nan_to_num(0, 0, 0).max())
            torch.testing.assert_close(
                own, torchs, rtol=8 * eps, atol=8 * eps * much, equal_nan=True
            )


@pytest.mark.parametrize("name", CALLS)
def test_they_add_up(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    x, x0 = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    weights = torch.linspace(1, 2, 400, dtype=torch.float64)

    def model(t: Tensor) -> Tensor:
        found = CALLS[name](t[0]).reshape(1, -1)
        return (found * weights[: found.shape[1]]).sum(1)

    if not model(x[None]).isfinite().all() or not model(x0[None]).isfinite().all():
        return
    run = attributions(model, (x[None],), (x0[None],))
    assert run.diagnostics.exact, run.diagnostics
    scale = run.attributions[0].abs().sum()
    assert float(run.delta.abs()) <= 1e-11 * float(scale)


def test_norms_in_half_precision_do_not_overflow() -> None:
    x, x0 = torch.full((1, 4), 300.0).half(), torch.full((1, 4), 200.0).half()
    run = attributions(lambda t: torch.linalg.vector_norm(t, dim=1), (x,), (x0,))
    assert (float(run.f_input), float(run.f_reference)) == (600.0, 400.0)
    torch.testing.assert_close(run.attributions[0], torch.full((1, 4), 50.0).half())


def test_what_an_expansion_does_not_serve_runs_nothing_of_it() -> None:
    """Half of it would stand in the tape, and the reference would take another path."""
    matrix = torch.randn(1, 3, 3, dtype=torch.float64)
    for function in (
        lambda t: torch.norm(t[0], "nuc").reshape(1),
        lambda t: torch.norm(t[0], 0).reshape(1) + t.sum((1, 2)),
        lambda t: torch.linalg.norm(t[0], "nuc").reshape(1),
        lambda t: torch.linalg.norm(t[0], -2).reshape(1),
    ):
        run = attributions(function, (matrix,), (matrix + 0.5,))
        assert len(run.diagnostics.fallbacks) == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rms_norms_smallest_number_is_torchs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, x0 = (1e-3 * torch.randn(2, 2, 5)).to(dtype)
    run = attributions(lambda t: F.rms_norm(t, (5,)).sum(1), (x,), (x0,))
    assert run.delta.abs().max() <= 16 * torch.finfo(dtype).eps
