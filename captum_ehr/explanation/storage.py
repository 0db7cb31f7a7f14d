"""An explanation as a table: rows for people, one Parquet file for keeping.

The rows of the file are the rows of :meth:`captum_ehr.Explanation.to_frame`, in
ordinary columns that any Parquet reader understands. Two further columns place
each row in its tensor (``_index``, and ``_integer`` for values that are whole
numbers); what stands in no row (padding, times, the outputs) lies in the schema's
metadata as JSON, tensors compressed. Nothing is pickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from captum_ehr.adapter.records import FeatureRecord
from captum_ehr.propagation.diagnostics import Diagnostics

from .checks import PER_PATIENT, check_sums
from .packing import TENSOR, expect, pack, room, unpack
from .rows import COLUMNS, Words, build_rows, frame_of
from .writing import private

if TYPE_CHECKING:
    import pyarrow as pa

    from .explanation import Explanation

FORMAT = 2
"""The version of the file's layout that this module writes."""

_KEY = b"captum_ehr"
_READ: Mapping[str, str] = MappingProxyType(
    {
        "feature": "string",
        "value": "double",
        "attribution": "double",
        "_index": "int64",
        "_integer": "int64",
    }
)
"""The columns that are read again, and their types."""

_WORDS = {str: (str, {str: str})}
_HEADER = {
    "features": [
        {
            "key": str,
            "shape": [int],
            "values": TENSOR,
            "attributions": TENSOR,
            "time": (TENSOR, None),
            "vocabulary": ([str], None),
            "columns": ([str], None),
        }
    ],
    "tensors": dict.fromkeys(PER_PATIENT, TENSOR),
    "target": [(int, [int])],
    "diagnostics": {
        "operations": [{"name": str, "rule": str, "calls": int, "exact": bool}],
        "messages": [str],
        "notes?": [str],
    },
    "patient_ids": [str],
    "model_name": str,
    "output": str,
    "target_names": ([str], None),
    "baseline": str,
    "names": _WORDS,
    # Since format 2; an older file leaves them to their defaults.
    "units?": _WORDS,
    "mode?": (str, None),
    "fingerprint?": str,
}


def _describe(explanation: Explanation) -> dict[str, Any]:
    """Everything that stands in no row, as plain data."""
    features = []
    for key, record in explanation.features.items():
        padding = ~record.mask
        features.append(
            {
                "key": key,
                "shape": list(record.values.shape),
                "values": pack(record.values[padding]),
                "attributions": pack(explanation.attributions[key][padding]),
                "time": None if record.time is None else pack(record.time),
                "vocabulary": record.vocabulary,
                "columns": record.columns,
            }
        )
    return {
        "format": FORMAT,
        "features": features,
        "tensors": {name: pack(getattr(explanation, name)) for name in PER_PATIENT},
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

    check_sums(explanation)
    rows = build_rows(explanation)
    words = ("patient_id", "feature", "code", "name", "unit")
    fields = [(name, pa.string()) for name in words]
    fields += [(name, pa.int64()) for name in ("sample", "visit", "position")]
    fields += [(name, pa.float64()) for name in ("time", "value", "attribution")]
    types = dict(fields)
    schema = pa.schema([(name, types[name]) for name in COLUMNS])
    table = pa.Table.from_pandas(frame_of(rows), schema=schema, preserve_index=False)
    # from_pandas turns NaN into null, and a NaN that was measured is no null.
    for name, absent in (("value", rows["_no_value"]), ("attribution", None)):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(rows[name], mask=absent))
    integers = pa.array(rows["_integer"], mask=rows["_not_whole"])
    table = table.append_column("_index", pa.array(rows["_index"], pa.int64()))
    table = table.append_column("_integer", integers)
    options = {
        "compression": "zstd",
        "use_dictionary": [name for name in COLUMNS if name != "attribution"],
        "column_encoding": {"_index": "DELTA_BINARY_PACKED"},
    }
    with private(path) as file:
        with pq.ParquetWriter(file, table.schema, **options) as writer:
            writer.write_table(table)
            # In the table's schema it would be stored twice: Arrow keeps its own copy.
            header = json.dumps(_describe(explanation))
            writer.add_key_value_metadata({_KEY: header})
    return Path(path)


