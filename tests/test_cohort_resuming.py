"""A cohort goes on where it was, refuses what is not its own, and loses nobody."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cohort_cases import (
    Wrapped,
    assert_same,
    dataset,
    edit,
    held,
    mlp,
    reports,
    samples,
    written,
)

from captum_ehr import CohortError, DeepLiftEHR, explain_cohort
from captum_ehr.cohort import durable, identity, running
from captum_ehr.cohort.durable import owner, sweep, whole_folder
from captum_ehr.cohort.manifest import part_folder, read_manifest

SMALL: dict[str, Any] = {"batch_size": 4, "partition": 8}
COMPLETE = pytest.mark.complete


@pytest.fixture(scope="module")
def data() -> Any:
    return dataset()


@pytest.fixture(scope="module")
def model(data: Any) -> Any:
    return mlp(data)


@pytest.fixture(scope="module")
def undisturbed(
    model: Any, data: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder: Path = tmp_path_factory.mktemp("cohorts") / "out"
    explain_cohort(model, data, folder, **SMALL)
    return folder


@pytest.fixture
def out(undisturbed: Path, tmp_path: Path) -> Path:
    """A finished cohort, to be changed."""
    return Path(shutil.copytree(undisturbed, tmp_path / "out"))


def assert_undisturbed(out: Path, undisturbed: Path) -> None:
    for name in ("rows.parquet", "patients.parquet"):
        found, expected = held(out, name), held(undisturbed, name)
        if name == "patients.parquet":
            found, expected = (t.drop(columns=["layout"]) for t in (found, expected))
        assert_same(found, expected)
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]


class TestGoingOn:
    def test_what_is_done_is_not_done_again(
        self, out: Path, model: Any, data: Any, undisturbed: Path
    ) -> None:
        before = written(out)
        explain_cohort(model, data, out, **SMALL)
        assert written(out) == before
        shutil.rmtree(part_folder(out, 1))
        explain_cohort(model, data, out, **SMALL)
        after = written(out)
        changed = {name for name in after if after[name] != before[name]}
        assert changed == {name for name in before if "part-00001" in name}
        assert_undisturbed(out, undisturbed)

    @pytest.mark.parametrize("name", ["part.json", "rows.parquet", "patients.parquet"])
    @pytest.mark.parametrize(
        "damage", ["cut", *(pytest.param(d, marks=COMPLETE) for d in ("gone", "empty"))]
    )
    def test_a_part_that_is_not_whole_is_made_anew(
        self,
        out: Path,
        model: Any,
        data: Any,
        undisturbed: Path,
        name: str,
        damage: str,
    ) -> None:
        path = part_folder(out, 2) / name
        content = path.read_bytes()
        path.unlink()
        if damage != "gone":
            path.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
        assert 2 not in reports(out)
        explain_cohort(model, data, out, **SMALL)
        assert_undisturbed(out, undisturbed)

    def test_less_memory_is_no_other_cohort(
        self, out: Path, model: Any, data: Any, undisturbed: Path
    ) -> None:
        shutil.rmtree(part_folder(out, 0))
        explainer = DeepLiftEHR(model, internal_batch_size=2)
        explain_cohort(explainer, data, out, **SMALL)
        assert_undisturbed(out, undisturbed)

    def test_two_at_once_make_one(
        self, out: Path, model: Any, data: Any, undisturbed: Path
    ) -> None:
        """As when dask runs a task twice: the second finds the first one's."""
        final = part_folder(out, 0)
        before = written(out)
        with whole_folder(final) as folder:
            (folder / "part.json").write_text("{}")
        assert written(out) == before
        assert_undisturbed(out, undisturbed)


