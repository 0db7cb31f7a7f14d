"""What the times of a record count, and the clock that they make."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from .feature_record import FeatureRecord, Times


def array(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """A tensor as NumPy has it."""
    return tensor.detach().to("cpu", dtype).contiguous().numpy()


def clock(record: FeatureRecord) -> np.ndarray | None:
    """``(patients, steps)``: the time of each step on one clock, NaN where unknown.

    Gaps are added up. Where it is not said what times count they are taken as elapsed,
    but for patients whose times do not run forward: those are no clock.
    """
    if record.time is None:
        return None
    times = array(record.time, torch.float64)
    if record.times == "gaps":
        return np.cumsum(times, axis=1)
    is_clock = np.full(len(times), record.times == "elapsed")
    if record.times is None:
        is_clock = runs_forward(record)
    return np.where(is_clock[:, None], times, np.nan)


def runs_forward(record: FeatureRecord) -> np.ndarray:
    """``(patients,)``: whether times run forward from step to step, as on a clock.

    Gaps since the visit before do not, nor times that begin again at each admission.
    Flat codes, and values one by one, may stand at the same time. Where the values are
    the times themselves they are given as they are.
    """
    count = record.values.shape[0]
    if record.time is None or not record.values.numel():
        return np.ones(count, dtype=bool)
    if record.is_series and torch.equal(record.values, record.time):
        return np.ones(count, dtype=bool)
    times = _real_times(record)
    before = np.fmax.accumulate(times, axis=1)[:, :-1]
    falls = times[:, 1:] < before
    if record.values.ndim > 2:
        falls |= times[:, 1:] == before
    return ~falls.any(1)


def _real_times(record: FeatureRecord) -> np.ndarray:
    """The times of the steps at which something stands, NaN at others."""
    assert record.time is not None
    times = array(record.time, torch.float64)
    real = array(record.mask, torch.bool).reshape(*record.mask.shape[:2], -1).any(2)
    return np.where(real, times, np.nan) if times.shape[1] == real.shape[1] else times


def said(key: str, record: FeatureRecord, word: str) -> FeatureRecord:
    """A feature with what its times count; refuse what they cannot."""
    kinds: tuple[Times, ...] = get_args(Times.__value__)
    kind = next((kind for kind in kinds if kind == word), None)
    if kind is None:
        known = ", ".join(map(repr, kinds))
        raise ValueError(
            f"feature {key!r}: times is {word!r}, expected one of {known}."
        )
    if record.time is None:
        raise ValueError(f"feature {key!r} has no times that could be {word!r}.")
    if not record.time.numel() or not record.mask.numel():
        return replace(record, times=kind)
    times = _real_times(record)
    falls = times[:, 1:] < np.fmax.accumulate(times, axis=1)[:, :-1]
    if kind == "elapsed" and falls.any():
        row, step = np.argwhere(falls)[0]
        raise ValueError(
            f"feature {key!r}: times are said to be elapsed, but those of patient "
            f"{row} fall to {times[row, step + 1]:g} at step {step + 2}. Are they "
            "'gaps' since the step before? Times that begin again at each admission "
            "are neither: 'order'."
        )
    if kind == "gaps" and (times < 0).any():
        row, step = np.argwhere(times < 0)[0]
        raise ValueError(
            f"feature {key!r}: times are said to be gaps, but that of patient {row} at "
            f"step {step + 1} is {times[row, step]:g}; a gap is at least 0."
        )
    return replace(record, times=kind)
