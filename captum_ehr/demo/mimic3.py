"""MIMIC-III for the demo, through PyHealth's own dataset and task."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from captum_ehr.demo.cohort import Cohort, DemoError, split_by_patient
from captum_ehr.demo.names import code_names

if TYPE_CHECKING:
    from pyhealth.datasets import SampleDataset

TABLES = (
    "PATIENTS",
    "ADMISSIONS",
    "ICUSTAYS",
    "DIAGNOSES_ICD",
    "PROCEDURES_ICD",
    "PRESCRIPTIONS",
)
"""The tables that PyHealth reads for the task."""

_OUTCOME = "death in the next admission"
_LABEL = "mortality"
# StageNet takes seconds for a batch of admissions with a thousand prescriptions.
_MOST_SAMPLES = 1000
_FEW = 500


def missing_tables(root: Path) -> tuple[str, ...]:
    """The tables that a folder lacks, as ``.csv`` and as ``.csv.gz``.

    Example:
        >>> missing_tables(Path("no such folder"))[:2]
        ('PATIENTS', 'ADMISSIONS')
    """
    return tuple(
        table
        for table in TABLES
        if not any((root / f"{table}.csv{end}").is_file() for end in ("", ".gz"))
    )


def mimic3_cohort(
    root: Path, cache: Path, held_out: int = 200, seed: int = 0
) -> Cohort:
    """Read MIMIC-III, make the task's samples and split them.

    Args:
        root: The folder with the tables.
        cache: A folder for PyHealth's copies of them.
        held_out: How many admissions to explain; at most 30 %.
        seed: Of the split.

    Raises:
        DemoError: If a table is missing or the samples are too few.
    """
    missing = missing_tables(root)
    if missing:
        raise DemoError(f"{root} lacks the tables {', '.join(missing)} (.csv[.gz]).")
    dataset = _samples(root, cache)
    labels = [int(sample[_LABEL]) for sample in dataset]
    patients = _chosen(dataset.patient_to_index, seed)
    train, out = split_by_patient(patients, labels, held_out, seed)
    size = max(2, min(32, len(train) // 5))
    return Cohort(
        title="captum_ehr demo: MIMIC-III",
        outcome=_OUTCOME,
        dataset=dataset,
        train=dataset.subset(train),
        held_out=dataset.subset(out),
        names=code_names(root, _vocabularies(dataset)),
        planted=(),
        notes=_notes(dataset, labels, train, out),
        epochs=15 if len(train) < _FEW else 8,
        batch_size=size,
        unit="admissions",
        sample_key="hadm_id",
    )


def _samples(root: Path, cache: Path) -> SampleDataset:
    from pyhealth.datasets import MIMIC3Dataset
    from pyhealth.tasks import MortalityPredictionMIMIC3

    tables = ["diagnoses_icd", "procedures_icd", "prescriptions"]
    base = MIMIC3Dataset(root=str(root), tables=tables, cache_dir=str(cache))
    try:
        return base.set_task(MortalityPredictionMIMIC3())
    except ValueError as error:
        # PyHealth's words for no sample at all, or for one outcome only.
        raise DemoError(
            f"PyHealth made no usable samples of {root}: {error}"
        ) from error


def _chosen(patients: dict[str, list[int]], seed: int) -> dict[str, list[int]]:
    """At most so many samples, of patients drawn at random."""
    order = sorted(patients)
    random.Random(seed).shuffle(order)
    chosen: dict[str, list[int]] = {}
    for patient in order:
        if sum(map(len, chosen.values())) >= _MOST_SAMPLES:
            break
        chosen[patient] = list(patients[patient])
    return chosen


def _vocabularies(dataset: SampleDataset) -> dict[str, frozenset[str]]:
    return {
        key: frozenset(map(str, processor.code_vocab))
        for key, processor in dataset.input_processors.items()
    }


def _notes(
    dataset: SampleDataset, labels: list[int], train: list[int], out: list[int]
) -> tuple[str, ...]:
    """How much there is, and how much that is worth."""
    notes = [
        f"Real, de-identified records, by PyHealth's MIMIC3Dataset and "
        f"MortalityPredictionMIMIC3: {len(dataset)} admissions that another followed, "
        f"of {len(dataset.patient_to_index)} patients; {sum(labels)} times the "
        f"patient died in the next one. {len(train)} admissions to train on, of whom "
        f"{sum(labels[i] for i in train)} had the outcome; {len(out)} of other "
        "patients held out and explained. What the page calls a patient is one "
        "admission.",
    ]
    if len(train) < _FEW:
        notes.append(
            f"{len(train)} admissions are far too few to learn medicine from: the page "
            "shows what each model does with real codes, not what is true of them."
        )
    unseen, codes = _unseen(dataset, train, out)
    if unseen:
        notes.append(
            f"{unseen} of the {codes} codes of the held-out admissions occur in none "
            "of those trained on; what a model makes of them is chance."
        )
    notes.append(
        "PyHealth reads records of one date in no fixed order, and the models depend "
        "on it: another run with the same seed gives other numbers."
    )
    return tuple(notes)


def _unseen(
    dataset: SampleDataset, train: list[int], out: list[int]
) -> tuple[int, int]:
    """Held-out codes that training did not show, and all held-out codes."""

    def codes(indices: list[int]) -> set[tuple[str, int]]:
        return {
            (key, int(token))
            for i in indices
            for key in dataset.input_schema
            for token in dataset[i][key].unique()
        }

    held = codes(out)
    return len(held - codes(train)), len(held)
