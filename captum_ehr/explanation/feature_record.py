"""A feature of a batch as its owner would read it: codes, values, masks, times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

#: Words for codes: from code to word, or from feature key to such a table of its own.
type Words = Mapping[str, str | Mapping[str, str]]

#: The least and the greatest usual value; infinite where there is no bound.
type Range = tuple[float, float]

#: By feature key, the usual range of its codes or columns.
type Ranges = Mapping[str, Mapping[str, Range]]

#: What times count: from one moment on, or since the step before; or nothing that a
#: clock could show, and steps are known by their order.
type Times = Literal["elapsed", "gaps", "order"]


@dataclass(frozen=True, eq=False)
class FeatureRecord:
    """What stands in one feature of a batch, before any embedding.

    Args:
        values: Token ids (integer) or raw values (floating), exactly as the
            data loader gave them: ``(patients, positions)`` for flat token
            sequences, ``(patients, visits, positions)`` for nested ones,
            ``(patients, columns)`` for tensors and multi-hot vectors,
            ``(patients, steps, columns)`` for time series.
        mask: Boolean, shaped like ``values``; True where a real token or value
            stands, False on padding.
        time: ``(patients, steps)`` or None; the time of each step of axis 1, in
            the units of the task that made the samples.
        vocabulary: For tokens, the code of each id; None for continuous features.
        columns: Names of the last axis of a continuous feature, or None.
        times: What ``time`` counts: ``"elapsed"`` since one moment that all features
            share, ``"gaps"`` since the step before, or ``"order"`` where it is no
            clock; None where it is not said.
        measured: Of a continuous feature, boolean, shaped like ``values``: True where
            the value was measured, False where it was imputed or carried forward;
            None where that is not known.
    """

    values: Tensor
    mask: Tensor
    time: Tensor | None = None
    vocabulary: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    times: Times | None = None
    measured: Tensor | None = None

    @property
    def is_token(self) -> bool:
        """True for features whose values are ids of a vocabulary."""
        return self.vocabulary is not None

    @property
    def is_series(self) -> bool:
        """True for a continuous feature that is one value per step of time."""
        return (
            not self.is_token
            and self.time is not None
            and self.values.ndim == 2
            and self.time.shape == self.values.shape
            and (self.columns is None or len(self.columns) == 1)
        )

    def __getitem__(self, patients: Sequence[int]) -> FeatureRecord:
        """The feature of some of the patients."""
        return replace(
            self,
            values=self.values[patients],
            mask=self.mask[patients],
            time=None if self.time is None else self.time[patients],
            measured=None if self.measured is None else self.measured[patients],
        )


class FeatureKeyError(KeyError):
    """A feature key, label or batch entry that is not there; reads as a sentence."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


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
    if record.is_series:
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
    table = words.get(key)
    return {**common, **table} if isinstance(table, Mapping) else common


def range_of(code: str, bounds: Any) -> Range:
    """The least and the greatest usual value, from what people write.

    Raises:
        ValueError: If it is no pair of numbers, or they are not in order.

    Example:
        >>> range_of("creatinine", (0.6, 1.3)), range_of("lactate", (None, 2))
        ((0.6, 1.3), (-inf, 2.0))
    """
    try:
        low, high = bounds
        low = -np.inf if low is None else low
        ends = float(low), float(np.inf if high is None else high)
    except (TypeError, ValueError):
        ends = 1.0, 0.0
    if not ends[0] <= ends[1]:  # also where one is not a number
        raise ValueError(
            f"the usual range of {code!r} is {bounds!r}, expected (low, high) with low "
            "not above high; infinite, or None, where there is no bound."
        )
    return ends


def as_flags(key: str, flags: Any) -> Tensor:
    """Booleans from a tensor, an array or lists of truth values, or of 0 and 1.

    Raises:
        ValueError: If they are something else, or of unequal lengths.
    """
    try:
        given = torch.as_tensor(flags)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"feature {key!r}: measured is no tensor: {error}") from error
    if given.dtype != torch.bool and not bool(((given == 0) | (given == 1)).all()):
        raise ValueError(
            f"feature {key!r}: measured has other numbers than 0 and 1; give True "
            "where a value was measured and False where it was not."
        )
    return given.bool()


def first_difference(here: Sequence[str], there: Sequence[str]) -> str:
    """The first place, from 0, where two lists of words differ, and both words.

    Example:
        >>> first_difference(["<pad>", "I10"], ["<pad>", "E11", "I10"])
        "1 is 'I10' in the first and 'E11' in the second"
        >>> first_difference(["I10"], ["I10", "E11"])
        "1 is nothing in the first and 'E11' in the second"
    """
    pairs = enumerate(zip_longest(here, there))
    place, words = next((at, p) for at, p in pairs if p[0] != p[1])
    one, other = ("nothing" if word is None else repr(word) for word in words)
    return f"{place} is {one} in the first and {other} in the second"
