"""For whom a code weighs more: groups of an explanation's patients side by side."""

from __future__ import annotations

from typing import Any

import pandas as pd
import polars as pl

from .aggregates import population_of
from .data import ExplanationData
from .feature_record import FeatureKeyError
from .labels import Grouping
from .resampling import Resampling
from .rows import explained_for, noted, people_of, places_of
from .sample_columns import checked
from .subgroups import Bins, alone, banded, differences, strata_of, with_discoveries
from .words import unanswered


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
    people = people_of(explanation)
    population = population_of(people, series, strata)
    parts, notes = [], []
    labels = people["target"].unique(maintain_order=True).to_list()
    place = places_of(explanation, mapping, rest)
    for label in labels:
        mine = explained_for(label, population)
        part = differences(place(mine), mine, strata, how)
        notes.append(alone(column, mine, strata))
        if len(labels) > 1:  # unlike outputs are not added up
            part = part.select(pl.lit(label).alias("target"), pl.all())
            notes[-1] = notes[-1] and f"of target {label!r} {notes[-1]}"
        parts.append(part)
    table = with_discoveries(pl.concat(parts).to_pandas())
    left_out = len(people) - len(population.samples)
    table.attrs |= {"column": column, "level": how.level, "left_out": left_out}
    return noted(table, *notes, unanswered(explanation))
