"""Attributions added up by visit, code, feature or group; no sum is lost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from .data import ExplanationData
from .labels import Grouping
from .resampling import Resampling
from .rows import noted, rows_by
from .words import mixed_targets, target_labels, unanswered


def strongest(
    explanation: ExplanationData,
    mapping: Grouping | None = None,
    rest: str = "other",
    k: int | None = None,
    how: Resampling | None = None,
) -> pd.DataFrame:
    """The rows of :meth:`Explanation.top`, without its note."""
    frame, keys, words = rows_by(explanation, mapping, rest)
    each = added(frame, ["sample", *keys], **{word: word for word in words})
    each["absolute"] = each["attribution"].abs()
    each["patient_id"] = _patients(explanation, each)
    labels, apart = target_labels(explanation), keys
    if len(set(labels)) > 1:  # unlike outputs are not added up
        each["target"] = np.array(labels, dtype=object)[each["sample"].to_numpy()]
        apart = ["target", *keys]
    table = _means(each, apart, words, labels)
    table = table.head(len(table) if k is None else k)
    if how is None:
        return table
    from .certainty import with_intervals  # which loads SciPy

    return with_intervals(explanation, table, frame, keys, how)


def _means(
    each: pd.DataFrame, keys: list[str], words: list[str], labels: list[str]
) -> pd.DataFrame:
    """The statistics of each place from the total of each sample at it."""
    count: Any = max(len(labels), 1)
    table = aggregated(
        each,
        keys,
        True,
        **{word: (word, "first") for word in words},
        count=("count", "sum"),
        samples=("sample", "size"),
        patients=("patient_id", "nunique"),
        mean=("attribution", "sum"),
        mean_abs=("absolute", "sum"),
        sum=("attribution", "sum"),
    )
    if "target" in keys:
        count = table["explained"] = table["target"].map(Counter(labels))
    table[["mean", "mean_abs"]] = table[["mean", "mean_abs"]].div(count, axis="index")
    table = table.sort_values("mean_abs", ascending=False, kind="stable")
    return table.reset_index(drop=True)


def sums_of(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The sum of the attributions of rows with the same keys, which are the index.

    A sum with something that is no number is none.
    """
    columns = {"attribution": ("attribution", "sum")}
    return aggregated(frame, keys, True, **columns).set_index(keys)


def _patients(explanation: ExplanationData, table: pd.DataFrame) -> np.ndarray:
    ids = np.array(explanation.patient_ids, dtype=object)
    return ids[table["sample"].to_numpy()]


def added(frame: pd.DataFrame, keys: list[str], **words: str) -> pd.DataFrame:
    """Rows with the same keys as one: the count, the sum, and the first word."""
    return aggregated(
        frame,
        keys,
        False,
        **{name: (column, "first") for name, column in words.items()},
        count=("attribution", "size"),
        attribution=("attribution", "sum"),
    )


def aggregated(
    frame: pd.DataFrame, keys: list[str], sort: bool, **columns: tuple[str, str]
) -> pd.DataFrame:
    """Rows with the same keys as one; a sum with something that is no number is none.

    pandas leaves NaN out of sums, and can be told otherwise since version 3.
    """
    groups = frame.groupby(keys, as_index=False, sort=sort, dropna=False)
    table = groups.agg(**columns)
    for name, (column, how) in columns.items():
        lost = frame[column].isna()
        if how == "sum" and lost.any():
            each = lost.groupby([frame[key] for key in keys], sort=sort, dropna=False)
            table.loc[each.any().to_numpy(), name] = np.nan
    return table


def by_strength(table: pd.DataFrame) -> pd.DataFrame:
    """Patient by patient, the largest absolute sum first."""
    strength = -table["attribution"].abs().to_numpy()
    return table.iloc[np.lexsort((strength, table["sample"].to_numpy()))]


def finished(
    explanation: ExplanationData, table: pd.DataFrame, columns: list[str]
) -> pd.DataFrame:
    """The asked columns with each sample's patient, count and sum, and a note."""
    table = table.assign(patient_id=_patients(explanation, table))
    table = table[["patient_id", *columns, "count", "attribution"]]
    table = table.reset_index(drop=True)
    return noted(table, mixed_targets(explanation), unanswered(explanation))
