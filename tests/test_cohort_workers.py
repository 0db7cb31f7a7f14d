"""Explaining a cohort on dask's workers: the same files, whoever dies."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from cohort_cases import Wrapped, assert_same, dataset, held, mlp, raising, reports

from captum_ehr import CohortError, DeepLiftEHR, explain_cohort
from captum_ehr.cohort import worker
from captum_ehr.cohort.manifest import part_folder, read_manifest
from captum_ehr.cohort.partition import Job
from captum_ehr.cohort.worker import (
    Caller,
    Sealed,
    check,
    explain_on,
    seal,
    unsealed,
)
from captum_ehr.cohort.workers import Workers, is_on_disk

ROOT = Path(__file__).resolve().parents[1]
SMALL: dict[str, Any] = {"batch_size": 4, "partition": 8}
ELSEWHERE = Caller("elsewhere_1", Caller.here().versions)


@pytest.fixture(scope="module")
def memory() -> Any:
    return dataset()


@pytest.fixture(scope="module")
def disk() -> Any:
    with dataset(in_memory=False) as data:
        yield data


@pytest.fixture(scope="module")
def undisturbed(memory: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("cohorts") / "out"
    explain_cohort(mlp(memory), memory, folder, columns=("sex",), **SMALL)
    return folder


@pytest.fixture(scope="module")
def threads() -> Iterator[Any]:
    """A cluster of two workers in this process: no start, the same messages."""
    from dask.distributed import Client, LocalCluster
    from distributed import utils

    options = {"processes": False, "dashboard_address": "localhost:0"}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster,
        Client(cluster) as client,
    ):
        yield client
    # To the tests that come after, its thread would be somebody who draws numbers.
    utils._offload_executor.shutdown()


def assert_undisturbed(out: Path, undisturbed: Path) -> None:
    for name in ("rows.parquet", "patients.parquet"):
        found, expected = held(out, name), held(undisturbed, name)
        if name == "patients.parquet":
            found, expected = (t.drop(columns=["layout"]) for t in (found, expected))
        assert_same(found, expected)
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]


def job(data: Any, out: Path | None = None, **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "explainer": DeepLiftEHR(mlp(data)),
        "dataset": data,
        "baselines": "unk",
        "target": None,
        "batch_size": 4,
        "probe": (0, data[0]),
        "fingerprint": read_manifest(out)["fingerprint"] if out else "",
    }
    return Job(**{**fields, **changes})


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_workers_write_what_this_process_writes(
    where: str, threads: Any, undisturbed: Path, tmp_path: Path, request: Any
) -> None:
    data, before = request.getfixturevalue(where), torch.get_num_threads()
    out = tmp_path / "out"
    options = {**SMALL, "columns": ("sex",)}
    explain_cohort(mlp(data), data, out, client=threads, **options)
    assert_undisturbed(out, undisturbed)
    assert torch.get_num_threads() == before
    explain_cohort(mlp(data), data, out, client=threads.scheduler.address, **options)
    shutil.rmtree(part_folder(out, 0))
    address = threads.scheduler.address
    explain_cohort(mlp(data), data, out, client=address, **options)
    assert_undisturbed(out, undisturbed)


def test_references_by_name_need_no_dataset_on_a_worker(
    threads: Any, memory: Any, tmp_path: Path
) -> None:
    options = {**SMALL, "baselines": "median"}
    explain_cohort(mlp(memory), memory, tmp_path / "a", **options)
    explain_cohort(mlp(memory), memory, tmp_path / "b", client=threads, **options)
    assert_same(held(tmp_path / "b"), held(tmp_path / "a"))


def test_an_error_on_a_worker_stops_the_run_and_what_is_done_stays(
    threads: Any, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain = worker.explain_partition

    def full(job: Job, out: Path, number: int) -> Any:
        if number == 3:
            raise OSError(28, "No space left on device", str(out))
        return explain(job, out, number)

    monkeypatch.setattr(worker, "explain_partition", full)
    out = tmp_path / "out"
    with pytest.raises(OSError, match="No space left"):
        explain_cohort(mlp(memory), memory, out, client=threads, **SMALL)
    assert 3 not in reports(out)
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_who_cannot_be_explained_is_set_aside_on_workers_too(
    threads: Any, memory: Any, tmp_path: Path
) -> None:
    broken = Wrapped(memory, {5: lambda s: {**s, "labs": s["labs"] / 0}})
    out = tmp_path / "out"
    explain_cohort(mlp(memory), broken, out, client=threads, **SMALL)
    failed = [one for report in reports(out).values() for one in report["failed"]]
    assert [one["sample"] for one in failed] == [5]


def test_what_is_sent_is_small_private_and_read_only_if_unchanged(
    memory: Any, tmp_path: Path
) -> None:
    sealed = seal(tmp_path / "work/job.pkl", job(memory))
    path = Path(sealed.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    more = dataset(400)
    bigger = seal(tmp_path / "work/more.pkl", job(more))
    size = Path(bigger.path).stat().st_size
    assert size < path.stat().st_size + 10_000 < len(pickle.dumps(more))
    again = unsealed(sealed)
    assert not again.explainer.model.model.dataset._data and len(memory) == 40
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CohortError, match="was changed since it was written"):
        unsealed(sealed)
    with pytest.raises(CohortError, match="cannot read.*that all workers share"):
        unsealed(Sealed(str(tmp_path / "nothing"), ""))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"versions": {"torch": "1"}}, r"other versions.*torch: '1', now"),
        ({"dataset": "missing"}, "cannot read the dataset.*the folder is gone"),
        ({"probe": (1, {"patient_id": "p0"})}, "finds another sample 1"),
    ],
)
def test_a_worker_that_sees_something_else_is_named(
    disk: Any, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    gone = Wrapped([{}], {0: raising(FileNotFoundError("the folder is gone"))})
    if "dataset" in changes:
        changes = {"dataset": gone}
    caller = ELSEWHERE
    if "versions" in changes:
        caller = ELSEWHERE._replace(versions=tuple(changes.pop("versions").items()))
    sealed = seal(tmp_path / "job.pkl", job(disk, **changes))
    with pytest.raises(CohortError, match=words):
        check(sealed, caller)


def test_workers_take_one_thread_and_the_callers_process_keeps_its_own(
    disk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    sealed = seal(tmp_path / "job.pkl", job(disk))
    check(sealed, Caller.here())
    assert counts == []
    check(sealed, ELSEWHERE)
    assert counts == [1]


def test_a_task_that_runs_several_times_at_once_leaves_one_partition(
    disk: Any, tmp_path: Path, undisturbed: Path
) -> None:
    out = Path(shutil.copytree(undisturbed, tmp_path / "out"))
    shutil.rmtree(part_folder(out, 0))
    sealed = seal(tmp_path / "job.pkl", job(disk, out))
    args = (sealed, Caller.here(), str(out), 0, None)
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(explain_on, *args) for _ in range(4)]
        assert len({str(future.result()) for future in made}) == 1
    assert_undisturbed(out, undisturbed)


def test_what_is_compiled_is_compiled_once_before_the_others_begin(
    threads: Any, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waves: list[int] = []
    results = Workers._results

    def counted(self: Workers, futures: Any) -> Any:
        waves.append(len(futures))
        return results(self, futures)

    monkeypatch.setattr(Workers, "_results", counted)
    for compiles, first in ((False, []), (True, [1])):
        explainer = DeepLiftEHR(mlp(memory))
        explainer.compile = compiles  # type: ignore[attr-defined]
        out = tmp_path / str(compiles)
        waves.clear()
        explain_cohort(explainer, memory, out, client=threads, **SMALL)
        count = len(reports(out))
        assert [n for n in waves[1:] if n] == [*first, count - len(first)]


def test_datasets_on_disk_are_told_from_those_in_memory(memory: Any, disk: Any) -> None:
    assert is_on_disk(disk) and is_on_disk(disk.subset([1, 2]))
    assert not is_on_disk(memory) and not is_on_disk([memory[0]])


def forking() -> Any:
    """Processes forked from a server that has imported everything, and has no threads.

    Those of this process, polars' among them, do not live on in what it forks.
    """
    needed = ["captum_ehr.cohort.worker", "pyhealth.models", "pyhealth.datasets"]
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(needed)
    return server


@contextmanager
def processes(count: int) -> Iterator[Any]:
    """Workers of their own."""
    import dask
    from dask.distributed import Client, LocalCluster
    from distributed import utils

    utils._forkserver_preload_set = True
    forking()
    how = {"distributed.worker.multiprocessing-method": "forkserver"}
    with (
        dask.config.set(how),
        LocalCluster(
            count, threads_per_worker=1, dashboard_address="localhost:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _explain(data: Any, out: Path, address: str) -> None:
    options = {**SMALL, "columns": ("sex",)}
    explain_cohort(mlp(data), data, out, client=address, **options)


@pytest.mark.complete
def test_killed_workers_clients_and_runs_lose_nobody(
    disk: Any, tmp_path: Path, undisturbed: Path
) -> None:
    rng, out = random.Random(1), tmp_path / "out"
    server = forking()
    for turn in range(int(os.environ.get("KILLS", "3"))):
        to_client, from_parent = server.Pipe()
        client = server.Process(target=_client, args=(from_parent, disk, out))
        client.start()
        with processes(2) as cluster:
            to_client.send(cluster.scheduler.address)
            time.sleep(rng.uniform(0, 6))
            pids = list(cluster.run(os.getpid).values())
            victims = [[client.pid], pids[:1], [client.pid, *pids]][turn % 3]
            for pid in victims:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            client.join(120)
            assert client.exitcode is not None
            if turn % 3 == 1:  # dask gives a dead worker's tasks to others
                assert client.exitcode == 0
        if (out / "cohort.json").exists() and len(before := reports(out)) > 3:
            for number in rng.sample([*before], 3):
                shutil.rmtree(part_folder(out, number))
    with processes(2) as cluster:
        _explain(disk, out, cluster.scheduler.address)
    assert_undisturbed(out, undisturbed)


def _client(pipe: Any, data: Any, out: Path) -> None:
    _explain(data, out, pipe.recv())


UNGUARDED = """
from captum_ehr import explain_cohort
from captum_ehr.datasets import tiny_model
{guard}
model, _ = tiny_model()
cohort = explain_cohort(model, model.dataset, {out!r}, client=1)
"""


@pytest.mark.complete
def test_a_script_without_its_guard_says_so(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(UNGUARDED.format(guard="", out=str(tmp_path / "out")))
    ran = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode
    assert "CohortError: This script starts worker processes" in ran.stderr
    assert "CohortError: 1 worker process(es) could not be started" in ran.stderr


@pytest.mark.complete
def test_the_example_of_the_guide_is_a_script(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "cohorts.md").read_text()
    block = page.partition("<!-- not run: starts eight processes -->\n```python\n")[2]
    script = tmp_path / "study.py"
    script.write_text(block.partition("```")[0].replace("client=8", "client=1"))
    subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        cwd=tmp_path,
        timeout=600,
    )
    assert (tmp_path / "eight" / "cohort.json").is_file()


@pytest.mark.complete
def test_processes_of_their_own_write_the_same(tmp_path: Path) -> None:
    """Spawned, as dask does it unless told otherwise; a model of the script's own."""
    script = tmp_path / "study.py"
    script.write_text(
        "from captum_ehr import explain_cohort\n"
        "from captum_ehr.datasets import tiny_model\n"
        "import torch\n"
        "if __name__ == '__main__':\n"
        "    model, _ = tiny_model()\n"
        "    class Own(type(model)):\n"
        "        pass\n"
        "    model.__class__ = Own\n"
        f"    here, there = {str(tmp_path / 'a')!r}, {str(tmp_path / 'b')!r}\n"
        "    explain_cohort(model, model.dataset, here)\n"
        "    explain_cohort(model, model.dataset, there, client=1)\n"
    )
    subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=600,
    )
    assert_same(held(tmp_path / "b"), held(tmp_path / "a"))
