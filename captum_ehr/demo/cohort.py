"""What the demo needs of a cohort, and its split by patient."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyhealth.datasets import SampleDataset

    from captum_ehr.explanation import Explanation

_MOST_HELD_OUT = 0.3


class DemoError(Exception):
    """What the demo cannot work with, in words for the person who started it."""


def unchanged(explanation: Explanation) -> Explanation:
    """The explanation itself."""
    return explanation


@dataclass(frozen=True)
class Cohort:
    """A PyHealth dataset, split by patient, and how to speak of it.

    Args:
        title: The report's heading.
        outcome: What the positive label says, e.g. ``"death within a year"``.
        dataset: All samples; the models take vocabularies and labels from it.
        train: The samples to train on.
        held_out: The samples to explain; none of their patients is in ``train``.
        names: Human names of codes.
        planted: Codes and columns that the outcome was made from, if known.
        notes: What a reader of the report has to know.
        epochs: How long to train unless told otherwise.
        batch_size: How many samples a training step takes.
        unit: What one sample is: ``"patients"`` or ``"admissions"``.
        time_label: What a time is.
        readable: From model's units to people's.
        sample_key: The sample's entry that tells a patient's samples apart, if a
            patient may have several.
    """

    title: str
    outcome: str
    dataset: SampleDataset
    train: SampleDataset
    held_out: SampleDataset
    names: Mapping[str, str]
    planted: tuple[str, ...]
    notes: tuple[str, ...]
    epochs: int
    batch_size: int
    unit: str = "patients"
    time_label: str = "time"
    readable: Callable[[Explanation], Explanation] = unchanged
    sample_key: str | None = None


def split_by_patient(
    patients: Mapping[str, Sequence[int]],
    labels: Sequence[int],
    wanted: int,
    seed: int,
) -> tuple[list[int], list[int]]:
    """Hold whole patients out, with and without the outcome alike.

    Args:
        patients: The indices of each patient's samples.
        labels: The label of each sample, 0 or 1.
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
    if not labels:
        raise DemoError("There is not one sample.")
    size = min(wanted, int(_MOST_HELD_OUT * len(labels)))
    groups: tuple[list[str], list[str]] = ([], [])
    for patient, indices in patients.items():
        groups[any(labels[i] for i in indices)].append(patient)
    held: list[str] = []
    for group in groups:
        rng.shuffle(group)
        room = math.ceil(sum(len(patients[p]) for p in group) * size / len(labels))
        for patient in group[:-1]:
            if len(patients[patient]) <= room:
                held.append(patient)
                room -= len(patients[patient])
    rng.shuffle(held)
    out = set(held)
    train = [i for patient in patients if patient not in out for i in patients[patient]]
    held_out = [i for patient in held for i in patients[patient]][:size]
    if not held_out or len({labels[i] for i in train}) < 2:
        raise DemoError(
            f"{len(labels)} samples of {len(patients)} patients, {sum(labels)} with "
            "the outcome, are too few to train on some patients of each outcome and "
            "explain others."
        )
    return sorted(train), held_out
