"""Captum's own tests of its DeepLift and DeepLiftShap, of ours.

Here Captum is right, and its numbers are the expected ones; for where it is not see
test_captum_wrong.py, for layers and neurons test_captum_spec_layers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import (
    DeepLift,
    DeepLiftShap,
    LayerDeepLift,
    NoiseTunnel,
)
from captum_models import (
    Joined,
    Pair,
    PoolBetween,
    ones,
    sequence_model,
)
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR, DeepLiftShapEHR, LayerDeepLiftEHR

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks"),
    pytest.mark.filterwarnings("ignore:Input Tensor . did not already"),
]


def tuples(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def same(ours: Any, theirs: Any) -> None:
    """Equal to 1e-4, in the same form."""
    assert isinstance(ours, tuple) == isinstance(theirs, tuple)
    for a, b in zip(tuples(ours), tuples(theirs), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-4, atol=1e-4)


X1, X2 = torch.tensor([[-10.0, 1.0, -5.0]]), torch.tensor([[3.0, 3.0, 1.0]])
MORE = (
    torch.tensor([[-10.0, 1.0, -5.0], [2.0, 3.0, 4.0]]),
    torch.tensor([[3.0, 3.0, 1.0], [2.3, 5.0, 4.0]]),
)
ONE, TWO = torch.ones(4, 1), torch.full((4, 1), 2.0)
SMALL = (torch.zeros(1, 3), torch.full((1, 3), 0.0005))
FOUR = torch.tensor([[1.0, 2.0, 3.0, 9.0], [4.0, 8.0, 6.0, 7.0]])

#: name: model, inputs, baselines, target.
RIGHT: dict[str, tuple[Callable[[], nn.Module], Any, Any, Any]] = {
    "relu": (lambda: Pair(nn.ReLU), (ONE[0], TWO[0]), (0 * ONE[0], 0 * ONE[0]), None),
    "tanh": (
        lambda: Pair(nn.Tanh),
        (-ONE[0], -TWO[0]),
        (0 * ONE[0], 0 * ONE[0]),
        None,
    ),
    "relu, a batch": (lambda: Pair(nn.ReLU), (ONE, TWO), (0 * ONE, 0 * ONE), None),
    "scalars": (lambda: Joined(), (X1, X2), (0, 0.0001), None),
    "one row for all": (lambda: Joined(True), MORE, SMALL, None),
    "in place": (lambda: Joined(True), MORE, None, None),
    "not in place": (lambda: Joined(), MORE, None, None),
    "max-pool": (PoolBetween, torch.ones(2, 4), FOUR, 0),
    "sigmoid": (
        lambda: ones(20, 5, 1, head=nn.Sigmoid(), bias=False),
        torch.arange(20.0).unsqueeze(0),
        0.0,
        torch.tensor(0),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_captums_cases_where_captum_is_right(name: str) -> None:
    make, x, x0, target = RIGHT[name]
    model = make()
    theirs, their_delta = DeepLift(model).attribute(
        x, x0, target, return_convergence_delta=True
    )
    dl = DeepLiftEHR(model, completeness="check")
    for _ in range(2):  # a run leaves nothing behind that the next one sees
        ours, delta = dl.attribute(x, x0, target, return_convergence_delta=True)
        same(ours, theirs)
        again = dl.attribute(x, x0, target)
        assert all(
            torch.allclose(a, b, atol=1e-6) for a, b in zip(tuples(again), tuples(ours))
        )
        assert delta.shape == their_delta.shape == (len(tuples(x)[0]),)
        assert float(delta.abs().max()) < 1e-5
    start = (0.0,) * len(tuples(x)) if x0 is None else x0
    outside = dl.compute_convergence_delta(ours, start, x, target=target)
    torch.testing.assert_close(outside, delta, rtol=0.0, atol=1e-6)
    assert dl.has_convergence_delta()


@pytest.mark.parametrize("grad", [False, True])
def test_exact_numbers_whether_or_not_inputs_require_grad(grad: bool) -> None:
    x = (torch.tensor([1.0]), torch.tensor([2.0]))
    x0 = (torch.tensor([0.0]), torch.tensor([0.0]))
    for tensor in (*x, *x0):
        tensor.requires_grad_(grad)
    model = Pair(nn.ReLU)
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            found, delta = DeepLiftEHR(model).attribute(
                x, x0, return_convergence_delta=True
            )
            local = DeepLiftEHR(model, multiply_by_inputs=False).attribute(x)
        assert [float(a) for a in found] == [2.0, 1.0] and float(delta) == 0.0
        assert [float(m) for m in local] == [2.0, 0.5]
        assert not any(a.requires_grad for a in (*found, *local, delta))
    assert all(t.requires_grad is grad and t.grad is None for t in (*x, *x0))


# References -------------------------------------------------------------------------

TWO_ROWS = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
CUBES = (torch.ones(4, 1, 1, 1), torch.full((4, 1, 1, 1), 2.0))
ZEROS = (torch.zeros(4, 1, 1, 1), torch.zeros(4, 1, 1, 1))

#: name: model, inputs, references.
SHAP: dict[str, tuple[Callable[[], nn.Module], Any, Any]] = {
    "four dimensions": (lambda: Pair(nn.ReLU), CUBES, ZEROS),
    "one patient": (lambda: Pair(nn.ReLU), (ONE[:1], TWO[:1]), (0 * ONE, 0 * ONE)),
    "in place": (lambda: Joined(True), MORE, (TWO_ROWS, TWO_ROWS)),
    "not in place": (lambda: Joined(), MORE, (TWO_ROWS, TWO_ROWS)),
    "a function of nothing": (
        lambda: Joined(True),
        (X1, X2),
        lambda: (TWO_ROWS, TWO_ROWS),
    ),
    "a function of the inputs": (
        lambda: Joined(True),
        (X1, X2),
        lambda x: tuple(torch.cat([one, one - 10]) for one in x),
    ),
}


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("name", SHAP)
def test_references(name: str, multiply: bool) -> None:
    make, x, references = SHAP[name]
    model = make()
    theirs, their_delta = DeepLiftShap(model, multiply).attribute(
        x, references, return_convergence_delta=True
    )
    ours, delta = DeepLiftShapEHR(model, multiply).attribute(
        x, references, return_convergence_delta=True
    )
    same(ours, theirs)
    assert delta.shape == their_delta.shape
    assert not multiply or float(delta.abs().max()) < 1e-5


@pytest.mark.parametrize(
    "given",
    [
        lambda: (0.0, 0.0001),
        lambda: (TWO_ROWS.tolist(), TWO_ROWS.tolist()),
        lambda: (TWO_ROWS[:1], TWO_ROWS[:1]),
        (TWO_ROWS[:1], TWO_ROWS[:1]),
        (0.0, 0.0),
    ],
)
def test_what_are_no_references(given: Any) -> None:
    with pytest.raises(AssertionError):
        DeepLiftShap(Joined()).attribute((X1, X2), given)
    with pytest.raises((ValueError, TypeError), match=r"[Bb]aseline|references"):
        DeepLiftShapEHR(Joined()).attribute((X1, X2), given)


@pytest.mark.parametrize(
    ("x", "x0"),
    [
        ((X1, X2), (0 * X1,)),
        (X1, (0 * X1, 0 * X2)),
        (X1, torch.zeros(2, 3)),
        (X1, torch.zeros(1, 4)),
        (X1, "zero"),
    ],
)
def test_what_is_no_baseline(x: Any, x0: Any) -> None:
    model = Joined() if isinstance(x, tuple) else nn.Linear(3, 1)
    with pytest.raises((AssertionError, RuntimeError)):
        DeepLift(model).attribute(x, x0)
    with pytest.raises((ValueError, TypeError), match=r"[Bb]aseline"):
        DeepLiftEHR(model).attribute(x, x0)


def test_deltas_have_the_first_patients_references_first() -> None:
    """With a rule that is wrong, so that every residual is another number."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    rules: dict[Any, Any] = {nn.ReLU: lambda _, y, x: lambda m: ((x, m * 0.5),)}
    x, references = torch.randn(4, 3), torch.randn(3, 3)
    dl = DeepLiftShapEHR(model, rules=rules, completeness="off")
    each, delta = dl.attribute(
        x, references, return_convergence_delta=True, per_reference=True
    )
    with torch.no_grad():
        expected = each.sum(-1) - (model(x) - model(references).T)
    assert bool((expected.abs() > 1e-3).all())
    torch.testing.assert_close(delta, expected.flatten())


