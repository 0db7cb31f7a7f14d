"""The tables of a cohort, as pandas frames; :class:`Cohort` documents them."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import polars as pl

from ..explanation.aggregates import (
    MISSED,
    SAMPLE,
    Places,
    Population,
    found,
    population_of,
    statistics,
)
from ..explanation.feature_record import FeatureKeyError, words_for
from ..explanation.labels import Grouping, group_labels
from ..explanation.resampling import Resampling
from ..explanation.rows import noted, strongest_first
from ..explanation.subgroups import (
    alone,
    differences,
    strata_of,
    with_discoveries,
)
from ..explanation.words import unlike, without_answer
from .stored import StoredCohort, targets_of

#: Patients by their identifiers, or samples by an expression over ``Cohort.patients``.
type Among = Iterable[str] | pl.Expr | None


def code_table(
    stored: StoredCohort,
    mapping: Grouping | None,
    rest: str,
    among: Among,
    how: Resampling,
) -> pd.DataFrame:
    """The statistics of each code or group, strongest first."""
    population = population_of(chosen(stored, among))
    places = code_places(stored, population, mapping, rest)
    table = _table(stored, population, places, how)
    return strongest_first(table, "mean_abs")


def feature_table(stored: StoredCohort, among: Among, how: Resampling) -> pd.DataFrame:
    """The statistics of each feature, in the features' order."""
    population, rows = population_of(chosen(stored, among)), stored.rows()
    keys = [feature.key for feature in stored.header.features]
    order = pl.col("feature").replace_strict(keys, range(len(keys)))
    lines = found(rows, ["feature"], population).sort(order).with_row_index("place")
    places = Places(rows, lines, lines.select("feature"))
    return _table(stored, population, places, how)


def visit_table(stored: StoredCohort, among: Among, how: Resampling) -> pd.DataFrame:
    """The statistics of each visit by its number; what is of no visit comes last."""
    population, keys = population_of(chosen(stored, among)), ["series", "visit"]
    untimed = [f.key for f in stored.header.features if f.is_untimed_series]
    # Steps of an untimed series are no visits: number 3 is not the third admission.
    is_own = pl.col("feature").is_in(untimed) & pl.col("visit").is_not_null()
    series = pl.when(is_own).then(pl.col("feature"))
    rows = [part.with_columns(series=series) for part in stored.rows()]
    lines = found(rows, keys, population)
    lines = lines.sort(keys, nulls_last=[False, True]).with_row_index("place")
    places = Places(rows, lines, lines.select(keys))
    return _table(stored, population, places, how).astype({"visit": "Int64"})


def group_table(
    stored: StoredCohort,
    column: str,
    reference: object,
    mapping: Grouping | None,
    rest: str,
    among: Among,
    how: Resampling,
) -> pd.DataFrame:
    """Each code in each group of patients beside the reference, largest first."""
    people = chosen(stored, among)
    if column not in people.columns:
        words = ", ".join(map(repr, people.columns))
        raise FeatureKeyError(
            f"there is no column {column!r} in this cohort's patients; there are "
            f"{words}. Columns are taken along with explain_cohort(columns=[...])."
        )
    strata = strata_of(people[column], reference)
    population = population_of(people, people[column], strata)
    places = code_places(stored, population, mapping, rest)
    table = differences(places, population, strata, how).to_pandas()
    _note(stored, population, places, table, alone(column, population, strata))
    left_out = len(people) - len(population.samples)
    table.attrs |= {"column": column, "level": how.level, "left_out": left_out}
    return with_discoveries(table)


def chosen(stored: StoredCohort, among: Among) -> pl.DataFrame:
    """The rows of the patients' table that are counted.

    Raises:
        KeyError: If there is no patient of an identifier.
        ValueError: If nobody is left.
    """
    patients = stored.patients()
    if isinstance(among, pl.Expr):
        patients = patients.filter(among)
    people = patients.drop("messages", "layout").collect()
    if among is not None and not isinstance(among, pl.Expr):
        ids = [among] if isinstance(among, str) else list(among)
        mine = stored.of_patients(ids).select(SAMPLE)
        people = people.join(mine, SAMPLE, "semi")
    if people.is_empty():
        raise ValueError("among leaves none of this cohort's patients to count.")
    return people


def code_places(
    stored: StoredCohort, population: Population, mapping: Grouping | None, rest: str
) -> Places:
    """The codes that anybody has, or the groups that they are in."""
    keys, rows = ["feature", "code"], stored.rows()
    lines = found(rows, keys, population)
    pairs = lines.select(keys).rows()
    if mapping is None:
        header, every = stored.header, {key for key, _ in pairs}
        names = {key: words_for(key, header.names) for key in every}
        units = {key: words_for(key, header.units) for key in every}
        named = [names[key].get(code, code) for key, code in pairs]
        counted = [units[key].get(code) for key, code in pairs]
        labels = lines.select(
            *keys,
            name=pl.Series(named, dtype=pl.String),
            unit=pl.Series(counted, dtype=pl.String),
        )
        return Places(rows, lines.with_row_index("place"), labels)
    codes: dict[str, list[str]] = {}
    for key, code in pairs:
        codes.setdefault(key, []).append(code)
    groups = group_labels(stored.nobody(codes), mapping)
    words = [groups.get(key, {}).get(code, rest) for key, code in pairs]
    lines = lines.with_columns(group=pl.Series(words, dtype=pl.String))
    labels = lines.select("group").unique().sort("group")
    lines = lines.join(labels.with_row_index("place"), "group").drop("group")
    return Places(rows, lines, labels)


def _table(
    stored: StoredCohort, population: Population, places: Places, how: Resampling
) -> pd.DataFrame:
    """The labels of all places beside their statistics, with a note."""
    table = pl.concat(
        [places.labels, statistics(places, population, how)], how="horizontal"
    ).to_pandas()
    table.attrs["level"] = how.level
    _note(stored, population, places, table)
    return table


def _note(
    stored: StoredCohort,
    population: Population,
    places: Places,
    table: pd.DataFrame,
    *words: str,
) -> None:
    """Add a note, and warn, of what the sums are not good for."""
    samples = population.samples
    said = [unlike({*map(stored.header.target_label, targets_of(samples))}), *words]
    if places.lines["missed"].sum():
        lost = pl.concat(places.rows).filter(MISSED).select(SAMPLE)
        mine = samples.lazy().join(lost, SAMPLE, "semi").select(pl.len())
        said.append(without_answer(mine.collect().item(), len(samples)))
    noted(table, *said)
