"""The built-in synthetic cohort: patients drawn at random, the risk as stated."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from captum_ehr.datasets.codes import CONDITIONS, DRUGS, Code
from captum_ehr.datasets.labs import LABS
from captum_ehr.datasets.truth import Sample, risk

if TYPE_CHECKING:
    from pyhealth.datasets import SampleDataset

INPUT_SCHEMA: Mapping[str, str] = MappingProxyType(
    {"conditions": "stagenet", "drugs": "stagenet", "labs": "stagenet_tensor"}
)
"""PyHealth's processor of each feature; StageNet and Transformer take all three."""

OUTPUT_SCHEMA: Mapping[str, str] = MappingProxyType({"outcome": "binary"})
"""PyHealth's processor of the label: death within a year of the last visit."""

TIME_UNIT = "weeks"
"""The unit of every time: weeks since the previous admission, 0 at the first.

PyHealth's StageNet tasks count from the previous admission too, but in hours.
StageNet puts that number beside the embedding, unscaled: thousands of hours
saturate its gates and hide the codes (test AUROC .75 on this cohort, not .85).
"""

_DAYS_PER_WEEK = 7
_MAX_VISITS = 6
_MEDIAN_GAP_DAYS = 75.0
# A z-value this low stays above zero in every lab's unit.
_LOWEST_Z = -2.2
_HIGHEST_Z = 4.0


def _gaps(rng: np.random.Generator, visits: int) -> list[float]:
    """Weeks since the previous admission, 0 at the first: ``visits`` numbers."""
    days = np.ceil(_MEDIAN_GAP_DAYS * np.exp(rng.normal(0.0, 0.9, visits)))
    days[0] = 0
    return [round(float(day) / _DAYS_PER_WEEK, 4) for day in days]


def _code_visits(
    rng: np.random.Generator, codes: tuple[Code, ...], visits: int
) -> list[list[str]]:
    """The codes recorded at each visit, at least one at each."""
    prevalence = np.array([entry.prevalence for entry in codes])
    persistence = np.array([entry.persistence for entry in codes])
    has = rng.random(len(codes)) < prevalence
    # Most of what a patient has is there from the start.
    onset = np.where(
        rng.random(len(codes)) < 0.6, 0, rng.integers(0, visits, len(codes))
    )
    again = rng.random((visits, len(codes))) < persistence
    steps = np.arange(visits)[:, None]
    recorded = has & (steps >= onset) & (again | (steps == onset))
    # A visit without any code would look like padding to PyHealth's models.
    fallback = rng.choice(len(codes), visits, p=prevalence**2 / (prevalence**2).sum())
    empty = ~recorded.any(axis=1)
    recorded[empty, fallback[empty]] = True
    return [
        [codes[i].code for i in rng.permutation(np.flatnonzero(row))]
        for row in recorded
    ]


def _lab_visits(rng: np.random.Generator, visits: int) -> list[list[float]]:
    """z-values ``(visits, labs)``: a level of the patient's own, and noise."""
    level = rng.normal(0.0, 0.8, len(LABS))
    z = level + rng.normal(0.0, 0.6, (visits, len(LABS)))
    rows: list[list[float]] = np.round(np.clip(z, _LOWEST_Z, _HIGHEST_Z), 4).tolist()
    return rows


def _patient(seed: int, number: int) -> Sample:
    rng = np.random.default_rng([seed, number])
    visits = int(rng.integers(2, _MAX_VISITS + 1))
    weeks = _gaps(rng, visits)
    sample = Sample(
        patient_id=f"p{number:04d}",
        conditions=(weeks, _code_visits(rng, CONDITIONS, visits)),
        drugs=(list(weeks), _code_visits(rng, DRUGS, visits)),
        labs=(list(weeks), _lab_visits(rng, visits)),
        outcome=0,
    )
    sample["outcome"] = int(rng.random() < risk(sample))
    return sample


def synthetic_samples(n_patients: int = 1500, seed: int = 0) -> list[Sample]:
    """Draw the cohort as plain data, without PyHealth.

    Each patient has two to six visits at irregular gaps. A visit holds ICD-10-CM
    diagnoses, ATC drugs and one vector of lab z-values; the outcome, death within
    a year of the last visit, is a Bernoulli draw with the probability that
    :func:`captum_ehr.datasets.risk` states.

    Args:
        n_patients: How many patients, at least 1.
        seed: Seed of the random numbers, at least 0. Equal seeds give equal
            patients, and a larger cohort begins with the smaller one.

    Returns:
        One :class:`~captum_ehr.datasets.Sample` per patient. ``conditions`` and
        ``drugs`` are ``(weeks, visits of codes)``, ``labs`` is ``(weeks, visits of
        z-values)`` with the columns of :data:`captum_ehr.datasets.LABS`; weeks are
        since the previous admission, 0 for the first (:data:`TIME_UNIT`).

    Raises:
        ValueError: If ``n_patients`` is below 1 or ``seed`` below 0.

    Example:
        >>> samples = synthetic_samples(3, seed=1)
        >>> [sample["patient_id"] for sample in samples]
        ['p0001', 'p0002', 'p0003']
        >>> weeks, visits = samples[0]["conditions"]
        >>> weeks[0], len(weeks) == len(visits)
        (0.0, True)
    """
    if n_patients < 1:
        raise ValueError(f"n_patients must be at least 1, got {n_patients}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    return [_patient(seed, number) for number in range(1, n_patients + 1)]


def synthetic_cohort(n_patients: int = 1500, seed: int = 0) -> SampleDataset:
    """Draw the cohort as a PyHealth dataset, held in memory.

    Importing PyHealth takes a while; it is imported here and not with the module.

    Args:
        n_patients: How many patients; with fewer than about 10, PyHealth may find
            only one outcome and refuse it.
        seed: Seed of the random numbers, at least 0.

    Returns:
        A ``SampleDataset`` of :func:`synthetic_samples` with the features
        ``conditions``, ``drugs`` and ``labs`` and the label ``outcome``, on which
        PyHealth's StageNet and Transformer both train. Its processor of labs has the
        columns' names, such as ``"Lactate (z)"``.

    Raises:
        ValueError: If ``n_patients`` is below 1 or ``seed`` below 0.

    Example:
        >>> dataset = synthetic_cohort(40, seed=0)  # doctest: +SKIP
        >>> len(dataset), sorted(dataset.input_schema)  # doctest: +SKIP
        (40, ['conditions', 'drugs', 'labs'])
    """
    samples = synthetic_samples(n_patients, seed)
    from pyhealth.datasets import create_sample_dataset

    dataset = create_sample_dataset(
        samples=[dict(sample) for sample in samples],
        input_schema=dict(INPUT_SCHEMA),
        output_schema=dict(OUTPUT_SCHEMA),
        dataset_name="captum_ehr_synthetic",
        task_name="death_within_a_year",
    )
    names = [f"{lab.name} (z)" for lab in LABS]
    dataset.input_processors["labs"].feature_names = names
    return dataset
