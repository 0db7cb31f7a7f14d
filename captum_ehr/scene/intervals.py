"""What is said of a table with intervals: each code's number, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .wording import code_labels, percent, several, shorten, signed

if TYPE_CHECKING:
    import pandas as pd

DISCOVERED = 0.05
"""Differences with a q-value of at most this are marked."""


@dataclass(frozen=True)
class Estimate:
    """One code's number."""

    label: str
    value: float  # NaN where a patient has no answer
    ends: tuple[float, float] | None  # of its line, where there is one
    words: str  # the number, and what else is said of it
    is_marked: bool = True


@dataclass(frozen=True)
class Estimates:
    """All that a picture of intervals says."""

    rows: tuple[Estimate, ...]
    head: str
    lines: tuple[str, ...]
    axis: str


def estimates(table: pd.DataFrame, k: int) -> Estimates:
    """The first rows of a table of means, differences or models, in words.

    Raises:
        ValueError: If the table has no intervals, no rows, or is not of codes.
    """
    if table.empty:
        raise ValueError("nothing to show: the table has no rows.")
    if not {"code", "group"} & {*table}:
        raise ValueError(
            "the table has no column 'code' or 'group': give one of codes, or of their "
            "groups."
        )
    for name, said in (
        ("difference_low", _differences),
        ("lowest", _models),
        ("mean_low", _means),
        ("spread_over_references", _references),
    ):
        if name in table:
            return said(table, table.head(k))
    raise ValueError(
        "the table has no intervals; give one of top(level=0.95), groups(...), "
        "across(...), spread(...), or of a cohort with replicates of at least 1."
    )


def _means(table: pd.DataFrame, top: pd.DataFrame) -> Estimates:
    rows = [
        _estimate(label, row["mean"], (row["mean_low"], row["mean_high"]))
        for label, row in zip(_labels(top), top.to_dict("records"))
    ]
    lines = (f"lines: {_level(table)}intervals, by bootstrap over patients",)
    axis = "mean attribution over all samples   (raises →, ← lowers)"
    return Estimates(tuple(rows), "What codes do on average", lines, axis)


def _differences(table: pd.DataFrame, top: pd.DataFrame) -> Estimates:
    values, compared = list(table["value"].unique()), table.attrs.get("compared")
    reference, column = table["reference"].iloc[0], table.attrs.get("column", "group")
    rows = []
    for label, row in zip(_labels(top), top.to_dict("records")):
        label = f"{label}: {row['value']}" if len(values) > 1 else label
        ends = row["difference_low"], row["difference_high"]
        is_marked = row["q_value"] <= DISCOVERED
        rows.append(_estimate(label, row["difference"], ends, "", is_marked))
    alone = str(values[0]) if len(values) == 1 else "each value"
    head = f"{column}: {alone} beside {reference}"
    among = f" among {compared} compared" if compared else ""
    lines = [
        f"lines: {_level(table)}intervals, by bootstrap over patients; "
        f"filled: q ≤ {DISCOVERED:g}{among}"
    ]
    if left := table.attrs.get("left_out"):
        lines.append(f"{several(left, 'sample')} without a value left out")
    axis = (
        f"mean attribution less that of {column} {reference}   "
        "(raises more →, ← lowers more)"
    )
    return Estimates(tuple(rows), head, tuple(lines), axis)


def _models(table: pd.DataFrame, top: pd.DataFrame) -> Estimates:
    rows = []
    for label, row in zip(_labels(top), top.to_dict("records")):
        ends, share = (row["lowest"], row["highest"]), row["agreement"]
        agree = "" if math.isnan(share) else f", {percent(share)} agree"
        rows.append(_estimate(label, row["mean"], ends, agree))
    models = table.attrs.get("models", int(table["models"].max()))
    head = f"{several(models, 'model')} of the same features"
    on = _SAMPLES.get(table.attrs.get("samples", ""), "")
    lines = (
        f"{on}lines from the lowest model to the highest; share of the models whose "
        "mean has the sign of all models'",
    )
    axis = "mean attribution over all models   (raises →, ← lowers)"
    return Estimates(tuple(rows), head, lines, axis)


def _references(table: pd.DataFrame, top: pd.DataFrame) -> Estimates:
    if len(people := table[["patient_id", "sample"]].drop_duplicates()) > 1:
        raise ValueError(
            f"the table is of {len(people)} samples, expected one: give its rows, as "
            "in table[table['sample'] == 0]."
        )
    rows, visits = [], (top["visit"].astype("Int64") + 1).fillna(0)
    for label, visit, row in zip(_labels(top), visits, top.to_dict("records")):
        label = f"{label}, visit {visit}" if visit else label
        value, spread = row["attribution"], row["spread_over_references"]
        rows.append(_estimate(label, value, (value - spread, value + spread)))
    head = f"{people['patient_id'].iloc[0]}: other patients as the reference"
    lines = ("lines: one standard deviation between references to each side",)
    axis = "mean attribution over the references   (raises →, ← lowers)"
    return Estimates(tuple(rows), head, lines, axis)


_SAMPLES = {
    "the same": "explained on the same samples; ",
    "some shared": "explained on samples of which they share some; ",
    "of their own": "explained on samples of their own; ",
}


def _estimate(
    label: str, value: Any, ends: Any, more: str = "", is_marked: bool = True
) -> Estimate:
    value = math.nan if value is None else float(value)
    if not math.isfinite(value):
        return Estimate(label, math.nan, None, signed(math.nan), is_marked)
    is_known = all(end is not None and math.isfinite(end) for end in ends)
    more = more if is_known else ", no interval"
    return Estimate(
        label, value, ends if is_known else None, signed(value, 3) + more, is_marked
    )


def _labels(table: pd.DataFrame) -> list[str]:
    """What to call each row: its code or group, and which of several targets."""
    keys = [name for name in ("feature", "code", "group") if name in table]
    codes = table.drop_duplicates(keys)
    rows = codes[keys].itertuples(index=False, name=None)
    names = dict(zip(rows, code_labels(codes)))
    labels = [names[row] for row in table[keys].itertuples(index=False, name=None)]
    if "target" in table:
        words = (shorten(target, 20) for target in table["target"])
        labels = [f"{label} → {word}" for label, word in zip(labels, words)]
    return labels


def _level(table: pd.DataFrame) -> str:
    level = table.attrs.get("level")
    return "" if level is None else f"{100 * level:g} % "
