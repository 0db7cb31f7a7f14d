"""What the demo needs of a cohort, its split by patient, and the built-in one."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyhealth.datasets import SampleDataset

    from captum_ehr.explanation import Explanation

N_PATIENTS = 5000
"""Enough that chance in rare codes stays below the planted effects."""

_OUTCOME = "death within a year"
_MOST_HELD_OUT = 0.3


class DemoError(Exception):
    """What the demo cannot work with, in words for the person who started it."""


@dataclass(frozen=True)
class Cohort:
    """A PyHealth dataset, split by patient, and how to speak of it."""

    title: str  # the report's heading
    outcome: str  # what the positive label says
    dataset: SampleDataset  # all; the models take vocabularies and labels from it
    train: SampleDataset
    held_out: SampleDataset  # to explain; none of their patients is in train
    names: Mapping[str, str]  # of codes
    planted: tuple[str, ...]  # what the outcome was made from, if known
    notes: tuple[str, ...]  # what a reader of the report has to know
    epochs: int  # unless told otherwise
    batch_size: int
    unit: str = "patients"  # or "admissions": what one sample is
    time_label: str = "time"
    # From the models' units to people's.
    readable: Callable[[Explanation], Explanation] = lambda explanation: explanation
    sample_key: str | None = None  # what tells a patient's samples apart


def split_by_patient(
    patients: Mapping[str, Sequence[int]],
    labels: Sequence[int],
    wanted: int,
    seed: int,
) -> tuple[list[int], list[int]]:
    """Hold whole patients out, with and without the outcome alike.

    Args:
        patients: The indices of each patient's samples.
        labels: The label of each sample, 0 or 1; of others' samples too.
        wanted: How many samples to hold out; at most 30 % of them are.
        seed: Of the draw.

    Returns:
        The indices to train on and the indices held out.

    Raises:
        DemoError: If either part would lack an outcome to learn, or be empty.

    Example:
        >>> patients = {str(i): [i] for i in range(10)}
        >>> train, held_out = split_by_patient(patients, [0, 1] * 5, 2, seed=0)
        >>> len(train), sorted(i % 2 for i in held_out)
        (8, [0, 1])
    """
    rng = random.Random(seed)
    total = sum(map(len, patients.values()))
    if not total:
        raise DemoError("There is not one sample.")
    size = min(wanted, int(_MOST_HELD_OUT * total))
    groups: tuple[list[str], list[str]] = ([], [])
    for patient, indices in patients.items():
        groups[any(labels[i] for i in indices)].append(patient)
    held: list[str] = []
    for group in groups:
        rng.shuffle(group)
        room = math.ceil(sum(len(patients[p]) for p in group) * size / total)
        for patient in group[:-1]:
            if len(patients[patient]) <= room:
                held.append(patient)
                room -= len(patients[patient])
    rng.shuffle(held)
    out = set(held)
    train = [i for patient in patients if patient not in out for i in patients[patient]]
    held_out = [i for patient in held for i in patients[patient]][:size]
    if not held_out or len({labels[i] for i in train}) < 2:
        positive = sum(labels[i] for indices in patients.values() for i in indices)
        raise DemoError(
            f"{total} samples of {len(patients)} patients, {positive} with the "
            "outcome, are too few to train on some patients of each outcome and "
            "explain others."
        )
    return sorted(train), held_out


def planted_factors() -> tuple[str, ...]:
    """Every code, and the lab, that the risk depends on.

    Example:
        >>> planted_factors()[-1]
        'Lactate'
    """
    from captum_ehr import datasets

    return (*datasets.planted_codes(), datasets.LAB_FACTOR.name)


def synthetic_demo_cohort(
    n_patients: int = N_PATIENTS, held_out: int = 200, seed: int = 0
) -> Cohort:
    """Draw the built-in cohort and hold out so many of it, at most 30 %.

    Raises:
        DemoError: If there are too few patients.
    """
    from captum_ehr import datasets

    dataset = datasets.synthetic_cohort(n_patients, seed)
    labels = [int(sample["outcome"]) for sample in dataset]
    patients = {sample["patient_id"]: [i] for i, sample in enumerate(dataset)}
    train, out = split_by_patient(patients, labels, held_out, seed)
    pair = datasets.INTERACTION
    return Cohort(
        title="captum_ehr demo: the synthetic cohort",
        outcome=_OUTCOME,
        dataset=dataset,
        train=dataset.subset(train),
        held_out=dataset.subset(out),
        names=datasets.CODE_NAMES,
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


def readable(explanation: Explanation) -> Explanation:
    """Times since the first visit; labs with names, units and usual ranges.

    The models read gaps since the visit before, and z-values; attributions stay as
    they are. Every lab is measured at every visit.
    """
    import torch

    from captum_ehr import datasets

    features = {}
    for key, record in explanation.features.items():
        if record.time is not None:
            # Gaps are whole days, so tenths of weeks keep visits apart.
            since_first = record.time.cumsum(dim=1).round(decimals=1)
            record = replace(record, time=since_first, times="elapsed")
        if key == "labs":
            mean = torch.tensor([lab.mean for lab in datasets.LABS])
            sd = torch.tensor([lab.sd for lab in datasets.LABS])
            values = torch.where(record.mask, mean + sd * record.values, 0.0)
            values = values.round(decimals=1)
            record = replace(record, values=values, columns=datasets.LAB_NAMES)
            record = replace(record, measured=record.mask)
        features[key] = record
    shown = replace(explanation, features=features)
    if "labs" not in features:
        return shown
    shown = shown.with_units({"labs": {lab.name: lab.unit for lab in datasets.LABS}})
    usual = {lab.name: (lab.low, lab.high) for lab in datasets.LABS}
    return shown.with_ranges({"labs": usual})
