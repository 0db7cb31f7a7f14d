"""Captum's own tests of its layer and neuron DeepLift, of ours.

Captum's LayerDeepLiftShap and NeuronDeepLiftShap are means over references, which ours
are taken of here. Expected numbers are those of Captum's tests where they have some.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracles
import pytest
import torch
from captum.attr import (
    LayerDeepLift,
    LayerDeepLiftShap,
    NeuronDeepLift,
    NeuronDeepLiftShap,
)
from captum_models import ConvNet, Joined, Layers, PoolBetween, PoolThenReLU
from oracles_more import windows
from torch import Tensor, nn

from captum_ehr import LayerDeepLiftEHR, NeuronDeepLiftEHR

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks"),
    pytest.mark.filterwarnings("ignore:Input Tensor . did not already"),
]

INTO = {"attribute_to_layer_input": True}
DELTA = {"return_convergence_delta": True}
X = (torch.tensor([[-10.0, 1.0, -5.0]]), torch.tensor([[3.0, 3.0, 1.0]]))
THREE = tuple(x.expand(3, 3) for x in X)
NOTHING = (torch.zeros(1, 3), torch.zeros(1, 3))
FOUR = torch.tensor([[1.0, 2.0, 3.0, 9.0], [4.0, 8.0, 6.0, 7.0]])


def tensors(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def same(ours: Any, theirs: Any, tolerance: float = 1e-4) -> None:
    """Equal to 1e-4; of one tensor Captum may make a tuple or not."""
    for a, b in zip(tensors(ours), tensors(theirs), strict=True):
        b = torch.as_tensor(b)
        torch.testing.assert_close(a, b.detach(), rtol=tolerance, atol=tolerance)


#: name: model, layer, inputs, baselines, options, what Captum's test expects.
LAYERS: dict[str, tuple[Any, str, Any, Any, dict[str, Any], Any]] = {
    "relu": (lambda: Joined(True), "relu", X, NOTHING, INTO, [[0.0, 15.0]]),
    "arguments": (
        Joined,
        "relu",
        X,
        NOTHING,
        {"additional_forward_args": 3.0, **INTO},
        [[0.0, 45.0]],
    ),
    "several outputs": (
        Layers,
        "both",
        X[0],
        NOTHING[0],
        {"target": 0},
        ([[0.0, -1.0, -1.0, -1.0]],) * 2,
    ),
    "several inputs": (
        Layers,
        "both",
        X[0],
        NOTHING[0],
        {"target": 0, **INTO},
        ([[0.0, -1.0, -1.0, -1.0]],) * 2,
    ),
    "into linear": (lambda: Joined(True), "l3", X, NOTHING, INTO, [[0.0, 15.0]]),
    "batch into linear": (
        lambda: Joined(True),
        "l3",
        THREE,
        NOTHING,
        INTO,
        [[0.0, 15.0]] * 3,
    ),
    "batch of linear": (lambda: Joined(True), "l3", THREE, NOTHING, {}, [[15.0]] * 3),
    "max-pool": (
        PoolBetween,
        "pool1",
        torch.ones(2, 4),
        FOUR,
        {"target": 0},
        [[[-8.0]], [[-7.0]]],
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    make, layer, x, x0, options, expected = LAYERS[name]
    model = make()
    theirs, _ = LayerDeepLift(model, getattr(model, layer)).attribute(
        x, x0, **options, **DELTA
    )
    for where in (layer, getattr(model, layer)):
        dl = LayerDeepLiftEHR(model, where)
        ours, delta = dl.attribute(x, x0, **options, **DELTA)
        same(ours, theirs)
        same(ours, expected)
        assert dl.multiplies_by_inputs and dl.has_convergence_delta()
        assert delta.shape == (len(tensors(x)[0]),)
        assert float(delta.abs().max()) < 1e-5


@pytest.mark.parametrize("options", [{}, INTO])
@pytest.mark.parametrize("layer", ["l1", "l2", "relu", "l3"])
def test_multipliers_of_a_layer(layer: str, options: Any) -> None:
    model = Joined()
    rest = {"multiply_by_inputs": False}
    theirs = LayerDeepLift(model, getattr(model, layer), **rest).attribute(
        X, NOTHING, **options
    )
    dl = LayerDeepLiftEHR(model, layer, **rest)
    ours = dl.attribute(X, NOTHING, **options)
    same(ours, theirs)
    assert not dl.multiplies_by_inputs
    if layer == "relu" and options:
        same(ours, [[0.0, 1.0]])


def over_references(found: Callable[[Any], Any], references: Any) -> list[Tensor]:
    """The mean of what is found against each reference."""
    rows = [
        tuple(r[k : k + 1] for r in tensors(references))
        for k in range(len(tensors(references)[0]))
    ]
    several = isinstance(references, tuple)
    each = [tensors(found(row if several else row[0])) for row in rows]
    return [torch.stack(column).mean(0) for column in zip(*each)]


def drawn(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator) for _ in range(2))


@pytest.mark.parametrize("references", [NOTHING, drawn(3, 3)], ids=["zero", "drawn"])
@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize(
    ("make", "layer", "options"),
    [
        (Joined, "relu", {}),
        (Joined, "l3", INTO),
        (lambda: Joined(True), "l3", {}),
        (Layers, "both", {"target": 0}),
    ],
)
def test_layers_over_references(
    make: Any, layer: str, options: Any, multiply: bool, references: Any
) -> None:
    model = make()
    x, x0 = (X[0], references[0]) if make is Layers else (X, references)
    x0 = tuple(r.expand(3, 3) for r in x0) if isinstance(x0, tuple) else x0.expand(3, 3)
    theirs = LayerDeepLiftShap(model, getattr(model, layer), multiply).attribute(
        x, x0, **options
    )
    dl = LayerDeepLiftEHR(model, layer, multiply)
    ours = over_references(lambda row: dl.attribute(x, row, **options), x0)
    same(tuple(ours), theirs)


CUSTOM: list[Callable[..., Any]] = [
    lambda m: tuple(one * 2 for one in m),
    lambda m, h: tuple(a * b for a, b in zip(m, h)),
    lambda m, h, h0: tuple(a * (b - 2 * c) for a, b, c in zip(m, h, h0)),
]


@pytest.mark.parametrize("custom", CUSTOM)
def test_attribution_functions_of_one_to_three_arguments(custom: Any) -> None:
    rest = {"custom_attribution_func": custom}
    model = Joined()
    ours = LayerDeepLiftEHR(model, model.l3).attribute(X, NOTHING, **rest, **DELTA)
    theirs = LayerDeepLift(model, model.l3).attribute(X, NOTHING, **rest, **DELTA)
    same(ours[0], theirs[0])
    same(ours[1], theirs[1])
    if custom is CUSTOM[0]:
        same(ours[0], [[2.0]])
    neuron = NeuronDeepLiftEHR(model, model.l3).attribute(X, 0, NOTHING, **rest)
    same(neuron, NeuronDeepLift(model, model.l3).attribute(X, 0, NOTHING, **rest))


def test_what_an_attribution_function_is_given() -> None:
    model = PoolThenReLU(inplace=True)
    x = torch.tensor([[[1.0, 2.0, -4.0], [-3.0, -2.0, -1.0]]])
    given: list[Any] = []

    def watched(multipliers: Any, inputs: Any, baselines: Any) -> Any:
        given.extend((multipliers, inputs, baselines))
        return multipliers

    LayerDeepLiftEHR(model, model.pool).attribute(x, custom_attribution_func=watched)
    expected = ([[[1.0], [0.0]]], [[[2.0], [-1.0]]], [[[0.0], [0.0]]])
    for (found,), right in zip(given, expected, strict=True):
        torch.testing.assert_close(found, torch.tensor(right))


def test_a_layer_that_runs_for_nothing() -> None:
    model, x = Layers(), torch.tensor([[3.0, 4.0, 5.0]])
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        LayerDeepLift(model, model.relu).attribute(x, target=0)
    for options in ({}, {"grad_kwargs": {"materialize_grads": True}}):
        found = LayerDeepLiftEHR(model, model.relu).attribute(x, target=0, **options)
        assert torch.equal(found, torch.zeros(1, 4))


@pytest.mark.parametrize("dims", [2, 3])
def test_between_a_max_pool_and_a_convolution(dims: int) -> None:
    torch.manual_seed(0)
    model = ConvNet(dims, head=False).eval().double()
    x = 100 * torch.randn(2, 1, *[10] * dims).double()
    pool, delta = LayerDeepLiftEHR(model, model.pool1).attribute(x, None, 0, **DELTA)
    conv = LayerDeepLiftEHR(model, model.conv2).attribute(x, None, 0, **INTO)
    assert float(pool.abs().sum()) > 1.0
    torch.testing.assert_close(pool, conv)
    assert float(delta.abs().max()) < 1e-10
    where = (0,) * (dims + 1)
    theirs = NeuronDeepLift(model, model.pool1).attribute(x, where)
    ours = NeuronDeepLiftEHR(model, model.pool1).attribute(x, where)
    into = NeuronDeepLiftEHR(model, model.conv2).attribute(
        x, where, attribute_to_neuron_input=True
    )
    same(ours, theirs, 1e-8)
    torch.testing.assert_close(ours, into)
    with torch.no_grad():
        y, y0 = (model.pool1(model.relu1(model.conv1(v))) for v in (x, 0 * x))
    change = (y - y0)[(slice(None), *where)]
    torch.testing.assert_close(ours.flatten(1).sum(1), change)


# Neurons ----------------------------------------------------------------------------

#: layer, attribute_to_neuron_input, multiply_by_inputs, selector, of each input.
NEURONS = [
    ("relu", False, True, 0, ([[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]])),
    ("relu", True, True, 0, ([[-30.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]])),
    ("l3", True, True, 0, ([[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]])),
    ("l3", True, True, (1,), ([[0.0, 0.0, 0.0]], [[6.0, 9.0, 0.0]])),
    ("l3", False, True, 0, ([[0.0, 0.0, 0.0]], [[6.0, 9.0, 0.0]])),
    ("l3", False, False, 0, ([[0.0, 0.0, 0.0]], [[2.0, 3.0, 0.0]])),
    ("l3", False, False, lambda h: h[:, 0], ([[0.0, 0.0, 0.0]], [[2.0, 3.0, 0.0]])),
    ("l3", True, True, (slice(0, 2),), ([[0.0, 0.0, 0.0]], [[6.0, 9.0, 0.0]])),
]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("case", NEURONS, ids=lambda c: f"{c[0]}-{c[1]}-{c[2]}")
def test_neurons(case: Any, inplace: bool) -> None:
    layer, into, multiply, selector, expected = case
    model, rest = Joined(inplace), {"attribute_to_neuron_input": into}
    theirs = NeuronDeepLift(model, getattr(model, layer), multiply)
    dl = NeuronDeepLiftEHR(model, getattr(model, layer), multiply)
    ours = dl.attribute(X, selector, NOTHING, **rest)
    same(ours, expected)
    assert dl.multiplies_by_inputs is multiply
    same(ours, theirs.attribute(X, selector, NOTHING, **rest))


@pytest.mark.parametrize("case", NEURONS[2:], ids=lambda c: f"{c[0]}-{c[1]}-{c[2]}")
def test_neurons_over_references(case: Any) -> None:
    layer, into, multiply, selector, expected = case
    model, rest = Joined(), {"attribute_to_neuron_input": into}
    dl = NeuronDeepLiftEHR(model, getattr(model, layer), multiply)
    shap = NeuronDeepLiftShap(model, getattr(model, layer), multiply)
    for references in (tuple(r.expand(3, 3) for r in NOTHING), drawn(3, 3)):
        ours = over_references(
            lambda row: dl.attribute(X, selector, row, **rest), references
        )
        same(tuple(ours), shap.attribute(X, selector, references, **rest))
        if not references[0].any():
            same(tuple(ours), expected)


def test_a_neuron_of_a_max_pool_is_what_the_next_layer_takes() -> None:
    model, x = PoolBetween(), torch.ones(2, 4)
    expected = torch.tensor([[0.0, 0.0, 0.0, -8.0], [0.0, -7.0, 0.0, 0.0]])
    for selector in (0, (0,), (0, 0)):  # of one entry, the last may be left out
        ours = NeuronDeepLiftEHR(model, model.pool1).attribute(x, selector, FOUR)
        same(ours, NeuronDeepLift(model, model.pool1).attribute(x, selector, FOUR))
        same(ours, expected)
    into = NeuronDeepLiftEHR(model, model.lin2).attribute(
        x, 0, FOUR, attribute_to_neuron_input=True
    )
    same(into, expected)
    with pytest.raises(
        ValueError, match=r"does not fit a layer of shape \(batch, 1, 4"
    ):
        NeuronDeepLiftEHR(model, model.lin1).attribute(x, 0, FOUR)


# Where Captum is wrong ----------------------------------------------------------------


def test_a_layer_and_a_neuron_around_a_relu_and_a_max_pool_in_a_row() -> None:
    """Of two modules in a row Captum's first gets the gradient of the second."""
    torch.manual_seed(0)
    layers = nn.Unflatten(1, (1, 6)), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten()
    model = nn.Sequential(nn.Linear(4, 6), *layers, nn.Linear(3, 2)).double()
    x, x0 = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    w, b, v = (
        t.detach().numpy() for t in (model[0].weight, model[0].bias, model[5].weight)
    )

    def tail(h: Any) -> Any:
        return windows((2,), 2)(oracles.relu(h)) @ v[1:2].T

    with torch.no_grad():
        h, h0, change = model[0](x), model[0](x0), (model(x) - model(x0))[:, 1]
    (m,), _ = oracles.oracle(tail, [h], [h0], torch.ones(3, 1))
    ours = LayerDeepLiftEHR(model, model[0]).attribute(x, x0, 1)
    same(ours, torch.from_numpy(m) * (h - h0), 1e-9)
    theirs = LayerDeepLift(model, model[0]).attribute(x, x0, 1).detach()
    assert float((theirs.sum(1) - change).abs().max()) > 0.05
    assert float((ours.sum(1) - change).abs().max()) < 1e-12

    (m,), _ = oracles.oracle(lambda a: tail(a @ w.T + b), [x], [x0], torch.ones(3, 1))
    ours = NeuronDeepLiftEHR(model, model[5]).attribute(x, 1, x0)
    same(ours, torch.from_numpy(m) * (x - x0), 1e-9)
    theirs = NeuronDeepLift(model, model[5]).attribute(x, 1, x0).detach()
    assert float((theirs.sum(1) - change).abs().max()) > 0.05
    assert float((ours.sum(1) - change).abs().max()) < 1e-12


@pytest.mark.parametrize("kind", [nn.GELU, nn.SELU, nn.SiLU])
def test_a_neuron_behind_an_activation_that_captum_does_not_know(kind: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), kind(), nn.Linear(6, 2)).double()
    x, x0 = 3 * torch.randn(3, 4).double(), 3 * torch.randn(3, 4).double()
    with torch.no_grad():
        h, h0 = model[0](x), model[0](x0)
        inside, change = model[1](h) - model[1](h0), (model(x) - model(x0))[:, 1]
    theirs = NeuronDeepLift(model, model[2]).attribute(x, 1, x0).detach()
    ours = NeuronDeepLiftEHR(model, model[2]).attribute(x, 1, x0)
    right = (inside / (h - h0) * model[2].weight[1]) @ model[0].weight * (x - x0)
    same(ours, right, 1e-9)
    assert float((theirs.sum(1) - change).abs().max()) > 0.05
    layer = LayerDeepLiftEHR(model, model[0]).attribute(x, x0, 1)
    same(layer, inside * model[2].weight[1].detach(), 1e-9)
