"""Explaining the held-out patients, and what to say about it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from captum_ehr.demo.cohorts import Cohort
from captum_ehr.explanation import Explanation

_AT_A_TIME = 64


@dataclass(frozen=True)
class Explained:
    """One model's held-out patients."""

    name: str
    explanation: Explanation  # of all held-out patients
    seconds: float
    positives: int  # how many had the outcome
    auroc: float | None  # None where they have one outcome only


def explain(name: str, model: nn.Module, cohort: Cohort) -> Explained:
    """Explain all held-out patients against unknown codes and median values."""
    from pyhealth.datasets import get_dataloader

    from captum_ehr import DeepLiftEHR

    size = len(cohort.held_out)
    batch: dict[str, Any] = next(iter(get_dataloader(cohort.held_out, size)))
    explainer = DeepLiftEHR(model, internal_batch_size=_AT_A_TIME)
    start = time.perf_counter()
    explanation = explainer.explain(batch, "typical", names=cohort.names)
    seconds = time.perf_counter() - start
    ids = explanation.patient_ids
    if cohort.sample_key is not None:
        # One patient's admissions are told apart by it.
        pairs = zip(ids, batch[cohort.sample_key], strict=True)
        ids = tuple(f"{patient}, admission {one}" for patient, one in pairs)
    explanation = replace(explanation, patient_ids=ids).with_target(cohort.outcome)
    (label,) = cohort.dataset.output_schema
    truth = torch.as_tensor(batch[label]).flatten()
    return Explained(
        name,
        cohort.readable(explanation),
        seconds,
        int(truth.sum()),
        auroc(explanation.f_input, truth),
    )


def auroc(score: Any, truth: Any) -> float | None:
    """The chance that a positive has the higher score; ties count half.

    None where there is one outcome only.

    Example:
        >>> import torch
        >>> auroc(torch.tensor([0.1, 0.4, 0.3]), torch.tensor([0, 1, 0]))
        1.0
    """
    from sklearn.metrics import roc_auc_score

    labels = truth.tolist()
    if len(set(labels)) < 2:
        return None
    return float(roc_auc_score(labels, score.tolist()))


def shown_patients(explanation: Explanation, count: int = 12) -> list[int]:
    """Whom the report shows: half of high risk, a quarter of middling, one of low."""
    order = explanation.f_input.argsort(descending=True).tolist()
    if len(order) <= count:
        return order
    low = count // 4
    middle = (len(order) - low) // 2
    return [*order[: count - 2 * low], *order[middle : middle + low], *order[-low:]]


def timeline_patient(explanation: Explanation) -> int:
    """The patient of the highest risk among those with at least four visits.

    Where nobody has that many, or visits are not known, simply of the highest risk.
    """
    frame = explanation.to_frame()
    visits = frame.groupby("patient_id")["visit"].nunique()
    order = explanation.f_input.argsort(descending=True).tolist()
    for patient in order:
        if visits[explanation.patient_ids[patient]] >= 4:
            return int(patient)
    return int(order[0])
