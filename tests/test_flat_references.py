"""References in front of a norm that are flat, or far smaller than the input.

A zero embedding is one. The inverse of its size is hundreds of times that of any
other, and no share may be made with it that others have to cancel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR
from captum_ehr.propagation import attributions

WEIGHT = torch.tensor([0.5, -1.5, 2.0, 0.25, -0.75, 1.0, -2.0, 1.25])


def by_hand(x: Tensor) -> Tensor:
    c = x - x.mean(1, keepdim=True)
    return c / ((c * c).mean(1, keepdim=True) + 1e-5).sqrt()


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "layer_norm": lambda x: F.layer_norm(x, (8,)),
    "rms_norm": lambda x: F.rms_norm(x, (8,), eps=1e-6),
    "group_norm": lambda x: F.group_norm(x, 2),
    "instance_norm": lambda x: F.instance_norm(x[:, None])[:, 0],
    "by hand": by_hand,
    "by its deviation": lambda x: (
        (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-7)
    ),
    "normalize": F.normalize,
    "cosine_similarity": lambda x: F.cosine_similarity(x[:, None], WEIGHT.to(x), dim=2),
}


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-6, 1e-2])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_no_share_is_larger_than_what_is_normalised(
    name: str, turned: bool, size: float
) -> None:
    """Of each value its own weight, and of the others together as much again."""
    generator = torch.Generator().manual_seed(2)
    x, x0 = torch.randn((2, 5, 8), generator=generator)
    sides = (x * 1e3, x0 * size) if not turned else (x0 * size, x * 1e3)

    def model(x: Tensor) -> Tensor:
        return (NORMS[name](x) * WEIGHT.to(x)).sum(1)

    runs = [
        attributions(model, (a.to(dtype),), (b.to(dtype),))
        for dtype in (torch.float32, torch.float64)
        for a, b in (sides,)
    ]
    single, double = (run.attributions[0].double() for run in runs)
    assert (double.abs().sum(1) <= 6 * WEIGHT.abs().sum() * math.sqrt(2)).all()
    assert (single - double).abs().max() <= 1e-5 * double.abs().max()
    assert runs[0].diagnostics.exact and float(runs[1].delta.abs().max()) < 1e-12


# Encoders -------------------------------------------------------------------------


class Encoder(nn.Module):
    """A transformer encoder's mean over its tokens."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.0, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = self.out(torch.tanh(self.encoder(x)).mean(1)).squeeze(1)
        assert isinstance(found, Tensor)
        return found


def shapley(model: nn.Module, x: Tensor, x0: Tensor) -> Tensor:
    """Exact values of tokens: all subsets of them at the input, the rest at x0."""
    count = x.shape[1]
    subsets = list(itertools.product([False, True], repeat=count))
    mask = torch.tensor(subsets)[:, None, :, None]
    with torch.no_grad():
        worth = [model(torch.where(m, x, x0)) for m in mask]
    value = dict(zip(subsets, worth))
    found = torch.zeros(x.shape[:2], dtype=x.dtype)
    for subset, token in itertools.product(subsets, range(count)):
        if not subset[token]:
            rate = count * math.comb(count - 1, sum(subset))
            more = (*subset[:token], True, *subset[token + 1 :])
            found[:, token] += (value[more] - value[subset]) / rate
    return found


def alike(a: Tensor, b: Tensor) -> float:
    """Correlation over tokens, the patients' median."""
    a, b = (t - t.mean(1, keepdim=True) for t in (a, b))
    return float(F.cosine_similarity(a, b, dim=1).median())


@pytest.mark.parametrize("reference", ["zeros", "another token"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_tokens_of_encoders_are_near_their_shapley_values(
    norm_first: bool, reference: str
) -> None:
    """As near as a path integral of 200 steps is, of four models on average."""
    correlations, sizes = [], []
    for seed in range(4):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Encoder(norm_first).double().eval()
            x = torch.randn(8, 5, 16).double()
            x0 = torch.randn(1, 1, 16).double().expand_as(x).clone()
        x0 = torch.zeros_like(x) if reference == "zeros" else x0
        ours = DeepLiftEHR(model, completeness="raise").attribute(x, x0).sum(2)
        path = IntegratedGradients(model).attribute(x, x0, n_steps=200).sum(2)
        truth = shapley(model, x, x0)
        correlations.append((alike(ours, truth), alike(path, truth)))
        sizes.append(float((ours.abs().sum(1) / truth.abs().sum(1)).median()))
    found, least = (sum(side) / 4 for side in zip(*correlations))
    assert found >= least - 0.05
    assert max(sizes) <= 2
