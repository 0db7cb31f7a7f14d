"""Cohorts: memory, batches by length, what a patient takes, and workers.

Processor time where no clock is needed, each cohort in a folder of its own.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from captum_ehr import DeepLiftEHR, explain_cohort
from captum_ehr.adapter import collated
from captum_ehr.cohort.manifest import finished_parts, read_manifest
from captum_ehr.datasets import synthetic_samples
from captum_ehr.datasets.synthetic import INPUT_SCHEMA, OUTPUT_SCHEMA

from .data import long_histories

type Numbers = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        memory: Sizes of cohorts whose peak of memory is taken.
        ordered: Patients of the cohort of skewed lengths.
        rated: Patients of the cohorts whose time is taken.
        shared: Patients that workers share, ``at_once`` of them a partition.
        at_once: How many samples a partition has.
        workers: Numbers of worker processes, of one thread each.
    """

    memory: tuple[int, ...] = (2_000, 20_000)
    ordered: int = 1_024
    rated: int = 2_048
    shared: int = 4_000
    at_once: int = 256
    workers: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        what: ``"memory"``, ``"lengths"``, ``"rates"`` or ``"workers"``.
        case: Of which cohort, model or workers.
        numbers: What was measured, by name with its unit.
    """

    what: str
    case: str
    numbers: Numbers


def quick() -> Settings:
    """Settings that take seconds; workers are processes, and take longer."""
    return Settings((20,), 24, 24, 24, 8, ())


def jobs(settings: Settings) -> dict[str, Callable[[], Row]]:
    """One for each cohort, model or number of workers."""
    made: dict[tuple[str, str], Callable[[], Numbers]] = {
        **{
            ("memory", f"{count} patients"): partial(_memory, count)
            for count in settings.memory
        },
        **{
            ("lengths", name): partial(_lengths, name, settings.ordered)
            for name in ("Transformer", "RNN", "MLP")
        },
        **{
            ("rates", name): partial(_rates, make, settings.rated)
            for name, make in RATED.items()
        },
        **{
            ("workers", f"{count} workers"): partial(_workers, count, settings)
            for count in settings.workers
        },
    }
    return {
        f"{what}, {case}": partial(_row, what, case, measure)
        for (what, case), measure in made.items()
    }


def _row(what: str, case: str, measure: Callable[[], Numbers]) -> Row:
    return Row(what, case, measure())


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


def _memory(patients: int) -> Numbers:
    """The peak of a process that explains so many."""
    peak, before, _ = in_a_process(_peak, in_a_process(_write, patients))
    return {"peak, MB": peak, "before, MB": before}


def _lengths(name: str, patients: int) -> Numbers:
    """Patients a second, by length and in the dataset's order, lengths being skewed."""
    from pyhealth import models

    dataset = skewed(patients)
    torch.manual_seed(0)
    is_plain = name != "Transformer"
    model = getattr(models, name)(dataset) if is_plain else transformer(dataset)
    explainer = DeepLiftEHR(model.eval())
    explainer.explain(collated([dataset[0]]))
    with folder() as out:
        begun = time.process_time()
        explain_cohort(explainer, dataset, out)
        by_length = time.process_time() - begun
    begun = time.process_time()
    for start in range(0, patients, 32):
        rows = range(start, min(start + 32, patients))
        explainer.explain(collated([dataset[row] for row in rows]))
    in_order = time.process_time() - begun
    return {
        "by length, /s": patients / by_length,
        "in order, /s": patients / in_order,
        "times as fast": in_order / by_length,
    }


def _stagenet(patients: int) -> tuple[Any, Any]:
    from pyhealth.models import StageNet

    dataset = records(patients)
    return StageNet(dataset, 64, 32), dataset


def _mlp(dataset: Any) -> tuple[Any, Any]:
    from pyhealth.models import MLP

    return MLP(dataset), dataset


def _long(patients: int) -> Any:
    return long_histories("codes", patients // 4, (40, 60))


#: By name, from a number of patients to a model and its dataset.
RATED: Mapping[str, Callable[[int], tuple[Any, Any]]] = MappingProxyType(
    {
        "Transformer, built-in cohort": lambda n: _transformed(records(n)),
        "StageNet, built-in cohort": _stagenet,
        "Transformer, 24 codes in the median": lambda n: _transformed(skewed(n)),
        "MLP, 24 codes in the median": lambda n: _mlp(skewed(n)),
        "Transformer, twice 40 to 60 codes": lambda n: _transformed(_long(n)),
        "MLP, twice 40 to 60 codes": lambda n: _mlp(_long(n)),
    }
)


def _transformed(dataset: Any) -> tuple[Any, Any]:
    return transformer(dataset), dataset


def _rates(make: Callable[[int], tuple[Any, Any]], patients: int) -> Numbers:
    """Processor time of a patient, and its bytes."""
    torch.manual_seed(0)
    model, data = make(patients)
    with folder() as out:
        begun = time.process_time()
        explain_cohort(model.eval(), data, out)
        seconds = time.process_time() - begun
        size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
        parts = finished_parts(out, read_manifest(out)).values()
        rows = sum(part["rows"] for part in parts)
        explaining = sum(part["cpu_seconds"] for part in parts)
    return {
        "ms a patient": 1e3 * seconds / len(data),
        "of which in partitions": 1e3 * explaining / len(data),
        "hours for 300,000": 300_000 * seconds / len(data) / 3600,
        "bytes a row": size / rows,
    }


def _workers(count: int, settings: Settings) -> Numbers:
    """Seconds that so many workers of one thread take, started and warm."""
    from dask.distributed import Client, LocalCluster

    dataset = records(settings.shared)
    model = transformer(dataset)
    options = {"threads_per_worker": 1, "dashboard_address": "localhost:0"}
    cluster = LocalCluster(n_workers=count, **options)
    with cluster, Client(cluster) as client:
        for _ in ("started", "warm"):
            with folder() as out:
                begun = time.perf_counter()
                share = {"client": client, "partition": settings.at_once}
                explain_cohort(model, dataset, out, **share)
                wall = time.perf_counter() - begun
                parts = finished_parts(out, read_manifest(out)).values()
                busy = sum(part["seconds"] for part in parts)
    return {"seconds": wall, "partitions at once": busy / wall}
