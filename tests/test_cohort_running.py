"""Explaining a cohort in this process: what is written, and who is set aside."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import stat
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zoo
from cohort_cases import Wrapped, dataset, held, mlp, raising, reports
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_ehr import (
    Cohort,
    CohortError,
    DeepLiftEHR,
    DeepLiftShapEHR,
    PyHealthAdapter,
    explain_cohort,
)
from captum_ehr.cohort import partition as parts
from captum_ehr.cohort.columns import explanation_of
from captum_ehr.cohort.manifest import read_manifest
from captum_ehr.cohort.order import batches, partitions_of, read_order
from captum_ehr.cohort.progress import progress
from captum_ehr.propagation import Diagnostics

SMALL: dict[str, Any] = {"batch_size": 4, "partition": 16}


@pytest.fixture(scope="module")
def data() -> Any:
    return dataset()


@pytest.fixture(scope="module")
def model(data: Any) -> Any:
    return mlp(data)


@pytest.fixture(scope="module")
def out(model: Any, data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort with two columns; not to be changed."""
    folder: Path = tmp_path_factory.mktemp("cohorts") / "out"
    explain_cohort(model, data, folder, columns=("sex", "age"), **SMALL)
    return folder


def assert_rows_are_those_of_single_patients(
    out: Path, explainer: DeepLiftEHR, data: Any, **options: Any
) -> None:
    rows, patients = (
        pa.Table.from_pandas(held(out, name))
        for name in ("rows.parquet", "patients.parquet")
    )
    header = read_manifest(out)["explanation"]
    for index in range(len(data)):
        expected = explainer.explain(data[index], **options)
        own = pa.compute.equal(rows["sample"], index)
        who = pa.compute.equal(patients["sample"], index)
        found = explanation_of(
            rows.filter(own), patients.filter(who), header, Diagnostics()
        )
        # Of the samples' columns those are kept that were asked for.
        tables = [
            one.to_frame().drop(columns=[*one.sample_columns])
            for one in (found, expected)
        ]
        for name, values in found.sample_columns.items():
            assert values == expected.sample_columns[name]
        pd.testing.assert_frame_equal(*tables, rtol=0, atol=1e-6)
        for name in ("f_input", "f_baseline"):
            one, two = getattr(found, name), getattr(expected, name)
            torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
        assert found.target == expected.target


class TestWhatIsWritten:
    def test_rows_equal_those_of_single_patients(
        self, out: Path, model: Any, data: Any
    ) -> None:
        assert_rows_are_those_of_single_patients(out, DeepLiftEHR(model), data)

    def test_every_sample_is_there_once(self, out: Path, data: Any) -> None:
        patients = held(out, "patients.parquet")
        assert patients["sample"].tolist() == [*range(len(data))]
        ids = [data[k]["patient_id"] for k in range(len(data))]
        assert patients["patient_id"].tolist() == ids and len({*ids}) < len(ids)
        assert sum(r["patients"] for r in reports(out).values()) == len(data)
        assert sum(r["rows"] for r in reports(out).values()) == len(held(out))

    def test_the_longest_are_first_and_partitions_bounded(self, out: Path) -> None:
        order = read_order(out).to_pandas()
        assert order["length"].is_monotonic_decreasing
        tokens = order.groupby("partition")["length"].sum()
        assert (order.groupby("partition").size() <= 16).all()
        assert (tokens <= 16 * order["length"].mean()).all()
        assert order["partition"].is_monotonic_increasing and len(tokens) > 2

    def test_columns_are_kept_with_their_types(self, out: Path, data: Any) -> None:
        patients = held(out, "patients.parquet")
        assert patients["sex"].tolist() == [data[k]["sex"] for k in range(len(data))]
        assert patients["age"].tolist() == [data[k]["age"] for k in range(len(data))]
        labels = [float(data[k]["label"]) for k in range(len(data))]
        assert patients["observed"].tolist() == labels

    def test_files_are_their_owners_alone(self, out: Path) -> None:
        for path in (out, *out.rglob("*")):
            wanted = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path
        assert {p.name for p in out.iterdir()} == {
            "cohort.json",
            "order.parquet",
            "parts",
        }

    def test_the_schema_is_the_stated_one_for_all_readers(self, out: Path) -> None:
        pattern = str(out / "parts/*/rows.parquet")
        frame = pl.scan_parquet(pattern).collect()
        assert frame.columns == [
            *("patient_id", "sample", "feature", "code", "visit", "position"),
            *("time", "value", "attribution"),
        ]
        assert frame["attribution"].dtype == pl.Float32
        assert not frame["value"].is_nan().any() and frame["visit"].null_count()
        file = pq.ParquetFile(next(out.glob("parts/*/rows.parquet")))
        group = file.metadata.row_group(0)
        codecs = {group.column(k).compression for k in range(group.num_columns)}
        assert codecs == {"ZSTD"}

    def test_the_manifest_is_strict_json(self, out: Path) -> None:
        def refuse(word: str) -> None:
            raise AssertionError(word)

        for path in out.rglob("*.json"):
            json.loads(path.read_text(), parse_constant=refuse)

    def test_the_account_of_a_partition(self, out: Path) -> None:
        for report in reports(out).values():
            account = Diagnostics.from_dict(report["diagnostics"])
            assert account.exact and account.operations
            assert 0 <= report["delta"] < 1e-5 and report["failed"] == []


