"""What is polished is rounding; what is more is said, and so is what cancels."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_ehr import (
    AttributionWarning,
    CompletenessError,
    DeepLiftEHR,
    Explanation,
)
from captum_ehr.attr.completeness import balance, polish
from captum_ehr.datasets import tiny_model
from captum_ehr.propagation import Diagnostics
from captum_ehr.propagation.rules.elementwise import relu, secant_rule


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)).eval()


def off_by(part: float) -> dict[Any, Any]:
    """A rule for ReLU whose multipliers are too large by a part of themselves."""

    def wrong(x: Any, y: Any, *args: Any) -> Tensor:
        return (1 + part) * relu(x, y)

    return {F.relu: secant_rule(wrong)}


def run(model: nn.Module, x: Tensor, x0: Any = None, **options: Any) -> Any:
    """Attributions, residuals and what was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", AttributionWarning)
        found = DeepLiftEHR(model, **options).attribute(
            x, x0, return_convergence_delta=True
        )
    return (*found, [str(w.message) for w in said])


@pytest.mark.parametrize("part", [1e-4, -1e-4, 3e-4, 9e-4, 1e-2, 1.0])
def test_an_error_of_a_rule_is_neither_polished_nor_passed(part: float) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(4))
    found, delta, said = run(net(), x, rules=off_by(part))
    assert len(said) == 1 and "do not add up" in said[0]
    raw, _, _ = run(net(), x, rules=off_by(part), completeness="check")
    torch.testing.assert_close(found, raw, rtol=2e-5, atol=0)
    with pytest.raises(CompletenessError, match="do not add up"):
        run(net(), x, rules=off_by(part), completeness="raise")


@pytest.mark.parametrize("part", [1e-8, 1e-10, 1e-12])
def test_float64_has_more_digits_to_answer_for(part: float) -> None:
    x = torch.randn(5, 4, dtype=torch.float64)
    _, _, said = run(net().double(), x, rules=off_by(part))
    assert any("do not add up" in message for message in said)


def test_rounding_is_polished_away() -> None:
    x = torch.randn(64, 4)
    model = net()
    found, delta, said = run(model, x)
    assert said == []
    raw, _, _ = run(model, x, completeness="check")
    change = (model(x) - model(torch.zeros_like(x))).squeeze(1).detach()
    assert bool((delta != 0).any())
    residual = (found.double().sum(1) - change.double()).abs()
    assert bool((residual <= 2e-7 * (change.abs() + raw.abs().sum(1))).all())
    assert residual.sum() < 0.5 * delta.abs().double().sum()


def stacked(count: int) -> nn.Module:
    """Differences of nearly equal sums: shares many times the change, which cancel."""

    class Cancelling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            large = x.tanh() * 10.0**count
            return (large + x.sin() - large).sum(1, keepdim=True)

    return Cancelling()


@pytest.mark.parametrize("count", [5, 6])
def test_what_rounding_takes_of_shares_that_cancel_is_said(count: int) -> None:
    torch.manual_seed(1)
    x, x0 = torch.randn(2, 6, 4)
    model = stacked(count)
    _, delta, said = run(model, x, x0)
    change = (model(x) - model(x0)).squeeze(1).abs()
    worst = float((delta.abs() / change).max())
    assert worst > 1e-3  # or the case shows nothing
    assert any("add up" in message for message in said)
    with pytest.raises(CompletenessError):
        run(model, x, x0, completeness="raise")


def test_nothing_changes_and_nothing_is_said() -> None:
    x = torch.randn(3, 4)
    found, delta, said = run(net(), x, x.clone())
    assert said == [] and bool((found == 0).all()) and bool((delta == 0).all())


EPS = torch.finfo(torch.float32).eps


@pytest.mark.parametrize(
    ("residual", "gross", "off"),
    [
        (60 * EPS, 1.0, False),
        (75 * EPS, 1.0, False),  # with both outputs
        (90 * EPS, 1.0, True),
        (400 * EPS, 1.0, True),
        (400 * EPS, 10.0, False),
        (0.9e-3, 1e4, False),
        (1.1e-3, 1e4, True),  # may be rounding, and is said all the same
        (-400 * EPS, 1.0, True),
        (float("nan"), 1.0, True),
        (float("inf"), 1.0, True),
    ],
)
def test_the_bound_from_both_sides(residual: float, gross: float, off: bool) -> None:
    f_input, f_baseline = torch.tensor([1.5]), torch.tensor([0.5])
    total = torch.tensor([[1.0 + residual]], dtype=torch.float64)
    found = balance(
        (total,), f_input, f_baseline, lambda: torch.tensor([gross]).double()
    )
    assert bool(found.off) is off
    factor = polish(found, f_input - f_baseline)
    assert (float(factor) == 1.0) is off


def test_the_last_digits_of_large_outputs_are_no_error() -> None:
    f_input, f_baseline = torch.tensor([1000.0001]), torch.tensor([1000.0])
    change = (f_input - f_baseline).double()
    digit = 1e3 * EPS
    assert not balance((change[:, None] + digit,), f_input, f_baseline).off
    assert balance((change[:, None] + 9 * digit,), f_input, f_baseline).off


def test_how_much_cancels_stands_in_the_diagnostics() -> None:
    model, batch = tiny_model()
    exp = DeepLiftEHR(model).explain(batch)
    parts = [a.flatten(1).abs().double().sum(1) for a in exp.attributions.values()]
    ratio = torch.stack(parts).sum(0) / (exp.f_input - exp.f_baseline).abs().double()
    assert exp.diagnostics.cancellation == pytest.approx(float(ratio.max()), rel=1e-4)
    both = Explanation.concat([exp[:2], exp[2:]])
    assert both.diagnostics.cancellation == exp.diagnostics.cancellation
    assert Diagnostics.from_dict(exp.diagnostics.to_dict()) == exp.diagnostics
