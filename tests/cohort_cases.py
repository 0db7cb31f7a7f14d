"""Small cohorts to be explained, and what their files hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from captum_ehr.cohort.manifest import finished_parts, read_manifest
from captum_ehr.datasets.tiny import quiet_pyhealth

CODES = [f"I{n}" for n in range(10, 30)]


def samples(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Histories of 1 to 12 codes and three labs; a patient may have two samples."""
    rng = np.random.default_rng(seed)
    return [
        {
            "patient_id": f"p{n - n % 7 // 6}",  # some are the patient's before
            "conditions": rng.choice(CODES, rng.integers(1, 13)).tolist(),
            "labs": rng.normal(size=3).round(3).tolist(),
            "sex": "FM"[n % 2],
            "age": 40 + n,
            "label": n % 2,
        }
        for n in range(count)
    ]


def dataset(
    count: int = 40,
    *,
    in_memory: bool = True,
    rows: Sequence[Any] | None = None,
    mode: str = "binary",
) -> Any:
    """A PyHealth dataset of them."""
    from pyhealth.datasets import create_sample_dataset

    with quiet_pyhealth():
        return create_sample_dataset(
            list(rows or samples(count)),
            {"conditions": "sequence", "labs": "tensor"},
            {"label": mode},
            in_memory=in_memory,
        )


def mlp(data: Any, seed: int = 0) -> Any:
    """An untrained MLP, which does not read padding."""
    from pyhealth.models import MLP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP(data, embedding_dim=8, hidden_dim=8).eval()


class Wrapped:
    """A dataset some of whose records are changed, or raise.

    Args:
        data: The dataset.
        changes: By index, from the sample to what is there instead.
    """

    def __init__(self, data: Any, changes: Mapping[int, Any]) -> None:
        self.data, self.changes = data, changes

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        sample = dict(self.data[index])
        return self.changes[index](sample) if index in self.changes else sample


def raising(error: BaseException) -> Any:
    """A change that raises."""

    def change(sample: Any) -> Any:
        raise error

    return change


def held(out: Path, name: str = "rows.parquet") -> pd.DataFrame:
    """A table of all finished parts, in the order of the dataset."""
    frames = [
        pq.read_table(out / "parts" / f"part-{number:05d}" / name).to_pandas()
        for number in finished_parts(out, read_manifest(out))
    ]
    table = pd.concat(frames, ignore_index=True)
    words = [
        name for name in table if isinstance(table[name].dtype, pd.CategoricalDtype)
    ]
    table[words] = table[words].astype(str)
    return table.sort_values("sample", kind="stable").reset_index(drop=True)


def reports(out: Path) -> dict[int, dict[str, Any]]:
    """The reports of all finished parts."""
    return finished_parts(out, read_manifest(out))


def written(out: Path) -> dict[str, int]:
    """When each file of the finished parts was written."""
    return {str(p): p.stat().st_mtime_ns for p in out.glob("parts/part-*/*")}


def edit(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Every row once, with the numbers of an undisturbed run to rounding."""
    keys = [c for c in ("sample", "feature", "visit", "position") if c in found]
    tables = [
        t.sort_values(keys, kind="stable").reset_index(drop=True)
        for t in (found, expected)
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-5, atol=1e-6)
