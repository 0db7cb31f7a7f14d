"""Cohorts on disk, made from explanations without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from explanations import explain

from captum_ehr.cohort.columns import header_of, patients_table, rows_table
from captum_ehr.explanation import Explanation, FeatureRecord
from captum_ehr.propagation import Diagnostics

CODES = ("<pad>", "<unk>", *(f"C{k:03d}" for k in range(40)))


def synthetic(
    samples: int, seed: int = 0, per_patient: int = 2, **changes: Any
) -> Explanation:
    """Patients of several samples: codes in visits, drugs, labs over time, columns."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, len(CODES), (samples, 3, 4), generator=random)
    # Common and rare codes.
    ids = (ids.double() ** 2 / len(CODES)).long()
    flat = torch.randint(0, 5, (samples, 3), generator=random)
    time = torch.arange(3.0).expand(samples, 3).clone()
    labs = torch.randn(samples, 3, 2, generator=random)
    static = torch.randn(samples, 3, generator=random)
    drugs = ("<pad>", "A10BA02", "C07AB02", "N02BE01", "odd")
    features = {
        "conditions": FeatureRecord(ids, ids > 0, time, CODES),
        "drugs": FeatureRecord(flat, flat > 0, None, drugs),
        "labs": FeatureRecord(labs, labs > -1, None, None, ("lactate", "sodium")),
        "static": FeatureRecord(static, static > -2),
    }
    shares = {
        key: torch.randn(record.values.shape, generator=random) * record.mask
        for key, record in features.items()
    }
    total = sum(share.double().flatten(1).sum(1) for share in shares.values())
    given: dict[str, Any] = {
        "f_input": total - 1,
        "f_baseline": torch.full((samples,), -1.0).double(),
        "delta": torch.zeros(samples).double(),
        "rescale_factor": torch.ones(samples).double(),
        "patient_ids": tuple(f"p{k // per_patient:05d}" for k in range(samples)),
        "mode": "binary",
        "model_name": "RNN",
        "baseline": "unk",
        "target_names": ("died",),
        "names": {"C001": "heart failure"},
    }
    return explain(features, shares, **(given | changes))


def write_cohort(
    folder: Path,
    explanation: Explanation,
    *,
    observed: Sequence[Any] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    parts: int = 3,
    failed: Sequence[dict[str, Any]] = (),
    target: Any = 0,
) -> Path:
    """A finished cohort; a patient's samples come to stand in several parts.

    Args:
        folder: Where to.
        explanation: What is in it.
        observed: Of each sample what came to pass.
        columns: More of each sample, by name.
        parts: Samples are dealt out to so many.
        failed: Who could not be explained, in the first part.
        target: What was asked for.
    """
    seen = pa.array([None] * len(explanation) if observed is None else observed)
    for number in range(parts):
        rows = list(range(number, len(explanation), parts))
        part = folder / "parts" / f"part-{number:05d}"
        part.mkdir(parents=True)
        some = explanation[rows]
        table = rows_table(some, rows)
        pq.write_table(table, part / "rows.parquet", compression="zstd")
        people = patients_table(some, rows, seen.take(rows))
        for name, values in (columns or {}).items():
            people = people.append_column(name, pa.array(values).take(rows))
        pq.write_table(people, part / "patients.parquet")
        files = ("rows.parquet", "patients.parquet")
        said = {
            "patients": len(rows),
            "rows": len(table),
            "failed": [] if number else list(failed),
            "fingerprint": "x",
            "diagnostics": Diagnostics().to_dict(),
            "bytes": {name: (part / name).stat().st_size for name in files},
        }
        (part / "part.json").write_text(json.dumps(said))
    header = {
        "format": 1,
        "fingerprint": "x",
        "samples": len(explanation) + len(failed),
        "partitions": parts,
        "identity": {
            "options": {"target": target},
            "explainer": {"class": "captum_ehr.attr.deep_lift.DeepLiftEHR"},
        },
        "explanation": header_of(explanation),
    }
    (folder / "cohort.json").write_text(json.dumps(header))
    return folder
