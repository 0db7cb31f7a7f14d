"""Rules of a user's own: for one explainer, in a few lines each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from captum.attr._core.deep_lift import nonlinear
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR
from captum_ehr.propagation import (
    attributions,
    default_table,
    elementwise,
    secant_rule,
)
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


class Calls(nn.Module):
    """A module in whatever way it may be called."""

    def __init__(self, module: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.module, x).sum(1)


class Scaled(nn.Module):
    def forward(self, x: Tensor, scale: Any = 1.0) -> Tensor:
        return torch.tanh(x * scale)


SIDES = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).double()


def as_without(model: nn.Module, rules: Any) -> Any:
    """An explanation with rules that say what the calculus says anyway."""
    x, x0 = SIDES
    run = attributions(model, (x,), (x0,), rules=rules)
    plain = attributions(model, (x,), (x0,))
    torch.testing.assert_close(run.attributions, plain.attributions)
    return run.diagnostics


@pytest.mark.parametrize(
    "call",
    [
        lambda module, x: module(x),
        lambda module, x: module(x, 2.0),
        lambda module, x: module(x, scale=2.0),
        lambda module, x: module(scale=0.5, x=x),
        lambda module, x: module(x, torch.arange(4) / 3),
        lambda module, x: module(x, torch.arange(3)[:, None] / 3),
        lambda module, x: module(torch.ones(4), x),
        lambda module, x: module(scale=x, x=torch.ones(4)),
    ],
)
def test_captums_handlers_and_the_modules_other_arguments(call: Any) -> None:
    report = as_without(Calls(Scaled(), call), {Scaled: nonlinear})
    assert report.exact
    assert [op.rule for op in report.operations] == ["nonlinear"]


def test_captums_handlers_say_nothing_of_two_attributed_tensors() -> None:
    model = Calls(Scaled(), lambda module, x: module(x, x.sigmoid()))
    assert as_without(model, {Scaled: nonlinear}).fallbacks == ("Scaled",)


@pytest.mark.parametrize(
    "call",
    [
        lambda module, x: module(x, x.sigmoid()),
        lambda module, x: module(gate=x.sigmoid(), value=x),
        lambda module, x: module(x, gate=x.sigmoid()),
    ],
)
def test_a_modules_arguments_come_in_the_order_of_its_forward(call: Any) -> None:
    assert as_without(Calls(Gate(), call), {Gate: gated}).exact


class State(NamedTuple):
    hidden: Tensor
    cell: Tensor


class Cell(nn.Module):
    def forward(self, state: State, mask: Any = None) -> State:
        return State(state.hidden * state.cell, state.cell)


class Fields(nn.Module):
    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        product = batch["x"] * batch["more"][0]
        return {"rows": [product, None], "x": 2 * batch["x"], "count": 3}


def _cell(module: Cell, y: Any, state: State, mask: Any) -> Any:
    hidden, cell = state
    assert [type(side).__name__ for side in y] == ["Pair", "Pair"]
    return lambda m, n: [(hidden, m * cell.mean), (cell, m * hidden.mean + n)]


def _fields(module: Fields, y: Any, batch: dict[str, Any]) -> Any:
    x, gate = batch["x"], batch["more"][0]
    assert y["count"] == 3 and y["rows"][1] is None
    assert torch.equal(y["x"].delta, 2 * x.delta)
    return lambda m, n: [(x, m * gate.mean), (gate, m * x.mean), (x, 2 * n)]


def _of_fields(module: nn.Module, x: Tensor) -> Tensor:
    found = module({"x": x * 1, "more": (x.exp(), "no tensor")})
    return found["rows"][0] * found["count"] + found["x"]


def _of_state(module: nn.Module, x: Tensor) -> Tensor:
    found = module(mask=None, state=State(x * 1, x.exp()))
    return found.hidden + 2 * found.cell


@pytest.mark.parametrize("kind", [Fields, Cell])
def test_modules_that_take_and_give_tensors_in_containers(kind: Any) -> None:
    call, rule = {Fields: (_of_fields, _fields), Cell: (_of_state, _cell)}[kind]
    report = as_without(Calls(kind(), call), {kind: rule})
    assert report.exact
    assert any(op.rule == rule.__name__ for op in report.operations)


def test_a_module_that_returns_its_argument() -> None:
    class Passing(nn.Module):
        def forward(self, value: Tensor, gate: Tensor) -> Tensor:
            return value

    def call(module: nn.Module, x: Tensor) -> Tensor:
        y = x * 2
        return module(y, y.exp()) * y

    def passing(module: Any, y: Any, value: Any, gate: Any) -> Any:
        return lambda m: [(value, m)]

    assert as_without(Calls(Passing(), call), {Passing: passing}).exact


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda module, y, a, b: None, "of Gate returned None"),
        (lambda module, y, a, b: [(a, b)], "of Gate returned"),
        (lambda module, y, a, b: lambda m: None, "of Gate shares .* in a NoneType"),
        (lambda module, y, a, b: lambda m: (a, m), "of Gate shares .* in a Pair"),
    ],
)
def test_a_rule_that_returns_something_else_is_told_what(
    rule: Any, message: str
) -> None:
    x, x0 = SIDES
    model = Calls(Gate(), lambda module, x: module(x, x.exp()))
    with pytest.raises(TypeError, match=message):
        attributions(model, (x,), (x0,), rules={Gate: rule})
