"""Which of Captum's attribution classes work on which models, through the adapter.

"Works" is a number where the class promises that its attributions add up: how far they
are from it, over f(x) - f(x0). Where it cannot, the first words of its error say why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from . import peers
from .captum_trials import TRIALS, Found, Trial
from .data import Training, batch_of, cohort, train
from .families import TINY, Family, Size, named

MODELS = (
    "MLP (ReLU)",
    "LogisticRegression",
    "RNN (GRU)",
    "RNN (LSTM)",
    "RETAIN",
    "CNN",
    "StageNet",
    "StageAttentionNet",
    "Transformer",
    "EHRMamba",
    "JambaEHR",
)


@dataclass(frozen=True)
class Settings:
    """What is tried.

    Args:
        models: Names of families.
        size: Sizes of the models.
        patients: Patients of the cohort.
        explained: How many of them are explained; the model trains on the others.
        steps: Training steps.
        path: Steps of methods that integrate along a path.
    """

    models: tuple[str, ...] = MODELS
    size: Size = TINY
    patients: int = 80
    explained: int = 4
    steps: int = 20
    path: int = 200


@dataclass(frozen=True)
class Row:
    """One model: by attribution class, what came of it."""

    model: str
    classes: dict[str, Found]


def quick() -> Settings:
    """Settings that take seconds."""
    return Settings(("MLP (ReLU)", "RNN (GRU)"), patients=30, steps=2, path=20)


def jobs(settings: Settings) -> dict[str, Callable[[], Row]]:
    """One per model: every class is tried on it."""
    return {f.name: partial(_row, f, settings) for f in named(*settings.models)}


def _row(family: Family, settings: Settings) -> Row:
    dataset = cohort(family.schema, settings.patients)
    model = family.build(dataset, settings.size)
    apart = settings.patients - settings.explained
    train(model, dataset, range(apart), Training(settings.steps))
    batch = batch_of(dataset, range(apart, settings.patients))
    found = {name: _found(tried, model, batch, settings) for name, tried in TRIALS}
    return Row(family.name, found)


def _found(
    tried: Callable[[Trial], Found], model: nn.Module, batch: Any, settings: Settings
) -> Found:
    torch.manual_seed(0)
    try:
        return tried(Trial(model, batch, settings.path))
    except Exception as error:  # whatever a class raises is its answer
        return peers.refusal(error)
