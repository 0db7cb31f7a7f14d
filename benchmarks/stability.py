"""How much explanations change with what should not matter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from . import peers
from .data import Training
from .faithfulness import TRAININGS, attributions_of, trained
from .families import MEASURED, SMALL, TINY, Family, Size, named
from .peers import Attributions, Case
from .scores import importances, spearman
from .speed import Spread, spread

METHODS: tuple[tuple[str, Callable[[Case], Attributions]], ...] = (
    ("ours", peers.ours),
    ("pyhealth_deeplift", peers.pyhealth_deeplift),
    ("captum_deeplift", peers.captum_deeplift),
    ("ig_50", partial(peers.captum_ig, steps=50)),
    ("gradient_x_input", peers.gradient_x_input),
    ("gradient_shap", peers.gradient_shap),
    ("random", peers.random),
)


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        models: Names of families.
        size: Sizes of the models.
        patients: Patients of the synthetic cohort, codes only.
        explained: How many are explained.
        alone: The same for a model that mixes patients.
        training: How models are trained.
        trainings: How often, from other weights and with other batches.
        noise: By what the embeddings change, as a part of each number.
    """

    models: tuple[str, ...] = MEASURED
    size: Size = SMALL
    patients: int = 1200
    explained: int = 64
    alone: int = 12
    training: Training = TRAININGS["regularised"]
    trainings: int = 5
    noise: float = 1e-6


@dataclass(frozen=True)
class Stability:
    """Of one method.

    Args:
        trainings: Rank correlation of the codes' importances (mean absolute
            attribution), over pairs of trainings.
        noise: How far attributions move with the embeddings' noise, as a part of
            their norm, over patients.
    """

    trainings: Spread
    noise: Spread


@dataclass(frozen=True)
class Row:
    """One model: stability by method, and why methods refused it."""

    model: str
    methods: dict[str, Stability]
    refused: dict[str, str]


def quick() -> Settings:
    """Settings that take seconds."""
    training = Training(2, 16)
    return Settings(("MLP (ReLU)",), TINY, 40, 4, 2, training, 2)


def jobs(settings: Settings) -> dict[str, Callable[[], Row]]:
    """One per model."""
    return {f.name: partial(_row, f, settings) for f in named(*settings.models)}


def _row(family: Family, settings: Settings) -> Row:
    ranks: dict[str, list[Mapping[str, float]]] = {}
    seeds = range(settings.trainings)
    for seed in tqdm(seeds, desc=f"trainings, {family.name}", leave=False):
        again = Training(**{**vars(settings.training), "seed": seed + 1})
        case, _ = trained(family, settings, again, seed)
        found, refused = attributions_of(case, METHODS)
        for name, given in found.items():
            ranks.setdefault(name, []).append(importances(case, given))
    noisy, _ = attributions_of(_with_noise(case, settings.noise), METHODS)
    return Row(
        family.name,
        {
            name: Stability(_agreement(each), _moved(found[name], noisy[name]))
            for name, each in ranks.items()
        },
        refused,
    )


def _agreement(found: list[Mapping[str, float]]) -> Spread:
    """Rank correlation of each pair."""
    codes = sorted(found[0])
    columns = [torch.tensor([one[code] for code in codes]) for one in found]
    return spread([spearman(a, b) for a, b in combinations(columns, 2)])


def _with_noise(case: Case, noise: float) -> Case:
    """The same patients and model, but each number of its embeddings a little off."""
    model: Any = copy.deepcopy(case.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                drawn = torch.randn(module.weight.shape, generator=generator)
                module.weight.mul_(1 + noise * drawn)
    return Case(model, case.batch, case.mixes)


def _moved(before: Attributions, after: Attributions) -> Spread:
    """|after - before| / |before| of each patient."""
    flat = [
        torch.cat([a.flatten(1) for a in side.values()], 1).double()
        for side in (before, after)
    ]
    moved = (flat[1] - flat[0]).norm(dim=1) / flat[0].norm(dim=1).clamp(min=1e-30)
    return spread(moved.tolist())