class TestRefusing:
    def changed_weight(self, model: Any, data: Any) -> tuple[Any, Any, dict[str, Any]]:
        other = mlp(data)
        with torch.no_grad():
            list(other.parameters())[-1].view(-1)[-1] += 1e-3
        return other, data, {}

    def test_the_same_again_is_the_same(self, data: Any, out: Path) -> None:
        explain_cohort(mlp(data), dataset(), out, **SMALL)

    def changed_buffer(self, model: Any, data: Any) -> tuple[Any, Any, dict[str, Any]]:
        other = mlp(data)
        other.register_buffer("scale", torch.ones(1))
        return other, data, {}

    def changed_attribute(
        self, model: Any, data: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        other = mlp(data)
        other.hidden_dim = 9
        return other, data, {}

    def changed_record(self, model: Any, data: Any) -> tuple[Any, Any, dict[str, Any]]:
        def change(sample: Any) -> Any:
            return {**sample, "labs": sample["labs"] + 1}

        whole = Wrapped(data, {0: change})
        for name in ("input_schema", "output_schema", "patient_to_index"):
            setattr(whole, name, getattr(data, name))
        return model, whole, {}

    def other_patients(self, model: Any, data: Any) -> tuple[Any, Any, dict[str, Any]]:
        rows = [{**s, "patient_id": f"q{n}"} for n, s in enumerate(samples(40))]
        return model, dataset(rows=rows), {}

    def fewer_patients(self, model: Any, data: Any) -> tuple[Any, Any, dict[str, Any]]:
        return model, data.subset(range(39)), {}

    def another_option(self, model: Any, data: Any) -> tuple[Any, Any, dict[str, Any]]:
        return model, data, {"baselines": "pad"}

    def another_mapping(self, model: Any, data: Any) -> tuple[Any, Any, dict[str, Any]]:
        return model, data, {"baselines": {"labs": torch.ones(3)}}

    def another_explainer(
        self, model: Any, data: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        return DeepLiftEHR(model, output="probability"), data, {}

    @pytest.mark.parametrize(
        "change, words",
        [
            ("changed_weight", r"model\.numbers\."),
            ("changed_buffer", r"model\.numbers\.scale: None, now"),
            ("changed_attribute", r"model\.structure"),
            ("changed_record", r"dataset\.records"),
            ("other_patients", r"dataset\.patients"),
            ("fewer_patients", r"dataset\.samples: 40, now 39"),
            ("another_option", r"options\.baselines: 'unk', now 'pad'"),
            ("another_mapping", r"options\.baselines: 'unk', now 'dict "),
            ("another_explainer", r"explainer\.output: 'logit', now 'probability'"),
        ],
    )
    def test_another_is_refused_and_what_differs_named(
        self, out: Path, model: Any, data: Any, change: str, words: str
    ) -> None:
        before = written(out)
        other, samples_, options = getattr(self, change)(model, data)
        with pytest.raises(CohortError, match=f"explained otherwise.*{words}"):
            explain_cohort(other, samples_, out, **{**SMALL, **options})
        assert written(out) == before

    def test_another_version_is_refused(
        self, out: Path, model: Any, data: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(identity, "__version__", "99.0")
        with pytest.raises(CohortError, match=r"versions\.captum_ehr: .*now '99\.0'"):
            explain_cohort(model, data, out, **SMALL)

    def test_resuming_may_be_refused(self, out: Path, model: Any, data: Any) -> None:
        with pytest.raises(CohortError, match="holds a cohort already"):
            explain_cohort(model, data, out, resume=False, **SMALL)

    def test_what_is_no_cohort_is_left_alone(
        self, out: Path, model: Any, data: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(CohortError, match="is a file"):
            explain_cohort(model, data, tmp_path / "file")
        (tmp_path / "things").mkdir()
        (tmp_path / "things/thesis.txt").touch()
        with pytest.raises(CohortError, match=r"other things \(thesis\.txt\)"):
            explain_cohort(model, data, tmp_path / "things")
        (out / "cohort.json").unlink()
        with pytest.raises(CohortError, match=r"parts/part-00000"):
            explain_cohort(model, data, out, **SMALL)
        (out / "cohort.json").write_text("{}")
        with pytest.raises(CohortError, match="not a cohort's"):
            explain_cohort(model, data, out, **SMALL)

    def test_a_part_of_another_cohort_is_left_alone(
        self, out: Path, model: Any, data: Any
    ) -> None:
        edit(part_folder(out, 1) / "part.json", fingerprint="another")
        before = written(out)
        with pytest.raises(CohortError, match="part-00001 belongs to another cohort"):
            explain_cohort(model, data, out, **SMALL)
        assert written(out) == before

    def test_a_run_whose_folder_became_anothers_stops(
        self,
        out: Path,
        model: Any,
        data: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shutil.rmtree(part_folder(out, 0))
        missing = running.explain_partition

        def late(job: Any, *args: Any) -> Any:
            edit(out / "cohort.json", fingerprint="another")
            return missing(job, *args)

        monkeypatch.setattr(running, "explain_partition", late)
        with pytest.raises(CohortError, match="has become another cohort's"):
            explain_cohort(model, data, out, **SMALL)
        assert not part_folder(out, 0).exists()

    def test_a_lost_order_and_another_format_are_named(
        self, out: Path, model: Any, data: Any
    ) -> None:
        (out / "order.parquet").unlink()
        with pytest.raises(CohortError, match=r"order\.parquet is missing or damaged"):
            explain_cohort(model, data, out, **SMALL)
        edit(out / "cohort.json", format=99)
        with pytest.raises(CohortError, match="format 99.*reads format 1"):
            explain_cohort(model, data, out, **SMALL)


class TestDisks:
    def test_a_full_disk_leaves_what_is_done(
        self,
        model: Any,
        data: Any,
        tmp_path: Path,
        undisturbed: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sync, calls = os.fsync, iter(range(1000))

        def full(handle: int) -> None:
            if next(calls) > 14:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(handle)

        monkeypatch.setattr(durable.os, "fsync", full)
        where = tmp_path / "out"
        with pytest.raises(OSError, match="could not be written .No space left"):
            explain_cohort(model, data, where, **SMALL)
        monkeypatch.undo()
        assert reports(where) and not [*where.glob("parts/.*")]
        explain_cohort(model, data, where, **SMALL)
        assert_undisturbed(where, undisturbed)

    @pytest.fixture
    def small_disk(self, tmp_path: Path) -> Iterator[Path]:
        """A disk of 128 kB, where one can be mounted."""
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
        if shutil.which("mount") is None or subprocess.run(mount).returncode:
            pytest.skip("no disk can be mounted")
        yield disk
        subprocess.run(["umount", str(disk)], check=True)

    @pytest.mark.complete
    def test_a_disk_that_is_full(
        self, model: Any, data: Any, small_disk: Path, undisturbed: Path
    ) -> None:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(90_000))
        out = small_disk / "out"
        with pytest.raises(OSError) as raised:
            explain_cohort(model, data, out, **SMALL)
        assert raised.value.errno == errno.ENOSPC
        assert not [*out.glob("parts/.*")]
        ballast.unlink()
        explain_cohort(model, data, out, **SMALL)
        assert_undisturbed(out, undisturbed)

    @pytest.mark.complete
    def test_a_disk_that_is_read_only(
        self, model: Any, data: Any, small_disk: Path
    ) -> None:
        explain_cohort(model, data, small_disk / "out", **SMALL)
        shutil.rmtree(part_folder(small_disk / "out", 0))
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        before = written(small_disk / "out")
        with pytest.raises(OSError) as raised:
            explain_cohort(model, data, small_disk / "out", **SMALL)
        assert raised.value.errno == errno.EROFS
        assert written(small_disk / "out") == before


class TestDurable:
    def test_what_killed_processes_left_is_swept_and_nothing_else(
        self, tmp_path: Path
    ) -> None:
        host, _, _ = owner().rpartition("_")
        gone = multiprocessing.get_context("fork").Process(target=int)
        gone.start()
        gone.join()
        dead = [
            tmp_path / f".part-00000.{host}_{gone.pid}.ab.tmp",
            tmp_path / f".order.parquet.{host}_{gone.pid}.cd.tmp",
        ]
        alive = [
            tmp_path / f".part-00001.{owner()}.ab.tmp",
            tmp_path / ".part-00002.elsewhere_1.ab.tmp",
            tmp_path / "mine.tmp",
        ]
        for path in (*dead, *alive):
            path.mkdir() if "part" in path.name else path.touch()
        sweep(tmp_path)
        assert {*tmp_path.iterdir()} == {*alive}
        os.utime(alive[1], (0, 0))
        sweep(tmp_path)
        assert {*tmp_path.iterdir()} == {alive[0], alive[2]}

    def test_after_an_exception_nothing_is_left(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), whole_folder(tmp_path / "final") as folder:
            (folder / "some").touch()
            raise KeyError
        assert not [*tmp_path.iterdir()]


def _explain(model: Any, data: Any, out: Path) -> None:
    explain_cohort(model, data, out, **SMALL)


def killed_at_random(run: Any, out: Path, rng: random.Random, longest: float) -> bool:
    """Begin a run in a process of its own and kill it; whether it was too late."""
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(rng.uniform(0, longest))
    late = process.exitcode is not None
    if not late:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return late


@pytest.mark.complete
def test_killed_at_random_moments_nobody_is_lost_or_doubled(
    model: Any, data: Any, tmp_path: Path, undisturbed: Path
) -> None:
    rng, out = random.Random(0), tmp_path / "out"
    begun = time.monotonic()
    _explain(model, data, tmp_path / "measured")
    longest = time.monotonic() - begun
    kills = 0
    for _ in range(int(os.environ.get("KILLS", "6"))):
        kills += not killed_at_random(
            lambda: _explain(model, data, out), out, rng, longest
        )
        if (out / "cohort.json").exists():
            json.loads((out / "cohort.json").read_text())
            before = reports(out)
            assert all(report["patients"] for report in before.values())
            if len(before) == read_manifest(out)["partitions"]:
                shutil.rmtree(part_folder(out, rng.choice([*before])))
    assert kills
    _explain(model, data, out)
    assert_undisturbed(out, undisturbed)
