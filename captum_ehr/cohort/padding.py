"""Whether a model's answer for a patient depends on who else is in the batch.

Some of PyHealth's models read padding as if it were a record. Who stands beside whom is
an accident of the order, and must not move an attribution: samples of such models are
explained beside samples of their own shape alone, where there is no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def depends_on_padding(job: Job, order: pa.Table) -> bool:
    """Score some samples together and one by one; whether their scores differ.

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
            alone = torch.cat([_scores(adapter, [sample]) for sample in samples])
    except Exception as error:  # of a record that is told of when it is explained
        logger.info("samples that cannot be scored together: %s", error)
        return True
    if torch.allclose(together, alone, _NOISE, _NOISE, equal_nan=True):
        return False
    logger.warning(
        "%s answers otherwise with padding, by up to %.2g: only samples of one shape "
        "are explained together, each as if it were alone",
        type(adapter.model).__name__,
        float((together - alone).abs().max()),
    )
    return True


def _scores(adapter: PyHealthAdapter, samples: Sequence[Any]) -> Tensor:
    encoded = adapter.encode(collated(samples))
    with torch.no_grad():
        scores: Tensor = adapter(*encoded.inputs, *encoded.additional_forward_args)
    return scores.double()
