"""Which patients are meant."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..propagation import Diagnostics
from .feature_record import FeatureKeyError

#: An index, a slice, a patient id, several indices or ids, or a boolean mask.
type Selector = int | str | slice | Iterable[int] | Iterable[str] | Tensor

_NAMED = re.compile(r"(?<=patient\(s\) )\[[\d, ]+\]")
"""The rows in a message such as "the attributions of patient(s) [3] do not add up"."""


def some(held: Any, rows: list[int]) -> Any:
    """Some patients' part of tensors, tuples or records, or of tables of these."""
    if isinstance(held, Tensor):
        return held[torch.tensor(rows, dtype=torch.long, device=held.device)]
    if isinstance(held, tuple):
        return tuple(held[row] for row in rows)
    if isinstance(held, Mapping):
        return {key: some(part, rows) for key, part in held.items()}
    return held[rows]


def told_of(report: Diagnostics, rows: Iterable[int], start: int = 0) -> Diagnostics:
    """The report on some patients.

    Messages that name rows of the batch are kept where these are among them, with the
    new numbers, which begin at ``start``.

    Example:
        >>> report = Diagnostics(messages=("patient(s) [0, 3] are off", "all are"))
        >>> told_of(report, [2, 3]).messages, told_of(report, [1]).messages
        (('patient(s) [1] are off', 'all are'), ('all are',))
    """
    places = [*enumerate(rows, start)]

    def told(message: str) -> str:
        if (named := _NAMED.search(message)) is None:
            return message
        old = {*re.findall(r"\d+", named[0])}
        mine = [place for place, row in places if str(row) in old]
        return _NAMED.sub(str(mine), message, count=1) if mine else ""

    return replace(report, messages=tuple(filter(None, map(told, report.messages))))


def positions(patient_ids: tuple[str, ...], indices: Selector) -> list[int]:
    """The rows that a selector stands for, none of them negative."""
    count = len(patient_ids)
    if isinstance(indices, slice):
        return list(range(count))[indices]
    if isinstance(indices, str):
        return _of_patients(patient_ids, [indices])
    # Tensors and numpy arrays as lists of Python's own numbers.
    wanted: Any = indices.tolist() if hasattr(indices, "tolist") else indices
    asked = list(wanted) if isinstance(wanted, Iterable) else [wanted]
    asked = [item.item() if hasattr(item, "item") else item for item in asked]
    if asked and all(isinstance(item, str) for item in asked):
        return _of_patients(patient_ids, asked)
    if any(isinstance(item, bool) for item in asked):
        if len(asked) != count or not all(isinstance(item, bool) for item in asked):
            raise IndexError(
                f"the boolean mask has {len(asked)} entries, expected {count}: "
                "one True or False per patient."
            )
        return [row for row, flag in enumerate(asked) if flag]
    return [_in_range(item, count) for item in asked]


def _of_patients(patient_ids: tuple[str, ...], asked: list[str]) -> list[int]:
    """All samples of each patient, in the order asked for."""
    rows: dict[str, list[int]] = {patient_id: [] for patient_id in asked}
    for row, patient in enumerate(patient_ids):
        if patient in rows:
            rows[patient].append(row)
    missing = [patient_id for patient_id in asked if not rows[patient_id]]
    if missing:
        some = ", ".join(map(repr, patient_ids[:3])) or "none"
        more = ", …" if len(patient_ids) > 3 else ""
        raise FeatureKeyError(
            f"there is no patient {', '.join(map(repr, missing))} in this explanation; "
            f"it has {len(set(patient_ids))}: {some}{more}"
        )
    return [row for patient_id in asked for row in rows[patient_id]]


def _in_range(item: Any, count: int) -> int:
    try:
        index = operator.index(item)
    except TypeError:
        raise TypeError(
            f"patients are chosen by an index, a slice, an id (a string), several of "
            f"these, or a boolean mask; got {item!r} of type {type(item).__name__}."
        ) from None
    if not -count <= index < count:
        held = f"0 to {count - 1}" if count else "none"
        raise IndexError(
            f"patient {index} is out of range: this explanation has {count} "
            f"patient(s), indices {held}."
        )
    return index % count
