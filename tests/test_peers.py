"""Where other DeepLIFTs are right, ours agrees; where they are wrong, ours is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from captum.attr import DeepLift
from pyhealth.datasets import get_dataloader
from pyhealth.interpret.methods import DeepLift as PyHealthDeepLift
from torch import nn

from captum_ehr import DeepLiftEHR


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    "options",
    [{"activation": "tanh"}, {"activation": "sigmoid"}, {"n_layers": 1}],
    ids=["tanh", "sigmoid", "linear"],
)
def test_pyhealths_deeplift_on_smooth_mlps(options: Any, trained: bool) -> None:
    config = zoo.Config("MLP", "sequence", "binary", {**zoo.HIDDEN, **options})
    model, batch = zoo.build(config, trained=trained)
    data = zoo.dataset("sequence", "binary")
    for each in (batch, *get_dataloader(data, batch_size=1, shuffle=False)):
        theirs = PyHealthDeepLift(model).attribute(**each)
        ours = DeepLiftEHR(model, completeness="off").attribute(each, "pyhealth")
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)


ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.LeakyReLU, nn.Softplus)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("target", [0, [2, 1, 0, 1]])
def test_captums_deeplift_on_activations_used_once(
    activation: Any, target: Any
) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 6), activation(), nn.Linear(6, 3))
    x, x0 = torch.randn(4, 5), torch.randn(4, 5)
    chosen = torch.tensor(target) if isinstance(target, list) else target
    ours, delta = DeepLiftEHR(model).attribute(
        x, x0, target=target, return_convergence_delta=True
    )
    theirs = DeepLift(model).attribute(x, x0, target=chosen)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert bool(delta.abs().max() < 1e-5)


class Twice(nn.Module):
    """One activation module that stands at two places, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(4, 6), nn.Linear(6, 1), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        return self.b(self.act(h + self.act(h)))


def test_a_module_used_twice_where_captum_raises() -> None:
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(3, 4)
    with pytest.raises(RuntimeError, match="used more than once"):
        DeepLift(model).attribute(x)
    found = DeepLiftEHR(model, completeness="raise").attribute(x)
    change = (model(x) - model(torch.zeros_like(x))).squeeze(1)
    torch.testing.assert_close(found.sum(1), change)


class Pooled(nn.Module):
    """A linear score, softmaxed over three positions of which one is a pad."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (nn.functional.softmax(x, dim=1) * torch.tensor([1.0, 2.0, 4.0])).sum(1)


def test_softmax_where_elementwise_secants_are_wrong() -> None:
    x = torch.tensor([[2.0, -1.0, 0.0]])  # the third equals the reference
    found, delta = DeepLiftEHR(Pooled()).attribute(x, return_convergence_delta=True)
    y, y0 = x.softmax(1), torch.zeros_like(x).softmax(1)
    weights = torch.tensor([1.0, 2.0, 4.0])
    elementwise = torch.where(x == 0, 0.0, weights * (y - y0)).sum()
    change = ((y - y0) * weights).sum()
    assert abs(float(elementwise - change)) > 0.1
    assert float(found[0, 2]) == 0.0 and float(delta.abs()) < 1e-6


def test_a_relu_dead_at_the_input_and_alive_at_the_reference() -> None:
    """PyHealth's multiplier is 0 there, though the output changes."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
    nn.init.ones_(model[0].weight)
    found = DeepLiftEHR(model).attribute(torch.tensor([[-1.0]]), torch.tensor([[1.0]]))
    assert float(found) == -1.0
