"""Explaining a cohort: here or on dask's workers, partition by partition."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import nn

from ..adapter import PyHealthAdapter, check_dataset
from ..attr import DeepLiftEHR, DeepLiftShapEHR
from ..attr.classes import Label, is_all, plain, written
from ..attr.deep_lift_shap import patients_of
from ..attr.targets import Target
from ..explanation import Explanation
from ..explanation.explained import Contrast
from ..explanation.labels import Grouping
from .cohort import Cohort
from .columns import header_of
from .durable import make_private, sweep
from .identity import fingerprint_of, identity_of
from .manifest import PARTS, CohortError, finished_parts
from .order import Columns, check_columns, measured, ordered, read_order, write_order
from .padding import company_of
from .partition import Job, explain_partition, explain_samples, refuse
from .progress import logger, progress
from .resuming import begin, check_folder, discard_broken, found
from .workers import Workers, connected

_SAID = (tuple, Label, Contrast)
"""Kinds of targets that stand in words in what a cohort is."""

_READ = 1024
"""How many samples are read at a time for their lengths."""


def explain_cohort(
    model: nn.Module | DeepLiftEHR,
    dataset: Any,
    out: str | Path,
    *,
    baselines: Any = "unk",
    target: Target = None,
    batch_size: int = 32,
    partition: int = 2048,
    client: Any = None,
    resume: bool = True,
    compile: bool = False,
    columns: Columns = (),
    names: Grouping | None = None,
    units: Grouping | None = None,
    ranges: Grouping | None = None,
    target_unit: str = "",
    show_progress: bool = True,
) -> Cohort:
    """Explain every sample of a dataset into Parquet files.

    It may be interrupted in any way at any moment: called again, it does what is
    missing. Who cannot be explained is set aside with the reason, in
    :attr:`Cohort.failed`. Memory does not grow with the cohort.

    Args:
        model: A PyHealth model, a :class:`PyHealthAdapter`, or an explainer with
            options of its own.
        dataset: A PyHealth sample dataset, or anything with samples by index.
        out: The folder; it is made, for its owner alone.
        baselines: See :meth:`PyHealthAdapter.baseline`; for :class:`DeepLiftShapEHR`
            reference patients, or how many. Of a function what it uses has to be the
            same when a run goes on; what it reads from files, or of objects of
            installed packages, is not compared.
        target: One for all, or a contrast; see :meth:`DeepLiftEHR.attribute`.
        batch_size: How many samples at a time; of one length, so with little padding.
        partition: How many samples are written at a time, at most; of long ones fewer.
        client: None for this process; else a ``dask.distributed.Client``, the address
            of a scheduler, or how many processes to start on this machine. Workers
            need the folder, and that of the dataset, under the same path.
        resume: False refuses a folder in which there is a cohort already.
        compile: Passed to :class:`DeepLiftEHR`; for a model, not for an explainer.
        columns: What to keep of each sample beside its numbers, such as sex or age:
            names of its entries, or values by name, one per sample of the dataset.
            They are the ``sample_columns`` of what is read.
        names: Human names of codes; see :meth:`Explanation.with_names`.
        units: Units of columns; see :meth:`Explanation.with_units`.
        ranges: Usual ranges of columns; see :meth:`Explanation.with_ranges`.
        target_unit: Of a regression's label; see :meth:`Explanation.with_target`.
        show_progress: False shows no bar, and logs lines in its place.

    Returns:
        The cohort, to be read.

    Raises:
        CohortError: If the folder holds something else, or a cohort of another model,
            dataset, option or version, which it names; or nobody can be explained.
        TypeError: If what is given is no model, dataset or target.
        ValueError: If the dataset is empty or not the model's, or an option is wrong.
        OSError: If the folder cannot be written, or the dataset not read.

    Example:
        >>> from tempfile import mkdtemp
        >>> from captum_ehr.datasets import tiny_model
        >>> model, _ = tiny_model()
        >>> cohort = explain_cohort(model, model.dataset, mkdtemp())
    """
    _check_caller()
    processes = {"client": client} if isinstance(client, int) else {}
    _check_sizes(dataset, batch_size=batch_size, partition=partition, **processes)
    check_columns(columns, len(dataset))
    explainer = _explainer(model, compile)
    check_dataset(explainer.model.features, explainer.model.model, dataset)
    target = _one_target(target)
    if isinstance(explainer, DeepLiftShapEHR):  # drawn once
        baselines = patients_of(explainer.model, baselines)
    options = {
        "baselines": baselines,
        "target": written(target) if isinstance(target, _SAID) else target,
        "batch_size": batch_size,
        "partition": partition,
        "compile": compile,
        "columns": columns,
        "names": names,
    }
    # Said only where they are given: cohorts that were begun without can go on.
    described = {"units": units, "ranges": ranges, "target_unit": target_unit or None}
    options |= {name: word for name, word in described.items() if word is not None}
    out = Path(out).absolute()
    identity = identity_of(explainer, dataset, options)
    manifest = found(out, identity, resume)
    if manifest is not None and _is_whole(out, manifest):
        return Cohort(out)
    check_folder(out)
    index, explanation = _probe(explainer, dataset, baselines, target)
    make_private(out / PARTS)
    probe = index, dataset[index]
    fingerprint = fingerprint_of(identity)
    job = Job(explainer, dataset, baselines, target, batch_size, probe, fingerprint)
    with connected(client, job, out) as workers:
        if manifest is None:
            explanation = explanation.with_target(unit=target_unit or None)
            explanation = explanation.with_names(names or {}).with_units(units or {})
            explanation = explanation.with_ranges(ranges or {})
            order = _order(job, columns, partition, workers)
            write_order(out, order)
            company = company_of(job, order)
            manifest = begin(out, identity, header_of(explanation), company)
        _explain_missing(job, out, manifest, workers, show_progress)
    _conclude(out, manifest)
    return Cohort(out)


def _explain_missing(
    job: Job,
    out: Path,
    manifest: Mapping[str, Any],
    workers: Workers | None,
    show: bool,
) -> None:
    """Explain all partitions that are not there yet, the longest records first."""
    sweep(out)
    sweep(out / PARTS)
    discard_broken(out, manifest)
    order = read_order(out)
    done = finished_parts(out, manifest)
    tokens = _sums(order, "length")
    sizes = _sums(order, "sample", "count")
    missing = [number for number in range(manifest["partitions"]) if number not in done]
    so_far = sum(sizes[n] for n in done), sum(tokens[n] for n in done)
    with progress(len(order), sum(tokens.values()), so_far, show) as told:
        if workers is not None:
            for report in workers.explain(missing, order):
                number = report["partition"]
                told(sizes[number], tokens[number])
            return
        for number in missing:
            explain_partition(job, out, number, told)


def _order(
    job: Job, columns: Columns, partition: int, workers: Workers | None
) -> pa.Table:
    """Read all samples once, and put them in order."""
    names = () if isinstance(columns, Mapping) else tuple(columns)
    size = len(job.dataset)
    ranges = [range(k, min(k + _READ, size)) for k in range(0, size, _READ)]
    logger.info("reading the lengths of %d samples", size)
    if workers is not None and workers.read:
        tables = workers.measure(names, ranges)
    else:
        features = job.explainer.model.features
        tables = [measured(job.dataset, features, names, rows) for rows in ranges]
    return ordered(tables, columns, partition)


def _sums(order: pa.Table, column: str, how: str = "sum") -> dict[int, int]:
    """Of each partition, a sum over its samples."""
    table = order.group_by("partition").aggregate([(column, how)])
    numbers = table["partition"].to_pylist(), table[f"{column}_{how}"].to_pylist()
    return dict(zip(*numbers))


def _is_whole(out: Path, manifest: Mapping[str, Any]) -> bool:
    return len(finished_parts(out, manifest)) == manifest["partitions"]


def _conclude(out: Path, manifest: Mapping[str, Any]) -> None:
    """Count all; nobody may be missing."""
    reports = finished_parts(out, manifest).values()
    explained = sum(report["patients"] for report in reports)
    failed = [one for report in reports for one in report["failed"]]
    if explained + len(failed) != manifest["samples"]:
        raise CohortError(
            f"{out}: of {manifest['samples']} samples {explained} are explained and "
            f"{len(failed)} set aside. Something else changes this folder; run again."
        )
    said = f"{manifest['samples']:,} samples: {explained:,} explained"
    logger.info("%s, %s set aside", said, f"{len(failed):,}")
    if failed:
        logger.warning(
            "%d sample(s) could not be explained, such as %d: %s. See Cohort.failed.",
            len(failed),
            failed[0]["sample"],
            failed[0]["reason"],
        )


def _probe(
    explainer: DeepLiftEHR, dataset: Any, baselines: Any, target: Target
) -> tuple[int, Explanation]:
    """Explain one sample before anything is begun; if need be another."""
    last = len(dataset) - 1
    job = Job(explainer, dataset, baselines, target, 1, (0, None), "")
    errors: list[Exception] = []
    for index in dict.fromkeys((0, last // 2, last)):
        try:
            return index, explain_samples(job, [dataset[index]], "default")
        except Exception as error:
            refuse(error, 1)
            errors.append(error)
    errors[0].add_note(
        f"explain_cohort: {len(errors)} sample(s) were tried before the cohort was "
        "begun, and none could be explained."
    )
    raise errors[0]


def _explainer(model: Any, compile: bool) -> DeepLiftEHR:
    """An explainer of a PyHealth model."""
    if isinstance(model, DeepLiftEHR):
        if compile:
            raise ValueError(
                "compile=True is for a model; make the explainer with it: "
                "DeepLiftEHR(model, compile=True)."
            )
        explainer = model
    else:
        explainer = DeepLiftEHR(model, compile=compile)
    if not isinstance(explainer.model, PyHealthAdapter):
        raise TypeError(
            f"Expected a PyHealth model or an explainer of one, got "
            f"{type(explainer.model).__name__}."
        )
    return explainer


def _check_caller() -> None:
    """A process that is just being started imports the script that started it."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise CohortError(
            "This script starts worker processes, and each of them runs it again from "
            "the top. Put what it does under a guard:\n\n"
            "    if __name__ == '__main__':\n"
            "        explain_cohort(...)"
        )


def _check_sizes(dataset: Any, **sizes: Any) -> None:
    """Refuse what is no dataset, an empty one, and sizes that are none."""
    if not hasattr(dataset, "__getitem__") or isinstance(dataset, Mapping):
        loader = hasattr(dataset, "batch_size")
        raise TypeError(
            f"Expected a dataset of samples by index, got {type(dataset).__name__}."
            + (" Give its dataset: loader.dataset." if loader else "")
        )
    if not len(dataset):
        raise ValueError("The dataset is empty: there is nobody to explain.")
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name}={size!r}; a whole number, at least 1.")


def _one_target(target: Any) -> Target:
    """One for all, of which NumPy's numbers are Python's."""
    target = plain(target)
    if isinstance(target, tuple):
        target = tuple(map(plain, target))
    kinds = int, str, tuple, Label, Contrast, type(None)
    if not isinstance(target, kinds) or is_all(target):
        what = "every output" if is_all(target) else f"a {type(target).__name__}"
        raise TypeError(
            f"target is {what}; a cohort has one target for all: an index, a label, a "
            "contrast or a tuple, or None for the predicted class of each."
        )
    return target
