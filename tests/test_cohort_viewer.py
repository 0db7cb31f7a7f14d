"""A finished cohort in the page, without its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cohort_files import synthetic, write_cohort
from insights_cases import SCRIPT

from captum_ehr.cohort import CohortError
from captum_ehr.explanation import Explanation
from captum_ehr.insights.api import answer, progress
from captum_ehr.insights.cohort_viewer import CohortViewer
from captum_ehr.insights.launch import load
from captum_ehr.insights.page import live_page
from captum_ehr.insights.study import StartError

WHOLE = synthetic(40, names={"C001": SCRIPT})
SEEN = [float(k % 2) for k in range(40)]
SEXES = ["F" if k % 3 else "M" for k in range(40)]


def viewer(folder: Path, whole: Explanation = WHOLE, **words: Any) -> CohortViewer:
    target = words.pop("target", 0)
    observed = words.pop("observed", SEEN)
    columns = {"sex": SEXES, "age": [k * 1.5 for k in range(40)]}
    write_cohort(folder, whole, observed=observed, columns=columns, target=target)
    return CohortViewer(folder, **words)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> CohortViewer:
    return viewer(tmp_path_factory.mktemp("cohort"))


def test_patients_are_those_of_the_cohort(shown: CohortViewer) -> None:
    overview = shown.overview()
    assert len(shown) == 40 and shown.ids[:2] == ("p00000", "p00000 (2)")
    assert [one["groups"] for one in overview["patients"][:4]] == [
        ["M"], ["F"], ["F"], ["M"]
    ]  # fmt: skip
    assert overview["groups"] == ["sex"] and overview["classes"] == ("not died", "died")
    probabilities = torch.sigmoid(WHOLE.f_input)
    for row, said in enumerate(overview["predictions"][0]):
        assert said["score"] == pytest.approx(float(probabilities[row]))
        assert (said["text"], said["correct"]) == ("", None)
    ranks = [said["rank"] for said in overview["predictions"][0]]
    assert ranks == [1 + int((probabilities > one).sum()) for one in probabilities]
    frame = WHOLE.to_frame()
    for row in (0, 17, 39):
        mine = frame[frame["sample"] == row]
        held = [overview["codes"][k] for k in overview["patients"][row]["codes"]]
        codes = {(one["feature"], one["code"]) for one in held}
        assert codes == {*zip(mine["feature"], mine["code"])}


def test_a_view_is_the_saved_explanation(shown: CohortViewer) -> None:
    view = shown.view(17)
    assert view["f_input"] == pytest.approx(float(WHOLE.f_input[17]))
    assert view["total"] == pytest.approx(float(WHOLE.total[17]), 1e-5)
    ends = torch.sigmoid(torch.stack([WHOLE.f_baseline[17], WHOLE.f_input[17]]))
    assert view["probability"] == pytest.approx(ends.tolist())
    assert view["method"] == "DeepLiftEHR" and view["baseline"] == "unk"
    (one,) = shown._saved.many([17], shown.setting())
    shown.view(18)
    assert shown._saved.many([17], shown.setting())[0] is one  # kept
    assert view["complete"]["status"] in ("exact", "noted", "caution")


def test_the_cohort_is_that_of_the_explanation(shown: CohortViewer) -> None:
    top = WHOLE.top(None)
    table = shown.cohort()
    assert table["count"] == 40 and not table["note"]
    codes = {(one["feature"], one["code"]): one for one in table["codes"]}
    assert len(codes) == len(top)
    for row in top.itertuples():
        mine = codes[row.feature, row.code]
        assert mine["mean"] == pytest.approx(row.mean, 1e-4, 1e-6)
        assert mine["mean_abs"] == pytest.approx(row.mean_abs, 1e-4)


def test_the_page_asks_and_is_answered(shown: CohortViewer) -> None:
    setting = shown.setting()._asdict()
    view = answer(shown, {"kind": "view", "row": 2, **setting})["result"]
    assert "p00001" in view["html"] and SCRIPT not in view["html"]
    pieces = [*progress(shown, {"rows": [*range(40)], "drawn": True, **setting})]
    assert pieces and not any("error" in piece for piece in pieces)
    refused = answer(shown, {"kind": "view", "row": 2, "method": "Saliency"})
    assert "explained by DeepLiftEHR with the baseline 'unk'" in refused["error"]


def test_it_is_saved_as_a_page(shown: CohortViewer, tmp_path: Path) -> None:
    page = shown.save(tmp_path / "page.html", patients=["p00003"]).read_text()
    assert "p00003" in page and "p00004" not in page and SCRIPT not in page


def test_it_is_served(shown: CohortViewer) -> None:
    import urllib.request

    with shown.serve() as server:
        text = urllib.request.urlopen(server.url).read().decode()
    assert "p00000" in text


@pytest.mark.parametrize(
    "asked",
    [{"method": "Saliency"}, {"target": 1}, {"baseline": "pad"}, {"model": 1}],
)
def test_nothing_else_is_on_offer(shown: CohortViewer, asked: dict) -> None:
    with pytest.raises(ValueError, match=f"no {next(iter(asked))}"):
        shown.setting(**asked)
    assert shown.setting(target="died") == shown.setting()


def test_the_first_are_shown_and_so_it_says(tmp_path: Path) -> None:
    some = viewer(tmp_path, max_patients=5, deidentify=True)
    assert len(some) == 5 and "5 of 40" in some.title
    assert all(name.startswith("patient ") for name in some.ids)
    assert "p0000" not in json.dumps(some.overview()) + json.dumps(some.view(3))


def test_classes_are_judged_where_they_were_predicted(tmp_path: Path) -> None:
    target = tuple(k % 3 for k in range(40))
    whole = synthetic(40, mode="multiclass", target=target, target_names=tuple("abc"))
    several = viewer(tmp_path / "predicted", whole, target=None)
    said = several.overview()["predictions"][0]
    assert [one["text"] for one in said[:3]] == ["a", "b", "c"]
    assert [one["correct"] for one in said] == [k % 3 == k % 2 for k in range(40)]
    assert several.view(0)["probability"] is None
    assert several.overview()["targets"] == [("predicted class",)]
    assert "3 different targets" in several.cohort()["note"]
    whole = synthetic(
        40, mode="multiclass", target=(1,) * 40, target_names=tuple("abc")
    )
    one = viewer(tmp_path / "given", whole, target=1)
    said = one.overview()["predictions"][0]
    assert {each["correct"] for each in said} == {None}


@pytest.mark.parametrize(
    ("mode", "asked", "word"),
    [
        ("multilabel", None, "likeliest"),
        ("multilabel", 1, "explained"),
        ("multiclass", None, "predicted"),
        ("multiclass", 1, "explained"),
        ("regression", 1, "predicted"),
    ],
)
def test_only_what_was_predicted_is_called_so(
    tmp_path: Path, mode: str, asked: int | None, word: str
) -> None:
    whole = synthetic(40, mode=mode, target=(1,) * 40, target_names=("a", "b"))
    observed = [[1.0, seen] for seen in SEEN] if mode == "multilabel" else SEEN
    some = viewer(tmp_path, whole, observed=observed, target=asked)
    (said,) = [fact for fact in some.scene(0, some.setting()).facts if fact[0] == word]
    assert said[1]
    assert (f">{word.capitalize()}</button>" in live_page(some)) == (
        word != "likeliest"
    )


def test_labels_of_several_at_once(tmp_path: Path) -> None:
    whole = synthetic(40, mode="multilabel", target=(1,) * 40, target_names=("a", "b"))
    observed = [[1.0, seen] for seen in SEEN]
    some = viewer(tmp_path, whole, observed=observed)
    said = some.overview()["predictions"][0]
    # The share belongs to the label that is named, and nothing is called at 50 %.
    assert {one["text"] for one in said} == {"b"}
    assert {one["correct"] for one in said} == {None}
    assert some.overview()["patients"][1]["label"] == "a, b"


def test_no_answer_is_said(tmp_path: Path) -> None:
    whole = synthetic(40)
    for numbers in (whole.f_input, whole.delta, whole.attributions["labs"]):
        numbers[3] = torch.nan
    some = viewer(tmp_path, whole)
    assert some.overview()["predictions"][0][3]["words"] == "no answer"
    assert some.view(3)["complete"]["status"] == "unanswered"


def test_a_folder_is_a_cohort_to_the_command(tmp_path: Path) -> None:
    viewer(tmp_path / "cohort")
    assert len(load(str(tmp_path / "cohort"), 7)) == 7
    with pytest.raises(StartError, match="no cohort's folder: it has no cohort.json"):
        load(str(tmp_path))
    (tmp_path / "cohort" / "cohort.json").write_text('{"format": 9}')
    with pytest.raises(StartError, match="format 9"):
        load(str(tmp_path / "cohort"))
    with pytest.raises(CohortError):
        CohortViewer(tmp_path / "cohort")
