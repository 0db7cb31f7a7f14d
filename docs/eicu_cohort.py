"""Stays of the eICU demo as StageNet reads them: diagnoses, drugs and labs over time.

From the first two days in the unit; the outcome is death in hospital.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from pyhealth.datasets import eICUDataset
from pyhealth.tasks import BaseTask

from captum_ehr import Explanation
from captum_ehr.demo.cohorts import Cohort, split_by_patient

HOURS, BIN = 48, 6

# Name in eICU: name to show, unit, usual range, a mean and a standard deviation to
# bring them to one scale.
LABS: Mapping[str, tuple[str, str, tuple[float, float], float, float]] = {
    "creatinine": ("Creatinine", "mg/dL", (0.6, 1.3), 1.4, 1.3),
    "BUN": ("Urea nitrogen", "mg/dL", (7, 20), 25, 18),
    "sodium": ("Sodium", "mmol/L", (135, 145), 138, 5),
    "potassium": ("Potassium", "mmol/L", (3.5, 5.1), 4.1, 0.6),
    "bicarbonate": ("Bicarbonate", "mmol/L", (22, 29), 25, 5),
    "glucose": ("Glucose", "mg/dL", (70, 140), 140, 60),
    "Hgb": ("Haemoglobin", "g/dL", (12, 17), 11, 2),
    "WBC x 1000": ("White cells", "10^9/L", (4, 11), 11, 6),
    "platelets x 1000": ("Platelets", "10^9/L", (150, 400), 210, 95),
    "lactate": ("Lactate", "mmol/L", (0.5, 2.0), 2.2, 1.8),
}


class DeathInHospital(BaseTask):
    """One sample per stay in the unit that has a laboratory value."""

    task_name = "DeathInHospitalEICU"
    input_schema: ClassVar[dict[str, str]] = {
        "conditions": "stagenet",
        "drugs": "stagenet",
        "labs": "stagenet_tensor",
    }
    output_schema: ClassVar[dict[str, str]] = {"death": "binary"}

    def __call__(self, patient: Any) -> list[dict[str, Any]]:
        """The samples of one patient."""
        samples = []
        for stay in patient.get_events(event_type="patient"):
            if stay.hospitaldischargestatus not in ("Alive", "Expired"):
                continue
            one = ("patientunitstayid", "==", stay.patientunitstayid)

            def events(table: str, one: tuple[str, str, str] = one) -> list[Any]:
                return patient.get_events(event_type=table, filters=[one])

            conditions = _binned(
                (event.diagnosisoffset, event.icd9code.split(",")[0])
                for event in events("diagnosis")
                if event.icd9code
            )
            drugs = _binned(
                (event.drugstartoffset, event.drugname.capitalize())
                for event in events("medication")
                if event.drugname and event.drugordercancelled != "Yes"
            )
            labs = _binned(
                (event.labresultoffset, (event.labname, float(event.labresult)))
                for event in events("lab")
                if event.labname in LABS and event.labresult
            )
            if not (conditions and drugs and labs):
                continue
            rows, measured = _rows(labs)
            samples.append(
                {
                    "patient_id": patient.patient_id,
                    "stay": str(stay.patientunitstayid),
                    "conditions": _visits(conditions),
                    "drugs": _visits(drugs),
                    "labs": rows,
                    "labs_measured": measured,
                    "sex": stay.gender or None,
                    "death": int(stay.hospitaldischargestatus == "Expired"),
                }
            )
        return samples


def _binned(events: Any) -> dict[float, list[Any]]:
    """What was recorded, by the hour at which its six hours began."""
    bins: dict[float, list[Any]] = {}
    for offset, what in sorted(events, key=lambda event: float(event[0])):
        hour = float(offset) / 60 // BIN * BIN
        if -24 <= hour < HOURS and what not in bins.setdefault(hour, []):
            bins[hour].append(what)
    return {hour: bins[hour] for hour in sorted(bins) if bins[hour]}


def _visits(bins: dict[float, list[str]]) -> tuple[list[float], list[list[str]]]:
    return list(bins), list(bins.values())


def _rows(
    bins: dict[float, list[tuple[str, float]]],
) -> tuple[tuple[list[float], list[list[float]]], list[list[bool]]]:
    """The last value of each lab as a z-value; before the first one, the mean.

    And which of them were measured in these six hours: the entry ``labs_measured`` of a
    sample is read by no model, and goes with the explanation.
    """
    rows, measured, last = [], [], dict.fromkeys(LABS, 0.0)
    for values in bins.values():
        for name, value in values:
            _, _, _, mean, sd = LABS[name]
            last[name] = (value - mean) / sd
        rows.append(list(last.values()))
        seen = {name for name, _ in values}
        measured.append([name in seen for name in LABS])
    return (list(bins), rows), measured


def readable(explanation: Explanation) -> Explanation:
    """Labs in their units, with usual ranges; attributions stay as they are."""
    labs = explanation.features["labs"]
    mean, sd = (torch.tensor([float(one[i]) for one in LABS.values()]) for i in (3, 4))
    values = torch.where(labs.mask, mean + sd * labs.values, 0.0)
    names = tuple(one[0] for one in LABS.values())
    features = {
        **explanation.features,
        "labs": replace(labs, values=values, columns=names),
    }
    shown = replace(explanation, features=features)
    shown = shown.with_units({"labs": {one[0]: one[1] for one in LABS.values()}})
    return shown.with_ranges({"labs": {one[0]: one[2] for one in LABS.values()}})


def eicu_cohort(root: Path, cache: Path, seed: int = 0) -> Cohort:
    """Read eICU's tables, make the samples, and split them by patient."""
    tables = ["diagnosis", "medication", "lab"]
    base = eICUDataset(root=str(root), tables=tables, cache_dir=str(cache))
    dataset = base.set_task(DeathInHospital())
    labels = [int(sample["death"]) for sample in dataset]
    train, out = split_by_patient(dataset.patient_to_index, labels, len(labels), seed)
    return Cohort(
        title="eICU",
        outcome="death in hospital",
        dataset=dataset,
        train=dataset.subset(train),
        held_out=dataset.subset(out),
        names=_names(root),
        planted=(),
        notes=(),
        epochs=10,
        batch_size=16,
        unit="stays",
        time_label="hours since admission to the unit",
        readable=readable,
        sample_key="stay",
    )


def _names(root: Path) -> dict[str, str]:
    """What eICU calls each ICD-9 code: the end of its diagnosis path."""
    import pandas as pd

    table = pd.read_csv(root / "diagnosis.csv", usecols=["diagnosisstring", "icd9code"])
    table = table.dropna()
    codes = table["icd9code"].str.split(",").str[0]
    ends = table["diagnosisstring"].str.split("|").str[-1]
    return dict(zip(codes, ends, strict=True))
