"""Maxima, pools, order statistics and composites against slow formulas."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_ehr.propagation import attributions, two_passes

Function = Callable[[Tensor], Any]


def sides(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, x0 = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in "ab")
    return x, x0


def multiplier(function: Function, x: Tensor, x0: Tensor, upstream: Tensor) -> Tensor:
    """What the passes give for one call, for a given upstream gradient."""
    leaf = x.clone().requires_grad_()
    run = two_passes(lambda t: function(t).clone(), (leaf,), (x0,))
    return torch.autograd.grad(run.output, leaf, upstream)[0]


def slow_maximum(x: list[float], x0: list[float]) -> list[float]:
    """The two parts of a maximum's change, over the Δx of where they go."""
    y, y0 = max(x), max(x0)
    shares = [0.0] * len(x)
    for at, part in ((x.index(y), max(y, y0) - y0), (x0.index(y0), y - max(y, y0))):
        if part:
            shares[at] += part / (x[at] - x0[at])
    return shares


@pytest.mark.parametrize("seed", range(5))
def test_a_maximum_in_all_its_forms(seed: int) -> None:
    x, x0 = sides(3, 5, seed=seed)
    upstream = torch.randn(3, dtype=torch.float64)
    expected = torch.tensor(
        [slow_maximum(a, b) for a, b in zip(x.tolist(), x0.tolist())],
        dtype=torch.float64,
    ) * upstream.unsqueeze(1)
    for function in (
        lambda t: t.amax(1),
        lambda t: t.max(-1).values,
        lambda t: torch.max(t, dim=1)[0],
        lambda t: -(-t).amin(1),
        lambda t: -torch.min(-t, 1).values,
        lambda t: F.max_pool1d(t.unsqueeze(1), 5).flatten(),
        lambda t: F.adaptive_max_pool1d(t, 1).flatten(),
        lambda t: t.unsqueeze(1).amax((1, 2)),
    ):
        found = multiplier(function, x, x0, upstream)
        torch.testing.assert_close(found, expected)
        assert bool(((found / upstream.unsqueeze(1)) >= -1e-12).all())
        assert bool(((found / upstream.unsqueeze(1)) <= 1 + 1e-12).all())


def test_windows_that_overlap_add_up() -> None:
    x, x0 = sides(2, 6)
    upstream = torch.randn(2, 4, dtype=torch.float64)
    found = multiplier(lambda t: F.max_pool1d(t, 3, 1), x, x0, upstream)
    expected = torch.zeros_like(x)
    for row, window in itertools.product(range(2), range(4)):
        part = slice(window, window + 3)
        shares = slow_maximum(x[row, part].tolist(), x0[row, part].tolist())
        expected[row, part] += upstream[row, window] * torch.tensor(shares).double()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("largest", [True, False])
def test_the_greater_of_two(largest: bool) -> None:
    x, x0 = sides(4, 3, seed=2)
    pick = torch.maximum if largest else torch.minimum
    run = attributions(lambda t: pick(t, t.flip(0) + 0.1).sum(1), (x,), (x0,))
    assert run.diagnostics.exact
    # each row shares with its mirror image, so only the batch as a whole adds up
    torch.testing.assert_close(run.delta.sum(), torch.zeros((), dtype=torch.float64))
    zero = torch.zeros(3, dtype=torch.float64)
    ours = attributions(lambda t: torch.maximum(t, zero).sum(1), (x,), (x0,))
    relu = attributions(lambda t: torch.relu(t).sum(1), (x,), (x0,))
    torch.testing.assert_close(ours.attributions[0], relu.attributions[0])


