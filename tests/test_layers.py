"""Layers and neurons: attributions inside the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import zoo
from captum.attr import LayerDeepLift, NeuronDeepLift
from torch import Tensor, nn

from captum_ehr import (
    DeepLiftEHR,
    LayerDeepLiftEHR,
    NeuronDeepLiftEHR,
    PyHealthAdapter,
)

LAST = [
    zoo.Config("MLP", "sequence", options=zoo.HIDDEN),
    zoo.Config("RNN", "sequence", "multiclass", zoo.HIDDEN),
    zoo.Config("StageNet", "stagenet", options=zoo.STAGES),
    zoo.Config("Transformer", "sequence", "multilabel", zoo.SMALL),
]


class Small(nn.Module):
    """Two layers and a residual, in-place ReLU on what a layer gave."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(4, 5), nn.ReLU(inplace=True)
        self.second, self.unused = nn.Linear(5, 3), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)))


@pytest.fixture
def small() -> Any:
    torch.manual_seed(2)
    return Small(), torch.randn(6, 4), torch.randn(6, 4)


@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize("name", ["first", "act", "second"])
def test_layers_are_captums_where_captum_is_right(small, name, of_input) -> None:
    model, x, x0 = small
    plain = nn.Sequential(model.first, nn.ReLU(), model.second)
    place = {"first": 0, "act": 1, "second": 2}[name]
    theirs = LayerDeepLift(plain, plain[place]).attribute(
        x, x0, target=1, attribute_to_layer_input=of_input
    )
    ours, delta = LayerDeepLiftEHR(model, getattr(model, name)).attribute(
        x,
        x0,
        target=1,
        attribute_to_layer_input=of_input,
        return_convergence_delta=True,
    )
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    assert float(delta.abs().max()) < 1e-5
    if name == "act" and of_input:  # Captum's forgets the activation itself there
        with torch.no_grad():
            change = F.relu(model.first(x)) - F.relu(model.first(x0))
            right = change * model.second.weight[1]
        assert float((theirs - right).abs().max()) > 0.1
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_neurons_are_captums_where_captum_is_right(small) -> None:
    model, x, x0 = small
    plain = nn.Sequential(model.first, nn.ReLU(), model.second)
    for layer, own in ((plain[2], model.second), (plain[0], model.first)):
        theirs = NeuronDeepLift(plain, layer).attribute(x, 2, x0)
        ours = NeuronDeepLiftEHR(model, own).attribute(x, 2, x0)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    several = NeuronDeepLiftEHR(model, "second").attribute(x, (slice(0, 2),), x0)
    apart = [NeuronDeepLiftEHR(model, "second").attribute(x, k, x0) for k in (0, 1)]
    torch.testing.assert_close(several, apart[0] + apart[1])
    function = NeuronDeepLiftEHR(model, "second").attribute(x, lambda h: h.tanh(), x0)
    whole = DeepLiftEHR(nn.Sequential(model, Tanhs())).attribute(x, x0)
    torch.testing.assert_close(function, whole)


class Tanhs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.tanh().sum(1)


@pytest.mark.parametrize("config", LAST, ids=str)
def test_everything_passes_the_last_layer(config: zoo.Config) -> None:
    model, batch = zoo.build(config, trained=True)
    exp = DeepLiftEHR(model).explain(batch)
    change = (exp.f_input - exp.f_baseline).double()
    layer = LayerDeepLiftEHR(model, model.fc)
    found, delta = layer.attribute(
        batch, attribute_to_layer_input=True, return_convergence_delta=True
    )
    torch.testing.assert_close(found.double().sum(1), change, rtol=1e-4, atol=1e-6)
    assert float(delta.abs().max()) < 1e-5
    adapter = PyHealthAdapter(model)
    enc = adapter.encode(batch)
    as_tensors = LayerDeepLiftEHR(adapter, "fc").attribute(
        enc.inputs,
        adapter.baseline(batch),
        list(exp.target),
        enc.additional_forward_args,
        attribute_to_layer_input=True,
    )
    torch.testing.assert_close(as_tensors, found)


def test_a_neuron_of_a_pyhealth_model_adds_up() -> None:
    model, batch = zoo.build(LAST[1])
    neuron = NeuronDeepLiftEHR(model, model.fc, completeness="raise")
    found = neuron.attribute(batch, (0,), attribute_to_neuron_input=True)
    assert found["conditions"].shape == batch["conditions"].shape
    pooled: list[Tensor] = []
    hook = model.fc.register_forward_hook(lambda *a: pooled.append(a[1][0][:, 0]))
    adapter = PyHealthAdapter(model)
    enc = adapter.encode(batch)
    with torch.no_grad():
        adapter(*enc.inputs, *enc.additional_forward_args)
        adapter(*adapter.baseline(batch), *enc.additional_forward_args)
    hook.remove()
    total = sum(a.double().sum(1) for a in found.values())
    torch.testing.assert_close(
        total, (pooled[0] - pooled[1]).double(), rtol=1e-4, atol=1e-6
    )


