"""Attributions added up by visit, code, feature or group; no sum is lost."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl

from .aggregates import Places, Population, population_of, statistics
from .data import ExplanationData
from .labels import Grouping
from .resampling import Resampling
from .rows import explained_for, noted, people_of, places_of, strongest_first
from .words import mixed_targets, unanswered

_STATISTICS = ("count", "samples", "patients", "^mean(_abs)?(_low|_high)?$", "sum")


def strongest(
    explanation: ExplanationData,
    mapping: Grouping | None = None,
    rest: str = "other",
    k: int | None = None,
    how: Resampling | None = None,
) -> pd.DataFrame:
    """The rows of :meth:`Explanation.top`, without its note."""
    how = how or Resampling(0)
    place, people = places_of(explanation, mapping, rest), people_of(explanation)
    everybody, parts = population_of(people), []
    labels = sorted(people["target"].unique())
    for label in labels or [""]:  # unlike outputs are not added up
        mine = explained_for(label, everybody) if labels else everybody
        places = place(mine) if k is None else _largest(place(mine), mine, k)
        size, part = len(mine.samples), statistics(places, mine, how)
        part = places.labels.hstack(part).with_columns(sum=pl.col("mean") * size)
        part = part.select(*places.labels.columns, *_STATISTICS)
        if len(labels) > 1:
            target = pl.lit(label).alias("target")
            part = part.select(target, pl.all(), explained=pl.lit(size, pl.Int64))
        parts.append(part)
    table = strongest_first(pl.concat(parts).to_pandas(), "mean_abs")
    if how.replicates:
        table.attrs["level"] = how.level
    return table.head(len(table) if k is None else k)


def _largest(places: Places, population: Population, k: int) -> Places:
    """The places with the largest means, of which alone patients are drawn again."""
    sizes = statistics(places, population, Resampling(0))["mean_abs"].to_numpy()
    best = np.sort(np.argsort(-sizes, kind="stable")[:k])
    lines = places.lines[best].drop("place").with_row_index("place")
    return Places(places.rows, lines, places.labels[best])


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