def zero(multipliers: Any) -> Any:
    return tuple(torch.zeros_like(m) for m in multipliers)


@pytest.mark.parametrize("custom", [None, zero])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_slices_of_several_inputs_with_arguments(size: int, custom: Any) -> None:
    torch.manual_seed(0)
    seen: list[int] = []

    class Watched(Joined):
        def forward(self, x1: Tensor, x2: Tensor, factor: Any = 1) -> Tensor:
            seen.append(len(x1))
            return super().forward(x1, x2, factor)

    x, references = ((torch.randn(n, 3), torch.randn(n, 3)) for n in (4, 5))
    rest = {
        "target": [0, 0, 0, 0],
        "additional_forward_args": (torch.tensor([[1.0], [2.0], [-1.0], [0.5]]),),
        "return_convergence_delta": True,
        "custom_attribution_func": custom,
    }
    theirs, _ = DeepLiftShap(Joined()).attribute(x, references, **rest)
    whole, delta = DeepLiftShapEHR(Joined()).attribute(x, references, **rest)
    sliced, their_delta = DeepLiftShapEHR(
        Watched(), internal_batch_size=size
    ).attribute(x, references, **rest)
    same(whole, theirs)
    same(sliced, whole)
    torch.testing.assert_close(their_delta, delta, rtol=0.0, atol=1e-5)
    assert max(seen) == size


