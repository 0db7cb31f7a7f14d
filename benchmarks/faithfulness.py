"""How faithful attributions are to trained models, method by method."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from captum_ehr import Evaluation
from captum_ehr.attr.evaluation.contenders import OURS
from captum_ehr.attr.evaluation.evaluating import evaluated
from captum_ehr.attr.evaluation.shapley import Sampling
from captum_ehr.attr.evaluation.work import Effort

from . import peers, scores
from .data import Training, auroc, batch_of, cohort, train
from .families import MEASURED, SMALL, TINY, Family, Size, named
from .peers import Attributions, Case

METHODS: tuple[tuple[str, Callable[[Case], Attributions]], ...] = (
    ("ours", peers.ours),
    ("ours_3", peers.ours_in_3),
    ("pyhealth_deeplift", peers.pyhealth_deeplift),
    ("captum_deeplift", peers.captum_deeplift),
    ("ig_50", partial(peers.captum_ig, steps=50)),
    ("ig_200", partial(peers.captum_ig, steps=200)),
    ("gradient_x_input", peers.gradient_x_input),
    ("gradient_shap", peers.gradient_shap),
    ("lime", peers.lime),
    ("random", peers.random),
)

TRAININGS: Mapping[str, Training] = {
    "regularised": Training(280, 32, 6e-3, decay=2.0, hidden=0.1),
    "plain": Training(100, 64, 3e-3),
}
"""As in the demo, found to generalise; and without any care, UNK never seen."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        models: Names of families.
        trainings: By name, how each is trained.
        size: Sizes of the models.
        patients: Patients of the synthetic cohort, codes only.
        explained: How many are explained, of the quarter held out from training.
        alone: The same for a model that mixes patients: each forward is of one.
        sampling: Of the Shapley values.
        perturbations: Of each patient, for Captum's infidelity.
    """

    models: tuple[str, ...] = MEASURED
    trainings: Mapping[str, Training] = field(default_factory=lambda: dict(TRAININGS))
    size: Size = SMALL
    patients: int = 1200
    explained: int = 24
    alone: int = 12
    sampling: Sampling = Sampling()
    perturbations: int = 100


@dataclass(frozen=True)
class Correlation:
    """Over patients: median, quartiles, mean and its standard error."""

    median: float
    lower: float
    upper: float
    mean: float
    error: float


@dataclass(frozen=True)
class Scores:
    """Of one method; for all but infidelity, the higher, the better.

    Args:
        correlation: With the Shapley values, patient by patient.
        ahead: Our correlation less this one, patient by patient.
        insertion: Area of the insertion curve.
        deletion: Area of the deletion curve.
        comprehensiveness: PyHealth's.
        sufficiency: PyHealth's; there, the lower, the better.
        infidelity: Captum's, normalised.
        planted: Average precision of the planted codes, if they are known.
    """

    correlation: Correlation
    ahead: Correlation
    insertion: float
    deletion: float
    comprehensiveness: float
    sufficiency: float
    infidelity: float
    planted: float | None


@dataclass(frozen=True)
class Row:
    """One model.

    Args:
        model: Its name.
        training: How it was trained.
        auroc: Area under the ROC curve on patients that it was not trained on.
        tokens: Real tokens per patient, on average.
        orders: Of the Shapley values, per patient.
        split_half: Correlation of the Shapley estimates of two halves of the orders.
        methods: Scores by method.
        refused: Why methods did not take the model.
    """

    model: str
    training: str
    auroc: float
    tokens: float
    orders: float
    split_half: Correlation
    methods: dict[str, Scores]
    refused: dict[str, str]


def quick() -> Settings:
    """Settings that take seconds."""
    return Settings(
        ("MLP (ReLU)", "StageNet"),
        {"regularised": Training(3, 32, 6e-3, decay=2.0, hidden=0.1)},
        TINY,
        patients=40,
        explained=4,
        alone=2,
        sampling=Sampling(2, 2),
        perturbations=4,
    )


def jobs(settings: Settings) -> dict[str, Callable[[], Row]]:
    """One per model and training."""
    return {
        f"{family.name}, {name}": partial(_row, family, name, settings)
        for family in named(*settings.models)
        for name in settings.trainings
    }


def _row(family: Family, name: str, settings: Settings) -> Row:
    case, area = trained(family, settings, settings.trainings[name])
    return measured(family.name, name, case, area, settings, planted=True)


def trained(
    family: Family, settings: Any, training: Training, seed: int = 0
) -> tuple[Case, float]:
    """A trained model and patients that it has not seen, and how well it does.

    Args:
        family: The model.
        settings: With ``patients``, ``explained``, ``alone`` and ``size``.
        training: How it is trained.
        seed: Of its weights.
    """
    dataset = cohort(family.codes_schema, settings.patients)
    model = family.build(dataset, settings.size, seed)
    held_out = range(3 * settings.patients // 4, settings.patients)
    train(model, dataset, range(held_out.start), training)
    count = settings.alone if family.mixes else settings.explained
    area = auroc(model, batch_of(dataset, held_out))
    return Case(model, batch_of(dataset, held_out[:count]), family.mixes), area


def measured(
    model: str,
    training: str,
    case: Case,
    area: float,
    settings: Any,
    *,
    planted: bool,
) -> Row:
    """Every method's scores.

    Args:
        model: Its name.
        training: How it was trained.
        case: The trained model and the patients.
        area: Under its ROC curve.
        settings: With ``sampling`` and ``perturbations``.
        planted: Whether the codes that matter are known.
    """
    found, refused = attributions_of(case)
    table = evaluation(case, found, settings).by_patient()
    by_name = dict(list(table.replace({"method": {OURS: "ours"}}).groupby("method")))
    ours = by_name["ours"]
    return Row(
        model=model,
        training=training,
        auroc=area,
        tokens=float(ours["players"].mean()),
        orders=float(ours["orders"].mean()),
        split_half=over_patients(ours["split_half"].tolist()),
        methods={
            name: _scores(case, given, by_name[name], ours, planted)
            for name, given in found.items()
        },
        refused=refused,
    )


def evaluation(
    case: Case, found: Mapping[str, Attributions], settings: Any
) -> Evaluation:
    """What the package itself measures, of our attributions and of those found.

    Args:
        case: The trained model and the patients.
        found: By method; ours are made again.
        settings: With ``sampling`` and ``perturbations``.
    """

    def known(given: Attributions) -> Callable[[Any], Attributions]:
        return lambda _: given

    return evaluated(
        case.explainer,
        case.batch,
        players="token",
        methods={name: known(given) for name, given in found.items() if name != "ours"},
        measures=("curves", "removal", "infidelity", "shapley"),
        budget=sys.maxsize,
        show_progress=True,
        effort=Effort(settings.sampling, settings.perturbations),
    )


def attributions_of(
    case: Case, methods: Any = METHODS
) -> tuple[dict[str, Attributions], dict[str, str]]:
    """By method; and why methods refused the model."""
    found, refused = {}, {}
    for name, method in tqdm(methods, desc="methods", leave=False):
        try:
            found[name] = peers.explained(method, case)
        except Exception as error:  # whatever a peer raises is its answer
            if name == "ours":
                raise
            refused[name] = peers.refusal(error)
    return found, refused


def _scores(
    case: Case,
    given: Attributions,
    theirs: pd.DataFrame,
    ours: pd.DataFrame,
    planted: bool,
) -> Scores:
    ahead = ours["shapley"].to_numpy() - theirs["shapley"].to_numpy()
    means = ("insertion", "deletion", "comprehensiveness", "sufficiency")
    tokens = [peers.tokens(case, given, row) for row in range(len(case.encoded))]
    return Scores(
        correlation=over_patients(theirs["shapley"].tolist()),
        ahead=over_patients(ahead.tolist()),
        **{name: float(theirs[name].mean()) for name in means},
        infidelity=float(theirs["infidelity"].median()),
        planted=_planted(case, tokens) if planted else None,
    )


def _planted(case: Case, tokens: list[torch.Tensor]) -> float:
    """Average precision of the planted codes, mean over patients who have some."""
    found = []
    for row, values in enumerate(tokens):
        relevant = scores.planted(case, row)
        if bool(relevant.any()) and not bool(relevant.all()):
            found.append(scores.average_precision(relevant, values.abs()))
    return float(np.mean(found))


def over_patients(values: list[float]) -> Correlation:
    """Their median, quartiles, mean and its standard error."""
    lower, median, upper = np.percentile(values, (25, 50, 75)).tolist()
    error = float(np.std(values, ddof=1) / len(values) ** 0.5)
    return Correlation(median, lower, upper, float(np.mean(values)), error)