def slow_ranks(x: list[float], x0: list[float]) -> list[list[Fraction]]:
    """held[i][k]: the share of the line on which value i has rank k, exactly."""
    a, b = [Fraction(v) for v in x], [Fraction(v) for v in x0]
    cuts = {Fraction(0), Fraction(1)}
    for i, j in itertools.combinations(range(len(a)), 2):
        slope = (a[i] - b[i]) - (a[j] - b[j])
        if slope:
            cuts.add(min(max((b[j] - b[i]) / slope, Fraction(0)), Fraction(1)))
    held = [[Fraction(0)] * len(a) for _ in a]
    for start, stop in itertools.pairwise(sorted(cuts)):
        t = (start + stop) / 2
        order = sorted(range(len(a)), key=lambda i: b[i] + t * (a[i] - b[i]))
        for rank, i in enumerate(order):
            held[i][rank] += stop - start
    return held


@pytest.mark.parametrize("seed", range(3))
def test_order_statistics_are_the_straight_lines(seed: int) -> None:
    x, x0 = sides(3, 6, seed=seed)
    held = torch.tensor(
        [
            [[float(s) for s in row] for row in slow_ranks(a, b)]
            for a, b in zip(x.tolist(), x0.tolist())
        ],
        dtype=torch.float64,
    )
    for function, ranks in (
        (lambda t: t.sort(1).values, range(6)),
        (lambda t: torch.sort(t, dim=-1, descending=True)[0], range(5, -1, -1)),
        (lambda t: t.topk(3).values, (5, 4, 3)),
        (lambda t: torch.topk(t, 2, dim=1, largest=False).values, (0, 1)),
        (lambda t: t.median(1, keepdim=True).values, (2,)),
        (lambda t: t.kthvalue(4, 1, keepdim=True).values, (3,)),
    ):
        upstream = torch.randn(3, len(ranks), dtype=torch.float64)
        found = multiplier(function, x, x0, upstream)
        expected = (held[:, :, list(ranks)] * upstream.unsqueeze(1)).sum(-1)
        torch.testing.assert_close(found, expected)


def test_indices_that_are_used_and_differ_are_reported() -> None:
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    x0 = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    used = attributions(
        lambda t: t.gather(1, t.max(1, keepdim=True).indices).squeeze(1), (x,), (x0,)
    )
    (kept,) = used.diagnostics.structure
    assert (kept.operation, kept.places, kept.shift) == ("max", 1, 1.0)
    assert used.diagnostics.messages == (kept.message,)
    unused = attributions(lambda t: t.max(1).values, (x,), (x0,))
    assert unused.diagnostics.exact


WEIGHTS = torch.linspace(-1, 2, 40, dtype=torch.float64)


@pytest.mark.parametrize(
    "function",
    [
        lambda t: F.glu(t, 1),
        lambda t: F.softmin(t, 1),
        lambda t: F.mish(t),
        lambda t: F.hardswish(4 * t),
        lambda t: F.hardsigmoid(4 * t),
        lambda t: F.softshrink(t, 0.3),
        lambda t: F.tanhshrink(t),
        lambda t: F.prelu(t, torch.tensor([0.2], dtype=torch.float64)),
        lambda t: F.rrelu(t),
        lambda t: t.std(1),
        lambda t: torch.var(t, 1, unbiased=False, keepdim=True),
        lambda t: t.var(-1, correction=0),
        lambda t: torch.std(t, dim=1),
        lambda t: t.norm(dim=1),
        lambda t: torch.norm(t, p=3, dim=1),
        lambda t: t.norm(1, -1, True),
        lambda t: torch.linalg.vector_norm(t, dim=-1),
        lambda t: torch.linalg.vector_norm(t, float("inf"), 1),
        lambda t: torch.linalg.norm(t, dim=1),
        lambda t: F.normalize(t),
        lambda t: F.cosine_similarity(t, t.flip(1) + 1, dim=1),
        lambda t: torch.addcdiv(t, t, 3 + t.tanh(), value=2),
        lambda t: torch.logaddexp(t, t.sin()),
        lambda t: t.cumprod(1),
        lambda t: t.prod(1),
        lambda t: t.clamp(-0.5, 0.5),
        lambda t: t.clamp(min=t[:, :1]),
        lambda t: torch.clamp(t, max=0.2),
        lambda t: t.clamp_min(t[:, :1]),
        lambda t: torch.clamp_max(t, t.flip(1) + 1),
        lambda t: torch.fmax(t, t.flip(1) + 1),
        lambda t: torch.fmin(t, t.flip(1) + 1),
        lambda t: torch.logsumexp(t, dim=(1,)),
    ],
)
def test_composites_are_torchs_and_add_up(function: Function) -> None:
    x, x0 = sides(4, 6, seed=4)

    def model(t: Tensor) -> Tensor:
        flat = function(t).reshape(4, -1)
        return (flat * WEIGHTS[: flat.shape[1]]).sum(1)

    run = attributions(model, (x,), (x0,))
    torch.testing.assert_close(run.f_input, model(x))
    torch.testing.assert_close(run.f_reference, model(x0))
    assert run.diagnostics.exact, run.diagnostics
    scale = (run.f_input - run.f_reference).abs().clamp_min(1e-3)
    assert bool((run.delta.abs() <= 1e-9 * scale).all()), run.delta


