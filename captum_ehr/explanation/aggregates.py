"""What codes do over many patients, from their rows, of which few are in memory.

What is counted is a sample's total at a *place*: the sum of its attributions at a code,
a group of codes, a feature or a visit. Places are worked through in blocks of a bounded
number of totals, part by part where a cohort is in parts; so quartiles and numbers of
patients are exact, and memory depends on a block, a part and the number of patients
alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl
import torch
from torch import Tensor

from .resampling import Resampling, resampled

SAMPLE = "sample"
"""The column that tells samples apart; a patient may have several."""

_MOST_TOTALS, _MOST_SUMS = 2_000_000, 4_000_000
"""What a block has at most, unless it is one place: totals, and replicates of sums."""

MISSED = pl.col("attribution").is_null() | pl.col("attribution").is_nan()
"""Where the model has no answer."""

_TOTAL = (
    pl.when(MISSED.any())
    .then(float("nan"))
    .otherwise(pl.col("attribution").cast(pl.Float64).sum())
)
"""A sum with something that is no number is none."""


def check_threads() -> None:
    """Refuse a process in which polars would wait for ever.

    Its threads do not live on in what is forked once they have begun.

    Raises:
        RuntimeError: If this process was forked from one that has worked out a table.
    """
    if _first_process() != os.getpid():
        raise RuntimeError(
            "tables are worked out by polars, whose threads a forked process does not "
            'have: make it with multiprocessing.get_context("forkserver"), or "spawn".'
        )


@cache
def _first_process() -> int:
    """The process that asked first; one that is forked from it finds its number."""
    return os.getpid()


@dataclass(frozen=True)
class Population:
    """Who is counted, and in which of the groups that are compared."""

    samples: pl.DataFrame  # a row each: SAMPLE, patient and stratum (from 0), target
    strata: int = 1

    @property
    def sizes(self) -> np.ndarray:
        """``(strata,)``: how many samples each has."""
        return np.bincount(self.samples["stratum"], minlength=self.strata)

    @property
    def patients(self) -> np.ndarray:
        """``(strata,)``: how many patients each has."""
        each = self.samples.select("stratum", "patient").unique()
        return np.bincount(each["stratum"], minlength=self.strata)

    def weights(self, how: Resampling) -> Tensor:
        """``(strata, replicates)``: the weighted number of samples of each.

        NaN where there are fewer than two patients: nothing says how others would be.
        """
        ones = pl.repeat(1.0, len(self.samples), eager=True)
        stratum, patient = self.samples["stratum"], self.samples["patient"]
        weights = resampled(stratum, patient, [ones], self.strata, how)[0]
        weights[torch.from_numpy(self.patients < 2)] = math.nan
        return weights


def population_of(
    people: pl.DataFrame,
    values: pl.Series | None = None,
    strata: pl.DataFrame | None = None,
) -> Population:
    """Those counted.

    Args:
        people: A row per sample: SAMPLE, ``patient_id`` and ``target``.
        values: Of each the group that it is in; null for none, which is left out.
        strata: Each ``value`` and its ``stratum``; by default all are in one.
    """
    check_threads()
    if values is None or strata is None:
        strata, people = pl.DataFrame({"stratum": [0]}), people.with_columns(stratum=0)
    else:
        named = people.select(SAMPLE, "patient_id", "target", value=values)
        people = named.join(strata, "value")
    number = pl.col("patient_id").rank("dense").cast(pl.Int64) - 1
    people = people.select(SAMPLE, "stratum", "target", patient=number)
    return Population(people, len(strata))


@dataclass(frozen=True)
class Places:
    """Where attributions are added up."""

    rows: Sequence[pl.LazyFrame]  # of each part; all of a sample are in one
    lines: pl.DataFrame  # what rows are joined by, place from 0, rows, missed
    labels: pl.DataFrame  # a row per place, in order


@dataclass(frozen=True)
class Block:
    """Some places, in order, each with every stratum."""

    exact: pl.DataFrame  # a row per place and stratum, zeros where it is absent
    sums: Tensor  # (3, places, strata, replicates): total, absolute, samples


def found(
    rows: Sequence[pl.LazyFrame], keys: Sequence[str], population: Population
) -> pl.DataFrame:
    """The keys that anybody counted has, how many rows, and those without a number."""
    mine = population.samples.lazy().select(SAMPLE)
    parts = [
        part.join(mine, SAMPLE, "semi")
        .group_by(keys)
        .agg(rows=pl.len().cast(pl.Int64), missed=MISSED.sum().cast(pl.Int64))
        .collect()
        for part in rows
    ]
    whole = pl.concat(parts).group_by(keys).agg(pl.col("rows", "missed").sum())
    return whole.sort(keys, nulls_last=True)


def blocks(places: Places, population: Population, how: Resampling) -> Iterator[Block]:
    """The statistics of all places, block by block, in order."""
    lines, most = places.lines, len(population.samples)
    people = population.samples.lazy().select(SAMPLE, "patient", "stratum")
    keys = [name for name in lines.columns if name not in ("place", "rows", "missed")]
    sizes = lines.group_by("place").agg(pl.col("rows").sum()).sort("place")
    totals = sizes["rows"].clip(upper_bound=most)
    drawn = population.strata * how.replicates
    cost = (totals / _MOST_TOTALS + drawn / _MOST_SUMS).cum_sum()
    sizes = sizes.select("place", block=cost.floor().cast(pl.Int64))
    lines = lines.select(*keys, "place").join(sizes, "place")
    parts = lines.sort("place").partition_by("block", maintain_order=True)
    for block in parts or [lines]:
        # Part by part: a scan of all would hold more of them than it needs.
        totals_of = [
            part.join(block.lazy(), keys, nulls_equal=True)
            .group_by(SAMPLE, "place")
            .agg(count=pl.len(), total=_TOTAL)
            .join(people, SAMPLE)
            .collect()
            for part in places.rows
        ]
        numbers = block["place"].unique().sort()
        yield _counted(pl.concat(totals_of), numbers, population.strata, how)


def _counted(
    totals: pl.DataFrame, places: pl.Series, strata: int, how: Resampling
) -> Block:
    """One block's statistics from the total of each sample at each place."""
    total, by = pl.col("total"), ["place", "stratum"]
    quartiles = {"q25": 0.25, "median": 0.5, "q75": 0.75}
    exact = totals.group_by(by).agg(
        count=pl.col("count").sum().cast(pl.Int64),
        samples=pl.len().cast(pl.Int64),
        patients=pl.col("patient").n_unique().cast(pl.Int64),
        total=total.sum(),
        absolute=total.abs().sum(),
        **{
            name: pl.when(~total.is_nan().any()).then(total.quantile(share, "linear"))
            for name, share in quartiles.items()
        },
    )
    each = pl.DataFrame({"place": places}).join(
        pl.DataFrame({"stratum": range(strata)}), how="cross"
    )
    exact = each.join(exact, by, "left", maintain_order="left").with_columns(
        pl.col("count", "samples", "patients", "total", "absolute").fill_null(0)
    )
    row = places.search_sorted(totals["place"]) * strata + totals["stratum"]
    size = totals["total"]
    numbers = [size, size.abs(), pl.repeat(1.0, len(totals), eager=True)]
    sums = resampled(row, totals["patient"], numbers, len(places) * strata, how)
    return Block(exact, sums.unflatten(1, (len(places), strata)))


