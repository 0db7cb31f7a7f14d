"""How sure the tables of an explanation are, and for whom: patients drawn again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import polars as pl

from .aggregates import SAMPLE, Places, Population, found, population_of, statistics
from .data import ExplanationData
from .feature_record import FeatureKeyError
from .labels import Grouping
from .resampling import Resampling
from .rows import noted, rows_by
from .sample_columns import checked
from .subgroups import Bins, alone, banded, differences, strata_of, with_discoveries
from .words import target_labels, unanswered


def with_intervals(
    explanation: ExplanationData,
    table: pd.DataFrame,
    frame: pd.DataFrame,
    keys: list[str],
    how: Resampling,
) -> pd.DataFrame:
    """A table of means with the ends of their intervals beside them."""
    if not how.replicates:
        return table
    everybody = population_of(_people(explanation))
    rows = [pl.from_pandas(frame[[SAMPLE, *keys, "attribution"]]).lazy()]
    by_target = table.groupby("target") if "target" in table else [(None, table)]
    parts = []
    for label, some in by_target:
        mine = everybody if label is None else _explained_for(label, everybody)
        lines = pl.from_pandas(some[[*keys, "count"]]).rename({"count": "rows"})
        places = Places(rows, lines.with_row_index("place"), lines)
        parts.append(statistics(places, mine, how).to_pandas().set_index(some.index))
    ends, table = pd.concat(parts), table.copy()
    table.attrs["level"] = how.level
    for name in ("mean", "mean_abs"):
        for end in (f"{name}_high", f"{name}_low"):
            table.insert(table.columns.get_loc(name) + 1, end, ends[end])
    return table


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
    people = _people(explanation)
    population = population_of(people, series, strata)
    parts, notes = [], []
    labels = people["target"].unique(maintain_order=True).to_list()
    place = _places(explanation, mapping, rest)
    for label in labels:
        mine = _explained_for(label, population)
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
    """A row per sample: whose it is, and the name of its target."""
    columns = {
        SAMPLE: range(len(explanation)),
        "patient_id": explanation.patient_ids,
        "target": target_labels(explanation),
    }
    words = dict.fromkeys(("patient_id", "target"), pl.String)
    return pl.DataFrame(columns, {SAMPLE: pl.Int64, **words})


def _explained_for(label: str, population: Population) -> Population:
    """Those of a population whose target has this name."""
    return Population(population.samples.filter(target=label), population.strata)
