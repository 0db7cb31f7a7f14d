"""In which order patients are explained, and in which partitions: worked out once.

Batches of patients of one length have little padding, so patients are sorted by length.
A partition has at most so many patients, and at most so many tokens as that many
average patients have: no partition is much larger than others. The longest come first,
for what is begun last is what all wait for.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..adapter.features import Feature
from ..explanation import FeatureKeyError
from ..explanation.sample_columns import is_taken, single
from .columns import TAKEN
from .durable import whole_file, write_table
from .manifest import ORDER

_PLACED = ("patient_id", "sample", "length", "shape", "partition")
"""The columns of the order besides those that were asked for."""

_SEVERAL = "values of several types"

#: Names of entries of the samples, or values by name, one per sample.
type Columns = Sequence[str] | Mapping[str, Sequence[Any]]


def measured(
    dataset: Any, features: Sequence[Feature], names: Sequence[str], rows: range
) -> pa.Table:
    """Read some samples: whose they are, their length and the entries asked for.

    A sample that cannot be read has length 0; why will be said where it is explained.

    Returns:
        ``patient_id``, ``sample`` (the index), ``length`` (tokens and values of all
        features together), ``shape`` (a number that tells the shapes of their tensors
        from others) and the columns asked for.

    Raises:
        KeyError: If samples have no such entry.
        TypeError: If an entry is not a single value.
        ValueError: If an entry has values of several types.
        OSError: If the dataset is not there.
    """
    lines = []
    for row in rows:
        try:
            sample = dataset[row]
            shapes = [_shape(feature, sample) for feature in features]
        except OSError:
            raise
        except Exception:
            sample, shapes = {"patient_id": _owner(dataset, row)}, []
            sample |= dict.fromkeys(names)
        line = {"patient_id": str(sample.get("patient_id", row)), "sample": row}
        line["length"] = sum(map(math.prod, shapes))
        line["shape"] = zlib.crc32(repr(shapes).encode())
        lines.append(line | {name: _entry(sample, name) for name in names})
    placed = [("patient_id", pa.string()), ("sample", pa.int32())]
    placed += [("length", pa.int64()), ("shape", pa.uint32())]
    arrays = [pa.array([line[name] for line in lines], kind) for name, kind in placed]
    arrays += [_array(name, [line[name] for line in lines]) for name in names]
    return pa.Table.from_arrays(arrays, [*(name for name, _ in placed), *names])


def ordered(tables: Sequence[pa.Table], columns: Columns, partition: int) -> pa.Table:
    """All samples, the longest first, each with the number of its partition.

    Args:
        tables: What :func:`measured` read, of all samples.
        columns: What was asked for; values by name are put beside the samples.
        partition: How many patients a partition has at most.

    Raises:
        ValueError: If the samples' entries are of several types.
    """
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"columns: {_SEVERAL} ({error}).") from error
    for name, values in columns.items() if isinstance(columns, Mapping) else ():
        table = table.append_column(name, _given(name, values, table.num_rows))
    lengths, shapes = table["length"].to_numpy(), table["shape"].to_numpy()
    longest_first = np.lexsort((shapes, -lengths))
    numbers = partitions_of(lengths[longest_first], partition)
    table = table.take(longest_first)
    return table.add_column(4, "partition", pa.array(numbers, pa.int32()))


def partitions_of(lengths: np.ndarray, most: int) -> np.ndarray:
    """The number of each sample's partition; lengths are sorted.

    Example:
        >>> partitions_of(np.array([8, 2, 1, 1]), 2).tolist()
        [0, 1, 1, 2]
    """
    budget = most * max(float(lengths.mean()), 1.0)
    numbers = np.zeros(len(lengths), dtype=np.int32)
    number, patients, tokens = 0, 0, 0
    for place, length in enumerate(lengths.tolist()):
        if patients and (patients == most or tokens + length > budget):
            number, patients, tokens = number + 1, 0, 0
        numbers[place] = number
        patients, tokens = patients + 1, tokens + length
    return numbers


def batches(members: pa.Table, size: int, alike: bool) -> Iterator[pa.Table]:
    """A partition in batches of ``size``; if ``alike``, each of one shape."""
    start = 0
    shapes = members["shape"].to_pylist()
    for end in range(1, len(members) + 1):
        full = end - start == size or end == len(members)
        if full or (alike and shapes[end] != shapes[start]):
            yield members.slice(start, end - start)
            start = end


def write_order(out: Path, table: pa.Table) -> None:
    """Write ``order.parquet``, whole or not at all."""
    with whole_file(out / ORDER) as path:
        write_table(path, table)


def read_order(
    out: Path, partition: int | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """The order, or one partition of it, or some columns."""
    only = None if partition is None else [("partition", "=", partition)]
    return pq.read_table(out / ORDER, columns=columns, filters=only)


def asked(table: pa.Table) -> list[str]:
    """The columns of an order that were asked for."""
    return [name for name in table.schema.names if name not in _PLACED]


def check_columns(columns: Columns, count: int) -> None:
    """Refuse names that cohorts have columns of already, and values that are no column.

    Raises:
        TypeError: If it is a single name, or a value is no word, number or date.
        ValueError: If a name is taken, or comes twice; if values are not one for each
            of ``count`` samples, or of several types.
    """
    if isinstance(columns, str):
        raise TypeError(f"columns={columns!r}; give a list of names: [{columns!r}].")
    taken = [
        name for name in columns if name in (*TAKEN, *_PLACED) or is_taken(str(name))
    ]
    if taken or len({*columns}) < len(columns):
        raise ValueError(
            f"columns: {', '.join(map(repr, taken or columns))}: the tables have "
            "columns of these names already, or one comes twice."
        )
    for name, values in columns.items() if isinstance(columns, Mapping) else ():
        _given(name, values, count)


def _owner(dataset: Any, row: int) -> str:
    """Whose a sample is, as far as the dataset knows without reading it."""
    by_patient = getattr(dataset, "patient_to_index", None) or {}
    return next((str(one) for one, rows in by_patient.items() if row in rows), str(row))


def _shape(feature: Feature, sample: Mapping[str, Any]) -> tuple[int, ...]:
    """Of a sample's tokens or values in a feature, padding within visits included."""
    entry = sample[feature.source]
    parts = entry if isinstance(entry, (tuple, list)) else (entry,)
    value = parts[feature.schema.index("value")] if len(parts) > 1 else parts[0]
    return tuple(value.shape)


def _entry(sample: Mapping[str, Any], name: str) -> Any:
    """A single value of a sample as Python's own."""
    if name not in sample:
        raise FeatureKeyError(
            f"columns: the samples have no {name!r}; they have "
            f"{', '.join(map(repr, sample))}."
        )
    return _single(name, sample[name])


def _single(name: str, value: Any) -> Any:
    """Python's own value; a date stays one, as Parquet has dates."""
    try:
        return single(value)
    except TypeError as error:
        raise TypeError(
            f"columns: {name!r} has a {error} Give one per sample: "
            "columns={name: values}."
        ) from None


def _given(name: str, values: Sequence[Any], count: int) -> pa.Array:
    if len(values) != count:
        raise ValueError(
            f"columns[{name!r}] has {len(values)} values, expected {count}: one for "
            "each sample of the dataset, in its order."
        )
    listed: Any = values
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        listed = listed.to_pylist()
    return _array(name, [_single(name, value) for value in listed])


def _array(name: str, values: Sequence[Any]) -> pa.Array:
    """A column, of whatever type its values have in common."""
    try:
        return pa.array(values)
    except pa.ArrowException as error:
        raise ValueError(f"columns: {name!r} has {_SEVERAL} ({error}).") from error
