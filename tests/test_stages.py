"""StageNet's layers, done for all steps at once, are still the layers."""

from __future__ import annotations

from functools import partial, wraps
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pytest
import torch
import zoo
from torch import nn

from captum_ehr import DeepLiftEHR, LayerDeepLiftEHR
from captum_ehr.adapter.fast_stagenet import FORWARDS, is_known, use_fast_forward
from captum_ehr.propagation import private_view

STAGES = [c for c in zoo.configs() if c.model in ("StageNet", "StageAttentionNet")]


def layers(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if type(m).__name__ in FORWARDS]


def hastened(model: nn.Module) -> list[bool]:
    view = private_view(model)
    use_fast_forward(view)
    forwards = [layer.__dict__.get("forward") for layer in layers(view)]
    return [getattr(each, "func", None) in FORWARDS.values() for each in forwards]


def unhastened(model: nn.Module, **options: Any) -> DeepLiftEHR:
    """An explainer whose layers run step by step, for they are looked at."""
    explainer = DeepLiftEHR(model, **options)
    usual = explainer.forward_view

    def look(view: nn.Module) -> None:
        for layer in layers(view):
            layer.kernel.__dict__["forward"] = layer.kernel.forward

    explainer.forward_view = lambda _=None: usual(look)  # type: ignore[method-assign]
    return explainer


@pytest.mark.parametrize("name", FORWARDS)
def test_the_installed_pyhealth_is_known(name: str) -> None:
    module = "stagenet" if name == "StageNetLayer" else "stagenet_mha"
    layer = getattr(import_module(f"pyhealth.models.{module}"), name)
    assert is_known(layer), (
        f"PyHealth {version('pyhealth')} has changed {name}: compare it with "
        "adapter/fast_stagenet.py, and add the hash of its source there"
    )


@pytest.mark.parametrize("config", STAGES, ids=str)
def test_the_installed_layers_are_known_and_change_nothing(config: zoo.Config) -> None:
    model, batch = zoo.build(config, trained=True)
    assert hastened(model) == [True] * len(layers(model)) != []
    fast = DeepLiftEHR(model, completeness="check").explain(batch)
    slow = unhastened(model, completeness="check").explain(batch)
    calls = [sum(op.calls for op in e.diagnostics.operations) for e in (fast, slow)]
    assert calls[0] < calls[1]
    kinds = {type(layer).__name__ for layer in layers(model)}
    assert {name.partition(":")[0] for name in fast.diagnostics.rewrites} == kinds
    assert slow.diagnostics.rewrites == ()
    assert not fast.diagnostics.notes and fast.diagnostics.exact
    assert torch.allclose(fast.f_input, slow.f_input, atol=1e-5)
    for key, found in fast.attributions.items():
        expected = slow.attributions[key]
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5), key


@pytest.mark.parametrize("config", STAGES, ids=str)
def test_they_are_the_layers_in_float64(config: zoo.Config) -> None:
    model, _ = zoo.build(config)
    for layer in layers(model.double().eval()):
        view = private_view(layer)
        use_fast_forward(view)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(3, 12, layer.input_dim, generator=generator).double()
        time = torch.rand(3, 12, generator=generator).double()
        mask = torch.arange(12) < torch.tensor([[12], [5], [0]])
        for given in ((x, time), (x, time, mask.int()), (x[:, :1], time[:, :1])):
            for ours, theirs in zip(view(*given), layer(*given), strict=True):
                assert torch.allclose(ours, theirs.double(), rtol=0, atol=1e-6)


def test_a_layer_that_is_watched_changed_or_ruled_runs_as_it_is() -> None:
    model, batch = zoo.build(STAGES[0])
    first = layers(model)[0]
    handle = first.nn_conv.register_forward_hook(lambda *_: None)
    assert hastened(model) == [False, True]
    handle.remove()
    assert hastened(model) == [True, True]
    first.relu = nn.GELU()
    assert hastened(model) == [False, True]
    first.relu = nn.ReLU()

    def doubled(module: Any, y: Any, x: Any) -> Any:
        return lambda m: [(x, 2 * m)]

    seen: list[int] = []

    def rule(module: Any, y: Any, x: Any) -> Any:
        seen.append(1)
        return doubled(module, y, x)

    explainer = DeepLiftEHR(model, rules={nn.Sigmoid: rule}, completeness="off")
    explainer.attribute(batch)
    assert len(seen) > len(layers(model))  # one for each step, not for all of them


def test_another_class_of_that_name_runs_as_it_is() -> None:
    model, _ = zoo.build(STAGES[0])
    known = type(layers(model)[0])

    class StageNetLayer(known):  # type: ignore[misc, valid-type]
        def cumax(self, x: Any, mode: str = "l2r") -> Any:
            return super().cumax(x, "l2r")

    layers(model)[0].__class__ = StageNetLayer
    assert hastened(model) == [False, True]


@pytest.mark.parametrize("name", ["forward", "step", "cumax"])
@pytest.mark.parametrize("where", ["class", "layer"])
def test_a_method_that_is_exchanged_is_the_one_that_is_explained(
    name: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = zoo.build(STAGES[0])
    first = layers(model)[0]
    assert hastened(model) == [True, True]
    method = getattr(type(first), name)

    @wraps(method)
    def other(*args: Any, **more: Any) -> Any:
        return method(*args, **more)

    of_layer = partial(other, first)
    place, put = (type(first), other) if where == "class" else (first, of_layer)
    monkeypatch.setattr(place, name, put)
    assert hastened(model) == [False, where == "layer"]
    monkeypatch.undo()
    first.__dict__.pop(name, None)
    assert hastened(model) == [True, True]


def test_the_layers_parts_can_still_be_explained() -> None:
    model, batch = zoo.build(STAGES[0])
    part = layers(model)[0].nn_conv
    found = LayerDeepLiftEHR(model, part).attribute(batch, call=-1)
    assert found.abs().sum() > 0
