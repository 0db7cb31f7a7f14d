"""Explainers go to workers: pickled, copied, by cloudpickle, with rules and all."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr._core.deep_lift import nonlinear
from torch import Tensor, nn

from captum_ehr import (
    DeepLiftEHR,
    DeepLiftShapEHR,
    LayerDeepLiftEHR,
    NeuronDeepLiftEHR,
    PyHealthAdapter,
)
from captum_ehr.datasets import tiny_model
from captum_ehr.propagation import elementwise, secant_rule


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.out = nn.Linear(4, 5), nn.ELU(), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(F.softsign(self.a(x))))


def slope(x: Tensor) -> Tensor:
    return (1 + x.abs()) ** -2


def straight(x: Any, y: Any, *_: Any, **__: Any) -> Tensor:
    return y.delta / x.delta


def halved(y: Any, x: Any, *_: Any) -> Any:
    return lambda m: [(x, m / 2)]


def saved(one: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(one, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "torch.save": saved,
}
RULES: list[dict[Any, Any]] = [
    {},
    {F.softsign: elementwise(slope)},
    {F.softsign: secant_rule(straight)},
    {F.softsign: halved},
    {nn.ELU: nonlinear},
]


def attributed(explainer: Any, x: Tensor) -> Tensor:
    """Of any of the four classes."""
    if isinstance(explainer, DeepLiftShapEHR):
        return explainer.attribute(x, torch.zeros(2, 4))
    if isinstance(explainer, NeuronDeepLiftEHR):
        return explainer.attribute(x, 0, torch.zeros_like(x))
    return explainer.attribute(x, torch.zeros_like(x))


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: str(len(rules)))
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["plain", "shap", "layer", "neuron"])
def test_explainers_travel_with_their_rules(
    kind: str, way: str, rules: dict[Any, Any]
) -> None:
    torch.manual_seed(0)
    model, x = Model(), torch.randn(3, 4)

    def made(rules: dict[Any, Any]) -> Any:
        if kind in ("plain", "shap"):
            of = DeepLiftEHR if kind == "plain" else DeepLiftShapEHR
            return of(model, rules=rules, completeness="off")
        if kind == "layer":
            return LayerDeepLiftEHR(model, "a", rules=rules)
        return NeuronDeepLiftEHR(model, "out", rules=rules)

    explainer = made(rules)
    again = WAYS[way](explainer)
    assert type(again) is type(explainer)
    assert torch.equal(attributed(again, x), attributed(explainer, x))
    if halved in rules.values():  # they are in force
        assert not torch.allclose(attributed(made({}), x), attributed(again, x))


@pytest.mark.parametrize("way", WAYS)
def test_explainers_of_pyhealth_models_travel(way: str) -> None:
    model, batch = tiny_model()
    for explainer in (
        DeepLiftEHR(model, sum_tokens=False),
        DeepLiftEHR(PyHealthAdapter(model), output="probability"),
    ):
        expected = explainer.explain(batch)
        again = WAYS[way](explainer)
        found = again.explain(batch)
        assert (again.output, again.sum_tokens) == (
            explainer.output,
            explainer.sum_tokens,
        )
        for key, attribution in expected.attributions.items():
            assert torch.equal(attribution, found.attributions[key])
        assert torch.equal(WAYS[way](expected).total, expected.total)


def test_cloudpickle_takes_what_has_no_name() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    torch.manual_seed(0)
    model, x = Model(), torch.randn(3, 4)
    explainer = DeepLiftEHR(
        model, rules={F.softsign: elementwise(lambda x: (1 + x.abs()) ** -2)}
    )
    again = cloudpickle.loads(cloudpickle.dumps(explainer))
    assert torch.equal(attributed(again, x), attributed(explainer, x))


def test_a_deep_copy_has_a_model_of_its_own() -> None:
    model, x = Model(), torch.randn(2, 4)
    explainer = LayerDeepLiftEHR(model, model.act)
    again = copy.deepcopy(explainer)
    before = attributed(again, x)
    with torch.no_grad():
        model.out.weight.mul_(2)
    assert torch.equal(attributed(again, x), before)
    torch.testing.assert_close(attributed(explainer, x), 2 * before)