def test_tuples_are_attributed_as_tuples() -> None:
    model, batch = zoo.build(LAST[1])
    path = "rnn.conditions.rnn"
    assert isinstance(model.get_submodule(path), nn.GRU)
    found = LayerDeepLiftEHR(model, path).attribute(batch)
    assert isinstance(found, tuple) and len(found) == 2
    multiplied = LayerDeepLiftEHR(model, path, multiply_by_inputs=False).attribute(
        batch
    )
    assert all(m.shape == f.shape for m, f in zip(multiplied, found))
    own = LayerDeepLiftEHR(model, path).attribute(
        batch, custom_attribution_func=lambda m, h, h0: tuple(m)
    )
    assert all(torch.allclose(m, o, atol=1e-6) for m, o in zip(multiplied, own))


def test_a_layer_that_runs_several_times_wants_a_call() -> None:
    model, batch = zoo.build(LAST[2])
    path = "stagenet.timed.kernel"
    layer = LayerDeepLiftEHR(model, path)
    steps = batch["timed"][1].shape[1]
    with pytest.raises(ValueError, match=f"ran {steps} times; say which call is meant"):
        layer.attribute(batch)
    found = [layer.attribute(batch, call=k) for k in range(steps)]
    assert any(not torch.equal(found[0], other) for other in found[1:])
    with pytest.raises(ValueError, match="there is no call=99"):
        layer.attribute(batch, call=99)


def test_layers_that_are_not_there(small) -> None:
    model, x, x0 = small
    with pytest.raises(
        ValueError, match="Small has no layer Linear; it has: first, act"
    ):
        LayerDeepLiftEHR(model, nn.Linear(1, 1))
    with pytest.raises(ValueError, match="Small has no layer 'third'"):
        NeuronDeepLiftEHR(model, "third")
    with pytest.raises(ValueError, match="'unused' did not run"):
        LayerDeepLiftEHR(model, "unused").attribute(x, x0, target=0)
    with pytest.raises(ValueError, match=r"does not fit a layer of shape \(batch, 3\)"):
        NeuronDeepLiftEHR(model, "second").attribute(x, (0, 1), x0)
    with pytest.raises(ValueError, match="neuron_selector 7"):
        NeuronDeepLiftEHR(model, "second").attribute(x, 7, x0)
    for kind in (LayerDeepLiftEHR, NeuronDeepLiftEHR):
        with pytest.raises(ValueError, match="compile=True"):
            kind(model, "second", compile=True)
    with pytest.raises(ValueError, match="output='probability'"):
        NeuronDeepLiftEHR(model, "second", output="probability")
    with pytest.raises(ValueError, match="grad_kwargs"):
        LayerDeepLiftEHR(model, "second").attribute(x, x0, 0, grad_kwargs={"a": 1})
    pyhealth, batch = zoo.build(LAST[0])
    table = pyhealth.embedding_model.embedding_layers["conditions"]
    with pytest.raises(ValueError, match="embeds feature 'conditions'"):
        LayerDeepLiftEHR(pyhealth, table)


def test_it_leaves_no_trace_and_takes_reused_modules(small) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.act = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.lift(self.act(x))).sum(1, keepdim=True)

    torch.manual_seed(0)
    model, (_, x, x0) = Twice(), small
    before = {name: vars(m).copy() for name, m in model.named_modules()}
    found, delta = LayerDeepLiftEHR(model, model.lift).attribute(
        x, x0, return_convergence_delta=True
    )
    assert before == {name: vars(m) for name, m in model.named_modules()}
    assert float(delta.abs().max()) < 1e-5
    with torch.no_grad():
        h, h0 = model.lift(F.relu(x)), model.lift(F.relu(x0))
    torch.testing.assert_close(found, F.relu(h) - F.relu(h0))


class Overwriting(nn.Module):
    """Runs a layer, then writes on its input, so that the pass begins again."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x).tanh()
        x[:, 0] = 0.0
        return h + x.sum(1, keepdim=True)


def test_a_layer_of_a_model_that_overwrites_its_input_ran_once() -> None:
    model, x, x0 = Overwriting(), torch.randn(4, 3), torch.randn(4, 3)
    kept = x.clone()
    found = LayerDeepLiftEHR(model, "layer").attribute(x, x0)
    assert found.shape == (4, 1)
    neuron = NeuronDeepLiftEHR(model, "layer").attribute(x, 0, x0)
    weight = model.layer.weight.detach()
    assert torch.allclose(neuron, weight * (x - x0), atol=1e-6)
    assert torch.equal(x, kept)
