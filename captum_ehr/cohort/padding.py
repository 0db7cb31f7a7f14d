"""Whether a model's answer for a patient depends on who else is in the batch.

Some of PyHealth's models read padding as if it were a record, and some mix the patients
of a batch. Who stands beside whom is an accident of the order, and must not move an
attribution: samples of the former are explained beside those of their own shape alone,
where there is no padding, and samples of the latter beside nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..adapter import PyHealthAdapter, collated
from .partition import Job
from .progress import logger

_TRIED = 8
"""How many samples are scored together and alone, from the longest to the shortest."""

_NOISE = 1e-5
"""Sums in another order differ by as much, relatively and of outputs near 0."""

_HALVED = (0.5, 1.0, 0.5)
"""A sample stands between two of its own shape, whose inputs are halved."""


class Company(NamedTuple):
    """Who may be in a sample's batch.

    Args:
        alike: Only samples of its own shape.
        alone: Nobody.
    """

    alike: bool
    alone: bool = False


def company_of(job: Job, order: pa.Table) -> Company:
    """Score some samples together, between others of their shape, and one by one.

    They are of all lengths: in the ``order`` the longest come first.
    """
    _, firsts = np.unique(-order["length"].to_numpy(), return_index=True)
    chosen = firsts[np.linspace(0, len(firsts) - 1, _TRIED).astype(int)]
    indices = dict.fromkeys(order["sample"].take(np.unique(chosen)).to_pylist())
    adapter = job.explainer.model
    try:
        samples = [job.dataset[index] for index in indices]
        with torch.random.fork_rng(devices=[]):  # some models draw numbers
            together = _scores(adapter, samples)
            alone = torch.cat([_scores(adapter, [one]) for one in samples])
            between = [_scores(adapter, [one] * 3, _HALVED)[1:2] for one in samples]
    except Exception as error:  # of a record that is told of when it is explained
        logger.info("samples that cannot be scored together: %s", error)
        return Company(alike=True)
    name = type(adapter.model).__name__
    if by := _distance(torch.cat(between), alone):
        logger.warning(
            "%s answers otherwise beside other patients, by up to %.2g: each is "
            "explained alone",
            *(name, by),
        )
        return Company(alike=True, alone=True)
    if by := _distance(together, alone):
        logger.warning(
            "%s answers otherwise with padding, by up to %.2g: only samples of one "
            "shape are explained together, each as if it were alone",
            *(name, by),
        )
        return Company(alike=True)
    return Company(alike=False)


def _distance(found: Tensor, alone: Tensor) -> float:
    """How far scores are apart; 0 for rounding."""
    if torch.allclose(found, alone, _NOISE, _NOISE, equal_nan=True):
        return 0.0
    return float((found - alone).abs().max())


def _scores(
    adapter: PyHealthAdapter, samples: Sequence[Any], factors: Sequence[float] = ()
) -> Tensor:
    """The model's outputs, its inputs multiplied by a factor per sample."""
    encoded = adapter.encode(collated(samples))
    inputs = [
        x * x.new_tensor(factors).view(-1, *[1] * (x.ndim - 1)) if factors else x
        for x in encoded.inputs
    ]
    with torch.no_grad():
        scores: Tensor = adapter(*inputs, *encoded.additional_forward_args)
    return scores.double()
