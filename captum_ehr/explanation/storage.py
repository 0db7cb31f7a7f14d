"""An explanation as a table: rows for people, one Parquet file for keeping.

The rows of the file are those of :meth:`captum_ehr.Explanation.to_frame`, in ordinary
columns that any Parquet reader understands. Two further columns place each row in its
tensor (``_index``, and ``_integer`` for values that are whole numbers). What stands in
no row lies in the file's metadata: words as JSON, and the tensors of padding, times and
outputs as safetensors, compressed, in base64 since metadata have to be text.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from reprlib import repr as shortened
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..propagation import Diagnostics
from .data import ExplanationData, check_sums
from .explained import Explained
from .feature_record import FeatureRecord, Range, Times
from .frame import build_rows, frame_of
from .sample_columns import COLUMNS, PER_PATIENT, Plain
from .writing import private

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT, READABLE = 4, (3, 4)
"""The version of the file's layout, and those that are read."""

_WORDS, _TENSORS = b"captum_ehr", b"captum_ehr.tensors"
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


@dataclass(frozen=True)
class _Format:
    format: int


@dataclass(frozen=True)
class _Feature:
    key: str
    shape: tuple[int, ...]
    vocabulary: tuple[str, ...] | None
    columns: tuple[str, ...] | None
    times: Times | None = None


@dataclass(frozen=True)
class _Header(_Format):
    """All words of a file: how its features lie in it, and fields of an explanation."""

    features: tuple[_Feature, ...]
    target: tuple[Explained, ...]
    diagnostics: Diagnostics
    patient_ids: tuple[str, ...]
    model_name: str
    output: str
    target_names: tuple[str, ...] | None
    baseline: str
    names: dict[str, str | dict[str, str]]
    units: dict[str, str | dict[str, str]]
    mode: str | None
    fingerprint: str
    target_unit: str = ""
    ranges: dict[str, dict[str, Range]] = field(default_factory=dict)
    sample_columns: dict[str, tuple[Plain, ...]] = field(default_factory=dict)


_PLAIN = tuple(f.name for f in fields(_Header) if f.name not in ("format", "features"))


