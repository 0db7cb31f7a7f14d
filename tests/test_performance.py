"""How well outputs fit what was observed: numbers against scikit-learn and by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from captum_ehr.scene.performance import errors_of, performance_of

RANDOM = np.random.default_rng(0)
SEEN = (RANDOM.random(2_000) < 0.3).astype(float)
SAID = np.clip(0.3 + 0.2 * (SEEN - 0.3) + 0.15 * RANDOM.normal(size=2_000), 0, 1)


def test_numbers_are_those_of_scikit_learn() -> None:
    judged = performance_of("died", SEEN, SAID, is_probability=True)
    assert judged.auroc == pytest.approx(roc_auc_score(SEEN, SAID))
    assert judged.auprc == pytest.approx(average_precision_score(SEEN, SAID))
    assert judged.brier == pytest.approx(brier_score_loss(SEEN, SAID))
    observed, said = calibration_curve(SEEN, SAID, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(judged.calibration, (said, observed), atol=1e-2)
    assert (judged.samples, judged.positives, judged.unknown) == (2_000, SEEN.sum(), 0)


@pytest.mark.parametrize(("shift", "factor"), [(0.0, 1.0), (1.5, 0.5), (-9.0, 2.0)])
def test_calibration_is_a_logistic_regression_on_the_log_odds(
    shift: float, factor: float
) -> None:
    odds = RANDOM.normal(-1, 1, size=500)
    seen = (RANDOM.random(500) < 1 / (1 + np.exp(-odds))).astype(float)
    said = shift + factor * odds  # what the model takes them for
    judged = performance_of("x", seen, 1 / (1 + np.exp(-said)), is_probability=True)
    peer = LogisticRegression(C=1e12, tol=1e-12, max_iter=1_000)
    peer.fit(said[:, None], seen)
    assert judged.slope == pytest.approx(peer.coef_[0, 0], rel=1e-4)
    # Shifted by the intercept, the probabilities are right on the whole.
    moved = 1 / (1 + np.exp(-said - judged.intercept))
    assert moved.mean() == pytest.approx(seen.mean(), abs=1e-9)


def test_what_parts_them_has_no_slope() -> None:
    seen, said = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    assert np.isnan(performance_of("x", seen, said, is_probability=True).slope)
    same = performance_of("x", seen, np.full(4, 0.2), is_probability=True)
    assert np.isnan(same.slope)
    assert same.intercept == pytest.approx(np.log(4))  # to the rate, 50 %


def test_a_threshold_calls_what_reaches_it() -> None:
    seen, said = np.array([1, 1, 1, 0, 0]), np.array([0.9, 0.4, 0.3, 0.4, 0.1])
    decision = performance_of(
        "x", seen, said, is_probability=True, threshold=0.4
    ).decision
    assert decision is not None and decision.called == 3
    shares = decision.sensitivity, decision.specificity
    assert shares == (pytest.approx(2 / 3), 0.5)
    values = decision.positive_value, decision.negative_value
    assert values == (pytest.approx(2 / 3), 0.5)


def test_a_threshold_that_calls_nobody_has_no_predictive_value() -> None:
    judged = performance_of("x", SEEN, SAID / 2, is_probability=True, threshold=1.0)
    assert judged.decision is not None and judged.decision.called == 0
    assert np.isnan(judged.decision.positive_value)
    assert judged.decision.specificity == 1 and judged.decision.sensitivity == 0


def test_what_is_unknown_is_left_out_and_counted() -> None:
    seen, said = SEEN.copy(), SAID.copy()
    seen[:10], said[5:20] = np.nan, np.nan
    judged = performance_of("x", seen, said, is_probability=True)
    assert (judged.samples, judged.unknown) == (1_980, 20)
    assert judged.auroc == pytest.approx(roc_auc_score(SEEN[20:], SAID[20:]))


@pytest.mark.parametrize("seen", [np.zeros(4), np.ones(4), np.full(4, np.nan)])
def test_one_class_alone_has_no_ranking(seen: np.ndarray) -> None:
    judged = performance_of("x", seen, SAID[:4], is_probability=True)
    assert np.isnan([judged.auroc, judged.auprc]).all()
    assert judged.roc is None and judged.precision is None
    assert (judged.calibration is None) == np.isnan(seen).all()


def test_a_score_that_is_no_probability_is_not_calibrated() -> None:
    judged = performance_of("x", SEEN, 9 * SAID, is_probability=False)
    assert judged.auroc == pytest.approx(roc_auc_score(SEEN, SAID))
    assert judged.calibration is None and judged.decision is None
    assert np.isnan(judged.brier)


def test_samples_of_one_score_are_in_one_bin() -> None:
    said = np.repeat([0.1, 0.7], [900, 100])
    judged = performance_of("x", SEEN[:1_000], said, is_probability=True)
    assert judged.calibration is not None
    np.testing.assert_allclose(judged.calibration[0], [0.1, 0.7])
    shares = [SEEN[:900].mean(), SEEN[900:1_000].mean()]
    np.testing.assert_allclose(judged.calibration[1], shares)


@pytest.mark.parametrize(
    ("seen", "threshold", "words"),
    [
        (SEEN + 1, 0.5, "'x': 2 was observed, expected 0 or 1"),
        (SEEN, 50, "a probability"),
    ],
)
def test_what_is_no_class_or_probability_is_refused(
    seen: np.ndarray, threshold: float, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        performance_of("x", seen, SAID, is_probability=True, threshold=threshold)


def test_errors_of_a_regression() -> None:
    seen, said = np.array([1.0, 2.0, 4.0, np.nan]), np.array([1.0, 3.0, 2.0, 0.0])
    errors = errors_of("days", seen, said)
    assert (errors.samples, errors.unknown) == (3, 1)
    assert errors.mean_absolute == pytest.approx(1.0)
    assert errors.root_mean_square == pytest.approx(np.sqrt(5 / 3))
    assert errors.r2 == pytest.approx(1 - 5 / (14 / 3))
    assert np.isnan(errors_of("days", seen[:1], said[:1]).r2)


def test_scikit_learn_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="needs scikit-learn.*'captum-ehr\\[cli\\]'"):
        performance_of("x", SEEN, SAID, is_probability=True)