def read(
    path: str | Path, build: Callable[..., Explanation], max_bytes: int
) -> Explanation:
    """Read a file that :func:`write` may have written; see :meth:`Explanation.load`.

    Args:
        path: The file.
        build: Makes an explanation of its parts.
        max_bytes: What its tensors may take.
    """
    import pyarrow.parquet as pq

    with open(path, "rb") as file:
        try:
            parquet = pq.ParquetFile(file)
        except Exception as error:
            raise ValueError(
                f"{path} is not a Parquet file. Load files that Explanation.save wrote."
            ) from error
        # Of a broken or forged file the libraries raise errors of every kind.
        try:
            explanation = build(**_parts(file, parquet, max_bytes))
            check_sums(explanation)
        except Exception as error:
            words = str(error) or type(error).__name__
            raise ValueError(f"{path} cannot be loaded: {words}") from error
    return explanation


def _parts(file: IO[bytes], parquet: Any, max_bytes: int) -> dict[str, Any]:
    """The keyword arguments of a saved explanation."""
    import pyarrow.compute as pc

    header = _header(parquet.metadata.metadata)
    _check_room(header, parquet.metadata, max_bytes)
    _check_columns(parquet.schema_arrow)
    columns, feature = _columns(file, [part["key"] for part in header["features"]])
    features, attributions = {}, {}
    for place, part in enumerate(header["features"]):
        mine = pc.equal(feature, place)
        own = {name: column.filter(mine) for name, column in columns.items()}
        try:
            features[part["key"]], attributions[part["key"]] = _restore(part, own)
        except ValueError as error:
            raise ValueError(f"feature {part['key']!r}: {error}") from error
    plain = ("model_name", "output", "baseline", "names")
    newer = [name for name in ("units", "mode", "fingerprint") if name in header]
    return {
        **{name: header[name] for name in (*plain, *newer)},
        **{name: unpack(header["tensors"][name]) for name in PER_PATIENT},
        "features": features,
        "attributions": attributions,
        "target": tuple(
            tuple(one) if isinstance(one, list) else one for one in header["target"]
        ),
        "target_names": _words(header["target_names"]),
        "patient_ids": tuple(header["patient_ids"]),
        "diagnostics": Diagnostics.from_dict(header["diagnostics"]),
    }


