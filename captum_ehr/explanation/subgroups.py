"""Groups of patients side by side, code by code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import torch

from .aggregates import Places, Population, blocks
from .resampling import Resampling
from .rows import strongest_first
from .sample_columns import Plain, kinds

#: Edges of bands of numbers, or a function of a value (None for no group).
type Bins = Sequence[float] | Callable[[Any], Any] | None

_MOST = 50
"""More values than this are no groups."""


def banded(column: str, values: Sequence[Plain], bins: Bins) -> list[Any]:
    """The group of each value; None where it has none.

    Raises:
        ValueError: If edges are given for what are no numbers, or do not rise.

    Example:
        >>> banded("age", [64, 65, None, 130], [0, 65, 120])
        ['[0, 65)', '[65, 120)', None, None]
        >>> banded("age", [64, None], [-math.inf, 65, math.inf])
        ['[-inf, 65)', None]
    """
    if bins is None:
        return list(values)
    if callable(bins):
        return [None if value is None else bins(value) for value in values]
    edges = np.asarray(bins, dtype=float)
    if kinds(values) - {"numbers"}:
        came = " and ".join(sorted(kinds(values)))
        raise ValueError(
            f"bins are the edges of bands of numbers, and {column!r} has {came}: "
            "leave bins out, or give a function of a value."
        )
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(
            f"bins are {bins!r}, expected at least two rising edges, such as "
            "[0, 65, 120], or a function of a value."
        )
    words = [f"[{low:g}, {high:g})" for low, high in zip(edges, edges[1:])]
    # What is unknown is in no band: NaN is beyond all edges.
    numbers = [math.nan if value is None else float(value) for value in values]
    places = np.searchsorted(edges, numbers, "right") - 1
    return [words[k] if 0 <= k < len(words) else None for k in places]


def strata_of(values: pl.Series, reference: Any) -> pl.DataFrame:
    """Each ``value`` of a column with its ``stratum``, the reference first.

    Args:
        values: Of each sample the group that it is in; null for none.
        reference: What the others are compared with; None for the largest.

    Raises:
        ValueError: If it has not 2 to 50 values, or the reference is none of them.
    """
    column = values.name
    counts = values.drop_nulls().value_counts(name="_size")
    sizes = counts.sort(["_size", column], descending=[True, False])
    known = sizes[column].to_list()
    if not 2 <= len(known) <= _MOST:
        one = f" ({known[0]!r} alone)" if len(known) == 1 else ""
        raise ValueError(
            f"column {column!r} has {len(known)} values{one}, expected 2 to {_MOST} "
            "groups to compare. Put numbers into bands first."
        )
    if reference is not None and reference not in known:
        words = ", ".join(map(repr, known))
        raise ValueError(f"reference is {reference!r}; {column!r} has {words}.")
    first = known.index(reference) if reference is not None else 0
    sizes = pl.concat([sizes[first : first + 1], sizes[:first], sizes[first + 1 :]])
    return sizes.select(value=column, stratum=pl.int_range(len(known)))


def differences(
    places: Places, population: Population, strata: pl.DataFrame, how: Resampling
) -> pl.DataFrame:
    """Every place in every group but the first, beside the first.

    Returns:
        The labels of the place; ``value``, ``reference``; ``samples``, ``patients``,
        ``prevalence`` and ``mean`` of both, the reference's with ``_reference``; and
        ``difference`` of the means, with ``_low``, ``_high`` and ``p_value``.
    """
    sizes = strata.with_columns(size=pl.Series(population.sizes))
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
            if how.replicates:
                smaller = min(population.patients[[0, stratum]])
                values = _p_values(both["difference"], drawn, int(smaller))
                ends = ends.with_columns(p_value=values)
            parts.append(pl.concat([both, ends], how="horizontal"))
    table = pl.concat(parts).select(pl.exclude("stratum", "stratum_reference"))
    labels = places.labels.with_row_index("place")
    return labels.join(table, "place", maintain_order="right").drop("place")


def _p_values(differences: pl.Series, drawn: torch.Tensor, patients: int) -> pl.Series:
    """Two-sided, of each difference over its standard error; Student's t.

    With as many degrees of freedom as the smaller group has patients, less one, which
    are never too many. The bootstrap's variance of a mean of n is (n - 1) / (n + 1) of
    the unbiased one.
    """
    from scipy.stats import t as student

    sizes = differences.abs().to_numpy()
    errors = np.full(sizes.shape, np.nan)
    if drawn.shape[1] > 1:
        errors = drawn.std(1).numpy()
    known = np.isfinite(sizes) & np.isfinite(errors) & (patients > 1)
    free = max(patients - 1, 1)
    errors = errors * np.sqrt((patients + 1) / free)
    scores = np.divide(sizes, errors, np.zeros_like(sizes), where=errors > 0)
    scores[(errors == 0) & (sizes > 0)] = np.inf
    return pl.Series(np.where(known, 2 * student.sf(scores, free), np.nan))


def with_discoveries(table: pd.DataFrame) -> pd.DataFrame:
    """The largest differences first, each with its ``q_value``.

    Benjamini and Hochberg's over all rows with a p-value; ``attrs["compared"]`` says
    how many these are. (Controlling the False Discovery Rate, 1995.)
    """
    from scipy.stats import false_discovery_control

    table = strongest_first(table, "difference")
    if "p_value" not in table:
        return table
    table = table.assign(q_value=np.nan)
    known = table["p_value"].notna()
    if known.any():
        values = false_discovery_control(table.loc[known, "p_value"])
        table.loc[known, "q_value"] = values
    table.attrs["compared"] = int(known.sum())
    return table


def alone(column: str, population: Population, strata: pl.DataFrame) -> str:
    """What to know of groups of fewer than two patients; else empty."""
    few = strata.filter(pl.Series(population.patients < 2))["value"]
    if not len(few):
        return ""
    words = ", ".join(map(repr, few))
    return (
        f"fewer than two patients have {column} {words}: differences from them have "
        "no interval."
    )