# Options ----------------------------------------------------------------------------


def hypothetical(multipliers: Any, inputs: Any, baselines: Any) -> Any:
    """What each position would contribute, were it 1 and all others 0."""
    triples = list(zip(multipliers, inputs, baselines, strict=True))
    assert all(m.shape == x.shape == x0.shape for m, x, x0 in triples)
    return tuple(m - (m * x0).sum(-1, keepdim=True) for m, _, x0 in triples)


@pytest.mark.parametrize(
    ("kinds", "rows", "target"),
    [
        ((DeepLift, DeepLiftEHR), 2, (1, 0)),
        ((DeepLiftShap, DeepLiftShapEHR), 3, (0, 0)),
    ],
)
def test_hypothetical_contributions(kinds: Any, rows: int, target: Any) -> None:
    torch.manual_seed(0)
    model = sequence_model()
    x, x0 = torch.randn(2, 4, 1000).abs(), torch.randn(rows, 4, 1000).abs()
    theirs, ours = (
        kind(model).attribute(x, x0, target, custom_attribution_func=hypothetical)
        for kind in kinds
    )
    assert ours.shape == x.shape
    same(ours, theirs)


CUSTOM: list[Callable[..., Any]] = [
    lambda m: tuple(2 * one for one in m),
    lambda m, x: tuple(a * b for a, b in zip(m, x)),
    lambda m, x, x0: tuple(a * (b - 2 * c) for a, b, c in zip(m, x, x0)),
]


@pytest.mark.parametrize("custom", CUSTOM)
def test_attribution_functions_of_one_to_three_arguments(custom: Any) -> None:
    rest = {"custom_attribution_func": custom}
    x0 = (TWO_ROWS, TWO_ROWS)
    same(
        DeepLiftEHR(Joined()).attribute(MORE, x0, **rest),
        DeepLift(Joined()).attribute(MORE, x0, **rest),
    )
    same(
        DeepLiftShapEHR(Joined()).attribute(MORE, x0, **rest),
        DeepLiftShap(Joined()).attribute(MORE, x0, **rest),
    )


