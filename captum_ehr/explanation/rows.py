"""The rows of an explanation: one per token or value, as arrays and as a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_ehr.adapter.records import FeatureRecord

if TYPE_CHECKING:
    import pandas as pd

    from .explanation import Explanation

#: Words for codes: from code to word, or from feature key to such a table of its own.
type Words = Mapping[str, str | Mapping[str, str]]

COLUMNS = (
    "patient_id",
    "sample",
    "visit",
    "position",
    "time",
    "feature",
    "code",
    "name",
    "value",
    "unit",
    "attribution",
)
"""The columns of an explanation's frame, in order."""


def is_series(record: FeatureRecord) -> bool:
    """True for a continuous feature that is one value per step of time."""
    return (
        not record.is_token
        and record.time is not None
        and record.values.ndim == 2
        and record.time.shape == record.values.shape
        and (record.columns is None or len(record.columns) == 1)
    )


def column_names(key: str, record: FeatureRecord) -> tuple[str, ...]:
    """The code of each position of a continuous feature.

    A flat time series is one quantity, so it has one name at all its steps.
    """
    if record.values.ndim == 1:
        width = 1
    else:
        width = int(np.prod(record.values.shape[2:] or record.values.shape[1:]))
    columns = record.columns
    if columns is not None and len(columns) == width:
        return columns
    if is_series(record):
        return (columns[0] if columns else key,) * width
    return tuple(f"{key}[{j}]" for j in range(width))


def codes_of(key: str, record: FeatureRecord) -> tuple[str, ...]:
    """All codes that a feature can have, in order, each once."""
    if record.vocabulary is not None:
        return tuple(dict.fromkeys(record.vocabulary))
    return tuple(dict.fromkeys(column_names(key, record)))


def words_for(key: str, words: Words) -> dict[str, str]:
    """The words that hold for one feature: the common ones, then its own."""
    common = {code: word for code, word in words.items() if isinstance(word, str)}
    own = words.get(key)
    return {**common, **own} if isinstance(own, Mapping) else common


def build_rows(explanation: Explanation) -> dict[str, np.ndarray]:
    """All rows of an explanation, patient by patient, in the features' order."""
    parts = [
        _feature_rows(key, record, explanation)
        for key, record in explanation.features.items()
    ]
    if not parts:
        parts = [_no_rows()]
    rows = {name: np.concatenate([p.pop(name) for p in parts]) for name in [*parts[0]]}
    order = np.argsort(rows["sample"], kind="stable")
    rows = {name: column[order] for name, column in rows.items()}
    ids = _objects(explanation.patient_ids)
    rows["patient_id"] = ids[rows["sample"]] if order.size else ids[:0]
    return rows


def frame_of(rows: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The rows as the frame that :meth:`Explanation.to_frame` documents."""
    import pandas as pd

    columns: dict[str, Any] = {name: rows[name] for name in COLUMNS}
    columns["visit"] = pd.arrays.IntegerArray(rows["visit"], rows["_no_visit"])
    known = np.zeros(rows["position"].size, dtype=bool)
    columns["position"] = pd.arrays.IntegerArray(rows["position"], known)
    return pd.DataFrame(columns)


def _feature_rows(
    key: str, record: FeatureRecord, explanation: Explanation
) -> dict[str, np.ndarray]:
    """The rows of one feature: patient index, place, code and numbers."""
    flat = np.flatnonzero(_array(record.mask, torch.bool))
    count, shape = flat.size, record.values.shape
    index = np.unravel_index(flat, shape) if count else (flat,) * len(shape)
    visit, position = _places(record, flat, index)
    given = _times(record, index)
    whole = not record.values.is_floating_point()
    integer = np.zeros(count, dtype=np.int64)
    if whole:
        integer = _array(record.values, torch.int64).reshape(-1)[flat]
    if record.vocabulary is None:
        value = _array(record.values, torch.float64).reshape(-1)[flat]
        place, codes = position, column_names(key, record)
    else:
        value = np.full(count, np.nan)
        place, codes = integer, record.vocabulary
    names = words_for(key, explanation.names)
    units = words_for(key, explanation.units)
    attributions = _array(explanation.attributions[key], torch.float64)
    return {
        "sample": index[0].astype(np.int64),
        "feature": np.full(count, key, dtype=object),
        "visit": np.zeros(count, dtype=np.int64) if visit is None else visit,
        "_no_visit": np.full(count, visit is None),
        "position": position,
        "time": np.where(_is_clock(record)[index[0]], given, np.nan),
        "_time": given,
        "code": _objects(codes)[place],
        "name": _objects([names.get(code, code) for code in codes])[place],
        "unit": _objects([units.get(code) for code in codes])[place],
        "value": value,
        "attribution": attributions.reshape(-1)[flat],
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


def _times(record: FeatureRecord, index: tuple[np.ndarray, ...]) -> np.ndarray:
    """The time of each row as the record has it, NaN where it has none."""
    count = index[0].size
    if record.time is None or not count:
        return np.full(count, np.nan)
    times = _array(record.time, torch.float64)
    is_stepped = len(index) > 1 and times.shape[1] > 1
    step = index[1] if is_stepped else np.zeros(count, dtype=np.int64)
    return times[index[0], step]


def _is_clock(record: FeatureRecord) -> np.ndarray:
    """Per patient, whether times run forward from step to step, as on a clock.

    Gaps since the visit before do not, nor times that begin again at each admission.
    Flat codes, and values one by one, may stand at the same time. Where the values are
    the times themselves they are given as they are.
    """
    count = record.values.shape[0]
    if record.time is None or not record.values.numel():
        return np.ones(count, dtype=bool)
    if is_series(record) and torch.equal(record.values, record.time):
        return np.ones(count, dtype=bool)
    times = _array(record.time, torch.float64)
    real = _array(record.mask, torch.bool).reshape(*record.mask.shape[:2], -1).any(2)
    if times.shape[1] == real.shape[1]:
        times = np.where(real, times, np.nan)
    before = np.fmax.accumulate(times, axis=1)[:, :-1]
    falls = times[:, 1:] < before
    if record.values.ndim > 2:
        falls |= times[:, 1:] == before
    return ~falls.any(1)


def _no_rows() -> dict[str, np.ndarray]:
    """The columns of an explanation without features."""
    integers = ("sample", "visit", "position", "_index", "_integer")
    floats = ("time", "_time", "value", "attribution")
    words = ("feature", "code", "name", "unit")
    flags = ("_no_visit", "_not_whole", "_no_value")
    return {
        **{name: np.zeros(0, dtype=np.int64) for name in integers},
        **{name: np.zeros(0, dtype=bool) for name in flags},
        **{name: np.zeros(0) for name in floats},
        **{name: np.zeros(0, dtype=object) for name in words},
    }


def _array(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    return tensor.detach().to("cpu", dtype).contiguous().numpy()


def _objects(words: Sequence[str | None]) -> np.ndarray:
    """Words as an array of objects, also where there are none."""
    return np.array([*words, None], dtype=object)[:-1]