def write(explanation: ExplanationData, path: str | Path) -> Path:
    """Write an explanation to one Parquet file; see :meth:`Explanation.save`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_sums(explanation)
    rows = build_rows(explanation)
    words = ("patient_id", "feature", "code", "name", "unit")
    types = {
        "measured": pa.bool_(),
        **dict.fromkeys(words, pa.string()),
        **dict.fromkeys(("sample", "visit", "position"), pa.int64()),
        **dict.fromkeys(("time", "value", "attribution"), pa.float64()),
    }
    schema = pa.schema([(name, types[name]) for name in COLUMNS])
    table = pa.Table.from_pandas(frame_of(rows), schema=schema, preserve_index=False)
    # from_pandas turns NaN into null, and a NaN that was measured is no null.
    for name, absent in (("value", rows["_no_value"]), ("attribution", None)):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(rows[name], mask=absent))
    for at, (name, values) in enumerate(explanation.sample_columns.items(), 2):
        table = table.add_column(at, name, pa.array(values).take(table["sample"]))
    integers = pa.array(rows["_integer"], mask=rows["_not_whole"])
    table = table.append_column("_index", pa.array(rows["_index"], pa.int64()))
    table = table.append_column("_integer", integers)
    plain = ("attribution", "_index", "_integer")
    options = {
        "compression": "zstd",
        "use_dictionary": [n for n in table.schema.names if n not in plain],
        "column_encoding": {"_index": "DELTA_BINARY_PACKED"},
    }
    with private(path) as file:
        with pq.ParquetWriter(file, table.schema, **options) as writer:
            writer.write_table(table)
            # In the table's schema it would be stored twice: Arrow keeps its own copy.
            writer.add_key_value_metadata(
                {_WORDS: _packed_words(explanation), _TENSORS: _packed(explanation)}
            )
    return Path(path)


def _packed_words(explanation: ExplanationData) -> str:
    """The header as JSON."""
    features = tuple(
        _Feature(key, tuple(one.values.shape), one.vocabulary, one.columns, one.times)
        for key, one in explanation.features.items()
    )
    plain = {name: getattr(explanation, name) for name in _PLAIN}
    for name in ("names", "units", "ranges"):
        plain[name] = {
            key: dict(words) if isinstance(words, Mapping) else words
            for key, words in plain[name].items()
        }
    header = asdict(_Header(FORMAT, features, **plain))
    return json.dumps(header, default=lambda number: number.item())  # NumPy's


def _packed(explanation: ExplanationData) -> bytes:
    """The tensors that stand in no row."""
    from safetensors.torch import save

    tensors = {name: getattr(explanation, name) for name in PER_PATIENT}
    for place, (key, record) in enumerate(explanation.features.items()):
        padding = ~record.mask
        tensors[f"{place}.values"] = record.values[padding]
        tensors[f"{place}.attributions"] = explanation.attributions[key][padding]
        if record.time is not None:
            tensors[f"{place}.time"] = record.time
        if record.measured is not None:
            tensors[f"{place}.measured"] = record.measured
    copies = {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}
    return base64.b64encode(zlib.compress(save(copies)))


def read(path: str | Path, max_bytes: int) -> dict[str, Any]:
    """The fields of an explanation in a file; see :meth:`Explanation.load`."""
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
            parts = _fields(file, parquet, max_bytes)
            check_sums(ExplanationData(**parts))
        except Exception as error:
            words = str(error) or type(error).__name__
            raise ValueError(f"{path} cannot be loaded: {words}") from error
    return parts


def _fields(file: IO[bytes], parquet: Any, max_bytes: int) -> dict[str, Any]:
    """What is read, nothing of it believed before it is checked."""
    import pyarrow.compute as pc

    metadata = parquet.metadata.metadata or {}
    if _WORDS not in metadata:
        raise ValueError(
            "it is a Parquet file but not a saved Explanation: its metadata has no "
            "'captum_ehr' entry. Load files that Explanation.save wrote."
        )
    header = _header(metadata[_WORDS])
    tensors = _unpacked(metadata[_TENSORS], max_bytes)
    _check_room(header, tensors, parquet.metadata, max_bytes)
    _check_columns(parquet.schema_arrow)
    columns, feature = _columns(file, [part.key for part in header.features])
    features, attributions = {}, {}
    for place, part in enumerate(header.features):
        mine = pc.equal(feature, place)
        rows = {name: column.filter(mine) for name, column in columns.items()}
        try:
            features[part.key], attributions[part.key] = _restored(
                part,
                rows,
                tensors[f"{place}.values"],
                tensors[f"{place}.attributions"],
                tensors.get(f"{place}.time"),
                tensors.get(f"{place}.measured"),
            )
        except ValueError as error:
            raise ValueError(f"feature {part.key!r}: {error}") from error
    return {
        **{name: getattr(header, name) for name in _PLAIN},
        **{name: tensors[name] for name in PER_PATIENT},
        "features": features,
        "attributions": attributions,
    }


def _header(raw: bytes) -> _Header:
    """The words of a file, or where they are not those of this format."""
    from pydantic import TypeAdapter, ValidationError

    try:
        version = TypeAdapter(_Format).validate_json(raw, strict=True).format
        if version not in READABLE:
            cure = "Install a newer one" if version > FORMAT else "Explain them again"
            known = " and ".join(map(str, READABLE))
            raise ValueError(
                f"it has format {version}; this version of captum_ehr reads the "
                f"formats {known}. {cure}."
            )
        return TypeAdapter(_Header).validate_json(raw, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the header"
        words = f"{place} is {shortened(first['input'])}: {first['msg']}."
        raise ValueError(words) from None


def _unpacked(raw: bytes, max_bytes: int) -> dict[str, Tensor]:
    """Tensors, no more of them than is allowed."""
    from safetensors.torch import load

    stream = zlib.decompressobj()
    data = stream.decompress(base64.b64decode(raw, validate=True), max_bytes + 1)
    if len(data) > max_bytes:
        raise _too_large(f"more than {max_bytes:,}", max_bytes)
    if not stream.eof:
        raise ValueError("the bytes of its tensors are broken.")
    tensors = load(data).items()
    # A forged truth value may be neither 0 nor 1.
    return {
        name: tensor.view(torch.uint8) != 0 if tensor.dtype == torch.bool else tensor
        for name, tensor in tensors
    }


def _check_room(
    header: _Header, tensors: Mapping[str, Tensor], metadata: Any, max_bytes: int
) -> None:
    """Refuse what is too large, or fits no rows, before the rows are read."""
    needed, rows = sum(t.nbytes for t in tensors.values()), 0
    for place, part in enumerate(header.features):
        values, shares = tensors[f"{place}.values"], tensors[f"{place}.attributions"]
        if any(size < 0 for size in part.shape):
            raise ValueError(f"feature {part.key!r}: its shape has a negative length.")
        places = math.prod(part.shape)
        real = places - len(values)
        if values.shape != shares.shape or values.ndim != 1 or real < 0:
            raise ValueError(f"feature {part.key!r}: its padding does not fit.")
        if not shares.is_floating_point():
            raise ValueError(f"feature {part.key!r}: its attributions are no floats.")
        needed += places * (values.itemsize + shares.itemsize + 1)
        rows += real
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    needed += sum(
        group.column(i).total_uncompressed_size
        for group in groups
        for i in range(group.num_columns)
        if group.column(i).path_in_schema in _READ
    )
    if needed > max_bytes:
        raise _too_large(f"{needed:,}", max_bytes)
    if rows != metadata.num_rows:
        raise ValueError(f"it has {metadata.num_rows} rows, its shapes have {rows}.")


def _too_large(needed: str, max_bytes: int) -> ValueError:
    return ValueError(
        f"its tensors take {needed} bytes, more than max_bytes={max_bytes:,}. If "
        "you know where it comes from: Explanation.load(path, max_bytes=...)."
    )


def _check_columns(schema: pa.Schema) -> None:
    """Refuse columns that are missing, there twice, or of another type."""
    for name, kind in _READ.items():
        kinds = [str(field.type) for field in schema if field.name == name]
        if kinds != [kind]:
            came = " and ".join(kinds) or "missing"
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


def _restored(
    part: _Feature,
    columns: Mapping[str, pa.ChunkedArray],
    values: Tensor,
    attributions: Tensor,
    time: Tensor | None,
    measured: Tensor | None,
) -> tuple[FeatureRecord, Tensor]:
    """One feature's record and attributions from its rows and its padding."""
    index, size = _numbers(columns["_index"]), math.prod(part.shape)
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < size:
        raise ValueError(f"rows stand outside of its {size} places.")
    mask = torch.zeros(size, dtype=torch.bool)
    mask[index] = True
    if int(mask.sum()) != len(index) or len(values) != size - len(index):
        raise ValueError("rows stand twice in it, or are missing.")

    def fill(padding: Tensor, numbers: Tensor) -> Tensor:
        real = numbers.to(padding.dtype)
        if not (padding.is_floating_point() or torch.equal(real.to(numbers), numbers)):
            raise ValueError(f"its values are no {padding.dtype}.")
        whole = torch.empty(size, dtype=padding.dtype)
        whole[~mask], whole[index] = padding, real
        return whole.reshape(part.shape)

    column = "value" if values.is_floating_point() else "_integer"
    record = FeatureRecord(
        fill(values, _numbers(columns[column])),
        mask.reshape(part.shape),
        time,
        part.vocabulary,
        part.columns,
        part.times,
        measured,
    )
    return record, fill(attributions, _numbers(columns["attribution"]))


def _numbers(column: pa.ChunkedArray) -> Tensor:
    if column.null_count:
        raise ValueError("a row has no number where one is needed.")
    return torch.from_numpy(column.to_numpy().copy())
