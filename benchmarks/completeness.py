"""How far raw attributions miss f(x) - f(x0), before anything is rescaled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from . import peers
from .data import Training, batch_of, cohort, train
from .families import SMALL, TINY, Family, Size, named
from .peers import Case, Explained

#: A median over patients, or why the method refused the model.
type Measured = float | str

METHODS: tuple[tuple[str, Callable[[Case], Explained]], ...] = (
    ("ours", peers.raw_ours),
    ("pyhealth_deeplift", peers.raw_pyhealth_deeplift),
    (
        "pyhealth_deeplift_own_reference",
        partial(peers.raw_pyhealth_deeplift, own_reference=True),
    ),
    ("captum_deeplift", peers.raw_captum_deeplift),
    ("pyhealth_ig_50", peers.raw_pyhealth_ig),
    ("captum_ig_50", peers.raw_captum_ig),
)


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        models: Names of families; all if empty.
        size: Sizes of the models.
        patients: Patients of the cohort.
        explained: How many of them are explained; the model trains on the others.
        steps: Training steps before the second measurement.
    """

    models: tuple[str, ...] = ()
    size: Size = SMALL
    patients: int = 300
    explained: int = 32
    steps: int = 50


@dataclass(frozen=True)
class Row:
    """One model: by method, medians with random and with trained weights."""

    model: str
    random: dict[str, Measured]
    trained: dict[str, Measured]


def quick() -> Settings:
    """Settings that take seconds."""
    return Settings(("MLP (ReLU)", "Transformer"), TINY, 40, 6, 5)


def jobs(settings: Settings) -> dict[str, Callable[[], Row]]:
    """One per model."""
    return {f.name: partial(_row, f, settings) for f in named(*settings.models)}


def _row(family: Family, settings: Settings) -> Row:
    dataset = cohort(family.schema, settings.patients)
    model = family.build(dataset, settings.size)
    apart = settings.patients - settings.explained
    batch = batch_of(dataset, range(apart, settings.patients))
    case = Case(model, batch, family.mixes)
    random = _medians(case)
    train(model, dataset, range(apart), Training(settings.steps))
    case = Case(model, batch, family.mixes)
    return Row(family.name, random, _medians(case))


def _medians(case: Case) -> dict[str, Measured]:
    return {name: _median(name, method, case) for name, method in METHODS}


def _median(name: str, method: Callable[[Case], Explained], case: Case) -> Measured:
    try:
        found = [method(part).relative_residual() for part in case.parts()]
        return float(torch.cat(found).median())
    except Exception as error:  # whatever a peer raises is its answer
        if name == "ours":
            raise
        return peers.refusal(error)
