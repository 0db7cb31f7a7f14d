"""What lies where in a cohort's folder, and whether it is whole.

::

    out/cohort.json            what was explained how: format, identity, features
    out/order.parquet          patient_id, sample, length, partition, asked columns
    out/parts/part-00000/      under a temporary name until it is whole
        rows.parquet, patients.parquet, part.json

There is no log: the partitions that are there are those that are done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
"""The version of the folder's layout."""

COHORT, ORDER, PARTS = "cohort.json", "order.parquet", "parts"
ROWS, PATIENTS, PART = "rows.parquet", "patients.parquet", "part.json"


class CohortError(RuntimeError):
    """What stands in the way of explaining or reading a cohort, and what to do."""


def part_folder(out: Path, number: int) -> Path:
    """Where a partition is once it is whole."""
    return out / PARTS / f"part-{number:05d}"


def read_manifest(out: Path) -> dict[str, Any]:
    """What ``cohort.json`` says.

    Raises:
        FileNotFoundError: If there is none.
        CohortError: If it is none of ours, or of another format.
    """
    path = out / COHORT
    manifest = _json(path)
    if manifest is None or "format" not in manifest:
        raise CohortError(f"{path} is not a cohort's: it has no format.")
    if manifest["format"] != FORMAT:
        raise CohortError(
            f"{path} has format {manifest['format']}; this version of captum_ehr reads "
            f"format {FORMAT}. Read it with the version that wrote it: "
            f"{manifest.get('identity', {}).get('versions')}."
        )
    return manifest


def finished_parts(out: Path, manifest: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The reports (``part.json``) of all partitions that are whole, by their number."""
    numbers = range(manifest["partitions"])
    reports = {n: part_report(out, n, manifest["fingerprint"]) for n in numbers}
    return {n: report for n, report in reports.items() if report is not None}


def part_report(out: Path, number: int, fingerprint: str) -> dict[str, Any] | None:
    """The report of a partition; None if it is not there, not whole, or another's."""
    folder = part_folder(out, number)
    try:
        report = _json(folder / PART)
        sizes = {name: os.stat(folder / name).st_size for name in (ROWS, PATIENTS)}
    except (FileNotFoundError, NotADirectoryError):
        return None
    if report is None or report.get("bytes") != sizes:
        return None
    return report if report.get("fingerprint") == fingerprint else None


def _json(path: Path) -> dict[str, Any] | None:
    """An object in a file; None where it holds something else."""
    try:
        held = json.loads(path.read_bytes())
    except ValueError:
        return None
    return held if isinstance(held, dict) else None
