"""Attributions added up by visit, code, feature or group; no sum is lost."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .data import ExplanationData, row_sums
from .frame import build_rows, frame_of, to_frame
from .labels import Grouping
from .rows import grouped, noted, rows_by
from .sample_columns import PER_PATIENT, with_samples
from .words import mixed_targets, target_labels, unanswered

if TYPE_CHECKING:
    from .resampling import Resampling


def samples(explanation: ExplanationData) -> pd.DataFrame:
    """A row per sample; see :meth:`Explanation.samples`."""
    table = pd.DataFrame({"patient_id": explanation.patient_ids})
    table["sample"] = np.arange(len(explanation))
    table = with_samples(table, explanation.sample_columns)
    table["target"] = target_labels(explanation)
    for name in PER_PATIENT:
        table[name] = row_sums(getattr(explanation, name)).numpy()
    return table


def by_visit(explanation: ExplanationData) -> pd.DataFrame:
    """The sum of each visit, by patient; see :meth:`Explanation.by_visit`."""
    rows = build_rows(explanation)
    frame = frame_of(rows).assign(_time=rows["_time"])
    features = explanation.features.items()
    tokens = [key for key, record in features if record.is_token]
    # Steps of an untimed series are no visits: number 3 is not the third admission.
    alone = ~frame["feature"].isin(tokens) & frame["_time"].isna()
    frame["_own"] = frame["feature"].where(alone & frame["visit"].notna(), "")
    keys = ["sample", "visit", "_time", "_own"]
    frame["_visit"] = frame.groupby(keys, dropna=False, sort=False).ngroup()
    places = frame[["_visit", "feature"]].drop_duplicates()
    joined = places.groupby("_visit")["feature"].agg(", ".join)
    table = _added(frame, ["_visit"], sample="sample", visit="visit", time="time")
    table["features"] = joined.reindex(table["_visit"]).to_numpy()
    table = table.sort_values(["sample", "visit", "time"], kind="stable")
    columns = ["patient_id", "sample", "visit", "time", "features", "count"]
    return _finished(explanation, table, [*columns, "attribution"])


def by_code(explanation: ExplanationData) -> pd.DataFrame:
    """The sum of each code or column, by patient; see :meth:`Explanation.by_code`."""
    frame = to_frame(explanation)
    table = _added(frame, ["sample", "feature", "code"], name="name", unit="unit")
    columns = ["patient_id", "sample", "feature", "code", "name", "unit", "count"]
    return _finished(explanation, _strongest(table), [*columns, "attribution"])


def by_feature(explanation: ExplanationData) -> pd.DataFrame:
    """The sum of each feature, by patient; see :meth:`Explanation.by_feature`."""
    table = _added(to_frame(explanation), ["sample", "feature"])
    columns = ["patient_id", "sample", "feature", "count", "attribution"]
    return _finished(explanation, table, columns)


def by_group(
    explanation: ExplanationData, mapping: Grouping, rest: str = "other"
) -> pd.DataFrame:
    """The sum of each group of codes, by patient; see :meth:`Explanation.by_group`."""
    table = _added(grouped(explanation, mapping, rest), ["sample", "group"])
    columns = ["patient_id", "sample", "group", "count", "attribution"]
    return _finished(explanation, _strongest(table), columns)


def top(
    explanation: ExplanationData,
    k: int | None = 10,
    mapping: Grouping | None = None,
    rest: str = "other",
    how: Resampling | None = None,
) -> pd.DataFrame:
    """The strongest codes or groups of all patients; see :meth:`Explanation.top`."""
    if k is not None and k < 0:
        raise ValueError(f"k is {k}, expected None for all, or at least 0.")
    table = strongest(explanation, mapping, rest, k, how)
    return noted(table, unanswered(explanation))


def strongest(
    explanation: ExplanationData,
    mapping: Grouping | None = None,
    rest: str = "other",
    k: int | None = None,
    how: Resampling | None = None,
) -> pd.DataFrame:
    """The rows of :func:`top`, without its note."""
    frame, keys, words = rows_by(explanation, mapping, rest)
    each = _added(frame, ["sample", *keys], **{word: word for word in words})
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
    from .certainty import with_intervals  # which loads polars

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


def _added(frame: pd.DataFrame, keys: list[str], **words: str) -> pd.DataFrame:
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


def _strongest(table: pd.DataFrame) -> pd.DataFrame:
    """Patient by patient, the largest absolute sum first."""
    strength = -table["attribution"].abs().to_numpy()
    return table.iloc[np.lexsort((strength, table["sample"].to_numpy()))]


def _finished(
    explanation: ExplanationData, table: pd.DataFrame, columns: list[str]
) -> pd.DataFrame:
    """The asked columns, with each sample's patient."""
    table = table.assign(patient_id=_patients(explanation, table))
    table = table[columns].reset_index(drop=True)
    return noted(table, mixed_targets(explanation), unanswered(explanation))