INF = float("inf")
PRESENT = torch.tensor([True, True, False, True, True, False])
ABSENT = torch.zeros(6, dtype=torch.float64).masked_fill(~PRESENT, -INF)


@pytest.mark.parametrize(
    "masked", [lambda t: t.masked_fill(~PRESENT, -INF), lambda t: t + ABSENT]
)
@pytest.mark.parametrize(
    "pick",
    [
        lambda t: t.topk(2, 1).values,
        lambda t: t.sort(1, descending=True).values[:, :4],
        lambda t: torch.msort(t.T).T[:, 2:],
        lambda t: t.kthvalue(4, 1, True).values,
        lambda t: t.amax(1, True),
        lambda t: t.cummax(1).values,
        lambda t: F.max_pool1d(t[:, None], 2).flatten(1),
        lambda t: t.exp(),
    ],
)
def test_what_is_masked_with_infinity_has_no_part(pick: Function, masked: Any) -> None:
    """As what is masked with a number far below all others."""
    x, x0 = sides(3, 6, seed=3)
    ours = attributions(lambda t: pick(masked(t)).sum(1), (x,), (x0,))
    low = x.new_zeros(6).masked_fill(~PRESENT, -1e3)
    theirs = attributions(lambda t: pick(t + low).sum(1), (x,), (x0,))
    present = x.new_zeros(6).masked_fill(PRESENT, 1.0)
    torch.testing.assert_close(ours.attributions[0], theirs.attributions[0] * present)
    torch.testing.assert_close(ours.delta, torch.zeros_like(ours.delta))
    assert ours.diagnostics.exact


BOUND = torch.tensor(0.7, dtype=torch.float64)


