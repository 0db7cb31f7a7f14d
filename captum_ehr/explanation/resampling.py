"""Intervals by drawing patients again: the bootstrap, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

_TOGETHER = 2_048
"""Of how many patients weights are in memory at a time."""


@dataclass(frozen=True)
class Resampling:
    """How patients are drawn again, and how wide intervals are.

    In each replicate a patient has a weight of his own, drawn from the exponential
    distribution (the Bayesian bootstrap, Rubin 1981); all that he has, in whatever part
    of the cohort, is weighted with it. Unlike counts, no such weights are all zero.

    Args:
        replicates: How often; 0 for no intervals.
        level: How many of the intervals shall hold the truth, above 0 and below 1.
        seed: Of the weights.

    Raises:
        ValueError: If one of them is out of range.
    """

    replicates: int = 1_000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.replicates < 0 or not 0 < self.level < 1 or self.seed < 0:
            raise ValueError(
                f"replicates={self.replicates}, level={self.level}, seed={self.seed}: "
                "expected replicates and seed of at least 0 and a level between 0 and "
                "1, such as 0.95."
            )

    def ends(self, name: str, drawn: Tensor) -> pl.DataFrame:
        """The ends of each interval, ``name_low`` and ``name_high``, if there are any.

        Args:
            name: Of what they are the intervals.
            drawn: ``(rows, replicates)``; a row with NaN has no interval.
        """
        if not self.replicates:
            return pl.DataFrame()
        tail = (1 - self.level) / 2
        low, high = np.quantile(drawn.numpy(), (tail, 1 - tail), axis=1)
        return pl.DataFrame({f"{name}_low": low, f"{name}_high": high})


def resampled(
    row: pl.Series,
    patient: pl.Series,
    columns: Sequence[pl.Series],
    rows: int,
    how: Resampling,
) -> Tensor:
    """Weighted sums of patients' numbers: ``(columns, rows, replicates)`` float64.

    Args:
        row: Which sum each number belongs to, from 0.
        patient: Whose it is, from 0; always the same number for the same patient, as
            his weights go by it.
        columns: The numbers.
        rows: How many sums there are.
        how: How many replicates, and the seed of their weights.
    """
    sums = torch.zeros(len(columns), rows, how.replicates, dtype=torch.float64)
    if not how.replicates:
        return sums
    order = np.argsort(patient.to_numpy(), kind="stable")
    people = torch.from_numpy(patient.to_numpy()[order].astype(np.int64))
    places = torch.from_numpy(row.to_numpy()[order].astype(np.int64))
    numbers = [torch.from_numpy(c.to_numpy()[order].astype(float)) for c in columns]
    draw = np.random.default_rng(how.seed)
    last = int(people[-1]) if len(people) else -1
    for first in range(0, last + 1, _TOGETHER):
        weights = torch.from_numpy(
            draw.standard_exponential((_TOGETHER, how.replicates))
        )
        start, end = torch.searchsorted(
            people, torch.tensor([first, first + _TOGETHER])
        )
        index = torch.stack([places[start:end], people[start:end] - first])
        for total, values in zip(sums, numbers, strict=True):
            matrix = torch.sparse_coo_tensor(
                index, values[start:end], (rows, _TOGETHER), check_invariants=True
            )
            total.addmm_(matrix, weights)
    return sums
