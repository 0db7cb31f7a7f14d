"""tangermeme's DeepLIFT: the same multipliers where it is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tangermeme.deep_lift_shap import deep_lift_shap
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR


def sequences() -> tuple[Tensor, Tensor]:
    """Three one-hot sequences of four letters, and two references of each."""
    generator = torch.Generator().manual_seed(5)
    x = F.one_hot(torch.randint(4, (3, 12), generator=generator), 4)
    references = F.one_hot(torch.randint(4, (3, 2, 12), generator=generator), 4)
    return x.mT.float().contiguous(), references.mT.float().contiguous()


def theirs(model: nn.Module, x: Tensor, references: Tensor, **options: Any) -> Tensor:
    """Multipliers per sequence and reference, ``(3, 2, 4, 12)``."""
    found = deep_lift_shap(
        model,
        x,
        references=references,
        raw_outputs=True,
        device="cpu",
        warning_threshold=float("inf"),
        **options,
    )
    return found.reshape(references.shape)


def ours(model: nn.Module, x: Tensor, references: Tensor) -> Tensor:
    explainer = DeepLiftEHR(model, multiply_by_inputs=False)
    found = [
        explainer.attribute(x, references[:, k].contiguous(), target=0)
        for k in range(references.shape[1])
    ]
    return torch.stack(found, 1)


def worst(model: nn.Module, found: Tensor, x: Tensor, references: Tensor) -> float:
    """The largest |Σ m·Δ - Δf| over sequences and references."""
    with torch.no_grad():
        at_references = model(references.flatten(0, 1))[:, 0].view(3, 2)
        change = model(x)[:, :1] - at_references
    total = (found * (x.unsqueeze(1) - references)).flatten(2).sum(2)
    return float((total - change).abs().max())


def convolved(*middle: nn.Module, width: int) -> nn.Module:
    torch.manual_seed(0)
    last = nn.Linear(5 * width, 2)
    return nn.Sequential(nn.Conv1d(4, 5, 3), *middle, nn.Flatten(), last).eval()


@pytest.mark.parametrize(
    ("middle", "width"),
    [((nn.ReLU(),), 10), ((nn.ELU(),), 10), ((nn.Tanh(),), 10), ((nn.GELU(),), 10)],
    ids=["ReLU", "ELU", "tanh", "GELU"],
)
def test_the_same_multipliers_where_it_is_right(middle: Any, width: int) -> None:
    x, references = sequences()
    model = convolved(*middle, width=width)
    peer = theirs(model, x, references)
    assert worst(model, peer, x, references) < 1e-5
    found = ours(model, x, references)
    torch.testing.assert_close(found, peer, rtol=1e-3, atol=1e-5)


class Attended(nn.Module):
    """Positions weighed by a softmax of which most entries do not change."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weigh, self.last = (
            nn.Conv1d(4, 5, 3),
            nn.Softmax(-1),
            nn.ReLU(),
        )
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.out(self.last((y * self.weigh(y.sum(1, keepdim=True))).sum(-1)))


def test_ours_add_up_where_it_does_not() -> None:
    torch.manual_seed(0)
    x, references = sequences()
    references[..., 4:] = x[:, :, 4:].unsqueeze(1)
    model = Attended().eval()
    peer = theirs(model, x, references)
    assert worst(model, peer, x, references) > 1e-3
    assert worst(model, ours(model, x, references), x, references) < 1e-6
