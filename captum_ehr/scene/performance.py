"""How well a model's outputs fit what was observed, in numbers and curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

type Curve = tuple[np.ndarray, np.ndarray]
"""Where points are, along and up."""

_BINS = 10
"""The most bins of a calibration curve, of as many samples each."""

_STEPS, _FAR, _SINGULAR = 50, 4.0, 1e14
"""Newton's most steps, their length, and the condition where they lead nowhere."""


@dataclass(frozen=True)
class Decision:
    """What comes of calling all from a probability on positive."""

    threshold: float
    called: int  # samples at or above it
    sensitivity: float
    specificity: float
    positive_value: float  # the share of those called that are positive; NaN for none
    negative_value: float


@dataclass(frozen=True, eq=False)
class Performance:
    """One output against what was observed, over samples where both are known.

    Numbers are NaN, and curves None, where they have no meaning: of one class alone
    there is no ranking, and a score that is no probability is not calibrated.
    """

    target: str
    samples: int
    unknown: int  # samples left out: no observation or no output
    positives: int
    auroc: float
    auprc: float
    brier: float
    #: Of the log odds: how much too low they are on the whole, 0 where they are right;
    intercept: float
    #: and how much too narrow, 1 where they are right (below, they are too extreme).
    slope: float
    decision: Decision | None
    roc: Curve | None = field(repr=False)  # 1 - specificity, sensitivity
    precision: Curve | None = field(repr=False)  # sensitivity, precision
    calibration: Curve | None = field(repr=False)  # mean probability, share observed


@dataclass(frozen=True)
class Errors:
    """A regression against what was observed, over samples where both are known."""

    target: str
    samples: int
    unknown: int
    mean_absolute: float
    root_mean_square: float
    r2: float  # NaN where all observations are the same


@dataclass(frozen=True)
class Hits:
    """The classes explained against those observed, where both are known."""

    samples: int
    unknown: int
    right: int


