"""An explanation as a table: rows for people, one Parquet file for keeping.

The rows of the file are the rows of :meth:`captum_ehr.Explanation.to_frame`, in
ordinary columns that any Parquet reader understands. Two further columns place
each row in its tensor (``_index``, and ``_integer`` for values that are whole
numbers); what stands in no row (padding, times, the outputs) lies in the schema's
metadata as JSON, tensors compressed. Nothing is pickled.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_ehr.adapter.records import FeatureRecord
from captum_ehr.propagation.diagnostics import Diagnostics

if TYPE_CHECKING:
    import pandas as pd

    from captum_ehr.explanation import Explanation

FORMAT = 1
"""The version of the file's layout that this module writes."""

COLUMNS = (
    "patient_id",
    "feature",
    "visit",
    "position",
    "time",
    "code",
    "name",
    "value",
    "attribution",
)
"""The columns of an explanation's frame, in order."""

_KEY = b"captum_ehr"
_PER_PATIENT = ("f_input", "f_baseline", "delta", "rescale_factor")
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    )
}


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


def is_series(record: FeatureRecord) -> bool:
    """True for a continuous feature that is one value per step of time."""
    return (
        not record.is_token
        and record.time is not None
        and record.values.ndim == 2
        and record.time.shape == record.values.shape
        and (record.columns is None or len(record.columns) == 1)
    )


