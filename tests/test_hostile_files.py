"""Files from elsewhere are refused by the documented error, which names them."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from calls import examples
from cohort_cases import dataset, mlp
from cohort_files import synthetic, write_cohort
from hostile import (
    BOMBS,
    changed_json,
    column,
    mutated,
    resized,
    rewrite,
    with_value,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from captum_ehr import CohortError, Explanation, explain_cohort
from captum_ehr.cli import app
from captum_ehr.cohort import Cohort
from captum_ehr.cohort.durable import discard, sweep
from captum_ehr.explanation.data import check_sums

#: The same examples in every run, so many in the default tier and so many more in all.
SOME = settings(examples, max_examples=25)
MANY = settings(examples, max_examples=300)
COMPLETE = pytest.mark.complete
ROWS, PATIENTS = "rows.parquet", "patients.parquet"
#: MiB that reading may take at its peak beside what was taken before.
ROOM = 150


def peak() -> float:
    """In MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# One explanation --------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "x.parquet"
    return synthetic(4).save(path).read_bytes()


def loads_or_is_refused(data: bytes, path: Path) -> None:
    """Nothing between: what loads adds up, whatever it is then."""
    path.write_bytes(data)
    before = peak()
    try:
        loaded = Explanation.load(path)
    except ValueError as error:
        assert type(error) is ValueError and str(path) in str(error)
    else:
        check_sums(loaded)
    assert peak() - before < ROOM


@pytest.mark.parametrize("step", [701, pytest.param(31, marks=COMPLETE)])
def test_an_explanation_cut_anywhere(saved: bytes, step: int, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    for end in range(0, len(saved), step):
        path.write_bytes(saved[:end])
        with pytest.raises(ValueError, match=r"x\.parquet ") as caught:
            Explanation.load(path)
        assert type(caught.value) is ValueError


class TestBytesOfAnExplanation:
    """Changed at random places."""

    @given(data=st.data())
    @SOME
    def test_some(self, data: Any, saved: bytes, tmp_path_factory: Any) -> None:
        path = tmp_path_factory.getbasetemp() / "changed.parquet"
        loads_or_is_refused(data.draw(mutated(saved)), path)

    @COMPLETE
    @given(data=st.data())
    @MANY
    def test_many(self, data: Any, saved: bytes, tmp_path_factory: Any) -> None:
        path = tmp_path_factory.getbasetemp() / "changed.parquet"
        loads_or_is_refused(data.draw(mutated(saved)), path)


# Cohorts ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    observed = [float(k % 2) for k in range(12)]
    ages = {"age": range(12)}
    folder = tmp_path_factory.mktemp("cohort")
    return write_cohort(folder, synthetic(12), parts=2, observed=observed, columns=ages)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(original, tmp_path / "copy"))


def use(folder: Path) -> None:
    """Ask a cohort all that reads its files in ways of their own."""
    cohort = Cohort(folder)
    repr(cohort)
    _ = cohort.failed
    cohort.codes(replicates=0)
    cohort.visits(replicates=0)
    cohort["p00001"]


def is_used_or_refused(folder: Path) -> None:
    before = peak()
    try:
        use(folder)
    except CohortError as error:
        assert str(folder) in str(error)
    assert peak() - before < ROOM


FIRST = "parts/part-00000"
FILES = ("cohort.json", f"{FIRST}/part.json", f"{FIRST}/{ROWS}", f"{FIRST}/{PATIENTS}")


def changed_file(data: Any, original: Path, name: str) -> bytes:
    whole = (original / name).read_bytes()
    if name.endswith(".json") and data.draw(st.booleans()):
        return data.draw(changed_json(json.loads(whole)))
    return data.draw(mutated(whole))


def try_a_change(data: Any, original: Path, folder: Path) -> None:
    shutil.copytree(original, folder, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(FILES))
    (folder / name).write_bytes(changed_file(data, original, name))
    if name.endswith(".parquet"):
        resized(folder / name)
    is_used_or_refused(folder)


class TestFilesOfACohort:
    """Changed at random places."""

    @given(data=st.data())
    @SOME
    def test_some(self, data: Any, original: Path, tmp_path_factory: Any) -> None:
        try_a_change(data, original, tmp_path_factory.getbasetemp() / "changed")

    @COMPLETE
    @given(data=st.data())
    @MANY
    def test_many(self, data: Any, original: Path, tmp_path_factory: Any) -> None:
        try_a_change(data, original, tmp_path_factory.getbasetemp() / "changed")


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("bomb", BOMBS)
def test_json_that_is_none(folder: Path, name: str, bomb: str) -> None:
    (folder / name).write_bytes(BOMBS[bomb])
    with pytest.raises(CohortError, match=str(folder)):
        use(folder)


