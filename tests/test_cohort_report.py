"""A cohort's performance and its page: what is in it, and that nothing else is."""

from __future__ import annotations

import base64
import re
import stat
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from cohort_files import synthetic, write_cohort
from insights_cases import SCRIPT
from sklearn.metrics import roc_auc_score

from captum_ehr.cohort import Cohort
from captum_ehr.scene.performance import Errors, Hits, Performance

SIGMOID = 1 / (1 + np.exp(-synthetic(60).f_input.numpy()))
SEEN = (SIGMOID > np.random.default_rng(0).random(60)).astype(float)
FAILED = [{"patient_id": SCRIPT, "sample": 60, "reason": f"ValueError: {SCRIPT}"}]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("cohort")
    whole = synthetic(60, names={"C001": SCRIPT}, model_name=SCRIPT)
    return Cohort(write_cohort(folder, whole, observed=list(SEEN), failed=FAILED))


@pytest.fixture(scope="module")
def page(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert cohort.report(path, k=12, threshold=0.3, patients=["p00003"]) == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_text()


def test_the_page_has_performance_codes_patients_and_who_is_missing(
    cohort: Cohort, page: str
) -> None:
    (judged,) = cohort.performance(0.3).outputs
    assert isinstance(judged, Performance) and judged.decision is not None
    assert f"<dt>AUROC</dt><dd>{judged.auroc:.3f}</dd>" in page
    assert f"<dt>at 0.3 or more</dt><dd>{judged.decision.called} samples</dd>" in page
    table = cohort.codes()
    shown = re.findall(r'<tr data-feature="(.*?)" data-code="(.*?)"', page)
    assert [code.replace("&lt;unk&gt;", "<unk>") for _, code in shown] == table[
        "code"
    ].tolist()[:12]
    assert page.count('<td class="interval') == 12
    pictures = re.findall(r'src="data:image/png;base64,(.*?)"', page)
    assert len(pictures) == 2
    assert all(base64.b64decode(one).startswith(b"\x89PNG") for one in pictures)
    assert "1 sample could not be explained:" in page
    assert page.count("p00003") >= 2 and "p00004" not in page


def test_the_page_is_text_and_asks_for_nothing(page: str) -> None:
    assert SCRIPT not in page and "&lt;img src=x" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_what_is_missing_or_wrong_is_said(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    with pytest.raises(KeyError, match="no patient 'nobody'"):
        cohort.report(path, patients=["nobody"])
    with pytest.raises(ValueError, match="k is 0"):
        cohort.report(path, k=0)
    with pytest.raises(ValueError, match="threshold is 30"):
        cohort.report(path, threshold=30)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="scikit-learn"):
        cohort.report(path)
    assert not path.exists()


def test_without_labels_there_is_no_performance(tmp_path: Path) -> None:
    cohort = Cohort(write_cohort(tmp_path / "cohort", synthetic(12)))
    judgement = cohort.performance()
    assert judgement.outputs == () and "not known what was observed" in judgement.note
    path = cohort.report(tmp_path / "report.html", title="Ward 3")
    assert judgement.note in path.read_text() and "<h1>Ward 3</h1>" in path.read_text()


def test_probabilities_are_judged_as_they_are(tmp_path: Path) -> None:
    whole = synthetic(60, output="probability")
    cohort = Cohort(write_cohort(tmp_path, whole, observed=list(SEEN)))
    (judged,) = cohort.performance().outputs
    assert isinstance(judged, Performance)
    assert judged.brier == pytest.approx(np.mean((whole.f_input.numpy() - SEEN) ** 2))


def test_labels_of_several_at_once_are_judged_one_by_one(tmp_path: Path) -> None:
    target = tuple(int(k % 3 > 0) for k in range(60))
    whole = synthetic(60, mode="multilabel", target=target, target_names=("a", "b"))
    observed = [[1.0 - seen, seen] for seen in SEEN]
    cohort = Cohort(write_cohort(tmp_path / "c", whole, observed=observed))
    judgement = cohort.performance()
    assert [one.target for one in judgement.outputs] == ["b", "a"]
    assert "judged on the samples alone" in judgement.note
    rows = [k for k in range(60) if k % 3]
    auroc = roc_auc_score(SEEN[rows], SIGMOID[rows])
    assert judgement.outputs[0].auroc == pytest.approx(auroc)
    with warnings.catch_warnings(action="error"):
        page = cohort.report(tmp_path / "report.html").read_text()
    assert page.count("<h3>Strongest codes") == 2


def test_of_classes_the_explained_one_is_judged(tmp_path: Path) -> None:
    target = tuple(k % 3 for k in range(60))
    observed = [float(k % 2) for k in range(59)] + [None]
    whole = synthetic(60, mode="multiclass", target=target, target_names=tuple("abc"))
    cohort = Cohort(write_cohort(tmp_path / "several", whole, observed=observed))
    right = sum(k % 3 == k % 2 for k in range(59))
    assert cohort.performance().outputs == (Hits(59, 1, right),)
    whole = synthetic(
        60, mode="multiclass", target=(1,) * 60, target_names=tuple("abc")
    )
    cohort = Cohort(write_cohort(tmp_path / "one", whole, observed=observed))
    (judged,) = cohort.performance().outputs
    truth = [k % 2 for k in range(59)]
    auroc = roc_auc_score(truth, whole.f_input.numpy()[:59])
    assert judged.auroc == pytest.approx(auroc) and judged.calibration is None


def test_a_regression_has_errors(tmp_path: Path) -> None:
    whole = synthetic(20, mode="regression")
    observed = (whole.f_input + 1).tolist()
    cohort = Cohort(write_cohort(tmp_path / "c", whole, observed=observed))
    (errors,) = cohort.performance().outputs
    assert isinstance(errors, Errors) and errors.mean_absolute == pytest.approx(1.0)
    page = cohort.report(tmp_path / "r.html").read_text()
    assert "mean absolute error" in page
    for said in (page, repr(cohort)):
        assert "output of target" in said and "logit of target" not in said


def test_no_answer_is_no_number(tmp_path: Path) -> None:
    whole = synthetic(20)
    for numbers in (whole.f_input, whole.delta, whole.attributions["labs"]):
        numbers[3] = torch.nan
    cohort = Cohort(write_cohort(tmp_path / "c", whole, observed=list(SEEN[:20])))
    (judged,) = cohort.performance().outputs
    assert (judged.samples, judged.unknown) == (19, 1)
    with pytest.warns(UserWarning, match="no numbers"):
        page = cohort.report(tmp_path / "report.html").read_text()
    assert "1 of 20 patient(s) have attributions that are no numbers" in page