def _array(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    return tensor.detach().to("cpu", dtype).contiguous().numpy()


def _feature_rows(
    key: str, record: FeatureRecord, attributions: Tensor, names: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """The rows of one feature: patient index, place, code and numbers."""
    shape = record.values.shape
    flat = np.flatnonzero(_array(record.mask, torch.bool))
    index = np.unravel_index(flat, shape) if flat.size else (flat,) * len(shape)
    count, zeros = flat.size, np.zeros(flat.size, dtype=np.int64)
    visit, position, has_visit = zeros, zeros, False
    if len(shape) == 2:
        position = index[1]
    elif record.is_token and len(shape) == 4:
        visit, position = index[1] * shape[2] + index[2], index[3]
        has_visit = True
    elif len(shape) > 2:
        rest = int(np.prod(shape[2:]))
        visit, position, has_visit = index[1], flat % max(rest, 1), True
    time = np.full(count, np.nan)
    if record.time is not None and count:
        times = _array(record.time, torch.float64)
        step = index[1] if len(shape) > 1 else zeros
        time = times[index[0], step if times.shape[1] > 1 else zeros]
    value = np.full(count, np.nan)
    whole = not record.values.is_floating_point()
    integer = zeros
    if whole:
        integer = _array(record.values, torch.int64).reshape(-1)[flat]
    if record.vocabulary is None:
        value = _array(record.values, torch.float64).reshape(-1)[flat]
        place, words = position, column_names(key, record)
    else:
        place, words = integer, record.vocabulary
    codes = np.array(words, dtype=object)
    known = np.array([names.get(word, word) for word in words], dtype=object)
    return {
        "_patient": index[0],
        "feature": np.full(count, key, dtype=object),
        "visit": visit,
        "_no_visit": np.full(count, not has_visit),
        "position": position,
        "time": time,
        "code": codes[place] if count else codes[:0],
        "name": known[place] if count else known[:0],
        "value": value,
        "attribution": _array(attributions, torch.float64).reshape(-1)[flat],
        "_index": flat,
        "_integer": integer,
        "_not_whole": np.full(count, not whole),
    }


def build_rows(explanation: Explanation) -> dict[str, np.ndarray]:
    """All rows of an explanation, patient by patient, in the features' order."""
    parts = [
        _feature_rows(key, record, explanation.attributions[key], explanation.names)
        for key, record in explanation.features.items()
    ]
    if not parts:
        empty = FeatureRecord(torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.bool))
        parts = [_feature_rows("", empty, torch.zeros(0, 0), {})]
    rows = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    order = np.argsort(rows["_patient"], kind="stable")
    rows = {name: column[order] for name, column in rows.items()}
    ids = np.array(explanation.patient_ids, dtype=object)
    rows["patient_id"] = ids[rows["_patient"]] if order.size else ids[:0]
    return rows


def frame_of(rows: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The rows as the frame that :meth:`Explanation.to_frame` documents."""
    import pandas as pd

    columns: dict[str, Any] = {name: rows[name] for name in COLUMNS}
    nothing = np.zeros(rows["position"].size, dtype=bool)
    columns["visit"] = pd.arrays.IntegerArray(
        rows["visit"].astype(np.int64), rows["_no_visit"]
    )
    columns["position"] = pd.arrays.IntegerArray(
        rows["position"].astype(np.int64), nothing
    )
    return pd.DataFrame(columns)


def _pack(tensor: Tensor) -> dict[str, Any]:
    """A tensor's bits, fit for JSON."""
    flat = tensor.detach().cpu().contiguous().flatten()
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "zlib": base64.b64encode(zlib.compress(data)).decode("ascii"),
    }


def _unpack(packed: Mapping[str, Any]) -> Tensor:
    """The inverse of :func:`_pack`."""
    data = bytearray(zlib.decompress(base64.b64decode(packed["zlib"])))
    dtype = _DTYPES[packed["dtype"]]
    if not data:
        return torch.empty(packed["shape"], dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(packed["shape"])


def _describe(explanation: Explanation) -> dict[str, Any]:
    """Everything that stands in no row, as plain data."""
    features = []
    for key, record in explanation.features.items():
        padding = ~record.mask
        features.append(
            {
                "key": key,
                "shape": list(record.values.shape),
                "values": _pack(record.values[padding]),
                "attributions": _pack(explanation.attributions[key][padding]),
                "time": None if record.time is None else _pack(record.time),
                "vocabulary": record.vocabulary,
                "columns": record.columns,
            }
        )
    return {
        "format": FORMAT,
        "features": features,
        "tensors": {name: _pack(getattr(explanation, name)) for name in _PER_PATIENT},
        "target": [
            list(map(int, one)) if isinstance(one, tuple) else int(one)
            for one in explanation.target
        ],
        "diagnostics": explanation.diagnostics.to_dict(),
        "patient_ids": explanation.patient_ids,
        "model_name": explanation.model_name,
        "output": explanation.output,
        "target_names": explanation.target_names,
        "baseline": explanation.baseline,
        "names": dict(explanation.names),
    }


def write(explanation: Explanation, path: str | Path) -> Path:
    """Write an explanation to one Parquet file; see :meth:`Explanation.save`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = build_rows(explanation)
    words = ("patient_id", "feature", "code", "name")
    fields = [(name, pa.string()) for name in words]
    fields += [(name, pa.int64()) for name in ("visit", "position")]
    fields += [(name, pa.float64()) for name in ("time", "value", "attribution")]
    types = dict(fields)
    schema = pa.schema([(name, types[name]) for name in COLUMNS])
    table = pa.Table.from_pandas(frame_of(rows), schema=schema, preserve_index=False)
    for name in ("time", "value", "attribution"):
        # from_pandas turns NaN into null, and a NaN that was measured is no null.
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(rows[name]))
    integers = pa.array(rows["_integer"], mask=rows["_not_whole"])
    table = table.append_column("_index", pa.array(rows["_index"], pa.int64()))
    table = table.append_column("_integer", integers)
    path = Path(path)
    options = {
        "compression": "zstd",
        "use_dictionary": [name for name in COLUMNS if name != "attribution"],
        "column_encoding": {"_index": "DELTA_BINARY_PACKED"},
    }
    with pq.ParquetWriter(path, table.schema, **options) as writer:
        writer.write_table(table)
        # In the table's schema it would be stored twice: Arrow keeps its own copy.
        writer.add_key_value_metadata({_KEY: json.dumps(_describe(explanation))})
    return path


def _header(metadata: Mapping[bytes, bytes] | None, path: Path) -> dict[str, Any]:
    """The checked metadata of a file of ours.

    Raises:
        ValueError: If the file was not written by :func:`write`, or by a newer
            version of it.
    """
    raw = (metadata or {}).get(_KEY)
    if raw is None:
        raise ValueError(
            f"{path} is a Parquet file but not a saved Explanation: its metadata has "
            "no 'captum_ehr' entry. Load files that Explanation.save wrote."
        )
    header: dict[str, Any] = json.loads(raw)
    version = header.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(
            f"{path} has format {version!r}; this version of captum_ehr reads up to "
            f"format {FORMAT}. Install a newer captum_ehr to load it."
        )
    return header


def _restore(
    part: Mapping[str, Any], columns: Mapping[str, np.ndarray]
) -> tuple[FeatureRecord, Tensor]:
    """One feature's record and attributions from its rows and its padding."""
    index = torch.from_numpy(columns["_index"].copy())
    shape = part["shape"]
    mask = torch.zeros(int(np.prod(shape)), dtype=torch.bool)
    mask[index] = True

    def fill(padding: Tensor, real: np.ndarray) -> Tensor:
        whole = torch.empty(mask.numel(), dtype=padding.dtype)
        whole[~mask] = padding
        whole[index] = torch.from_numpy(real.copy()).to(padding.dtype)
        return whole.reshape(shape)

    padding = _unpack(part["values"])
    real = "value" if padding.dtype.is_floating_point else "_integer"
    record = FeatureRecord(
        fill(padding, columns[real]),
        mask.reshape(shape),
        None if part["time"] is None else _unpack(part["time"]),
        _words(part["vocabulary"]),
        _words(part["columns"]),
    )
    return record, fill(_unpack(part["attributions"]), columns["attribution"])


def _words(words: list[str] | None) -> tuple[str, ...] | None:
    return None if words is None else tuple(words)


def read(path: str | Path) -> dict[str, Any]:
    """The keyword arguments of a saved explanation; see :meth:`Explanation.load`."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = Path(path)
    try:
        header = _header(pq.read_metadata(path).metadata, path)
        table = pq.read_table(path, partitioning=None)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path} is not a Parquet file. Load files that Explanation.save wrote."
        ) from error
    numbers = {
        name: pc.fill_null(table[name], 0).to_numpy()
        for name in ("value", "attribution", "_index", "_integer")
    }
    feature = table["feature"].to_numpy()
    features, attributions = {}, {}
    for part in header["features"]:
        mine = feature == part["key"]
        own = {name: column[mine] for name, column in numbers.items()}
        features[part["key"]], attributions[part["key"]] = _restore(part, own)
    plain = ("model_name", "output", "baseline", "names")
    return {
        **{name: header[name] for name in plain},
        **{name: _unpack(header["tensors"][name]) for name in _PER_PATIENT},
        "features": features,
        "attributions": attributions,
        "target": tuple(
            tuple(one) if isinstance(one, list) else one for one in header["target"]
        ),
        "target_names": _words(header["target_names"]),
        "patient_ids": tuple(header["patient_ids"]),
        "diagnostics": Diagnostics.from_dict(header["diagnostics"]),
    }
