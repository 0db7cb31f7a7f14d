"""Groups of patients side by side, code by code."""

from __future__ import annotations

from typing import Any

import polars as pl

from ..explanation.feature_record import FeatureKeyError
from .aggregates import Places, Population, blocks
from .resampling import Resampling

_MOST = 50
"""More values than this are no groups."""


def strata_of(people: pl.DataFrame, column: str, reference: Any) -> pl.DataFrame:
    """The values of a column with their numbers, the reference first.

    Args:
        people: Rows of the patients' table.
        column: Its column that says which group each belongs to; null for none.
        reference: What the others are compared with; None for the largest.

    Raises:
        KeyError: If there is no such column.
        ValueError: If it has not 2 to 50 values, or the reference is none of them.
    """
    if column not in people.columns:
        words = ", ".join(map(repr, people.columns))
        raise FeatureKeyError(
            f"there is no column {column!r} in this cohort's patients; there are "
            f"{words}. Columns are taken along with explain_cohort(columns=[...])."
        )
    sizes = (
        people.drop_nulls(column)[column]
        .value_counts()
        .sort(["count", column], descending=[True, False])
    )
    values = sizes[column].to_list()
    if not 2 <= len(values) <= _MOST:
        raise ValueError(
            f"column {column!r} has {len(values)} values, expected 2 to {_MOST} groups "
            "to compare. Put numbers into bands first."
        )
    if reference is not None and reference not in values:
        words = ", ".join(map(repr, values))
        raise ValueError(f"reference is {reference!r}; {column!r} has {words}.")
    first = values.index(reference) if reference is not None else 0
    sizes = pl.concat([sizes[first : first + 1], sizes[:first], sizes[first + 1 :]])
    return sizes.select(column, stratum=pl.int_range(len(values)))


def differences(
    places: Places, population: Population, strata: pl.DataFrame, how: Resampling
) -> pl.DataFrame:
    """Every place in every group but the first, beside the first.

    Args:
        places: Where attributions are added up.
        population: Those counted, by stratum.
        strata: What :func:`strata_of` said.
        how: How patients are drawn again.

    Returns:
        ``place``, ``value``, ``reference``; ``samples``, ``patients``, ``prevalence``
        and ``mean`` of both, the reference's with ``_reference``; and ``difference``
        of the means, with ``_low`` and ``_high``.
    """
    named = strata.rename({strata.columns[0]: "value"})
    sizes = named.with_columns(size=pl.Series(population.sizes))
    weights = population.weights(how)
    parts = []
    for block in blocks(places, population, how):
        means = block.sums[0] / weights
        table = block.exact.join(sizes, "stratum", maintain_order="left").select(
            *("place", "stratum", "value", "samples", "patients"),
            prevalence=pl.col("samples") / pl.col("size"),
            mean=pl.col("total") / pl.col("size"),
        )
        first = table.filter(stratum=0).rename({"value": "reference"})
        for stratum in range(1, population.strata):
            both = (
                table.filter(stratum=stratum)
                .join(first, "place", suffix="_reference", maintain_order="left")
                .with_columns(difference=pl.col("mean") - pl.col("mean_reference"))
            )
            drawn = means[:, stratum] - means[:, 0]
            ends = how.ends("difference", drawn)
            parts.append(pl.concat([both, ends], how="horizontal"))
    return pl.concat(parts).select(pl.exclude("stratum", "stratum_reference"))
