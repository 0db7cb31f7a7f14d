"""Rules of a user's own: for one explainer, in a few lines each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr._core.deep_lift import nonlinear
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR
from captum_ehr.propagation import default_table, elementwise, secant_rule
from captum_ehr.propagation.rules.elementwise import elu


class Gate(nn.Module):
    """A module of two inputs, better treated as one product."""

    def forward(self, value: Tensor, gate: Tensor) -> Tensor:
        return value * gate


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 5)
        self.gate, self.act, self.out = Gate(), nn.ELU(), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        gated = self.gate(self.a(x), F.softsign(self.b(x)))
        return self.out(self.act(gated))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Model()


def gated(module: Gate, y: Any, value: Any, gate: Any) -> Any:
    return lambda m: [(value, m * gate.mean), (gate, m * value.mean)]


@pytest.mark.parametrize(
    "rules",
    [
        {F.softsign: elementwise(lambda x: (1 + x.abs()) ** -2)},
        {Gate: gated},
        {nn.ELU: elementwise(lambda x: x.clamp(max=0).exp())},
        {nn.ELU: secant_rule(elu)},
        {nn.ELU: nonlinear},
        {Gate: gated, nn.ELU: nonlinear},
    ],
    ids=[
        "elementwise",
        "product-like module",
        "elementwise module",
        "module's secant",
        "Captum's handler",
        "two",
    ],
)
def test_rules_of_each_kind_add_up(model: nn.Module, rules: Any) -> None:
    x, x0 = torch.randn(3, 4), torch.randn(3, 4)
    own = DeepLiftEHR(model, rules=rules, completeness="raise").attribute(x, x0)
    torch.testing.assert_close(own, DeepLiftEHR(model).attribute(x, x0))
    assert not any(key in default_table() for key in rules if isinstance(key, type))


def test_a_rule_is_really_used_and_only_by_its_explainer(model: nn.Module) -> None:
    x = torch.randn(3, 4)
    nothing = DeepLiftEHR(
        model, rules={Gate: lambda module, y, a, b: lambda m: []}, completeness="off"
    )
    assert not nothing.attribute(x).any()
    assert bool(DeepLiftEHR(model).attribute(x).any())


@pytest.mark.parametrize("rules", [{"softsign": gated}, {F.softsign: "gated"}])
def test_what_is_no_rule(model: nn.Module, rules: Any) -> None:
    with pytest.raises(TypeError, match="maps torch functions or nn.Module types"):
        DeepLiftEHR(model, rules=rules)