OF_ALL = {
    ("partitions",): 10**12,
    ("samples",): "x",
    ("fingerprint",): ...,
    ("identity", "options", "target"): ...,
    ("identity", "explainer", "class"): 3,
    ("explanation", "names"): {"nothing": {"I50": "heart"}},
    ("explanation", "ranges"): {"nothing": {"I50": [0, 1]}},
    ("explanation", "features", 0): ...,
    ("explanation", "baseline"): "\ud800",
}
OF_A_PART = {
    ("failed",): ...,
    ("failed", 0): {"patient_id": 1},
    ("diagnostics",): 5,
    ("diagnostics", "notes"): [1],
    ("diagnostics", "operations"): [{"name": "relu"}],
    ("diagnostics", "structure"): -1,
}


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        (name, path, value)
        for name, changes in zip(FILES, (OF_ALL, OF_A_PART))
        for path, value in changes.items()
    ],
)
def test_words_that_do_not_fit(
    folder: Path, name: str, path: tuple[Any, ...], value: Any
) -> None:
    said = json.loads((folder / name).read_text())
    said.setdefault("failed", [])
    if path == ("failed", 0):
        path, value = ("failed",), [value]
    (folder / name).write_text(json.dumps(with_value(said, path, value)))
    with pytest.raises(CohortError, match=str(folder)):
        use(folder)


def layout(shape: Any, time: Any = None) -> Callable[[pa.Table], pa.Table]:
    return column("layout", lambda v: [[{"shape": shape, "time": time}] * 4] * len(v))


def swapped(one: str, other: str) -> Callable[[pa.Table], pa.Table]:
    """The columns' names the other way round."""
    names = {one: other, other: one}
    return lambda t: t.rename_columns([names.get(n, n) for n in t.schema.names])


