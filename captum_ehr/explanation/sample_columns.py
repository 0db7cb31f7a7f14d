"""The columns of the rows, and those of the samples: sex, age, site, a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import torch

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
    "measured",
    "attribution",
)
"""The columns of an explanation's frame, in order, but those of its samples."""

PER_PATIENT = ("f_input", "f_baseline", "delta", "rescale_factor")
"""The fields of an explanation with one number per patient."""

#: A value of a column of samples; None where it is unknown.
type Plain = str | bool | int | float | None

#: Columns of samples by name, each with one value per sample.
type SampleColumns = Mapping[str, tuple[Plain, ...]]

_TAKEN = {*COLUMNS, *PER_PATIENT, "target", "attribution_other", "difference"}


def plain(value: Any) -> Plain:
    """A word, number or truth value as Python has it; a date as ISO 8601 writes it.

    What is no number (NaN) is unknown.

    Raises:
        TypeError: If it is anything else, such as several numbers.

    Example:
        >>> plain(torch.tensor([3])), plain(np.float32("nan")), plain(date(2026, 5, 1))
        (3, None, '2026-05-01')
    """
    value = single(value)
    return value.isoformat() if isinstance(value, date) else value


def single(value: Any) -> Plain | date:
    """The same, of which a date stays one."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype == "M8[ns]":
        value = value.astype("M8[us]")  # whose item is a date
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        numbers = value.numel() if isinstance(value, torch.Tensor) else value.size
        value = value.item() if numbers == 1 else value
    if value is None or value is pd.NA:
        return None
    if isinstance(value, (float, date)):
        return value if value == value else None
    if isinstance(value, (str, bool, int)):
        return value
    raise TypeError(f"{type(value).__name__}, expected a word, number or truth value.")


def is_taken(name: str) -> bool:
    """Whether the tables of an explanation have a column of that name already."""
    return name in _TAKEN or name.startswith("_")


def kinds(values: Sequence[Plain]) -> set[str]:
    """What the values of a column are, where they are known.

    Example:
        >>> sorted(kinds([1, 2.5, None])), sorted(kinds(["a", True]))
        (['numbers'], ['truth values', 'words'])
    """
    words = {str: "words", bool: "truth values"}
    return {words.get(type(v), "numbers") for v in values if v is not None}


def checked(columns: Mapping[str, Sequence[Any]], count: int) -> SampleColumns:
    """Columns with one plain value for each of so many samples.

    Raises:
        ValueError: If a name is taken, values are of several kinds, or not one each.
        TypeError: If a value is no word, number or truth value.
    """
    known = {}
    for name, values in columns.items():
        if is_taken(name):
            raise ValueError(
                f"sample column {name!r}: the tables have a column of that name, or it "
                "begins with an underscore; give it another name."
            )
        if isinstance(values, str) or len(values) != count:
            came = repr(values) if isinstance(values, str) else f"{len(values)} values"
            raise ValueError(
                f"sample column {name!r}: {came}, expected {count}, one per sample."
            )
        try:
            known[name] = tuple(map(plain, values))
        except TypeError as error:
            raise TypeError(f"sample column {name!r}: {error}") from None
        if len(kinds(known[name])) > 1:
            several = " and ".join(sorted(kinds(known[name])))
            raise ValueError(
                f"sample column {name!r}: its values are {several}; give values of one "
                "kind, None where they are unknown."
            )
    return known


def with_samples(frame: pd.DataFrame, columns: SampleColumns) -> pd.DataFrame:
    """A frame with a column ``sample``, and those of the samples after it."""
    place = frame.columns.get_loc("sample") + 1
    for at, (name, values) in enumerate(columns.items(), place):
        column = pd.Series(values, dtype=None if values else object)
        frame.insert(at, name, column.take(frame["sample"].to_numpy()).array)
    return frame
