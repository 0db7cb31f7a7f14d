"""Correlation of token attributions with sampled Shapley values, per patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from . import peers
from .data import auroc, batch_of, cohort, train
from .families import SMALL, Family, Size, named
from .peers import Attributions, Case
from .shapley import Game, pearson, sampled

METHODS: tuple[tuple[str, Callable[[Case], Attributions]], ...] = (
    ("ours", peers.ours),
    ("pyhealth_deeplift", peers.pyhealth_deeplift),
    ("pyhealth_deeplift_own_reference", peers.pyhealth_deeplift_default),
    ("ig_50", partial(peers.captum_ig, steps=50)),
    ("ig_200", partial(peers.captum_ig, steps=200)),
    ("gradient_x_input", peers.gradient_x_input),
)

DEFAULT_MODELS = (
    "MLP (ReLU)",
    "RNN (GRU)",
    "RNN (LSTM)",
    "RETAIN",
    "StageNet",
    "StageAttentionNet",
    "Transformer",
    "EHRMamba",
)


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        models: Names of families.
        size: Sizes of the models.
        patients: Patients of the synthetic cohort, codes only.
        explained: How many are explained, of the quarter held out from training.
        steps: Training steps.
        pairs: Orders sampled per patient, each used forwards and backwards.
    """

    models: tuple[str, ...] = DEFAULT_MODELS
    size: Size = SMALL
    patients: int = 700
    explained: int = 24
    steps: int = 100
    pairs: int = 50


@dataclass(frozen=True)
class Correlation:
    """Mean over patients and its standard error."""

    mean: float
    error: float


@dataclass(frozen=True)
class Row:
    """One model.

    Args:
        model: Its name.
        auroc: Area under the ROC curve on patients that it was not trained on.
        tokens: Real tokens per patient, on average.
        split_half: Correlation of the Shapley estimates of two halves of the orders.
        correlations: With the Shapley values, by method.
        ahead: Our correlation less the method's, patient by patient.
        refused: Why methods did not take the model.
    """

    model: str
    auroc: float
    tokens: float
    split_half: Correlation
    correlations: dict[str, Correlation]
    ahead: dict[str, Correlation]
    refused: dict[str, str]


def quick() -> Settings:
    """Settings that take seconds."""
    from .families import TINY

    return Settings(("MLP (ReLU)", "StageNet"), TINY, 40, 4, 3, 4)


def measure(settings: Settings) -> list[Row]:
    """Train and measure every model."""
    rows = []
    for family in tqdm(named(*settings.models), desc="faithfulness"):
        rows.append(_row(family, settings))
    return rows


def _row(family: Family, settings: Settings) -> Row:
    dataset = cohort(family.codes_schema, settings.patients)
    model = family.build(dataset, settings.size)
    held_out = range(3 * settings.patients // 4, settings.patients)
    train(model, dataset, range(held_out.start), settings.steps)
    case = Case(model, batch_of(dataset, held_out[: settings.explained]))
    truth = _shapley(case, settings.pairs, family.name)
    found, refused = _correlations(case, truth)
    return Row(
        model=family.name,
        auroc=auroc(model, batch_of(dataset, held_out)),
        tokens=float(np.mean([len(first) for first, _ in truth])),
        split_half=_mean([pearson(a, b) for a, b in truth]),
        correlations={name: _mean(values) for name, values in found.items()},
        ahead={
            name: _mean([a - b for a, b in zip(found["ours"], values)])
            for name, values in found.items()
            if name != "ours"
        },
        refused=refused,
    )


def _shapley(case: Case, pairs: int, name: str) -> list[tuple[Tensor, Tensor]]:
    """Both estimates of every patient."""
    adapter = case.adapter
    encoded = adapter.encode(case.batch)
    game = Game(
        adapter,
        encoded.inputs,
        adapter.baseline(encoded, "unk"),
        encoded.masks,
        encoded.additional_forward_args,
    )
    generator = torch.Generator().manual_seed(0)
    patients = tqdm(range(len(encoded)), desc=name, leave=False)
    return [sampled(game, row, pairs, generator) for row in patients]


def _correlations(
    case: Case, truth: list[tuple[Tensor, Tensor]]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Of each patient, by method; and why methods refused the model."""
    encoded = case.adapter.encode(case.batch)
    masks = dict(zip(encoded.feature_keys, encoded.masks))
    found, refused = {}, {}
    for name, method in METHODS:
        try:
            attributions = method(case)
        except Exception as error:  # whatever a peer raises is its answer
            if name == "ours":
                raise
            refused[name] = peers.refusal(error)
            continue
        found[name] = [
            pearson(_tokens(attributions, masks, row), (a + b) / 2)
            for row, (a, b) in enumerate(truth)
        ]
    return found, refused


def _tokens(
    attributions: Attributions, masks: Mapping[str, Tensor], row: int
) -> Tensor:
    """A patient's attributions of real tokens, in the order of the players."""
    parts: list[Any] = [attributions[k][row][mask[row]] for k, mask in masks.items()]
    return torch.cat(parts).detach()


def _mean(values: list[float]) -> Correlation:
    error = float(np.std(values, ddof=1) / len(values) ** 0.5)
    return Correlation(float(np.mean(values)), error)
