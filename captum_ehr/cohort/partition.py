"""One partition: its patients explained batch by batch, and written when all are.

The same function runs in the caller's process and on a worker.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import torch

from ..adapter import collated
from ..attr import AttributionWarning, DeepLiftEHR
from ..explanation import Explanation
from ..propagation import Diagnostics, Structure
from .columns import matching, observed_of, patients_table, rows_table
from .durable import whole_folder, write_json, write_table
from .manifest import (
    PART,
    PATIENTS,
    ROWS,
    CohortError,
    part_folder,
    part_report,
    read_manifest,
)
from .order import asked, batches, read_order
from .progress import Told


@dataclass(frozen=True)
class Job:
    """What is done to the patients of every partition.

    Args:
        explainer: Of a PyHealth model.
        dataset: Samples by index.
        baselines: The reference; see :meth:`captum_ehr.DeepLiftEHR.explain`.
        target: What is explained; the same for all.
        batch_size: How many samples at a time.
        probe: The index of a sample that can be explained, and the sample.
        fingerprint: Of the cohort.
    """

    explainer: DeepLiftEHR
    dataset: Any
    baselines: Any
    target: Any
    batch_size: int
    probe: tuple[int, Any]
    fingerprint: str


class _Piece(NamedTuple):
    """A batch, or what a batch was split into."""

    rows: pa.Table
    patients: pa.Table
    report: Diagnostics


def explain_samples(
    job: Job, samples: Sequence[Any], warn: Literal["default", "ignore"] = "ignore"
) -> Explanation:
    """Some samples as one batch; what there is to say of it is in the result."""
    with warnings.catch_warnings():
        warnings.simplefilter(warn, AttributionWarning)
        return job.explainer.explain(collated(samples), job.baselines, job.target)


def explain_partition(
    job: Job,
    out: Path,
    number: int,
    told: Told = lambda samples, tokens: None,
) -> dict[str, Any]:
    """Explain a partition and put it into its place, if it is not there already.

    Returns:
        Its report, as ``part.json`` has it.

    Raises:
        CohortError: If it is not the patients' fault that they cannot be explained.
        OSError: If the dataset cannot be read, or the partition not written.
    """
    manifest = read_manifest(out)
    if manifest["fingerprint"] != job.fingerprint:
        raise CohortError(
            f"{out} has become another cohort's since this run was begun. Give each a "
            "folder of its own."
        )
    if report := part_report(out, number, job.fingerprint):
        return report
    members = read_order(out, number)
    clocks = time.perf_counter(), time.process_time()
    pieces: list[_Piece] = []
    failed: list[dict[str, Any]] = []
    size = 1 if manifest.get("alone") else job.batch_size
    for batch in batches(members, size, manifest["alike"]):
        pieces += _explained(job, batch, failed)
        told(len(batch), sum(batch["length"].to_pylist()))
    rows, patients, account = _joined(job, pieces, failed, members)
    rows = matching(rows, manifest["explanation"])
    report = {
        "fingerprint": job.fingerprint,
        "partition": number,
        "patients": len(patients),
        "failed": failed,
        "rows": len(rows),
        "delta": pc.max(pc.abs(patients["delta"])).as_py() or 0.0,
        "diagnostics": _finite(account.to_dict()),
        "seconds": round(time.perf_counter() - clocks[0], 3),
        "cpu_seconds": round(time.process_time() - clocks[1], 3),
    }
    _write(out, number, rows, patients, report)
    written = part_report(out, number, job.fingerprint)
    if written is None:
        raise CohortError(
            f"{part_folder(out, number)} is there already but not whole, or of another "
            "run. Run again: it is made anew."
        )
    return written


def _write(
    out: Path,
    number: int,
    rows: pa.Table,
    patients: pa.Table,
    report: Mapping[str, Any],
) -> None:
    final = part_folder(out, number)
    try:
        with whole_folder(final) as folder:
            write_table(folder / ROWS, rows)
            write_table(folder / PATIENTS, patients)
            sizes = {name: (folder / name).stat().st_size for name in (ROWS, PATIENTS)}
            write_json(folder / PART, {**report, "bytes": sizes})
    except OSError as error:
        words = (
            f"partition {number} could not be written ({error.strerror or error}); the "
            "partitions before it are whole. Make room, or the folder writable, and "
            "run again: only what is missing is done"
        )
        raise OSError(error.errno, words, str(final)) from error


def _explained(
    job: Job, batch: pa.Table, failed: list[dict[str, Any]]
) -> Iterator[_Piece]:
    """A batch in one piece, or in several without those who cannot be explained."""
    samples, places = [], []
    for place, index in enumerate(batch["sample"].to_pylist()):
        try:
            samples.append(job.dataset[index])
            places.append(place)
        except Exception as error:
            refuse(error, 1)
            failed.append(_failure(batch, place, error))
    if samples:
        yield from _split(job, batch.take(places), samples, failed)


def _split(
    job: Job, batch: pa.Table, samples: Sequence[Any], failed: list[dict[str, Any]]
) -> Iterator[_Piece]:
    """The batch, else each half of it, until who cannot be explained is alone."""
    try:
        explanation = explain_samples(job, samples)
    except Exception as error:
        refuse(error, len(samples))
        if len(samples) == 1:
            failed.append(_failure(batch, 0, error))
            return
    else:
        yield _piece(job, batch, samples, explanation)
        return
    half = len(samples) // 2
    yield from _split(job, batch.slice(0, half), samples[:half], failed)
    yield from _split(job, batch.slice(half), samples[half:], failed)


def _piece(
    job: Job, batch: pa.Table, samples: Sequence[Any], explanation: Explanation
) -> _Piece:
    """The tables of explained samples, with the columns that were asked for."""
    ids = tuple(batch["patient_id"].to_pylist())
    explanation = replace(explanation, patient_ids=ids)
    indices = batch["sample"].to_pylist()
    observed = observed_of(samples, job.explainer.model)
    patients = patients_table(explanation, indices, observed)
    for name in asked(batch):
        patients = patients.append_column(name, batch[name])
    # Messages are each patient's own; the ratio is worked out anew.
    report = replace(explanation.diagnostics, messages=(), cancellation=0.0)
    return _Piece(rows_table(explanation, indices), patients, report)


def _joined(
    job: Job, pieces: Sequence[_Piece], failed: Sequence[Any], members: pa.Table
) -> _Piece:
    """The pieces as one; of nobody where nobody could be explained.

    Where some could not be, the sample that could be explained at the start has to be
    explained still, or it is this process that cannot explain.
    """
    if failed:
        index, sample = job.probe
        alone = members.slice(0, 1)
        try:
            piece = _piece(job, alone, [sample], explain_samples(job, [sample]))
        except Exception as error:
            raise CohortError(
                f"{len(failed)} of {len(members)} samples could not be explained, nor "
                f"sample {index}, which could be at the start: {_words(error)}. The "
                f"first said: {failed[0]['reason']}. What is done stays; run again."
            ) from error
        nobody = piece.rows.slice(0, 0), piece.patients.slice(0, 0), Diagnostics()
        pieces = [*pieces, _Piece(*nobody)]
    account = sum((piece.report for piece in pieces), Diagnostics())
    return _Piece(
        pa.concat_tables([piece.rows for piece in pieces]).unify_dictionaries(),
        pa.concat_tables([piece.patients for piece in pieces]),
        replace(account, structure=_kept(piece.report for piece in pieces)),
    )


def _kept(reports: Iterable[Diagnostics]) -> tuple[Structure, ...]:
    """What was kept in all batches, an entry per operation."""
    merged: dict[str, Structure] = {}
    for one in chain.from_iterable(report.structure for report in reports):
        other = merged.get(one.operation, Structure(one.operation, 0))
        merged[one.operation] = Structure(
            one.operation,
            one.places + other.places,
            max(one.shift, other.shift),
            one.without or other.without,
        )
    return tuple(merged.values())


def refuse(error: Exception, samples: int) -> None:
    """Raise what is no patient's fault."""
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if memory or "allocate memory" in str(error):
        raise CohortError(
            f"a batch of {samples} does not fit into memory ({_words(error)}). What is "
            "done stays. Run again with an explainer that takes fewer at a time, "
            "DeepLiftEHR(model, internal_batch_size=4), or on fewer workers."
        ) from error
    if isinstance(error, OSError):
        raise OSError(
            error.errno,
            f"the dataset, or what else is needed, cannot be read ({error}); what is "
            "done stays, run again when it is there",
        ) from error
    if isinstance(error, (ImportError, _BROKEN)):
        raise CohortError(
            f"this process cannot explain anybody: {_words(error)}. What is done stays;"
            " run again."
        ) from error


#: After these errors a device answers nothing any more.
_BROKEN: type[Exception] = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)


def _failure(batch: pa.Table, place: int, error: Exception) -> dict[str, Any]:
    """Who could not be explained, and why."""
    return {
        "patient_id": batch["patient_id"][place].as_py(),
        "sample": batch["sample"][place].as_py(),
        "reason": _words(error),
    }


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _finite(data: Any) -> Any:
    """Plain data without numbers that are none."""
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
