"""Faithfulness on the public demo of MIMIC-III: real records, few patients."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from captum_ehr.attr.evaluation.shapley import Sampling
from captum_ehr.demo.mimic3 import mimic3_cohort

from .data import Training, auroc, batch_of, train
from .faithfulness import Row, measured
from .families import SMALL, TINY, Family, Size, named
from .peers import Case

LABEL = "mortality"


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        root: The folder with MIMIC-III's tables.
        models: Names of families that take sequences of codes.
        size: Sizes of the models.
        training: How they are trained.
        explained: Admissions explained, of patients that were not trained on.
        codes: The most codes of an admission that is explained; the longest are left
            out, for the Shapley values' sake.
        sampling: Of the Shapley values.
        perturbations: Of each admission, for Captum's infidelity.
    """

    root: Path
    models: tuple[str, ...] = ("RNN (GRU)", "RNN (LSTM)", "RETAIN", "Transformer")
    size: Size = SMALL
    training: Training = Training(60, 16, 3e-3, decay=1.0, hidden=0.1)
    explained: int = 8
    codes: int = 150
    sampling: Sampling = Sampling(8, 48)
    perturbations: int = 50


def quick(root: Path) -> Settings:
    """Settings that take seconds, after PyHealth has read the tables."""
    training = Training(2, 4)
    return Settings(root, ("RNN (GRU)",), TINY, training, 2, 60, Sampling(2, 2), 4)


def jobs(settings: Settings) -> dict[str, Callable[[], Row]]:
    """One per model; PyHealth reads the tables when the first is called."""

    @cache
    def read() -> Any:
        folder = tempfile.mkdtemp(prefix="captum_ehr_")
        return mimic3_cohort(settings.root, Path(folder))

    return {f.name: partial(_row, f, read, settings) for f in named(*settings.models)}


def _row(family: Family, read: Callable[[], Any], settings: Settings) -> Row:
    data = read()
    model = family.build(data.dataset, settings.size)
    train(model, data.train, range(len(data.train)), settings.training)
    held_out = data.held_out
    chosen = [
        row
        for row in range(len(held_out))
        if _codes(held_out[row], data.dataset) <= settings.codes
    ]
    case = Case(model, batch_of(held_out, chosen[: settings.explained]), family.mixes)
    area = auroc(model, batch_of(held_out, range(len(held_out))), LABEL)
    return measured(family.name, "MIMIC-III", case, area, settings, planted=False)


def _codes(sample: Any, dataset: Any) -> int:
    """How many codes an admission has."""
    return sum(len(sample[key]) for key in dataset.input_schema)
