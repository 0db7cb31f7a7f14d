"""Rows that no gradient reaches: no work is done for them, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_ehr.propagation import attributions, tuning, two_passes
from captum_ehr.propagation.pairs import Pair
from captum_ehr.propagation.rules import lazy, linear, products
from captum_ehr.propagation.rules.blocks import reached, reached_positions
from captum_ehr.propagation.rules.elementwise import gelu
from captum_ehr.propagation.rules.lazy import Lazy
from captum_ehr.propagation.tuning import BLOCK

PATIENTS, STEPS, WIDTH = 3, 40, 64


class Layer(nn.Module):
    """Attention and a feed-forward part, of which one position is read."""

    def __init__(self, position: int | slice) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.position = position
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.wide, self.narrow = nn.Linear(WIDTH, 16 * WIDTH), nn.Linear(16 * WIDTH, 1)

    def forward(self, x: Tensor, reps: int = 20) -> Tensor:
        x = x.repeat(1, reps, 1)
        scores = self.query(x) @ self.key(x).transpose(1, 2) / WIDTH**0.5
        x = x + torch.softmax(scores, -1) @ self.value(x)
        out = self.narrow(F.gelu(self.wide(F.layer_norm(x, [WIDTH]))))
        return out[:, self.position].reshape(len(x), -1).sum(1, keepdim=True)


@pytest.fixture
def sides() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (PATIENTS, STEPS, WIDTH)
    x, x0 = (torch.randn(shape, generator=generator).double() for _ in range(2))
    x0[:, 30:] = x[:, 30:]  # as padding is
    return x, x0


@pytest.mark.parametrize("position", [0, -1, slice(0, 300), slice(None)], ids=str)
def test_skipping_rows_changes_nothing(
    position: int | slice,
    sides: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, (x, x0) = Layer(position).double(), sides
    found: dict[str, bool] = {}

    def watch(home: ModuleType, search: Callable[..., Tensor | None]) -> None:
        def watched(*args: Any) -> Tensor | None:
            few = search(*args)
            found[home.__name__] = found.get(home.__name__, False) or few is not None
            return few

        monkeypatch.setattr(home, search.__name__, watched)

    watch(lazy, reached)
    watch(linear, reached)
    watch(products, reached_positions)
    fast = attributions(model, (x,), (x0,))
    assert len(found) == 3  # elementwise, linear and matrix products have looked
    assert all(found.values()) if position in (0, -1) else True
    assert not any(found.values()) if position == slice(None) else True
    assert float(fast.delta.abs().max()) < 1e-11
    monkeypatch.setattr(tuning, "BLOCK", 1 << 40)
    slow = attributions(model, (x,), (x0,))
    torch.testing.assert_close(fast.attributions, slow.attributions)


def test_rows_and_positions_that_a_gradient_reaches() -> None:
    upstream = torch.zeros(4, 64, BLOCK // 64)
    assert reached(upstream) is not None and len(reached(upstream)) == 0  # type: ignore[arg-type]
    upstream[1, 5, 3], upstream[2, 7, 0] = -1.0, float("nan")
    assert reached(upstream).tolist() == [64 + 5, 2 * 64 + 7]  # type: ignore[union-attr]
    assert reached_positions(upstream).tolist() == [5, 7]  # type: ignore[union-attr]
    assert reached(upstream + 1) is None and reached_positions(upstream + 1) is None
    assert reached(upstream[:1, :1]) is None  # too small to be worth it


@pytest.mark.parametrize("begin", [50, 600])
def test_a_row_is_reached_wherever_its_numbers_stand(begin: int) -> None:
    upstream = torch.zeros(1000, BLOCK // 1000 + 1)
    upstream[:begin, 0] = 1.0
    upstream[begin : begin + 100, 5:7] = torch.tensor([1.0, -1.0])  # the sum is 0
    rows = reached(upstream)
    assert rows is not None and rows.tolist() == list(range(begin + 100))


@pytest.mark.parametrize("function", [F.gelu, F.silu, F.softplus])
def test_operands_that_are_overwritten_before_the_backward_pass(
    function: object, sides: tuple[Tensor, Tensor]
) -> None:
    def overwriting(x: Tensor) -> Tensor:
        h = x * 2.0
        y = function(h)  # type: ignore[operator]
        h.mul_(0.0)
        return (y.flatten(1).sum(1) + h.flatten(1).sum(1))[:, None]

    def plain(x: Tensor) -> Tensor:
        return function(x * 2.0).flatten(1).sum(1)[:, None]  # type: ignore[operator]

    x, x0 = (side.repeat(1, 4, 1) for side in sides)
    ours, expected = (attributions(f, (x,), (x0,)) for f in (overwriting, plain))
    torch.testing.assert_close(ours.attributions, expected.attributions)
    assert float(ours.delta.abs().max()) < 1e-10


def test_what_nobody_reads_is_not_worked_out(sides: tuple[Tensor, Tensor]) -> None:
    x, x0 = (side[:, 0].clone() for side in sides)
    x.requires_grad_()

    def model(x: Tensor) -> Tensor:
        logit = torch.tanh(x)
        torch.sigmoid(logit)  # a probability beside it
        return logit.sum(1)

    run = two_passes(model, [x], [x0])
    torch.autograd.grad(run.output.sum(), x)
    groups = {
        call.function.__name__: call for call in run.tape.calls.values() if call.exact
    }
    beside = groups["sigmoid"].multiplier
    assert isinstance(beside, Lazy) and beside.group is not None
    assert not beside.group.results
    assert groups["tanh"].used and not groups["sigmoid"].used


def test_the_multipliers_of_one_reference_are_given_once(
    sides: tuple[Tensor, Tensor],
) -> None:
    x, x0 = (side[:, 0].clone() for side in sides)
    x.requires_grad_()
    run = two_passes(lambda x: torch.tanh(x).sum(1), [x], [x0])
    torch.autograd.grad(run.output.sum(), x, retain_graph=True)
    with pytest.raises(RuntimeError, match="lasting=True"):
        torch.autograd.grad(run.output.sum(), x)


def test_a_linear_layer_whose_weight_is_attributed() -> None:
    torch.manual_seed(0)
    fixed, head = torch.randn(4, 300, 64), torch.randn(300, 1)
    x, x0 = torch.randn(1, 32, 64).double(), torch.randn(1, 32, 64).double()

    def model(
        x: Tensor,
    ) -> Tensor:  # large input, attributed weight
        out = F.linear(fixed.double(), torch.tanh(x[0]))
        return (out.transpose(1, 2) @ head.double()).sum().reshape(1, 1)

    run = attributions(model, (x,), (x0,))
    assert float(run.delta.abs().max()) < 1e-9
    assert float(run.attributions[0].abs().max()) > 0


@pytest.mark.parametrize("position", [0, slice(None)], ids=str)
def test_linear_layers_under_autocast(
    position: int | slice, sides: tuple[Tensor, Tensor]
) -> None:
    model, (x, x0) = Layer(position), (side.float() for side in sides)

    def rounded(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).float()

    coarse, fine = (attributions(f, (x,), (x0,)) for f in (rounded, model))
    assert coarse.attributions[0].dtype == torch.float32
    size = fine.attributions[0].norm()
    assert (coarse.attributions[0] - fine.attributions[0]).norm() < 0.05 * size


def test_a_linear_layer_with_a_single_output() -> None:
    torch.manual_seed(0)
    weight, sides = torch.randn(64), [torch.randn(2, 600, 64) for _ in range(2)]
    run = attributions(
        lambda x: F.linear(torch.tanh(x), weight).sum(1, keepdim=True),
        (sides[0],),
        (sides[1],),
    )
    assert float(run.delta.abs().max()) < 1e-3


def test_a_weight_that_is_overwritten_is_an_error() -> None:
    def model(x: Tensor) -> Tensor:
        weight = torch.ones(64, 64)
        y = F.linear(x * 1.0, weight)
        weight.zero_()
        return y.flatten(1).sum(1, keepdim=True)

    with pytest.raises(RuntimeError, match="overwritten after the call"):
        attributions(model, (torch.randn(2, 600, 64),), (torch.randn(2, 600, 64),))


def test_complex_products_are_not_searched() -> None:
    torch.manual_seed(0)
    x, x0 = torch.randn(2, 600, 64).double(), torch.randn(2, 600, 64).double()

    def model(x: Tensor) -> Tensor:
        z = torch.fft.fft(x, dim=-1)
        return (z @ z.transpose(1, 2)).abs().flatten(1).mean(1, keepdim=True)

    assert float(attributions(model, (x,), (x0,)).delta.abs().max()) < 1e-9


def test_an_overwritten_operand_that_is_given_by_name() -> None:
    def model(x: Tensor) -> Tensor:
        mask = torch.tensor([1.0, -1.0])
        torch.relu_(input=mask)
        return torch.tanh(x).flatten(1).sum(1, keepdim=True) * mask[0]

    run = attributions(model, (torch.randn(2, 8),), (torch.randn(2, 8),))
    assert float(run.delta.abs().max()) < 1e-5


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_accurate_at_every_distance(approximate: str) -> None:
    """Against float64 with a fine quadrature, in float32 to some eps/|Δx|."""
    middle = torch.linspace(-5, 5, 400).double()
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(40))
    for step in (1e-6, 1e-3, 0.014, 0.05, 0.1, 0.16, 0.17, 0.3, 2.0):
        x, x0 = (middle + step / 2).float(), (middle - step / 2).float()
        at = torch.lerp(x0.double(), x.double(), (nodes[:, None] + 1) / 2)
        slopes = torch.ops.aten.gelu_backward(
            torch.ones_like(at), at, approximate=approximate
        )
        exact = (weights[:, None] / 2 * slopes).sum(0)
        found = gelu(Pair(x, x0), approximate)
        assert float((found - exact).abs().max()) < 5e-6, step
