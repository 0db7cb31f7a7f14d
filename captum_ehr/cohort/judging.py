"""How well a cohort's model fits what was observed, output by output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ..scene.performance import Errors, Hits, Performance, errors_of, performance_of
from .stored import StoredCohort, targets_of

_APART = (
    "Each output is judged on the samples alone that were explained for it; where the "
    "predicted one is explained, these are no sample of all."
)


@dataclass(frozen=True)
class Judgement:
    """The performance of a cohort's model.

    Args:
        outputs: An entry per explained output, the most frequent first.
        note: What the numbers are not good for, or why there are none.
    """

    outputs: tuple[Performance | Errors | Hits, ...]
    note: str = ""


def judged(stored: StoredCohort, threshold: float) -> Judgement:
    """The explained outputs beside what was observed."""
    mode, header = stored.header.mode, stored.header
    people = stored.patients().select("target", "f_input", "observed").collect()
    if people["observed"].null_count() == len(people):
        return Judgement((), "It is not known what was observed.")
    if mode == "regression":
        target = header.target_label(people["target"][0])
        return Judgement((errors_of(target, *_columns(people)),))
    sizes = targets_of(people)
    places = [target for target, _ in sizes.most_common() if isinstance(target, int)]
    known = mode in ("binary", "multiclass", "multilabel")
    if not known or len(places) < len(sizes):
        return Judgement((), "It is not known how to compare the outputs with labels.")
    if mode == "multiclass" and len(sizes) > 1:
        observed = people.drop_nulls("observed")
        right = int((observed["observed"] == observed["target"]).sum())
        hits = Hits(len(observed), len(people) - len(observed), right)
        return Judgement((hits,))
    outputs = [
        _output(stored, people.filter(target=target), target, threshold)
        for target in places
    ]
    return Judgement(tuple(outputs), _APART if len(outputs) > 1 else "")


def _output(
    stored: StoredCohort, people: pl.DataFrame, target: int, threshold: float
) -> Performance:
    """One output, of the samples that were explained for it."""
    header = stored.header
    if header.mode == "multilabel":
        column = pl.col("observed").list.get(target, null_on_oob=True)
        people = people.with_columns(observed=column)
    observed, score = _columns(people)
    if header.mode == "multiclass":
        observed = np.where(np.isnan(observed), np.nan, observed == target)
    if header.output == "logit" and header.mode != "multiclass":
        score = 1 / (1 + np.exp(-score))
    return performance_of(
        header.target_label(target),
        observed,
        score,
        is_probability=header.output == "probability" or header.mode != "multiclass",
        threshold=threshold,
    )


def _columns(people: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What was observed and the output; NaN where unknown."""
    observed, output = (
        people[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        for name in ("observed", "f_input")
    )
    return observed, output
