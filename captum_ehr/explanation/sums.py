"""Attributions added up by visit, code, feature or group; no sum is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .grouping import Grouping, group_labels

if TYPE_CHECKING:
    import pandas as pd

    from .explanation import Explanation


def by_visit(explanation: Explanation) -> pd.DataFrame:
    """Sums per patient and visit; see :meth:`Explanation.by_visit`."""
    frame = explanation.to_frame()
    tokens = [key for key, one in explanation.features.items() if one.is_token]
    # Steps of an untimed series are no visits: number 3 is not the third admission.
    alone = ~frame["feature"].isin(tokens) & frame["time"].isna()
    frame["_own"] = frame["feature"].where(alone & frame["visit"].notna(), "")
    keys = ["sample", "visit", "time", "_own"]
    frame["_visit"] = frame.groupby(keys, dropna=False, sort=False).ngroup()
    places = frame[["_visit", "feature"]].drop_duplicates()
    features = places.groupby("_visit")["feature"].agg(", ".join)
    table = _added(frame, ["_visit"], sample="sample", visit="visit", time="time")
    table["features"] = features.reindex(table["_visit"]).to_numpy()
    table = table.sort_values(["sample", "time", "visit"], kind="stable")
    columns = ["patient_id", "sample", "visit", "time", "features", "count"]
    return _finished(explanation, table, [*columns, "attribution"])


def by_code(explanation: Explanation) -> pd.DataFrame:
    """Sums per patient, feature and code; see :meth:`Explanation.by_code`."""
    frame = explanation.to_frame()
    table = _added(frame, ["sample", "feature", "code"], name="name", unit="unit")
    columns = ["patient_id", "sample", "feature", "code", "name", "unit", "count"]
    return _finished(explanation, _strongest(table), [*columns, "attribution"])


def by_feature(explanation: Explanation) -> pd.DataFrame:
    """Sums per patient and feature; see :meth:`Explanation.by_feature`."""
    table = _added(explanation.to_frame(), ["sample", "feature"])
    columns = ["patient_id", "sample", "feature", "count", "attribution"]
    return _finished(explanation, table, columns)


def by_group(explanation: Explanation, mapping: Grouping, rest: str) -> pd.DataFrame:
    """Sums per patient and group; see :meth:`Explanation.by_group`."""
    table = _added(_grouped(explanation, mapping, rest), ["sample", "group"])
    columns = ["patient_id", "sample", "group", "count", "attribution"]
    return _finished(explanation, _strongest(table), columns)


def top(
    explanation: Explanation, k: int | None, mapping: Grouping | None, rest: str
) -> pd.DataFrame:
    """The strongest over all patients; see :meth:`Explanation.top`."""
    if k is not None and k < 0:
        raise ValueError(f"k is {k}, expected None for all, or at least 0.")
    if mapping is None:
        keys, words = ["feature", "code"], {"name": "name"}
        frame = explanation.to_frame()
    else:
        keys, words = ["group"], {}
        frame = _grouped(explanation, mapping, rest)
    each = _added(frame, ["sample", *keys], **words)
    each["absolute"] = each["attribution"].abs()
    each["patient_id"] = np.array([*explanation.patient_ids, ""], dtype=object)[
        each["sample"]
    ]
    table = each.groupby(keys, as_index=False).agg(
        **{word: (word, "first") for word in words},
        count=("count", "sum"),
        samples=("sample", "size"),
        patients=("patient_id", "nunique"),
        mean=("attribution", "sum"),
        mean_abs=("absolute", "sum"),
        sum=("attribution", "sum"),
    )
    table[["mean", "mean_abs"]] /= max(len(explanation), 1)
    table = table.sort_values("mean_abs", ascending=False, kind="stable")
    return table.head(len(table) if k is None else k).reset_index(drop=True)


def _added(frame: pd.DataFrame, keys: list[str], **words: str) -> pd.DataFrame:
    """Rows with the same keys as one: the count, the sum, and the first word."""
    grouped = frame.groupby(keys, as_index=False, sort=False, dropna=False)
    return grouped.agg(
        **{name: (column, "first") for name, column in words.items()},
        count=("attribution", "size"),
        attribution=("attribution", "sum"),
    )


def _grouped(explanation: Explanation, mapping: Grouping, rest: str) -> pd.DataFrame:
    """The frame with a column ``group``; what has none is in the rest."""
    frame = explanation.to_frame()
    frame["group"] = np.full(len(frame), rest, dtype=object)
    for key, labels in group_labels(explanation, mapping).items():
        mine = frame["feature"] == key
        frame.loc[mine, "group"] = frame.loc[mine, "code"].map(labels).fillna(rest)
    return frame


def _strongest(table: pd.DataFrame) -> pd.DataFrame:
    """Patient by patient, the largest absolute sum first."""
    strength = -table["attribution"].abs().to_numpy()
    return table.iloc[np.lexsort((strength, table["sample"].to_numpy()))]


def _finished(
    explanation: Explanation, table: pd.DataFrame, columns: list[str]
) -> pd.DataFrame:
    """The asked columns, with each sample's patient."""
    ids = np.array([*explanation.patient_ids, ""], dtype=object)
    table = table.assign(patient_id=ids[table["sample"].to_numpy()])
    return table[columns].reset_index(drop=True)
