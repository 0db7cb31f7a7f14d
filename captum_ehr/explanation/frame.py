"""The rows of an explanation: one per token or value, as arrays and as a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .data import ExplanationData
from .feature_record import FeatureRecord, Words, column_names, words_for
from .sample_columns import COLUMNS, with_samples
from .times import array, clock


def build_rows(explanation: ExplanationData) -> dict[str, np.ndarray]:
    """All rows of an explanation, patient by patient, in the features' order."""
    words = explanation.names, explanation.units
    parts = [
        _feature_rows(key, record, explanation.attributions[key], *words)
        for key, record in explanation.features.items()
    ] or [_feature_rows("", FeatureRecord(_NOTHING, _NOTHING > 0), _NOTHING, {}, {})]
    rows = {name: np.concatenate([p.pop(name) for p in parts]) for name in [*parts[0]]}
    order = np.argsort(rows["sample"], kind="stable")
    rows = {name: column[order] for name, column in rows.items()}
    rows["patient_id"] = _objects(explanation.patient_ids)[rows["sample"]]
    return rows


def to_frame(explanation: ExplanationData) -> pd.DataFrame:
    """One row per real token or value; see :meth:`captum_ehr.Explanation.to_frame`."""
    frame = frame_of(build_rows(explanation))
    return with_samples(frame, explanation.sample_columns)


def frame_of(rows: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The rows as a frame of :data:`COLUMNS`."""
    columns: dict[str, Any] = {name: rows[name] for name in COLUMNS}
    columns["visit"] = pd.arrays.IntegerArray(rows["visit"], rows["_no_visit"])
    known = np.zeros(rows["position"].size, dtype=bool)
    columns["position"] = pd.arrays.IntegerArray(rows["position"], known)
    columns["measured"] = pd.arrays.BooleanArray(rows["measured"], rows["_unknown"])
    return pd.DataFrame(columns, copy=False)  # nobody else has them


_NOTHING = torch.zeros(0)


def _feature_rows(
    key: str, record: FeatureRecord, attribution: Tensor, names: Words, units: Words
) -> dict[str, np.ndarray]:
    """The rows of one feature: patient index, place, code and numbers."""
    flat = np.flatnonzero(array(record.mask, torch.bool))
    count, shape = flat.size, record.values.shape
    index = np.unravel_index(flat, shape) if count else (flat,) * len(shape)
    visit, position = _places(record, flat, index)
    recorded = None if record.time is None else array(record.time, torch.float64)
    whole = not record.values.is_floating_point()
    integer = np.zeros(count, dtype=np.int64)
    if whole:
        integer = array(record.values, torch.int64).reshape(-1)[flat]
    if record.vocabulary is None:
        value = array(record.values, torch.float64).reshape(-1)[flat]
        place, codes = position, column_names(key, record)
    else:
        value = np.full(count, np.nan)
        place, codes = integer, record.vocabulary
    measured = np.zeros(count, dtype=bool)
    if record.measured is not None:
        measured = array(record.measured, torch.bool).reshape(-1)[flat]
    name_of, unit_of = words_for(key, names), words_for(key, units)
    titles = [name_of.get(code, code) for code in codes] if name_of else codes
    return {
        "sample": index[0].astype(np.int64),
        "feature": _objects([key]).repeat(count),
        "visit": np.zeros(count, dtype=np.int64) if visit is None else visit,
        "_no_visit": np.full(count, visit is None),
        "position": position,
        "time": _at_steps(clock(record), index),
        "_time": _at_steps(recorded, index),
        "code": _objects(codes)[place],
        "name": _objects(titles)[place],
        "unit": _objects(list(map(unit_of.get, codes)))[place],
        "value": value,
        "measured": measured,
        "_unknown": np.full(count, record.measured is None),
        "attribution": array(attribution, torch.float64).reshape(-1)[flat],
        "_index": flat,
        "_integer": integer,
        "_not_whole": np.full(count, not whole),
        "_no_value": np.full(count, record.is_token),
    }


def _places(
    record: FeatureRecord, flat: np.ndarray, index: tuple[np.ndarray, ...]
) -> tuple[np.ndarray | None, np.ndarray]:
    """The visit of each row, or None, and its position."""
    shape = record.values.shape
    if len(shape) == 1:
        return None, np.zeros(flat.size, dtype=np.int64)
    if len(shape) == 2:
        return None, index[1]
    if record.is_token and len(shape) == 4:
        return index[1] * shape[2] + index[2], index[3]
    return index[1], flat % max(int(np.prod(shape[2:])), 1)


def _at_steps(times: np.ndarray | None, index: tuple[np.ndarray, ...]) -> np.ndarray:
    """The time of each row, NaN where there is none."""
    count = index[0].size
    if times is None or not count:
        return np.full(count, np.nan)
    has_steps = len(index) > 1 and times.shape[1] > 1
    step = index[1] if has_steps else np.zeros(count, dtype=np.int64)
    return np.asarray(times[index[0], step])


def _objects(words: Sequence[str | None]) -> np.ndarray:
    return np.array(words, dtype=object)
