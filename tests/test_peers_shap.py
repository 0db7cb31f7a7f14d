"""SHAP's DeepExplainer: where it is right, ours agrees; where not, ours adds up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shap
import torch
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR


def sides(*shape: int) -> tuple[Tensor, Tensor]:
    """Four patients and seven references."""
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(n, *shape, generator=generator) for n in (4, 7))


def theirs(model: nn.Module, x: Tensor, references: Tensor) -> Tensor:
    """SHAP values of the first output: the mean over the references."""
    explainer = shap.DeepExplainer(model, references)
    values = np.asarray(explainer.shap_values(x, check_additivity=False))
    return torch.from_numpy(values[..., 0]).float()


def ours(model: nn.Module, x: Tensor, references: Tensor) -> Tensor:
    """The mean of our attributions over the references."""
    explainer = DeepLiftEHR(model, completeness="raise")
    found = [
        explainer.attribute(x, r.expand_as(x).contiguous(), target=0)
        for r in references
    ]
    return torch.stack(found).mean(0)


def missing(model: nn.Module, found: Tensor, x: Tensor, references: Tensor) -> Tensor:
    """Per patient, how far the sum is from f(x) - mean f(reference)."""
    with torch.no_grad():
        change = model(x)[:, 0] - model(references)[:, 0].mean()
    return (found.flatten(1).sum(1) - change).abs()


def dense(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), activation, nn.Linear(8, 3)).eval()


def convolved(*middle: nn.Module, width: int) -> nn.Module:
    torch.manual_seed(0)
    first, last = nn.Conv1d(2, 3, 3), nn.Linear(3 * width, 1)
    return nn.Sequential(first, nn.ReLU(), *middle, nn.Flatten(), last).eval()


RIGHT: dict[str, tuple[Any, tuple[int, ...]]] = {
    "ReLU": (lambda: dense(nn.ReLU()), (5,)),
    "sigmoid": (lambda: dense(nn.Sigmoid()), (5,)),
    "tanh": (lambda: dense(nn.Tanh()), (5,)),
    "GELU": (lambda: dense(nn.GELU()), (5,)),
    "ELU": (lambda: dense(nn.ELU()), (5,)),
    "convolution": (lambda: convolved(width=6), (2, 8)),
    "max-pool": (lambda: convolved(nn.MaxPool1d(2), width=3), (2, 8)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_ours_agree_where_shap_is_right(name: str) -> None:
    make, shape = RIGHT[name]
    model, (x, references) = make(), sides(*shape)
    peer = theirs(make(), x, references)
    assert bool((missing(model, peer, x, references) < 1e-4).all())
    torch.testing.assert_close(ours(model, x, references), peer, rtol=1e-3, atol=1e-5)


class Reused(nn.Module):
    """One ReLU at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(5, 6), nn.Linear(6, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(self.act(self.act(h) - 0.5 + h))


def reused() -> nn.Module:
    torch.manual_seed(0)
    return Reused().eval()


def scored() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Softmax(-1), nn.Linear(5, 3)).eval()


WRONG: dict[str, tuple[Any, tuple[int, ...]]] = {
    "reused ReLU": (reused, (5,)),
    "layer norm": (lambda: dense(nn.LayerNorm(8)), (5,)),
    "softmax with unchanged entries": (scored, (5,)),
    "overlapping max-pool": (
        lambda: convolved(nn.MaxPool1d(3, 1), width=4),
        (2, 8),
    ),
}


@pytest.mark.filterwarnings("ignore:unrecognized nn.Module")
@pytest.mark.parametrize("name", WRONG)
def test_ours_add_up_where_shap_does_not(name: str) -> None:
    make, shape = WRONG[name]
    model, (x, references) = make(), sides(*shape)
    if name.startswith("softmax"):
        x[:, 3:], references[:, 3:] = 0.0, 0.0
    peer = theirs(make(), x, references)
    assert float(missing(model, peer, x, references).max()) > 1e-2
    found = ours(model, x, references)
    assert float(missing(model, found, x, references).max()) < 1e-5
