"""What the model overwrites after its use, and what it has written elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calls import explained, sides, total
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR
from captum_ehr.propagation import attributions

#: Calls whose operand y the model overwrites afterwards.
BEFORE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "abs": lambda y, x: y.abs(),
    "exponent": lambda y, x: (x.abs() + 1) ** y,
    "base": lambda y, x: y.abs().add_(1) ** x,
    "sinc": lambda y, x: torch.sinc(y),
    "gelu": lambda y, x: F.gelu(y),
    "softplus": lambda y, x: F.softplus(y),
    "norm": lambda y, x: y.norm(dim=1, keepdim=True) * y,
    "var": lambda y, x: y.var(1, keepdim=True),
    "cumprod": lambda y, x: y.cumprod(1),
    "hypot": lambda y, x: torch.hypot(x, y),
    "sort": lambda y, x: y.sort(1).values,
    "softmax": lambda y, x: y.softmax(1) * y,
    "its own result": lambda y, x: y.exp().mul_(2),
}


@pytest.mark.parametrize("name", BEFORE)
def test_an_operand_overwritten_after_its_use(name: str) -> None:
    """As of a model that does not overwrite it, though plain autograd may refuse."""

    def model(x: Tensor, copied: bool = False) -> Tensor:
        y = x * 1.0
        z = BEFORE[name](y.clone() if copied else y, x)
        y.mul_(3)
        return total(z.expand_as(x) * y)

    x, x0 = sides((3, 4), 5)
    ours, theirs = (
        attributions(lambda t, c=c: model(t, c), (x,), (x0,)) for c in (False, True)
    )
    torch.testing.assert_close(ours.attributions, theirs.attributions)
    assert ours.diagnostics == theirs.diagnostics


@pytest.mark.parametrize("references", [1, 3])
def test_a_rule_that_reads_its_operand_late(references: int) -> None:
    class Gate(nn.Module):
        def forward(self, value: Tensor, gate: Tensor) -> Tensor:
            return value * gate

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = Gate()

        def forward(self, x: Tensor) -> Tensor:
            y, gate = x * 1.0, torch.sigmoid(x)
            z = self.gate(y, gate)
            y.mul_(3)
            gate.zero_()
            return (z + y).sum(1, keepdim=True)

    def gated(module: Gate, y: Any, value: Any, gate: Any) -> Any:
        return lambda m: [(value, m * gate.mean), (gate, m * value.mean)]

    x, x0 = sides((3, 4), 5)
    explainer = DeepLiftEHR(Model(), rules={Gate: gated}, completeness="raise")
    for _ in range(references):
        explainer.attribute(x, x0 * torch.rand(()))


def test_writing_on_the_inputs_past_a_handler_that_catches_everything() -> None:
    def model(x: Tensor) -> Tensor:
        try:
            x.mul_(2.0)
        except:  # noqa: E722
            pass
        return x.tanh().sum(1)

    x, x0 = sides((3, 4), 5)
    explained(lambda x: model(x * 1), x, x0)
    run = attributions(model, (x,), (x0,))
    torch.testing.assert_close(run.f_input, (2 * x).tanh().sum(1))
    torch.testing.assert_close(run.delta, torch.zeros(3, dtype=x.dtype))


def test_a_method_in_place_that_has_no_other_form() -> None:
    def model(x: Tensor) -> Tensor:
        y = x.exp()
        z = y * y
        y.fill_diagonal_(2.0)
        return total(y * z)

    x, x0 = sides((3, 4), 5)
    assert explained(model, x, x0).diagnostics.exact


#: Written into a tensor of the caller's.
OUT: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "exp": lambda x, out: torch.exp(x, out=out),
    "exp of a part": lambda x, out: torch.exp(x[:, :2], out=out[:, 1:3]),
    "into nothing yet": lambda x, out: out.add_(torch.exp(x, out=torch.empty(0).to(x))),
    "add": lambda x, out: torch.add(x, 1, out=out),
    "cat": lambda x, out: torch.cat([x[:, :2], x[:, 2:].exp()], 1, out=out),
    "mul": lambda x, out: torch.mul(x, x.exp(), out=out),
    "mul by a number": lambda x, out: torch.mul(x, 2, out=out),
    "an expansion": lambda x, out: torch.addcdiv(x, x, x.exp(), out=out),
    "two results": lambda x, out: torch.max(
        x, 1, out=(out[:, 0], torch.zeros(3).long())
    ),
    "a constant": lambda x, out: torch.exp(torch.ones(3, 4).to(x), out=out),
    "over what was used": lambda x, out: torch.exp(
        x, out=out.copy_(x).mul_(out.tanh())
    ),
    "none": lambda x, out: out.copy_(torch.exp(x, out=None)),
    "no rule": lambda x, out: torch.sinc(x, out=out),
}


@pytest.mark.parametrize("name", OUT)
def test_results_that_are_written_elsewhere(name: str) -> None:
    def model(x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        OUT[name](x, out)
        return total(out * x)

    x, x0 = sides((3, 4), 5)
    run = explained(model, x, x0)
    torch.testing.assert_close(run.f_reference, model(x0))
    assert run.diagnostics.fallbacks == (("sinc",) if name == "no rule" else ())
