"""What lies where in a cohort's folder, and whether it is whole.

::

    out/cohort.json            what was explained how: format, identity, features
    out/order.parquet          patient_id, sample, length, shape, partition, and the
                               columns asked for
    out/parts/part-00000/      under a temporary name until it is whole
        rows.parquet, patients.parquet, part.json

There is no log: the partitions that are there are those that are done.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, TypedDict

FORMAT = 1
"""The version of the folder's layout."""

COHORT, ORDER, PARTS = "cohort.json", "order.parquet", "parts"
ROWS, PATIENTS, PART = "rows.parquet", "patients.parquet", "part.json"


class CohortError(RuntimeError):
    """What stands in the way of explaining or reading a cohort, and what to do."""


class _Options(TypedDict):
    target: Any


_Explainer = TypedDict("_Explainer", {"class": str})


class _Identity(TypedDict):
    options: _Options
    explainer: _Explainer


@dataclass(frozen=True)
class _Manifest:
    """``cohort.json``, as far as who goes on with it reads it."""

    fingerprint: str
    samples: int
    partitions: int
    identity: _Identity


def part_folder(out: Path, number: int) -> Path:
    """Where a partition is once it is whole."""
    return out / PARTS / f"part-{number:05d}"


def read_manifest(out: Path) -> dict[str, Any]:
    """What ``cohort.json`` says.

    Raises:
        FileNotFoundError: If there is none.
        CohortError: If it is none of ours, damaged, or of another format.
    """
    path = out / COHORT
    try:
        manifest = read_json(path)
    except FileNotFoundError as error:
        error.strerror = "there is no such file, so this is no cohort's folder"
        raise
    if manifest is None or "format" not in manifest:
        raise CohortError(f"{path} is not a cohort's: it has no format.")
    if manifest["format"] != FORMAT:
        raise CohortError(
            f"{path} has format {shortened(manifest['format'])}; this version of "
            f"captum_ehr reads format {FORMAT}. Read it with the version that wrote "
            "it: its identity has the versions."
        )
    said = checked(_Manifest, manifest, path)
    if not 0 < said.partitions <= said.samples:
        raise CohortError(
            f"{path}: partitions is {said.partitions}, expected 1 to {said.samples}, "
            "as many as it has samples."
        )
    return manifest


def checked[T](kind: type[T], held: Any, path: Path) -> T:
    """What a file holds, as a dataclass.

    Raises:
        CohortError: If it is of another form; it says where.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(held)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        came = "missing" if first["type"] == "missing" else shortened(first["input"])
        raise CohortError(f"{path}: {place} is {came}: {first['msg']}.") from None


def finished_parts(out: Path, manifest: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The reports (``part.json``) of all partitions that are whole, by their number."""
    numbers = parts_begun(out, manifest)
    reports = {n: part_report(out, n, manifest["fingerprint"]) for n in numbers}
    return {n: report for n, report in reports.items() if report is not None}


def parts_begun(out: Path, manifest: Mapping[str, Any]) -> list[int]:
    """The numbers of the partitions that there are folders of, whole or not.

    Of a manifest that names more than anybody could count these are still few.
    """
    names = (path.name.removeprefix("part-") for path in (out / PARTS).glob("part-*"))
    numbers = {int(name) for name in names if name.isdecimal()}
    return sorted(number for number in numbers if number < manifest["partitions"])


def part_report(out: Path, number: int, fingerprint: str) -> dict[str, Any] | None:
    """The report of a partition; None if it is not there, not whole, or another's."""
    folder = part_folder(out, number)
    try:
        report = read_json(folder / PART)
        sizes = {name: os.stat(folder / name).st_size for name in (ROWS, PATIENTS)}
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    if report is None or report.get("bytes") != sizes:
        return None
    return report if report.get("fingerprint") == fingerprint else None


def read_json(path: Path) -> dict[str, Any] | None:
    """An object in a file; None where it holds something else.

    Raises:
        OSError: If it cannot be read.
    """
    from pydantic_core import from_json

    try:
        held = from_json(path.read_bytes())  # which bounds the depth
    except ValueError:
        return None
    return held if isinstance(held, dict) else None
