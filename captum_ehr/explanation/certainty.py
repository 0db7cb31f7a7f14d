"""How sure the tables of an explanation are, and for whom: patients drawn again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from torch import Tensor

from .aggregates import SAMPLE, Places, Population, found, population_of
from .data import ExplanationData
from .feature_record import FeatureKeyError
from .labels import Grouping
from .resampling import Resampling, resampled
from .rows import noted, rows_by
from .sample_columns import checked
from .subgroups import Bins, alone, banded, differences, strata_of, with_discoveries
from .words import target_labels, unanswered

if TYPE_CHECKING:
    import pandas as pd

_MOST_SUMS = 4_000_000
"""How many replicates of sums are in memory at a time."""


def with_intervals(
    explanation: ExplanationData,
    table: pd.DataFrame,
    totals: pd.DataFrame,
    how: Resampling,
) -> pd.DataFrame:
    """A table of means with the ends of their intervals beside them.

    Args:
        explanation: Of whom.
        table: Some rows of :func:`captum_ehr.explanation.sums.strongest`, in any order.
        totals: What they were made from, a row per sample and place.
        how: How patients are drawn again.
    """
    if not how.replicates:
        return table
    keys = [name for name in ("target", "group", "feature", "code") if name in table]
    people = _people(explanation)
    strata = people["stratum"]  # one for each target, as the table has them
    population = Population(people, max(strata.n_unique(), 1))
    numbers = table[keys].assign(place=np.arange(len(table)))
    rows = totals.merge(numbers, on=keys)
    rows["stratum"] = strata.to_numpy()[rows["sample"]]
    rows["patient"] = people["patient"].to_numpy()[rows["sample"]]
    table, weights = table.copy(), population.weights(how)
    ends = _ends(rows, len(table), weights, how)
    table.attrs["level"] = how.level
    for name in ("mean", "mean_abs"):
        for end in (f"{name}_high", f"{name}_low"):
            table.insert(table.columns.get_loc(name) + 1, end, ends[end].to_numpy())
    return table


def _ends(
    rows: pd.DataFrame, places: int, weights: Tensor, how: Resampling
) -> pl.DataFrame:
    """The ends of the means' intervals at each place, from totals by sample."""
    stratum = np.zeros(places, dtype=int)
    stratum[rows["place"]] = rows["stratum"]
    step, parts = max(_MOST_SUMS // how.replicates, 1), []
    for first in range(0, max(places, 1), step):
        last = min(first + step, places)
        mine = pl.from_pandas(rows[rows["place"].between(first, last - 1)])
        sizes = mine["attribution"].fill_null(math.nan)
        place, numbers = mine["place"] - first, [sizes, sizes.abs()]
        sums = resampled(place, mine["patient"], numbers, last - first, how)
        mean, mean_abs = sums / weights[stratum[first:last]]
        each = [how.ends("mean", mean), how.ends("mean_abs", mean_abs)]
        parts.append(pl.concat(each, how="horizontal"))
    return pl.concat(parts)


def groups(
    explanation: ExplanationData,
    column: str,
    mapping: Grouping | None,
    bins: Bins,
    reference: Any,
    rest: str,
    how: Resampling,
) -> pd.DataFrame:
    """Groups of patients side by side; see :meth:`captum_ehr.Explanation.groups`."""
    if column not in explanation.sample_columns:
        words = ", ".join(map(repr, explanation.sample_columns)) or "none"
        raise FeatureKeyError(
            f"there is no sample column {column!r}; there are {words}. Give one: "
            f"with_sample_columns({{{column!r}: [...]}})."
        )
    values = banded(column, explanation.sample_columns[column], bins)
    known = checked({column: values}, len(explanation))[column]
    series = pl.Series(column, known, strict=False)
    strata = strata_of(series, reference)
    people = _people(explanation).rename({"stratum": "target"})
    population = population_of(people, series, strata)
    parts, notes = [], []
    labels = list(dict.fromkeys(target_labels(explanation)))
    place = _places(explanation, mapping, rest)
    for number, label in enumerate(labels):
        mine = Population(population.samples.filter(target=number), len(strata))
        part = differences(place(mine), mine, strata, how)
        notes.append(alone(column, mine, strata))
        if len(labels) > 1:  # unlike outputs are not added up
            part = part.select(pl.lit(label).alias("target"), pl.all())
            notes[-1] = notes[-1] and f"of target {label!r} {notes[-1]}"
        parts.append(part)
    table = with_discoveries(pl.concat(parts).to_pandas())
    order = table["difference"].abs().sort_values(ascending=False, kind="stable").index
    table = table.loc[order].reset_index(drop=True)
    table.attrs |= {"column": column, "level": how.level}
    table.attrs["left_out"] = len(people) - len(population.samples)
    return noted(table, *notes, unanswered(explanation))


def _places(
    explanation: ExplanationData, mapping: Grouping | None, rest: str
) -> Callable[[Population], Places]:
    """From who is counted to the codes, or groups, that any of them has."""
    frame, keys, words = rows_by(explanation, mapping, rest)
    rows = pl.from_pandas(frame[[SAMPLE, *keys, "attribution"]]).lazy()
    names = pl.from_pandas(frame[[*keys, *words]].drop_duplicates(keys))

    def places(population: Population) -> Places:
        lines = found([rows], keys, population).with_row_index("place")
        labels = lines.select(keys).join(names, keys, "left", maintain_order="left")
        return Places([rows], lines, labels)

    return places


def _people(explanation: ExplanationData) -> pl.DataFrame:
    """A row per sample: whose it is, from 0, and its target, from 0, as stratum."""
    labels = target_labels(explanation)
    numbers = {label: k for k, label in enumerate(dict.fromkeys(labels))}
    patients = np.unique(
        np.array(explanation.patient_ids, dtype=str), return_inverse=True
    )[1]
    return pl.DataFrame(
        {
            SAMPLE: np.arange(len(explanation)),
            "patient_id": pl.Series(explanation.patient_ids, dtype=pl.String),
            "patient": pl.Series(patients, dtype=pl.Int64),
            "stratum": pl.Series([numbers[label] for label in labels], dtype=pl.Int64),
        }
    )