class TestOptions:
    @pytest.mark.parametrize(
        "config, is_alone, words",
        [
            (
                zoo.Config("Transformer", "stagenet", options=zoo.SMALL),
                False,
                "Transformer answers otherwise with padding",
            ),
            (
                zoo.Config("AdaCare", "sequence", options=zoo.HIDDEN),
                True,
                "AdaCare answers otherwise beside other patients",
            ),
        ],
        ids=str,
    )
    def test_what_others_move_is_explained_without_them(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        config: zoo.Config,
        is_alone: bool,
        words: str,
    ) -> None:
        model, _ = zoo.shared(config)
        data = zoo.dataset(config.schema, "binary")
        with caplog.at_level(logging.INFO):
            explain_cohort(model, data, tmp_path / "out")
        manifest = read_manifest(tmp_path / "out")
        assert manifest["alike"] and manifest["alone"] is is_alone
        assert words in caplog.text
        explainer = DeepLiftEHR(model)
        assert_rows_are_those_of_single_patients(tmp_path / "out", explainer, data)

    @pytest.mark.complete
    def test_an_explainer_with_options_of_its_own(
        self, model: Any, data: Any, tmp_path: Path
    ) -> None:
        explainer = DeepLiftEHR(PyHealthAdapter(model), output="probability")
        options = {"baselines": "mean", "target": 0}
        explain_cohort(explainer, data, tmp_path / "out", **options, **SMALL)
        manifest = read_manifest(tmp_path / "out")
        assert manifest["explanation"]["output"] == "probability"
        assert manifest["explanation"]["baseline"] == "mean"
        assert_rows_are_those_of_single_patients(
            tmp_path / "out", explainer, data, **options
        )

    @pytest.mark.complete
    def test_reference_patients_are_drawn_once(
        self, model: Any, data: Any, tmp_path: Path
    ) -> None:
        explainer = DeepLiftShapEHR(model, completeness="check")
        explain_cohort(explainer, data, tmp_path / "out", baselines=3, **SMALL)
        assert_rows_are_those_of_single_patients(
            tmp_path / "out", explainer, data, baselines=3
        )

    def test_names_and_columns_of_ones_own(
        self, model: Any, data: Any, tmp_path: Path
    ) -> None:
        scores = [k / 2 for k in range(len(data))]
        names = {"conditions": {"I10": "hypertension"}}
        explain_cohort(
            model, data, tmp_path / "out", columns={"score": scores}, names=names
        )
        patients = held(tmp_path / "out", "patients.parquet")
        assert patients["score"].tolist() == scores
        header = read_manifest(tmp_path / "out")["explanation"]
        assert header["names"] == names

    def test_the_reader_is_returned(
        self, model: Any, data: Any, tmp_path: Path
    ) -> None:
        cohort = explain_cohort(model, data, str(tmp_path / "a/b"))
        assert isinstance(cohort, Cohort)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700

    @pytest.mark.parametrize(
        "options, error, words",
        [
            ({"columns": "sex"}, TypeError, r"columns='sex'.*\['sex'\]"),
            ({"columns": ["hair"]}, KeyError, "no 'hair'; they have 'patient_id'"),
            ({"columns": ["target"]}, ValueError, "'target'.*already"),
            ({"columns": ["sex", "sex"]}, ValueError, "twice"),
            ({"columns": ["conditions"]}, TypeError, "'conditions' has a Tensor"),
            ({"columns": {"score": [1]}}, ValueError, "1 values, expected 40"),
            (
                {"columns": {"score": [1, "a"] * 20}},
                ValueError,
                "'score' has values of",
            ),
            ({"columns": {"a": [[1]] * 40}}, TypeError, "'a' has a list, expected a"),
            ({"columns": {"a": [Decimal(1)] * 40}}, TypeError, "'a' has a Decimal"),
            ({"target": [0] * 40}, TypeError, "one target for all"),
            ({"target": 7}, IndexError, "target 7 is out of range"),
            ({"baselines": "nothing"}, ValueError, "Unknown baseline"),
            ({"batch_size": 0}, ValueError, "batch_size=0"),
            ({"partition": True}, ValueError, "partition=True"),
            ({"client": 0}, ValueError, "client=0; a whole number, at least 1"),
            ({"client": -2}, ValueError, "client=-2"),
            ({"client": "tcp://"}, CohortError, "no scheduler"),
        ],
    )
    def test_what_is_wrong_is_named(
        self,
        model: Any,
        data: Any,
        tmp_path: Path,
        options: dict[str, Any],
        error: type[Exception],
        words: str,
    ) -> None:
        with pytest.raises(error, match=words):
            explain_cohort(model, data, tmp_path / "out", **options)
        assert not [*tmp_path.rglob("part-*")]

    def test_what_is_no_dataset_of_the_model_is_refused(
        self, model: Any, data: Any, tmp_path: Path
    ) -> None:
        from pyhealth.datasets import get_dataloader

        loader = get_dataloader(data, batch_size=4)
        with pytest.raises(TypeError, match=r"loader\.dataset"):
            explain_cohort(model, loader, tmp_path)
        with pytest.raises(ValueError, match="empty"):
            explain_cohort(model, [], tmp_path)
        rows = [{**s, "conditions": ["X1"]} for s in (data[k] for k in range(4))]
        rows = [{**s, "labs": [0.0] * 3, "label": n % 2} for n, s in enumerate(rows)]
        other = dataset(rows=rows)
        with pytest.raises(ValueError, match="'conditions'.*another vocabulary"):
            explain_cohort(model, other, tmp_path)
        with pytest.raises(TypeError, match="PyHealth model"):
            explain_cohort(torch.nn.Linear(2, 1), data, tmp_path)
        with pytest.raises(ValueError, match="compile=True is for a model"):
            explain_cohort(DeepLiftEHR(model), data, tmp_path, compile=True)

    def test_a_script_without_its_guard_is_told(
        self, model: Any, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process = multiprocessing.current_process()
        monkeypatch.setattr(process, "_inheriting", True, raising=False)
        with pytest.raises(CohortError, match="if __name__ == '__main__'"):
            explain_cohort(model, data, tmp_path)

    def test_progress_is_logged_where_there_is_no_terminal(
        self, model: Any, data: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, "captum_ehr.cohort"):
            explain_cohort(model, data, tmp_path / "out", **SMALL)
        assert "40 of 40 samples" in caplog.text and "0:00:00 left" in caplog.text
        assert "40 samples: 40 explained, 0 set aside" in caplog.text

    def test_progress_is_a_bar_in_a_terminal(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        with progress(40, 1000, (10, 400)) as told:
            told(30, 600)
        shown = capsys.readouterr().err
        assert "100%" in shown and "40 of 40 samples" in shown and "/s" in shown

    def test_without_progress_nothing_is_shown_in_a_terminal(
        self,
        model: Any,
        data: Any,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        explain_cohort(model, data, tmp_path / "out", show_progress=False, **SMALL)
        assert capsys.readouterr().err == ""


class TestWhoCannotBeExplained:
    def infinite(self, sample: Any) -> Any:
        return {**sample, "labs": sample["labs"] * math.inf}

    def test_they_are_set_aside_with_the_reason_and_all_others_explained(
        self, model: Any, data: Any, out: Path, tmp_path: Path
    ) -> None:
        unreadable = raising(ValueError("a broken record"))
        broken = Wrapped(data, {3: self.infinite, 11: unreadable, 39: self.infinite})
        where = tmp_path / "out"
        explain_cohort(model, broken, where, columns=("sex", "age"), **SMALL)
        failed = [one for r in reports(where).values() for one in r["failed"]]
        said = {one["sample"]: one["reason"] for one in failed}
        assert said.keys() == {3, 11, 39}
        assert "ValueError: Feature 'labs': infinite values" in said[3]
        assert said[11] == "ValueError: a broken record"
        ids = {one["sample"]: one["patient_id"] for one in failed}
        assert ids[3] == data[3]["patient_id"]
        for name in ("rows.parquet", "patients.parquet"):
            expected = held(out, name)
            kept = expected[~expected["sample"].isin(said)].reset_index(drop=True)
            found = held(where, name)
            assert found["sample"].tolist() == kept["sample"].tolist()
            numbers = [c for c in ("attribution", "f_input") if c in kept]
            np.testing.assert_allclose(found[numbers], kept[numbers], atol=1e-6)

    def test_of_a_partition_of_nobody_there_are_empty_tables(
        self, model: Any, data: Any, tmp_path: Path
    ) -> None:
        order = sorted(range(40), key=lambda k: -len(data[k]["conditions"]))
        changes = dict.fromkeys(order[:5], self.infinite)
        where = tmp_path / "out"
        options = {"batch_size": 2, "partition": 2, "columns": ["sex"]}
        explain_cohort(model, Wrapped(data, changes), where, **options)
        assert not reports(where)[0]["patients"] and reports(where)[0]["failed"]
        assert len(held(where, "patients.parquet")) == 35

    def test_where_nobody_can_be_explained_nothing_is_begun(
        self, model: Any, data: Any, tmp_path: Path
    ) -> None:
        changes = dict.fromkeys(range(40), self.infinite)
        with pytest.raises(ValueError, match="infinite values") as raised:
            explain_cohort(model, Wrapped(data, changes), tmp_path / "out")
        assert "3 sample(s) were tried" in str(raised.value.__notes__)
        assert not (tmp_path / "out").exists()

    def test_a_process_that_can_explain_nobody_any_more_is_no_patients_fault(
        self, model: Any, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = iter(range(1000))
        explain = parts.explain_samples

        def worn(*args: Any) -> Any:
            if next(calls) > 4:
                raise RuntimeError("the device is gone")
            return explain(*args)

        monkeypatch.setattr(parts, "explain_samples", worn)
        with pytest.raises(CohortError, match="nor sample 0.*the device is gone"):
            explain_cohort(model, data, tmp_path / "out", batch_size=4, partition=8)
        done = reports(tmp_path / "out")
        assert done and not any(report["failed"] for report in done.values())

    @pytest.mark.parametrize(
        "error, expected, words",
        [
            (MemoryError(), CohortError, "does not fit into memory.*internal_batch"),
            (RuntimeError("can't allocate memory: 9 GB"), CohortError, "9 GB"),
            (torch.OutOfMemoryError("CUDA"), CohortError, "does not fit into memory"),
            (FileNotFoundError(2, "gone"), OSError, "dataset.*cannot be read"),
            (ImportError("no module"), CohortError, "cannot explain anybody"),
            (KeyboardInterrupt(), KeyboardInterrupt, ""),
        ],
    )
    def test_what_is_no_patients_fault_is_raised_and_what_is_done_stays(
        self,
        model: Any,
        data: Any,
        out: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        expected: type[BaseException],
        words: str,
    ) -> None:
        shortest = min(range(40), key=lambda k: len(data[k]["conditions"]))
        explain = parts.explain_samples

        def worn(job: Any, samples: Any, *args: Any) -> Any:
            lengths = [len(sample["conditions"]) for sample in samples]
            if len(samples) > 1 and min(lengths) == len(data[shortest]["conditions"]):
                raise error
            return explain(job, samples, *args)

        monkeypatch.setattr(parts, "explain_samples", worn)
        where = tmp_path / "out"
        with pytest.raises(expected, match=words):
            explain_cohort(model, data, where, columns=("sex", "age"), **SMALL)
        done = reports(where)
        assert done and not [p for p in where.rglob("*") if p.name.startswith(".")]
        monkeypatch.undo()
        explain_cohort(model, data, where, columns=("sex", "age"), **SMALL)
        assert len(reports(where)) > len(done)
        pd.testing.assert_frame_equal(held(where), held(out), rtol=0, atol=1e-6)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=60), st.integers(1, 9))
def test_partitions_are_bounded_and_complete(lengths: list[int], most: int) -> None:
    ordered = np.array(sorted(lengths, reverse=True))
    numbers = partitions_of(ordered, most)
    assert numbers[0] == 0 and set(np.diff(numbers)) <= {0, 1}
    budget = most * max(ordered.mean(), 1)
    for number in range(numbers[-1] + 1):
        mine = ordered[numbers == number]
        assert 1 <= len(mine) <= most
        assert len(mine) == 1 or mine.sum() <= budget


@settings(max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 9))
def test_batches_are_all_samples_once(shapes: list[int], size: int) -> None:
    members = pa.table({"shape": shapes, "sample": [*range(len(shapes))]})
    for alike in (False, True):
        cut = [*batches(members, size, alike)]
        assert sum((b["sample"].to_pylist() for b in cut), []) == [*range(len(shapes))]
        assert all(len(b) <= size for b in cut)
        if alike:
            assert all(len({*b["shape"].to_pylist()}) == 1 for b in cut)
        else:
            assert all(len(b) == size for b in cut[:-1])


def test_importing_it_imports_nothing_heavy() -> None:
    script = "import sys, captum_ehr.cohort; print({'torch', 'dask'} & {*sys.modules})"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "set()"


STUDY = """
def show():
    from cohort_cases import dataset, mlp
    data = dataset(12)
    return mlp(data), data

def classes():
    from cohort_cases import dataset, mlp
    from cohort_cases import samples
    rows = [{**row, "label": k % 3} for k, row in enumerate(samples(12))]
    data = dataset(rows=rows, mode="multiclass")
    return mlp(data), data

def nothing():
    return None
"""


class TestCommand:
    @pytest.fixture
    def call(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        from typer.testing import CliRunner

        from captum_ehr.cli import app

        (tmp_path / "cohort_study.py").write_text(STUDY)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        monkeypatch.delitem(sys.modules, "cohort_study", raising=False)
        return lambda *words: CliRunner().invoke(app, ["explain", *words])

    def test_it_explains_and_goes_on(self, call: Any, tmp_path: Path) -> None:
        words = ("cohort_study:show", "--out", "out", "--keep", "sex", "--target", "0")
        for _ in range(2):
            done = call(*words)
            assert done.exit_code == 0 and "Explained: out" in done.stdout
        patients = held(tmp_path / "out", "patients.parquet")
        assert {*patients["sex"]} == {"F", "M"} and len(patients) == 12
        done = call(*words[:-2], "--target", "1")
        assert done.exit_code == 1 and "options.target: 0, now 1" in " ".join(
            done.stderr.split()
        )

    def test_a_class_is_explained_rather_than_another(
        self, call: Any, tmp_path: Path
    ) -> None:
        words = ("cohort_study:classes", "--out", "out")
        assert call(*words, "--against", "1").exit_code == 2  # than which?
        done = call(*words, "--target", "2", "--against", "label(1)")
        assert done.exit_code == 0, done.stderr
        patients = held(tmp_path / "out", "patients.parquet")
        assert [*patients["target"]] == [{"a": 2, "b": 1}] * 12

    @pytest.mark.parametrize(
        "words, said",
        [
            (("cohort_study:nothing",), "returned NoneType, expected (model, dataset)"),
            (("cohort_study:none",), "has no function 'none'"),
            (("cohort_study:show", "--target", "5"), "target 5 is out of range"),
            (("cohort_study:show", "--keep", "hair"), "no 'hair'"),
        ],
    )
    def test_what_is_wrong_is_said_in_a_line(
        self, call: Any, tmp_path: Path, words: tuple[str, ...], said: str
    ) -> None:
        done = call(*words, "--out", "out")
        assert done.exit_code == 1 and "Traceback" not in done.stderr
        assert said in " ".join(done.stderr.split())
        assert not [*tmp_path.rglob("part-*")]

    def test_one_place_to_run(self, call: Any) -> None:
        done = call("a:b", "--out", "out", "--workers", "2", "--scheduler", "tcp://h:1")
        assert done.exit_code == 2 and "one of --scheduler and --workers" in done.stderr