@pytest.mark.parametrize(
    "function",
    [
        lambda t: torch.maximum(t, BOUND),
        lambda t: torch.min(BOUND, t),
        lambda t: torch.fmax(t, BOUND),
        lambda t: t.clamp(max=BOUND),
        lambda t: torch.logaddexp(t, BOUND),
        lambda t: torch.logaddexp(BOUND, t),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_bound_of_another_dtype(function: Function, dtype: torch.dtype) -> None:
    """A tensor that is one number leaves the values' dtype as it is."""
    x, x0 = (s.to(dtype) for s in sides(3, 4))
    ran = two_passes(function, (x.clone().requires_grad_(),), (x0,))
    assert ran.output.dtype == function(x).dtype == dtype
    run = attributions(lambda t: function(t).sum(1), (x,), (x0,))
    assert run.diagnostics.exact
    assert float(run.delta.abs().max()) <= 64 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    "function",
    [
        lambda t: t.amax(1, True),
        lambda t: t.max(1).values[:, None],
        lambda t: t.cummax(1).values,
        lambda t: torch.maximum(t, BOUND),
        lambda t: F.max_pool1d(t.flip(1)[:, None], 4)[:, 0],
        lambda t: t.exp(),
        lambda t: t.expm1(),
        lambda t: t.sigmoid(),
        lambda t: t.tanh(),
        lambda t: t.softmax(1) * WEIGHTS[:4],
    ],
)
@pytest.mark.parametrize("put", ["masked_fill", "log"])
def test_infinity_on_one_side_carries_its_change(function: Function, put: str) -> None:
    """What an attributed flag masks is as far down as NOTHING is."""
    x, x0 = (s.abs() + 0.1 for s in sides(20, 4))

    def model(t: Tensor) -> Tensor:
        low = (t < 0.8) & torch.tensor([False, True, True, True])
        masked = t.masked_fill(low, -INF) if put == "masked_fill" else t
        masked = masked if put == "masked_fill" else t + (~low).to(t.dtype).log()
        return function(masked).sum(1)

    run = attributions(model, (x,), (x0,))
    torch.testing.assert_close(run.f_reference, model(x0))
    torch.testing.assert_close(run.delta, torch.zeros_like(run.delta))
    assert run.diagnostics.exact


def test_the_greater_of_two_of_which_one_is_missing() -> None:
    x = torch.tensor([[1.0, torch.nan, 2.0]], dtype=torch.float64)
    x0 = torch.tensor([[0.5, torch.nan, 0.1]], dtype=torch.float64)
    run = attributions(lambda t: torch.fmax(t, BOUND).sum(1), (x,), (x0,))
    expected = torch.tensor([[1 - 0.7, 0.0, 2 - 0.7]], dtype=torch.float64)
    torch.testing.assert_close(run.attributions[0], expected)


@pytest.mark.parametrize(
    "pick",
    [
        lambda t: t.topk(1, 1).values,
        lambda t: t.sort(1).values,
        lambda t: t.median(1, True).values,
        lambda t: t.kthvalue(1, 1, True).values,
        lambda t: torch.msort(t.T).T,
        lambda t: torch.stack([v.sum().sort().values for v in t]),
        lambda t: torch.stack([v.sum().topk(1).values for v in t]),
        lambda t: torch.stack([v.sum().median() for v in t]),
        lambda t: torch.stack([v.sum().median(0).values for v in t]),
        lambda t: torch.stack([v.sum().kthvalue(1).values for v in t]),
        lambda t: torch.stack([v.sum().amax(0) for v in t]),
        lambda t: torch.stack([v.sum().max(0).values for v in t]),
        lambda t: torch.stack([v.sum().prod(0) for v in t]),
    ],
)
def test_of_one_element_all_is_its_own(pick: Function) -> None:
    x, x0 = sides(3, 1)
    run = attributions(lambda t: pick(t).reshape(3), (x,), (x0,))
    torch.testing.assert_close(run.attributions[0], x - x0)
    assert run.diagnostics.exact


def test_a_rank_between_infinity_and_a_number() -> None:
    """It is infinite till the end of the line, and the change has no share."""
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    x0 = torch.tensor([[-INF, 2.5, 2.0]], dtype=torch.float64)
    ran = multiplier(lambda t: t.topk(2, 1).values, x, x0, torch.ones(1, 2).double())
    assert torch.equal(ran, torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64))


def test_the_highest_in_no_order() -> None:
    """Exact where both sides have them in the same order, else said."""
    x = torch.linspace(-1, 2, 40, dtype=torch.float64).repeat(2, 1)
    weights = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0], dtype=torch.float64)

    def model(t: Tensor) -> Tensor:
        return (t.topk(5, 1, sorted=False).values * weights).sum(1)

    alike = attributions(model, (2 * x,), (x,))
    assert alike.diagnostics.exact
    torch.testing.assert_close(alike.delta, torch.zeros(2, dtype=torch.float64))
    others = [
        attributions(model, *((s,) for s in sides(2, 40, seed=k))) for k in range(4)
    ]
    assert all(
        not run.diagnostics.exact for run in others if run.delta.abs().max() > 1e-9
    )
    assert any(run.diagnostics.fallbacks == ("topk",) for run in others)
