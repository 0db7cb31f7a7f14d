"""The account of an explanation: every operation, what it carries, what it loses."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR, DeepLiftShapEHR
from captum_ehr.datasets import tiny_model

ACCOUNTED = [
    zoo.Config("MLP", "sequence", options=zoo.HIDDEN),
    zoo.Config("RNN", "sequence", "multiclass", zoo.HIDDEN),
    zoo.Config("StageNet", "stagenet", options=zoo.STAGES),
    zoo.Config("Transformer", "nested", options=zoo.SMALL),
    zoo.Config("MICRON", "medication", "multilabel", zoo.HIDDEN),
]


@pytest.mark.parametrize("config", ACCOUNTED, ids=str)
def test_the_account_names_what_the_explanation_names(config: zoo.Config) -> None:
    model, batch = zoo.build(config)
    dl = DeepLiftEHR(model)
    account, report = dl.audit(batch), dl.explain(batch).diagnostics
    lines = account.iloc[:-2]
    told = lines.groupby(["operation", "rule"])["calls"].sum().to_dict()
    assert told == {(op.name, op.rule): op.calls for op in report.operations}
    assert set(lines["module"]) <= {name for name, _ in model.named_modules()}
    assert bool(account["exact"].all()) and float(account["residual"].max()) < 1e-5
    assert lines["residual"].is_monotonic_decreasing


class Chain(nn.Module):
    """Every change goes through the first; two branches divide it; they meet."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.left, self.right = nn.Linear(3, 1), nn.Tanh(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x).exp()
        return self.left(y) + 2 * self.right(y)


def test_shares_are_what_flows_through() -> None:
    torch.manual_seed(0)
    model = Chain().double()
    x, x0 = torch.randn(2, 5, 3, dtype=torch.float64)
    account = DeepLiftEHR(model).audit(x, x0).set_index("operation")
    with torch.no_grad():
        y, y0 = model.enter(x).exp(), model.enter(x0).exp()
        change = model(x) - model(x0)
        left = (change.sign() * (y.tanh() - y0.tanh())).sum() / change.abs().sum()
    assert account.loc["exp", "share"] == pytest.approx(1, abs=1e-12)
    assert account.loc["tanh", "share"] == pytest.approx(float(left), abs=1e-12)
    assert account.loc["sigmoid", "share"] == pytest.approx(1 - float(left), abs=1e-12)
    assert (
        account.loc["tanh", "module"] == "left" and account.loc["exp", "module"] == ""
    )


def test_the_operation_that_loses_something_comes_first() -> None:
    torch.manual_seed(0)
    x, x0 = torch.randn(2, 5, 3, dtype=torch.float64)
    model = Chain().double()

    def forgetful(y: object, x: object) -> object:
        return lambda m: [(x, 0.5 * m)]

    dl = DeepLiftEHR(model, rules={torch.tanh: forgetful}, completeness="off")
    account = dl.audit(x, x0)
    assert account.loc[0, "operation"] == "tanh"
    delta = dl.attribute(x, x0, return_convergence_delta=True)[1]
    change = (model(x) - model(x0)).squeeze(1).detach()
    whole = float((delta * change.sign()).sum().abs() / change.abs().sum())
    last = account.iloc[-1]
    assert last["operation"] == "all together"
    assert last["residual"] == pytest.approx(whole, rel=1e-9)
    assert account.loc[0, "residual"] == pytest.approx(whole, rel=1e-9)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return x**3

    @staticmethod
    def backward(ctx: object, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 3 * x**2 * upstream


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Cube.apply(x.tanh()).sum(1)


def test_what_comes_past_every_rule_is_named_and_weighed() -> None:
    x, x0 = torch.randn(2, 4, 3, dtype=torch.float64)
    account = DeepLiftEHR(Custom(), completeness="off").audit(x, x0)
    rest, whole = account.iloc[-2], account.iloc[-1]
    assert rest["operation"] == "Cube" and not rest["exact"]
    assert rest["residual"] == pytest.approx(whole["residual"], rel=1e-9)
    assert rest["residual"] > 1e-3


def test_a_fallback_is_marked_and_the_model_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LogSigmoid(), nn.Linear(4, 1))
    before = {name: vars(m).copy() for name, m in model.named_modules()}
    x = torch.randn(4, 3)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i0(self.inner(x))

    account = DeepLiftEHR(Odd()).audit(x)
    odd = account[~account["exact"]]
    assert odd["rule"].tolist() == ["path_integral"]
    assert before == {name: vars(m) for name, m in model.named_modules()}


def test_it_leaves_later_explanations_as_quick_as_before() -> None:
    model, batch = tiny_model()
    dl = DeepLiftEHR(model)
    dl.explain(batch)
    dl.audit(batch)
    assert dl.model._habits == {"traces": False}


def test_several_references_are_refused() -> None:
    model, batch = tiny_model()
    with pytest.raises(ValueError, match="audit: 3 references"):
        DeepLiftShapEHR(model).audit(batch, 3)
