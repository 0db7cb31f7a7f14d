"""Cohorts: memory, workers, batches by length, and what 300,000 patients take.

Run by hand, ``python -m benchmarks.cohort memory`` (or ``workers``, ``lengths``,
``rates``): minutes each, and ``workers`` needs a core for each of them. Each prints one
line of JSON per measurement.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from captum_ehr import DeepLiftEHR, explain_cohort
from captum_ehr.adapter import collated
from captum_ehr.cohort.manifest import finished_parts, read_manifest
from captum_ehr.datasets import synthetic_samples
from captum_ehr.datasets.synthetic import INPUT_SCHEMA, OUTPUT_SCHEMA

from .data import long_histories

app = typer.Typer(add_completion=False, help=__doc__)


def records(patients: int) -> Any:
    """The built-in cohort, on disk: two to six visits."""
    from pyhealth.datasets import create_sample_dataset

    samples = [dict(sample) for sample in synthetic_samples(patients)]
    schemas = dict(INPUT_SCHEMA), dict(OUTPUT_SCHEMA)
    return create_sample_dataset(samples, *schemas, in_memory=False)


def skewed(patients: int, seed: int = 0) -> Any:
    """Histories of log-normal length in memory: median 24, one in ten above 78."""
    from pyhealth.datasets import create_sample_dataset

    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(np.log(24), 0.92, patients)).astype(int).clip(1, 300)
    samples = [
        {
            "patient_id": f"p{n}",
            "conditions": [f"C{c}" for c in rng.integers(300, size=length)],
            "outcome": n % 2,
        }
        for n, length in enumerate(lengths.tolist())
    ]
    return create_sample_dataset(
        samples, {"conditions": "sequence"}, {"outcome": "binary"}
    )


def transformer(dataset: Any, width: int = 128, layers: int = 2) -> Any:
    """An untrained Transformer, as in the other benchmarks."""
    from pyhealth.models import Transformer

    torch.manual_seed(0)
    options = {"embedding_dim": width, "heads": 4, "num_layers": layers}
    return Transformer(dataset, **options).eval()


@contextmanager
def folder() -> Iterator[Path]:
    """A new one, gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "out"


def tell(**numbers: Any) -> None:
    """One line of JSON."""
    typer.echo(json.dumps(numbers))


def in_a_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call in a process of its own, so that memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def _write(patients: int) -> str:
    return str(records(patients).path)


def _peak(path: str) -> tuple[float, float, int]:
    """MB at most, MB before, and patients, of explaining a dataset on disk."""
    from pyhealth.datasets import SampleDataset

    torch.set_num_threads(1)
    dataset = SampleDataset(path)
    model = transformer(dataset, 32, 1)
    model.dataset = dataset
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with folder() as out:
        explain_cohort(model, dataset, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return peak, before, len(dataset)


@app.command()
def memory(
    patients: Annotated[
        list[int] | None, typer.Option(help="Sizes of cohorts.")
    ] = None,
) -> None:
    """The peak of a process over cohorts of several sizes."""
    for count in patients or (2_000, 20_000):
        path = in_a_process(_write, count)
        peak, before, _ = in_a_process(_peak, path)
        tell(patients=count, peak_mb=round(peak), before_mb=round(before))


@app.command()
def workers(patients: int = 4_000, counts: list[int] | None = None) -> None:
    """How fast workers of one thread each are beside one, started and warm."""
    from dask.distributed import Client, LocalCluster

    dataset = records(patients)
    model = transformer(dataset)
    options = {"threads_per_worker": 1, "dashboard_address": "localhost:0"}
    for count in counts or (1, 2):
        with (
            LocalCluster(n_workers=count, **options) as cluster,
            Client(cluster) as client,
        ):
            for name in ("cold", "warm"):
                with folder() as out:
                    begun = time.perf_counter()
                    explain_cohort(model, dataset, out, client=client, partition=256)
                    wall = time.perf_counter() - begun
                    manifest = read_manifest(out)
                    parts = finished_parts(out, manifest).values()
                    busy = sum(part["seconds"] for part in parts)
                    cpu = sum(part["cpu_seconds"] for part in parts)
                tell(
                    workers=count,
                    run=name,
                    seconds=round(wall, 1),
                    in_partitions=round(busy, 1),
                    cpu_seconds=round(cpu, 1),
                    busy_at_once=round(busy / wall, 2),
                )


@app.command()
def lengths(patients: int = 1_024) -> None:
    """CPU time of batches by length and in the dataset's order, skewed lengths."""
    from pyhealth.models import MLP, RNN

    dataset = skewed(patients)
    torch.manual_seed(0)
    for model in (transformer(dataset), RNN(dataset), MLP(dataset)):
        explainer = DeepLiftEHR(model.eval())
        explainer.explain(collated([dataset[0]]))
        with folder() as out:
            begun = time.process_time()
            explain_cohort(explainer, dataset, out)
            sorted_seconds = time.process_time() - begun
        begun = time.process_time()
        for start in range(0, patients, 32):
            rows = range(start, min(start + 32, patients))
            explainer.explain(collated([dataset[row] for row in rows]))
        plain_seconds = time.process_time() - begun
        tell(
            model=type(model).__name__,
            by_length=round(patients / sorted_seconds, 1),
            in_order=round(patients / plain_seconds, 1),
            times=round(plain_seconds / sorted_seconds, 2),
        )


@app.command()
def rates(patients: int = 2_048, compile: bool = False) -> None:
    """CPU time of a patient, and what 300,000 take on 1, 8 and 64 workers."""
    from pyhealth.models import MLP, StageNet

    dataset = records(patients)
    torch.manual_seed(0)
    flat = skewed(patients)
    long = long_histories("codes", patients // 4, (40, 60))
    models = {
        "Transformer, built-in cohort": (transformer(dataset), dataset),
        "StageNet, built-in cohort": (StageNet(dataset, 64, 32).eval(), dataset),
        "Transformer, 24 codes in the median": (transformer(flat), flat),
        "MLP, 24 codes in the median": (MLP(flat).eval(), flat),
        "Transformer, twice 40 to 60 codes": (transformer(long), long),
        "MLP, twice 40 to 60 codes": (MLP(long).eval(), long),
    }
    for name, (model, data) in models.items():
        with folder() as out:
            begun = time.process_time()
            explain_cohort(model, data, out, compile=compile)
            seconds = time.process_time() - begun
            size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
            parts = finished_parts(out, read_manifest(out)).values()
            rows = sum(part["rows"] for part in parts)
            explaining = sum(part["cpu_seconds"] for part in parts)
        each = seconds / len(data)
        hours = {n: round(300_000 * each / n / 60, 1) for n in (1, 8, 64)}
        tell(
            cohort=name,
            ms_a_patient=round(1e3 * each, 2),
            of_which_in_partitions=round(1e3 * explaining / len(data), 2),
            bytes_a_row=round(size / rows, 1),
            bytes_a_patient=round(size / len(data)),
            minutes_for_300_000=hours,
        )


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    app()