@pytest.mark.parametrize("custom", [lambda: (), lambda a, b, c, d: a])
def test_attribution_functions_of_none_or_four(custom: Any) -> None:
    for kind in (DeepLift, DeepLiftEHR):
        with pytest.raises(AssertionError, match="at least one and at most 3"):
            kind(Joined()).attribute(MORE, custom_attribution_func=custom)


@pytest.mark.parametrize("factor", [3.0, 2, torch.tensor([[0.5], [-1.0]])], ids=str)
def test_additional_arguments(factor: Any) -> None:
    for given in (factor, (factor,)):
        rest = {"additional_forward_args": given}
        ours = DeepLiftEHR(Joined()).attribute(MORE, **rest)
        same(ours, DeepLift(Joined()).attribute(MORE, **rest))


@pytest.mark.parametrize(
    "target",
    [
        (1, 0),
        [(0, 1), (1, 2), (0, 0), (1, 1)],
    ],
)
def test_targets_of_more_dimensions(target: Any) -> None:
    torch.manual_seed(0)
    layers = nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 6), nn.Unflatten(1, (2, 3))
    model, x = nn.Sequential(*layers), torch.randn(4, 3)
    same(
        DeepLiftEHR(model).attribute(x, target=target),
        DeepLift(model).attribute(x, target=target),
    )


@pytest.mark.parametrize(
    "target", [2, torch.tensor(2), torch.tensor([1]), [0, 1, 2, 0]], ids=str
)
def test_targets_of_one_dimension(target: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.randn(4, 3)
    theirs = DeepLiftShap(model).attribute(x, x[:3] - 1, target)
    same(DeepLiftShapEHR(model).attribute(x, x[:3] - 1, target), theirs)


class Stacked(nn.Module):
    """A second argument is added, a third one asks for outputs of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.relu, self.b = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor, more: Any = None, stacked: bool = False) -> Tensor:
        y = self.b(self.relu(self.a(x if more is None else x + more)))
        if not stacked:
            return y
        pair = torch.stack((y, 2 * y), 2)
        return torch.stack((pair, 4 * pair), 3)


EACH = [(1, 0, 1), (0, 1, 1), (1, 1, 1), (0, 0, 0)]


@pytest.mark.parametrize("more", [None, torch.full((4, 3), 0.5)], ids=["none", "sum"])
@pytest.mark.parametrize("target", [(1, 0, 1), EACH], ids=["one", "each"])
def test_arguments_that_are_no_tensors_and_targets_in_tuples(
    target: Any, more: Any
) -> None:
    torch.manual_seed(0)
    model, x, x0 = Stacked(), torch.randn(4, 3), torch.randn(4, 3)
    rest = {"target": target, "additional_forward_args": (more, True)}
    same(
        DeepLiftEHR(model).attribute(x, x0, **rest),
        DeepLift(model).attribute(x, x0, **rest),
    )
    same(
        DeepLiftShapEHR(model).attribute(x, x0[:3], **rest),
        DeepLiftShap(model).attribute(x, x0[:3], **rest),
    )
    same(
        LayerDeepLiftEHR(model, model.relu).attribute(x, x0, **rest),
        LayerDeepLift(model, model.relu).attribute(x, x0, **rest),
    )


def test_inside_a_noise_tunnel() -> None:
    model, found = Joined(), []
    for kind in (DeepLift, DeepLiftEHR):
        torch.manual_seed(0)
        tunnel = NoiseTunnel(kind(model))
        found.append(
            tunnel.attribute(MORE, nt_samples=4, nt_type="smoothgrad_sq", stdevs=0.1)
        )
    same(*reversed(found))


def test_the_rest_of_captums_class() -> None:
    model = Pair(nn.ReLU)
    dl = DeepLiftEHR(model, multiply_by_inputs=False)
    assert not dl.multiplies_by_inputs and DeepLiftEHR(model).multiplies_by_inputs
    if hasattr(DeepLift, "attribute_future"):  # since Captum 0.8
        with pytest.raises(NotImplementedError):
            dl.attribute_future()
    parallel = nn.DataParallel(model, device_ids=[])
    same(DeepLiftEHR(parallel).attribute((ONE, TWO)), (2 * ONE, ONE))
