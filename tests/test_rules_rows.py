"""Rows that no gradient reaches: no work is done for them, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_ehr.propagation import attributions, two_passes
from captum_ehr.propagation.rules import rows
from captum_ehr.propagation.rules.rows import BLOCK, Rowwise, reached, reached_positions

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
    found: list[bool] = []

    def watched(upstream: Tensor, most: float = 0.9) -> Tensor | None:
        few = reached(upstream, most)
        found.append(few is not None)
        return few

    monkeypatch.setattr(rows, "reached", watched)
    fast = attributions(model, (x,), (x0,))
    assert any(found) == (position != slice(None))
    assert float(fast.delta.abs().max()) < 1e-11
    monkeypatch.setattr(rows, "BLOCK", 1 << 40)
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
    assert isinstance(beside, Rowwise) and beside.group is not None
    assert not beside.group.found
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
