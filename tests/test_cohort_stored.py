"""A cohort's folder: what is read back of it, and what is said of broken files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cohort_files import synthetic, write_cohort

from captum_ehr.cohort import Cohort, CohortError
from captum_ehr.explanation import Explanation

FAILED = [{"patient_id": "p9", "sample": 30, "reason": "ValueError: <odd>"}]


@pytest.fixture(scope="module")
def whole() -> Explanation:
    return synthetic(30)


@pytest.fixture(scope="module")
def original(whole: Explanation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    return write_cohort(folder, whole, columns={"age": range(30)}, failed=FAILED)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to be broken."""
    return Path(shutil.copytree(original, tmp_path / "copy"))


def part(folder: Path, number: int = 0) -> Path:
    return folder / "parts" / f"part-{number:05d}"


def test_a_cohort_says_what_it_is(original: Path) -> None:
    cohort = Cohort(original)
    assert len(cohort) == 30 and cohort.is_finished
    for words in ("30 samples of 15 patients", "RNN", "died", "unk", "3 of 3 parts"):
        assert words in repr(cohort)
    assert "1 set aside" in repr(cohort)
    assert cohort.failed.to_dict("records") == FAILED


def test_rows_and_patients_are_read_lazily(original: Path, whole: Explanation) -> None:
    cohort = Cohort(original)
    rows = cohort.scan().to_table().to_pandas().sort_values("sample", kind="stable")
    frame = whole.to_frame()
    assert rows["code"].tolist() == frame["code"].tolist()
    assert rows["attribution"].sum() == pytest.approx(frame["attribution"].sum(), 1e-4)
    assert isinstance(cohort.patients, pl.LazyFrame)
    people = cohort.patients.collect()
    assert {"f_input", "delta", "target", "observed", "messages", "age"} < {
        *people.columns
    }
    assert len(people) == 30


def test_a_patient_comes_back(original: Path, whole: Explanation) -> None:
    cohort = Cohort(original)
    for ids in ("p00007", ["p00007", "p00002"]):
        back, wanted = cohort[ids], whole[ids]
        assert back.patient_ids == wanted.patient_ids
        places = [i for i, name in enumerate(whole.patient_ids) if name in ids]
        assert sorted(back.sample_columns["age"]) == places
        frame = back.to_frame().drop(columns="age")
        pd.testing.assert_frame_equal(frame, wanted.to_frame(), rtol=1e-6)
        assert (back.f_input == wanted.f_input).all()
        assert back.names == wanted.names and back.mode == wanted.mode


def test_who_is_not_there_is_said(original: Path) -> None:
    cohort = Cohort(original)
    with pytest.raises(KeyError, match="no patient 'nobody' in this cohort"):
        cohort["nobody"]
    with pytest.raises(KeyError, match="'p9'.*could not be explained"):
        cohort["p9"]
    for wrong in (3, ["p00001", 3], None):
        with pytest.raises(TypeError, match="by an identifier or several"):
            cohort[wrong]


def test_an_unfinished_part_is_left_out(folder: Path) -> None:
    (part(folder, 1) / "part.json").unlink()
    cohort = Cohort(folder)
    assert len(cohort) == 20 and not cohort.is_finished
    assert "2 of 3 parts" in repr(cohort)
    assert cohort.codes(replicates=0)["samples"].max() <= 20


def test_nothing_finished_is_said(folder: Path) -> None:
    shutil.rmtree(folder / "parts")
    with pytest.raises(CohortError, match="no finished part yet"):
        Cohort(folder)
    with pytest.raises(FileNotFoundError):
        Cohort(folder / "nowhere")


def manifest(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def broken(folder: Path) -> None:
        said = json.loads((folder / "cohort.json").read_text())
        change(said)
        (folder / "cohort.json").write_text(json.dumps(said))

    return broken


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (manifest(lambda said: said.update(format=2)), "format 2; .* reads format 1"),
        (manifest(lambda said: said.pop("explanation")), "explanation is missing"),
        (manifest(lambda said: said.update(partitions="x")), "partitions is 'x'"),
        (
            manifest(lambda said: said["explanation"].update(output="odds")),
            "explanation.output is 'odds'",
        ),
        (
            manifest(
                lambda said: said["explanation"]["features"][0].update(dtype="load")
            ),
            "dtype is 'load'",
        ),
        (lambda folder: (folder / "cohort.json").write_text("[1"), "not a cohort's"),
    ],
)
def test_a_strange_header_is_refused(
    folder: Path, broken: Callable[[Path], object], words: str
) -> None:
    broken(folder)
    with pytest.raises(CohortError, match=words):
        Cohort(folder)


def resized(file: Path) -> None:
    """Let the part know of the file's size, as a forger would."""
    said = json.loads((file.parent / "part.json").read_text())
    said["bytes"][file.name] = file.stat().st_size
    (file.parent / "part.json").write_text(json.dumps(said))


@pytest.mark.parametrize("name", ["rows.parquet", "patients.parquet"])
@pytest.mark.parametrize("is_forged", [False, True])
def test_a_truncated_file_is_named(folder: Path, name: str, is_forged: bool) -> None:
    file = part(folder, 1) / name
    file.write_bytes(file.read_bytes()[:-100])
    if is_forged:
        resized(file)
    words = f"part-00001/{name} is damaged" if is_forged else "part-00001 is damaged"
    with pytest.raises(CohortError, match=words):
        Cohort(folder)


def test_broken_pages_are_named_when_they_are_read(folder: Path) -> None:
    file = part(folder, 1) / "rows.parquet"
    data = bytearray(file.read_bytes())
    data[10 : len(data) // 2] = b"\xff" * (len(data) // 2 - 10)
    file.write_bytes(data)
    cohort = Cohort(folder)
    with pytest.raises(CohortError, match="part-00001/rows.parquet is damaged"):
        cohort.codes()
    with pytest.raises(CohortError, match="part-00001/rows.parquet is damaged"):
        cohort["p00002"]


def test_columns_that_are_missing_or_others_are_named(folder: Path) -> None:
    file = part(folder) / "rows.parquet"
    table = pq.read_table(file)
    pq.write_table(table.drop_columns("code"), file)
    resized(file)
    with pytest.raises(CohortError, match=r"rows.parquet: column 'code' is missing"):
        Cohort(folder)
    place = table.schema.get_field_index("sample")
    words = table["sample"].cast(pa.string())
    pq.write_table(table.set_column(place, "sample", words), file)
    resized(file)
    with pytest.raises(CohortError, match="'sample' is string, expected int32"):
        Cohort(folder)


def test_a_shape_larger_than_any_record_is_refused(folder: Path) -> None:
    file = part(folder) / "patients.parquet"
    people = pq.read_table(file)
    huge = [[{"shape": [2**30, 2**20], "time": None}] * 4] * len(people)
    place, kind = people.schema.get_field_index("layout"), people.schema.field("layout")
    pq.write_table(people.set_column(place, kind, pa.array(huge, kind.type)), file)
    resized(file)
    with pytest.raises(CohortError, match="part-00000 is damaged: .* shape"):
        Cohort(folder)["p00000"]


def test_rows_that_fit_no_patient_are_named(folder: Path) -> None:
    file = part(folder) / "rows.parquet"
    table = pq.read_table(file)
    place = table.schema.get_field_index("position")
    far = pa.array([10**6] * len(table), pa.int32())
    pq.write_table(table.set_column(place, "position", far), file)
    resized(file)
    with pytest.raises(CohortError, match="'p00000', feature 'conditions'"):
        Cohort(folder)["p00000"]
