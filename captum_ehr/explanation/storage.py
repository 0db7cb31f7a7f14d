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

from .checks import PER_PATIENT
from .rows import COLUMNS, Words, build_rows, frame_of

if TYPE_CHECKING:
    from .explanation import Explanation

FORMAT = 2
"""The version of the file's layout that this module writes."""

_KEY = b"captum_ehr"
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
        "tensors": {name: _pack(getattr(explanation, name)) for name in PER_PATIENT},
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
        "names": _plain(explanation.names),
        "units": _plain(explanation.units),
        "mode": explanation.mode,
        "fingerprint": explanation.fingerprint,
    }


def _plain(words: Words) -> dict[str, Any]:
    """Words for codes as nothing but dicts and strings."""
    return {
        key: dict(one) if isinstance(one, Mapping) else one
        for key, one in words.items()
    }


def write(explanation: Explanation, path: str | Path) -> Path:
    """Write an explanation to one Parquet file; see :meth:`Explanation.save`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = build_rows(explanation)
    words = ("patient_id", "feature", "code", "name", "unit")
    fields = [(name, pa.string()) for name in words]
    fields += [(name, pa.int64()) for name in ("sample", "visit", "position")]
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
    # Since format 2; an older file leaves them to their defaults.
    newer = [name for name in ("units", "mode", "fingerprint") if name in header]
    return {
        **{name: header[name] for name in newer},
        **{name: header[name] for name in plain},
        **{name: _unpack(header["tensors"][name]) for name in PER_PATIENT},
        "features": features,
        "attributions": attributions,
        "target": tuple(
            tuple(one) if isinstance(one, list) else one for one in header["target"]
        ),
        "target_names": _words(header["target_names"]),
        "patient_ids": tuple(header["patient_ids"]),
        "diagnostics": Diagnostics.from_dict(header["diagnostics"]),
    }