def performance_of(
    target: str,
    observed: np.ndarray,
    score: np.ndarray,
    *,
    is_probability: bool,
    threshold: float = 0.5,
) -> Performance:
    """Judge the output of a class.

    Args:
        target: What the output is called.
        observed: ``(samples,)``; 1 where it came to pass, 0 where not, NaN unknown.
        score: ``(samples,)``; the higher, the likelier.
        is_probability: Whether scores are probabilities.
        threshold: The probability from which on a sample is called positive.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If an observation is not 0, 1 or NaN, or the threshold no
            probability.

    Example:
        >>> seen, said = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9])
        >>> judged = performance_of("died", seen, said, is_probability=True)
        >>> judged.auroc, judged.decision.sensitivity
        (0.75, 0.5)
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}, expected a probability, 0 to 1.")
    metrics = _metrics()
    is_known = np.isfinite(observed) & np.isfinite(score)
    truth, score = observed[is_known], score[is_known]
    if not np.isin(truth, (0, 1)).all():
        odd = truth[~np.isin(truth, (0, 1))][0]
        raise ValueError(
            f"target {target!r}: {odd:g} was observed, expected 0 or 1 for whether it "
            "came to pass."
        )
    positives = int(truth.sum())
    has_both = 0 < positives < len(truth)
    is_judged = is_probability and len(truth) > 0
    return Performance(
        target,
        len(truth),
        int((~is_known).sum()),
        positives,
        float(metrics.roc_auc_score(truth, score)) if has_both else np.nan,
        float(metrics.average_precision_score(truth, score)) if has_both else np.nan,
        float(np.mean((score - truth) ** 2)) if is_judged else np.nan,
        *(_recalibrated(truth, score) if is_judged and has_both else (np.nan, np.nan)),
        _decision(truth, score, threshold) if is_judged else None,
        metrics.roc_curve(truth, score)[:2] if has_both else None,
        metrics.precision_recall_curve(truth, score)[1::-1] if has_both else None,
        _calibration(truth, score) if is_judged else None,
    )


def errors_of(target: str, observed: np.ndarray, output: np.ndarray) -> Errors:
    """Judge a regression's output, both ``(samples,)``; NaN where unknown.

    Raises:
        ImportError: If scikit-learn is not installed.

    Example:
        >>> errors_of("days", np.array([1.0, 3.0]), np.array([2.0, 3.0])).mean_absolute
        0.5
    """
    metrics = _metrics()
    is_known = np.isfinite(observed) & np.isfinite(output)
    truth, output = observed[is_known], output[is_known]
    off = output - truth
    is_spread = len(truth) > 1 and np.ptp(truth) > 0
    return Errors(
        target,
        len(truth),
        int((~is_known).sum()),
        float(np.abs(off).mean()) if len(off) else np.nan,
        float(np.sqrt((off**2).mean())) if len(off) else np.nan,
        float(metrics.r2_score(truth, output)) if is_spread else np.nan,
    )


def _calibration(truth: np.ndarray, score: np.ndarray) -> Curve:
    """Bins of as many samples each; samples of one score are never parted."""
    edges = np.unique(np.quantile(score, np.linspace(0, 1, _BINS + 1)[1:-1]))
    place = np.searchsorted(edges, score, side="right")
    counts = np.bincount(place)
    held = counts > 0
    said, seen = np.bincount(place, score)[held], np.bincount(place, truth)[held]
    return said / counts[held], seen / counts[held]


def _recalibrated(truth: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """The calibration's intercept, with a slope of 1, and its slope (Cox 1958).

    As in Van Calster et al., J Clin Epidemiol 2016 (74:167).
    """
    # A probability of 0 or 1 has no log odds: it counts as the last one that has.
    edge = np.finfo(float).eps
    inside = np.clip(score, edge, 1 - edge)
    odds = np.log(inside) - np.log1p(-inside)
    ones = np.ones((len(truth), 1))
    (intercept,) = _logistic(ones, odds, truth)
    if not np.ptp(odds):
        return intercept, np.nan
    _, slope = _logistic(np.column_stack([ones, odds]), np.zeros_like(odds), truth)
    return intercept, slope


def _logistic(
    columns: np.ndarray, offset: np.ndarray, truth: np.ndarray
) -> tuple[float, ...]:
    """The weights of a logistic regression by Newton's steps; NaN if there are none.

    There are none where the columns part positives from negatives.
    """
    weights = np.zeros(columns.shape[1])
    rate = truth.mean()
    weights[0] = np.log(rate / (1 - rate)) - offset.mean()
    for _ in range(_STEPS):
        share = 0.5 + 0.5 * np.tanh(0.5 * (columns @ weights + offset))
        curved = columns.T @ (columns * (share * (1 - share))[:, None])
        if np.linalg.cond(curved) > _SINGULAR:
            break
        step = np.linalg.solve(curved, columns.T @ (truth - share))
        weights = weights + step / max(1.0, np.abs(step).max() / _FAR)
        if np.abs(step).max() < 1e-10 * (1 + np.abs(weights).max()):
            return tuple(weights.tolist())
    return (np.nan,) * len(weights)


def _decision(truth: np.ndarray, score: np.ndarray, threshold: float) -> Decision:
    called, positive = score >= threshold, truth == 1

    def share(part: np.ndarray, whole: np.ndarray) -> float:
        return float((part & whole).sum() / whole.sum()) if whole.any() else np.nan

    return Decision(
        threshold,
        int(called.sum()),
        share(called, positive),
        share(~called, ~positive),
        share(positive, called),
        share(~positive, ~called),
    )


def _metrics() -> ModuleType:
    try:
        from sklearn import metrics
    except ModuleNotFoundError as error:
        raise ImportError(
            "the performance of a model needs scikit-learn, which is not installed: "
            "pip install 'captum-ehr[cli]'"
        ) from error
    return metrics
