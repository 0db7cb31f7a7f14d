"""Waiting multipliers: when they are worked out changes time, never results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR
from captum_ehr.propagation import Tape, default_table, tuning, two_passes
from captum_ehr.propagation.pending import Pending
from captum_ehr.propagation.rules.lazy import Lazy


class Gates(nn.Module):
    """A cell that runs for every step: small calls of a kind, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again = nn.Linear(6, 24), nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 8)
        for step in x.unbind(1):
            keep, forget, new = (self.enter(step) + self.again(state)).chunk(3, 1)
            state = torch.sigmoid(keep) * torch.tanh(new) + torch.sigmoid(
                forget
            ) * F.layer_norm(state, [8])
        return torch.softmax(state, 1)[:, :1]


class Wide(nn.Module):
    """Blocks of several kinds, of which one position is read, or all are."""

    def __init__(self, position: int | slice) -> None:
        super().__init__()
        self.position = position
        self.grow, self.end = nn.Linear(6, 300), nn.Linear(300, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.grow(x.repeat(1, 12, 1)))
        h = F.gelu(h) * torch.sigmoid(h) + torch.softmax(h, -1)
        h = F.silu(F.layer_norm(h, [300])) - F.elu(h)
        return self.end(h)[:, self.position].reshape(len(x), -1).sum(1, keepdim=True)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gates": Gates,
    "one position": lambda: Wide(0),
    "all positions": lambda: Wide(slice(None)),
    # Of each function one after the other, alike but for an option
    "options": lambda: nn.Sequential(
        nn.Linear(6, 8),
        *(nn.LeakyReLU(0.1), nn.GELU(), nn.LayerNorm(8), nn.ELU(0.5)),
        nn.Linear(8, 8),
        *(nn.LeakyReLU(0.5), nn.GELU("tanh"), nn.LayerNorm(8, eps=0.5), nn.ELU(2.0)),
        *(nn.Linear(8, 8), nn.RMSNorm(8, eps=1e-5), nn.Linear(8, 1)),
    ),
    "encoder": lambda: nn.Sequential(
        nn.TransformerEncoderLayer(6, 2, 16, batch_first=True),
        nn.Flatten(),
        nn.Linear(120, 1),
    ),
}


def multipliers(model: nn.Module, eager: bool) -> tuple[list[Tensor], Tape]:
    generator = torch.Generator().manual_seed(0)
    x, x0 = torch.randn(2, 5, 20, 6, generator=generator).double()
    x0[:, 12:] = x[:, 12:]  # as padding is
    tape = Tape(default_table(), eager=eager)
    x.requires_grad_()
    output = two_passes(model, [x], [x0], tape=tape).output
    assert not tape.pending.waiting
    return [output, *torch.autograd.grad(output.sum(), x)], tape


@pytest.mark.parametrize("name", MODELS)
def test_eager_multipliers_are_the_lazy_ones(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    (lazily, lazy), (eagerly, eager) = (multipliers(model, e) for e in (False, True))
    torch.testing.assert_close(lazily, eagerly, rtol=1e-12, atol=1e-14)
    assert float(lazily[1].abs().max()) > 0
    assert lazy.diagnostics() == eager.diagnostics()


@pytest.mark.parametrize(
    "config",
    [
        zoo.Config("MLP", "sequence", options=zoo.HIDDEN),
        zoo.Config("RNN", "sequence", "multiclass", zoo.HIDDEN),
        zoo.Config("StageNet", "stagenet", options=zoo.STAGES),
        zoo.Config("Transformer", "nested", options=zoo.SMALL),
    ],
    ids=str,
)
def test_explanations_are_the_same_without_waiting(
    config: zoo.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = zoo.build(config)

    def attributed() -> Any:
        return DeepLiftEHR(model).explain(batch)

    lazily, start = attributed(), Pending.__init__
    made: list[Pending] = []

    def eager(self: Pending, _: bool = False) -> None:
        made.append(self)
        start(self, eager=True)

    monkeypatch.setattr(Pending, "__init__", eager)
    eagerly = attributed()
    assert made
    for key, values in lazily.attributions.items():
        torch.testing.assert_close(
            torch.as_tensor(values), torch.as_tensor(eagerly.attributions[key])
        )
    assert lazily.diagnostics.operations == eagerly.diagnostics.operations


def test_small_ones_wait_for_a_block_of_their_kind() -> None:
    model = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
    x, x0 = torch.randn(2, 10, 6)
    tape = Tape(default_table())
    output = two_passes(model, [x.requires_grad_()], [x0], tape=tape).output
    first, second = (c.multiplier for c in tape.calls.values())
    assert isinstance(first, Lazy) and isinstance(second, Lazy)
    assert first.group is second.group is not None
    assert not first.group.results
    output.sum().backward()
    assert len(first.group.results) == 2


def test_what_waits_is_worked_out_when_there_is_a_block() -> None:
    shape = (2, tuning.SMALL // 2)
    count = tuning.WAITING // tuning.SMALL + 1

    def model(x: Tensor) -> Tensor:
        for _ in range(count):
            x = torch.tanh(x)
        return x.sum(1)

    x, x0 = torch.randn(2, *shape)
    tape = Tape(default_table())
    two_passes(model, [x.requires_grad_()], [x0], tape=tape)
    groups = {id(c.multiplier.group): c.multiplier.group for c in tape.calls.values()}
    (group,) = groups.values()
    assert len(group.results) == count


def test_a_pass_that_breaks_off_leaves_nothing_waiting() -> None:
    def model(x: Tensor) -> Tensor:
        y = torch.tanh(x)
        return (y if x[0, 0] > 0 else torch.sigmoid(y)).sum(1)

    tape = Tape(default_table())
    x = torch.ones(2, 3, requires_grad=True)
    run = two_passes(model, [x], [torch.full((2, 3), 0.5)], tape=tape)
    first = list(run.tape.calls.values())[0].multiplier
    assert isinstance(first, Lazy) and first.group is not None
    tape.pending.waiting.append(first)
    tape.clear()
    assert not tape.pending.waiting and not tape.pending.size