def statistics(places: Places, population: Population, how: Resampling) -> pl.DataFrame:
    """A row per place, in order, of a population that is not split.

    Returns:
        ``count``, ``samples`` and ``patients``; ``prevalence``, ``mean``, ``mean_abs``
        and ``mean_present``, each also with ``_low`` and ``_high``; ``q25``, ``median``
        and ``q75``.
    """
    size, weights = population.sizes[0], population.weights(how)[0]
    parts = []
    for block in blocks(places, population, how):
        total, absolute, samples = block.sums[:, :, 0]
        drawn = {
            "prevalence": samples / weights,
            "mean": total / weights,
            "mean_abs": absolute / weights,
            "mean_present": total / samples,
        }
        single = torch.from_numpy(block.exact["patients"].to_numpy() < 2)
        drawn["mean_present"][single] = math.nan
        means = block.exact.select(
            prevalence=pl.col("samples") / size,
            mean=pl.col("total") / size,
            mean_abs=pl.col("absolute") / size,
            mean_present=pl.col("total") / pl.col("samples"),
        )
        columns = [block.exact.select("count", "samples", "patients")]
        for name in means.columns:
            columns.append(means.select(name))
            columns.append(how.ends(name, drawn[name]))
        columns.append(block.exact.select("q25", "median", "q75"))
        parts.append(pl.concat(columns, how="horizontal"))
    return pl.concat(parts)