TABLES: dict[str, tuple[str, Callable[[pa.Table], pa.Table]]] = {
    "no target": (PATIENTS, lambda t: t.drop_columns("target")),
    "a target in words": (
        PATIENTS,
        column("target", lambda v: ["died"] * len(v), pa.string()),
    ),
    "no target of one": (PATIENTS, column("target", lambda v: [None, *v[1:]])),
    "no identifier": (PATIENTS, column("patient_id", lambda v: [None, *v[1:]])),
    "no sample": (PATIENTS, column("sample", lambda v: [None, *v[1:]])),
    "a sample twice": (PATIENTS, column("sample", lambda v: [v[1], *v[1:]])),
    "all twice": (PATIENTS, lambda t: pa.concat_tables([t, t])),
    "nobody": (PATIENTS, lambda t: t.slice(0, 0)),
    "no messages": (PATIENTS, column("messages", lambda v: [None] * len(v))),
    "messages": (PATIENTS, column("messages", lambda v: ["x"] * len(v), pa.string())),
    "observed": (PATIENTS, column("observed", lambda v: ["x"] * len(v), pa.string())),
    "no padding": (PATIENTS, lambda t: t.drop_columns("padding")),
    "one more column": (PATIENTS, lambda t: t.append_column("sex", t["age"])),
    "a column twice": (PATIENTS, lambda t: t.append_column("age", t["age"])),
    "outputs swapped": (PATIENTS, swapped("f_input", "f_baseline")),
    "no layout": (PATIENTS, column("layout", lambda v: [None] * len(v))),
    "layout of nothing": (PATIENTS, column("layout", lambda v: [[]] * len(v))),
    "negative": (PATIENTS, layout([-4, -3])),
    "no shape": (PATIENTS, layout(None)),
    "an unknown length": (PATIENTS, layout([None])),
    "empty": (PATIENTS, layout([0])),
    "huge": (PATIENTS, layout([2**30, 2**30])),
    "unknown times": (PATIENTS, layout([3, 4], [None] * 3)),
    "attributions times -3": (
        ROWS,
        column("attribution", lambda v: [-3 * n for n in v]),
    ),
    "one attribution": (ROWS, column("attribution", lambda v: [v[0] + 0.01, *v[1:]])),
    "attributions NaN": (ROWS, column("attribution", lambda v: [None, *v[1:]])),
    "values for attributions": (ROWS, swapped("value", "attribution")),
    "rows twice": (ROWS, lambda t: pa.concat_tables([t, t])),
    "rows missing": (ROWS, lambda t: t.slice(3)),
    "no rows": (ROWS, lambda t: t.slice(0, 0)),
    "rows of nobody": (ROWS, column("sample", lambda v: [99] * len(v))),
    "rows of no sample": (ROWS, column("sample", lambda v: [None, *v[1:]])),
    "rows of no feature": (ROWS, column("feature", lambda v: [None, *v[1:]])),
    "rows of another": (ROWS, column("feature", lambda v: ["x", *v[1:]])),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_do_not_fit(folder: Path, name: str) -> None:
    file, change = TABLES[name]
    rewrite(folder / FIRST / file, change)
    with pytest.raises(CohortError, match=str(folder)):
        use(folder)


def test_a_folder_in_a_files_place(folder: Path) -> None:
    for name in FILES[1:]:
        copied = Path(shutil.copytree(folder, folder.parent / Path(name).name))
        (copied / name).unlink()
        (copied / name).mkdir()
        with pytest.raises(CohortError, match=str(copied)):
            use(copied)


def test_other_folders_are_no_parts(folder: Path) -> None:
    expected = repr(Cohort(folder))
    for name in (
        "part-",
        "part-x",
        "part-99999",
        "part-..",
        "part-\N{SUPERSCRIPT TWO}",
    ):
        (folder / "parts" / name).mkdir()
    assert repr(Cohort(folder)) == expected


def test_links_are_not_followed_where_something_is_removed(tmp_path: Path) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    for made in (mine, out):
        made.mkdir()
    (mine / "thesis").touch()
    (out / "part-00000").symlink_to(mine)
    (out / ".part-00001.elsewhere_1.ab.tmp").symlink_to(mine)
    discard(out / "part-00000")
    sweep(out)
    assert (mine / "thesis").exists()
    assert not (out / "part-00000").exists()


@pytest.mark.parametrize("command", ["report", "insights"])
def test_the_command_line_says_it_in_a_line(folder: Path, command: str) -> None:
    file, change = TABLES["a sample twice"]
    rewrite(folder / FIRST / file, change)
    done = CliRunner().invoke(app, [command, str(folder)])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert "damaged" in done.output and "Traceback" not in done.output


def test_what_padding_has_is_told(tmp_path: Path) -> None:
    """It has no rows in a cohort: who reads it is not told that all adds up."""
    whole = synthetic(4)
    record, key = whole.features["labs"], "labs"
    place = tuple((~record.mask).nonzero()[0].tolist())
    whole.attributions[key][place] += 0.5
    whole.f_input[place[0]] += 0.5
    cohort = Cohort(write_cohort(tmp_path, whole, parts=1))
    back = cohort[whole.patient_ids[place[0]]]
    lost = back.total - (back.f_input - back.f_baseline)
    assert float(lost.min()) == pytest.approx(-0.5, abs=1e-6)
    torch.testing.assert_close(back.delta, lost)
    assert any("0.5 is attributed to padding" in m for m in back.diagnostics.messages)
    assert cohort.patients.collect()["padding"].sum() == pytest.approx(0.5)


@pytest.mark.parametrize("baselines", ["unk", "pyhealth", {"labs": 2.0}])
def test_true_cohorts_add_up(baselines: Any, tmp_path: Path) -> None:
    data = dataset(8)
    model = mlp(data)
    cohort = explain_cohort(model, data, tmp_path, baselines=baselines)
    cohort.codes(replicates=0)
    assert len(cohort[cohort.patients.collect()["patient_id"]]) == 8


# Pickles -------------------------------------------------------------------------


class Payload:
    """Runs where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def test_nothing_is_unpickled(folder: Path, tmp_path: Path) -> None:
    marker, other = tmp_path / "ran", tmp_path / "x.parquet"
    payload = pickle.dumps(Payload(marker))
    pickle.loads(payload)
    assert marker.exists(), "the payload is none"
    marker.unlink()
    other.write_bytes(payload)
    with pytest.raises(ValueError, match=r"x\.parquet"):
        Explanation.load(other)
    for name in FILES:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(payload)
        if name.endswith(".parquet"):
            resized(folder / name)
        with pytest.raises(CohortError):
            use(folder)
        (folder / name).write_bytes(whole)
    assert not marker.exists()
