"""Whether a cohort's Parquet files are what they are said to be.

Of damaged and forged files the libraries raise errors of every kind; from here it is a
:class:`CohortError` that names the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import torch

from ..explanation.data import is_off
from ..explanation.sample_columns import PER_PATIENT
from .columns import rows_schema
from .header import Header
from .manifest import CohortError

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_PLACES = 2**26
"""How many codes or values a feature of one sample has at most."""

_PLACES = ("int32", "list<item: int32>")
_TARGETS = (*_PLACES, *(f"struct<a: {kind}, b: {kind}>" for kind in _PLACES))
_LAYOUT = "list<item: struct<shape: list<item: int32>, time: list<item: double>>>"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say of which file an error is.

    Raises:
        CohortError: In place of any other.
    """
    try:
        yield
    except CohortError:
        raise
    except Exception as error:
        words = str(error) or type(error).__name__
        raise CohortError(f"{path} is damaged: {words}") from error


def check_rows(path: Path, header: Header) -> None:
    """It is Parquet with the columns that are read."""
    wanted = {one.name: [str(one.type)] for one in rows_schema()}
    if not any(feature.measured for feature in header.features):
        del wanted["measured"]
    _check_columns(path, _schema(path), wanted)


def check_patients(path: Path, first: Path) -> None:
    """It is Parquet with the columns that are read, and that the first one has."""
    schema = _schema(path)
    wanted: dict[str, Sequence[str]] = dict.fromkeys(PER_PATIENT, ["double"])
    wanted |= {"patient_id": ["string"], "sample": ["int32"], "target": _TARGETS}
    wanted |= {"messages": ["list<item: string>"], "layout": [_LAYOUT]}
    wanted = {one.name: [_word(one)] for one in _schema(first)} | wanted
    _check_columns(path, schema, wanted)
    if more := {*schema.names} - {*wanted}:
        raise CohortError(f"{path}: column {more.pop()!r} is not in {first}.")


def _schema(path: Path) -> pa.Schema:
    import pyarrow.parquet as pq

    with naming(path):
        return pq.read_schema(path)


def _word(field: pa.Field) -> str:
    """A column's type; what is in a list is called so or so."""
    return str(field.type).replace("<element: ", "<item: ")


def _check_columns(
    path: Path, schema: pa.Schema, wanted: Mapping[str, Sequence[str]]
) -> None:
    for name, kinds in wanted.items():
        came = [_word(field) for field in schema if field.name == name]
        if len(came) != 1 or came[0] not in kinds:
            words = " and ".join(came) or "missing"
            expected = " or ".join(kinds)
            raise CohortError(
                f"{path}: column {name!r} is {words}, expected {expected}."
            )


def check_sums(rows: Path, patients: Path, header: Header) -> None:
    """Every row is a sample's, and all of a sample's add up to its outputs.

    Files of earlier versions, which do not say what padding has, are not added up.
    """
    people = pl.scan_parquet(patients)
    is_told = "padding" in people.collect_schema().names()
    keys = [feature.key for feature in header.features]
    share = pl.col("attribution").cast(pl.Float64).fill_null(math.nan)
    sums = (
        pl.scan_parquet(rows)
        .group_by("sample")
        .agg(
            total=share.sum(),
            size=share.abs().sum(),
            known=pl.col("feature").cast(pl.String).is_in(keys).fill_null(False).all(),
        )
    )
    padding = pl.col("padding") if is_told else pl.lit(math.nan).alias("padding")
    theirs = people.select("sample", *PER_PATIENT, padding, theirs=True)
    held = theirs.join(sums, "sample", "full", coalesce=True).collect()
    if not held["known"].all() or held["theirs"].null_count():
        raise CohortError(
            f"{rows} is damaged: a row is of no feature of this cohort, or of no sample"
            f" in {patients.name}."
        )
    floats = torch.float32, getattr(torch, header.dtype)
    digits = max(torch.finfo(dtype).eps for dtype in floats)
    given = pl.col(*PER_PATIENT, "padding").fill_null(math.nan)
    summed = pl.col("total", "size").fill_null(0.0)  # of a sample without rows
    numbers = held.select(given, summed).to_torch().T
    f_input, f_baseline, delta, factor, padding, total, size = numbers
    size = size + torch.stack([f_input, f_baseline, delta, padding]).abs().sum(0)
    raw = f_input - f_baseline + delta
    off = held.filter(is_off(total + padding, raw, factor, size, digits).numpy())
    if is_told and len(off):
        raise CohortError(
            f"{rows} is damaged: the attributions of {len(off)} sample(s), such as "
            f"{off['sample'][0]}, do not add up to their outputs in {patients.name}."
        )


def check_layouts(people: pa.Table) -> None:
    """Refuse what would need more room than any record."""
    for layouts in people["layout"].to_pylist():
        for shape in (layout["shape"] for layout in layouts):
            if min(shape, default=0) < 0 or math.prod(shape) > _MOST_PLACES:
                raise ValueError(f"a feature has the shape {shape}.")


def read_samples(path: Path, samples: Sequence[int]) -> pa.Table:
    """What a file has of some samples."""
    import pyarrow.parquet as pq

    with naming(path):
        return pq.read_table(path, filters=[("sample", "in", samples)])


def check_pages(path: Path) -> None:
    """Read all of a file."""
    import pyarrow.parquet as pq

    with naming(path):
        for _ in pq.ParquetFile(path).iter_batches():
            pass
