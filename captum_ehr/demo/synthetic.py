"""The built-in cohort for the demo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from captum_ehr import datasets
from captum_ehr.demo.cohort import Cohort, split_by_patient

if TYPE_CHECKING:
    from captum_ehr.explanation import Explanation

N_PATIENTS = 5000
"""Enough that chance in rare codes stays below the planted effects."""

_OUTCOME = "death within a year"


def planted_factors() -> tuple[str, ...]:
    """Every code, and the lab, that the risk depends on.

    Example:
        >>> planted_factors()[-1]
        'Lactate'
    """
    return (*datasets.planted_codes(), datasets.LAB_FACTOR.name)


def synthetic_demo_cohort(
    n_patients: int = N_PATIENTS, held_out: int = 200, seed: int = 0
) -> Cohort:
    """Draw the built-in cohort and split it.

    Args:
        n_patients: How many patients, held-out ones included.
        held_out: How many of them to explain; at most 30 %.
        seed: Of the patients and the split.

    Raises:
        DemoError: If there are too few patients.
    """
    samples = datasets.synthetic_samples(n_patients, seed)
    dataset = datasets.synthetic_cohort(n_patients, seed)
    labels = [sample["outcome"] for sample in samples]
    patients = {sample["patient_id"]: [i] for i, sample in enumerate(samples)}
    train, out = split_by_patient(patients, labels, held_out, seed)
    pair = datasets.INTERACTION
    return Cohort(
        title="captum_ehr demo: the synthetic cohort",
        outcome=_OUTCOME,
        dataset=dataset,
        train=dataset.subset(train),
        held_out=dataset.subset(out),
        names=_names(),
        planted=planted_factors(),
        notes=(
            f"Invented patients: {len(train)} to train on, of whom "
            f"{sum(labels[i] for i in train)} had the outcome ({_OUTCOME} of the last "
            f"visit), and {len(out)} held out and explained.",
            "The outcome was drawn from a stated risk, so it is known what matters: "
            "the planted codes, the peak lactate, and nothing else. "
            f"{pair.codes[0]} and {pair.codes[1]} raise the risk only together.",
            "Times are weeks since the first visit. Laboratory values are shown in "
            "their units; the models were given z-values.",
        ),
        epochs=8,
        batch_size=128,
        time_label="weeks since the first visit",
        readable=readable,
    )


def _names() -> Mapping[str, str]:
    units = {lab.name: f"{lab.name} ({lab.unit})" for lab in datasets.LABS}
    return {**datasets.CODE_NAMES, **units}


def readable(explanation: Explanation) -> Explanation:
    """Times since the first visit, labs with names and units, the outcome's name.

    The models read gaps since the visit before, and z-values; attributions stay as
    they are.
    """
    import torch

    features = {}
    for key, record in explanation.features.items():
        if record.time is not None:
            # Gaps are whole days, so tenths of weeks keep visits apart.
            since_first = record.time.cumsum(dim=1).round(decimals=1)
            record = replace(record, time=since_first)
        if key == "labs":
            mean = torch.tensor([lab.mean for lab in datasets.LABS])
            sd = torch.tensor([lab.sd for lab in datasets.LABS])
            values = torch.where(record.mask, mean + sd * record.values, 0.0)
            values = values.round(decimals=1)
            record = replace(record, values=values, columns=datasets.LAB_NAMES)
        features[key] = record
    units = {lab.name: lab.unit for lab in datasets.LABS}
    shown = replace(explanation, features=features)
    return shown.with_units({"labs": units} if "labs" in features else {})
