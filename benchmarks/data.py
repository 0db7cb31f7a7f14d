"""The patients that are measured on: long random histories, and the cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from pyhealth.datasets import create_sample_dataset
from pyhealth.datasets.utils import collate_fn_dict_with_padding
from torch import Tensor, nn

from captum_ehr.datasets import synthetic_samples
from captum_ehr.demo.training import with_unknowns

SCHEMAS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "codes": {"conditions": "sequence", "drugs": "sequence"},
        "codes_labs": {
            "conditions": "sequence",
            "drugs": "sequence",
            "labs": "tensor",
        },
        "visits": {
            "conditions": "stagenet",
            "drugs": "stagenet",
            "labs": "stagenet_tensor",
        },
        "visits_codes": {"conditions": "stagenet", "drugs": "stagenet"},
        "steps": {"conditions": "stagenet", "labs": "stagenet_tensor"},
    }
)
"""Input schemas by name; ``visits`` is the synthetic cohort's own."""

LABEL = "outcome"
LABS = 4
VOCABULARY = 300


def cohort(schema: str, patients: int, seed: int = 0) -> Any:
    """The synthetic cohort as a PyHealth dataset in one of the schemas.

    For ``codes`` the visits are joined; for ``codes_labs`` each lab is its peak.
    """
    samples = []
    for sample in synthetic_samples(patients, seed):
        row: dict[str, Any] = dict(sample)
        if schema.startswith("codes"):
            for key in ("conditions", "drugs"):
                row[key] = [code for visit in row[key][1] for code in visit]
            row["labs"] = [max(column) for column in zip(*row["labs"][1])]
        samples.append(row)
    return _dataset(schema, samples)


def long_histories(schema: str, patients: int, steps: tuple[int, int]) -> Any:
    """Random histories of so many codes, for measuring time; labels alternate."""
    rng = np.random.default_rng(0)
    flat = schema.startswith("codes")
    samples = []
    for number in range(patients):
        length = int(rng.integers(steps[0], steps[1] + 1))
        times = [0.0, *rng.integers(1, 30, length - 1).astype(float).tolist()]
        row: dict[str, Any] = {"patient_id": f"p{number}", LABEL: number % 2}
        for key, letter in (("conditions", "C"), ("drugs", "D")):
            codes = [f"{letter}{n}" for n in rng.integers(VOCABULARY, size=length)]
            row[key] = codes if flat else (times, codes)
        labs = rng.normal(size=(length, LABS)).round(3).tolist()
        row["labs"] = labs[-1] if flat else (times, labs)
        samples.append(row)
    return _dataset(schema, samples)


def _dataset(schema: str, samples: Sequence[Mapping[str, Any]]) -> Any:
    keys = ("patient_id", *SCHEMAS[schema], LABEL)
    return create_sample_dataset(
        [{key: sample[key] for key in keys} for sample in samples],
        dict(SCHEMAS[schema]),
        {LABEL: "binary"},
        dataset_name="benchmarks",
        in_memory=True,
    )


def batch_of(dataset: Any, rows: Sequence[int]) -> dict[str, Any]:
    """These patients as one batch, as PyHealth's data loader makes it."""
    return collate_fn_dict_with_padding([dataset[row] for row in rows])


def on(device: str, value: Any) -> Any:
    """A batch, or a part of one, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: on(device, each) for key, each in value.items()}
    return tuple(on(device, v) for v in value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Training:
    """How a model is trained: AdamW, its rate rising and falling once.

    Args:
        steps: Of the optimizer.
        batch: Patients in a step, drawn with replacement.
        rate: The highest learning rate.
        decay: Of the weights.
        hidden: Share of the codes that are shown as UNK. With none, the embedding of
            UNK, from which explanations start, stays the random vector that it was.
        seed: Of the batches, dropout and hidden codes.
    """

    steps: int
    batch: int = 64
    rate: float = 3e-3
    decay: float = 0.0
    hidden: float = 0.0
    seed: int = 1


def train(
    model: nn.Module, dataset: Any, rows: Sequence[int], training: Training
) -> None:
    """Train on these patients, the same each time; ends in eval mode."""
    patients = [dataset[row] for row in rows]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.rate, weight_decay=training.decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.rate, total_steps=max(2, training.steps)
    )
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        for _ in range(training.steps):
            drawn = torch.randint(len(patients), (training.batch,)).tolist()
            batch = collate_fn_dict_with_padding([patients[n] for n in drawn])
            optimizer.zero_grad()
            loss = model(**with_unknowns(batch, dataset, training.hidden))["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.zero_grad()
    model.eval()


def one_of(batch: Mapping[str, Any], row: int) -> dict[str, Any]:
    """A patient of a batch as a batch, its padding as it was."""

    def part(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(part(each) for each in value)
        return value[row : row + 1]

    return {key: part(value) for key, value in batch.items()}


def auroc(model: nn.Module, batch: Mapping[str, Any], label: str = LABEL) -> float:
    """How well the model ranks these patients: the area under the ROC curve."""
    with torch.no_grad():
        score = model(**batch)["logit"].flatten()
    positive = batch[label].flatten() > 0
    above = score[positive][:, None] - score[~positive][None, :]
    return float(((above > 0).float() + 0.5 * (above == 0).float()).mean())