def _header(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """The checked metadata of a file of ours.

    Raises:
        ValueError: If the file was not written by :func:`write`, or by a newer
            version of it.
    """
    raw = (metadata or {}).get(_KEY)
    if raw is None:
        raise ValueError(
            "it is a Parquet file but not a saved Explanation: its metadata has no "
            "'captum_ehr' entry. Load files that Explanation.save wrote."
        )
    header = json.loads(raw)
    expect(header, {"format": int}, "the header")
    if not 1 <= header["format"] <= FORMAT:
        raise ValueError(
            f"it has format {header['format']}; this version of captum_ehr reads up to "
            f"format {FORMAT}. Install a newer captum_ehr to load it."
        )
    expect(header, _HEADER, "the header")
    return cast(dict[str, Any], header)


def _check_room(header: Mapping[str, Any], metadata: Any, max_bytes: int) -> None:
    """Refuse what is too large, or fits no rows, before anything is unpacked."""
    needed, rows, count = 0, 0, len(header["patient_ids"])
    for name in PER_PATIENT:
        shape = header["tensors"][name]["shape"]
        if shape != [count]:
            raise ValueError(f"{name} has shape {shape}, expected [{count}].")
    for part in header["features"]:
        values, shares = part["values"], part["attributions"]
        needed += sum(room(one["dtype"], part["shape"]) for one in (values, shares))
        needed += room("bool", part["shape"])
        if part["time"] is not None:
            needed += room(part["time"]["dtype"], part["time"]["shape"])
        own = math.prod(part["shape"]) - math.prod(values["shape"])
        if values["shape"] != shares["shape"] or len(values["shape"]) != 1 or own < 0:
            raise ValueError(f"feature {part['key']!r}: its padding does not fit.")
        rows += own
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    needed += sum(
        group.column(i).total_uncompressed_size
        for group in groups
        for i in range(group.num_columns)
        if group.column(i).path_in_schema in _READ
    )
    if needed > max_bytes:
        raise ValueError(
            f"its tensors take {needed:,} bytes, more than max_bytes={max_bytes:,}. If "
            "you know where it comes from: Explanation.load(path, max_bytes=...)."
        )
    if rows != metadata.num_rows:
        raise ValueError(f"it has {metadata.num_rows} rows, its shapes have {rows}.")


def _check_columns(schema: pa.Schema) -> None:
    """Refuse columns that are missing, there twice, or of another type."""
    for name, kind in _READ.items():
        found = [str(field.type) for field in schema if field.name == name]
        if found != [kind]:
            came = " and ".join(found) or "missing"
            raise ValueError(f"its column {name!r} is {came}, expected {kind}.")


def _columns(
    file: IO[bytes], keys: Sequence[str]
) -> tuple[dict[str, pa.ChunkedArray], pa.ChunkedArray]:
    """The columns that place rows in tensors, and per row the place of its feature."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    # As a dictionary, for a long word in many rows is kept once.
    parquet = pq.ParquetFile(file, read_dictionary=["feature"])
    table, repeated = parquet.read(columns=[*_READ]), len(set(keys)) < len(keys)
    feature = pa.chunked_array(
        [
            pc.index_in(chunk.dictionary, pa.array(keys, pa.string())).take(
                chunk.indices
            )
            for chunk in table["feature"].chunks
        ],
        pa.int32(),
    )
    if repeated or feature.null_count:
        raise ValueError("a feature stands twice in it, or a row belongs to none.")
    return {name: table[name] for name in _READ if name != "feature"}, feature


def _restore(
    part: Mapping[str, Any], columns: Mapping[str, pa.ChunkedArray]
) -> tuple[FeatureRecord, Tensor]:
    """One feature's record and attributions from its rows and its padding."""
    index = _numbers(columns["_index"])
    shape, size = part["shape"], math.prod(part["shape"])
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < size:
        raise ValueError(f"rows stand outside of its {size} places.")
    mask = torch.zeros(size, dtype=torch.bool)
    mask[index] = True

    def fill(packed: Mapping[str, Any], numbers: Tensor) -> Tensor:
        padding = unpack(packed)
        if int(mask.sum()) != len(index) or len(padding) != size - len(index):
            raise ValueError("rows stand twice in it, or are missing.")
        real = numbers.to(padding.dtype)
        if not (padding.is_floating_point() or torch.equal(real.to(numbers), numbers)):
            raise ValueError(f"its values are no {packed['dtype']}.")
        whole = torch.empty(size, dtype=padding.dtype)
        whole[~mask], whole[index] = padding, real
        return whole.reshape(shape)

    is_whole = "float" not in part["values"]["dtype"]
    record = FeatureRecord(
        fill(part["values"], _numbers(columns["_integer" if is_whole else "value"])),
        mask.reshape(shape),
        None if part["time"] is None else unpack(part["time"]),
        _words(part["vocabulary"]),
        _words(part["columns"]),
    )
    if "float" not in part["attributions"]["dtype"]:
        raise ValueError("its attributions are whole numbers.")
    return record, fill(part["attributions"], _numbers(columns["attribution"]))


def _numbers(column: pa.ChunkedArray) -> Tensor:
    if column.null_count:
        raise ValueError("a row has no number where one is needed.")
    return torch.from_numpy(column.to_numpy().copy())


def _words(words: list[str] | None) -> tuple[str, ...] | None:
    return None if words is None else tuple(words)
