"""Explanations of several batches as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..propagation import Diagnostics
from .data import ExplanationData
from .feature_record import FeatureRecord, Ranges, Words, first_difference
from .sample_columns import PER_PATIENT, SampleColumns
from .selecting import told_of

_ALIKE = {
    "output": "scales of the output",
    "mode": "kinds of label",
    "target_names": "outputs",
    "target_unit": "units of the output",
    "baseline": "baselines",
}
"""What must agree, and what to call it."""

_ADVICE = (
    "Only explanations of one model, output and baseline can be concatenated; to put "
    "two side by side use compare."
)


def concat[E: ExplanationData](explanations: Iterable[E]) -> E:
    """Explanations of several batches as one; see :meth:`Explanation.concat`."""
    parts = list(explanations)
    if not parts:
        raise ValueError("there is nothing to concatenate: give some explanations.")
    first = parts[0]
    if len(parts) == 1:
        return first
    for place, other in enumerate(parts[1:], 1):
        _check_one_model(first, other, place)
    merged = {key: _features(key, parts) for key in first.features}
    numbers: dict[str, Any] = {
        name: _cat([getattr(part, name) for part in parts]) for name in PER_PATIENT
    }
    return replace(
        first,
        features={key: record for key, (record, _) in merged.items()},
        attributions={key: shares for key, (_, shares) in merged.items()},
        target=tuple(chain.from_iterable(part.target for part in parts)),
        patient_ids=tuple(chain.from_iterable(part.patient_ids for part in parts)),
        diagnostics=_reports(parts),
        fingerprint=next((p.fingerprint for p in parts if p.fingerprint), ""),
        names=_words("name", [part.names for part in parts]),
        units=_words("unit", [part.units for part in parts]),
        ranges=_words("usual range", [part.ranges for part in parts]),
        sample_columns=_sample_columns(parts),
        **numbers,
    )


def _reports(parts: Sequence[ExplanationData]) -> Diagnostics:
    """All that is said, of rows by their new numbers."""
    whole, start = Diagnostics(), 0
    for part in parts:
        whole += told_of(part.diagnostics, range(len(part)), start)
        start += len(part)
    return whole


def check_alike(
    first: ExplanationData,
    other: ExplanationData,
    place: int,
    advice: str,
    codes: Sequence[str] = ("vocabulary", "columns"),
) -> None:
    """Refuse other outputs, references or codes; the advice ends what is said."""
    for name, what in _ALIKE.items():
        here, there = getattr(first, name), getattr(other, name)
        _same(what, here, there, place, advice)
    if set(first.features) != set(other.features):
        _same("features", list(first.features), list(other.features), place, advice)
    for key, record in first.features.items():
        counterpart = other.features[key]
        for what in codes:
            here, there = (getattr(r, what) or () for r in (record, counterpart))
            if here != there:
                words = first_difference(here, there)
                raise ValueError(
                    f"explanations 0 and {place} differ in the {what} of feature "
                    f"{key!r}: number {words}. {advice}"
                )


def _same(what: str, here: object, there: object, place: int, advice: str) -> None:
    if here != there:
        raise ValueError(
            f"explanations 0 and {place} are of different {what}: {here!r} and "
            f"{there!r}. {advice}"
        )


def _check_one_model(
    first: ExplanationData, other: ExplanationData, place: int
) -> None:
    """Refuse what was not explained alike, or is of another model."""
    _same("models", first.model_name, other.model_name, place, _ADVICE)
    check_alike(first, other, place, _ADVICE)
    if first.fingerprint and other.fingerprint:
        prints = first.fingerprint, other.fingerprint
        _same("weights of the model", *prints, place, _ADVICE)
    for key, record in first.features.items():
        counterpart = other.features[key]
        kinds = [
            (r.times or "some") if r.time is not None else "none"
            for r in (record, counterpart)
        ]
        _same(f"times of feature {key!r}", kinds[0], kinds[1], place, _ADVICE)
        known = [r.measured is not None for r in (record, counterpart)]
        if known[0] != known[1]:
            raise ValueError(
                f"which values of feature {key!r} were measured is known of one of "
                f"explanations 0 and {place} and not of the other: say it of both, or "
                f"forget it, explanation.with_measured({{{key!r}: None}})."
            )


def _features(
    key: str, parts: Sequence[ExplanationData]
) -> tuple[FeatureRecord, Tensor]:
    """One feature of all parts, padded to the widest."""
    records = [part.features[key] for part in parts]
    shapes = [tuple(record.values.shape[1:]) for record in records]
    ranks = {len(shape) for shape in shapes}
    if len(ranks) > 1:
        raise ValueError(
            f"feature {key!r} has shapes of {sorted(rank + 1 for rank in ranks)} axes "
            "in the explanations; they cannot be concatenated."
        )
    wide = tuple(map(max, zip(*shapes)))
    fixed = _fixed_axes(records)
    if any(shape[axis] != wide[axis] for shape in shapes for axis in fixed):
        raise ValueError(
            f"feature {key!r} has a different number of columns in the explanations: "
            f"{sorted({shape[-1] for shape in shapes})}."
        )
    times = [record.time for record in records if record.time is not None]
    known = [record.measured for record in records if record.measured is not None]
    longest = max((time.shape[1] for time in times), default=0)
    record = replace(
        records[0],
        values=_cat([padded(record.values, wide) for record in records]),
        mask=_cat([padded(record.mask, wide) for record in records]),
        time=_cat([padded(time, (longest,)) for time in times]) if times else None,
        measured=_cat([padded(flags, wide) for flags in known]) if known else None,
    )
    attributions = [padded(part.attributions[key], wide) for part in parts]
    return record, _cat(attributions)


def _fixed_axes(records: list[FeatureRecord]) -> tuple[int, ...]:
    """The axes after the patients' that hold columns, which cannot be padded."""
    last = records[0].values.ndim - 2
    is_padded = records[0].is_token or all(record.is_series for record in records)
    return () if is_padded or last < 0 else (last,)


def padded(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Filled with 0 or False at the end of each axis but the first."""
    missing = [n - m for n, m in zip(shape, tensor.shape[1:])]
    if not any(missing):
        return tensor
    return F.pad(tensor, [size for n in reversed(missing) for size in (0, n)])


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    """Along the patients, where the first one is."""
    return torch.cat([tensor.to(tensors[0].device) for tensor in tensors])


def _words(what: str, tables: Sequence[Words | Ranges]) -> dict[str, Any]:
    """The tables as one; no code may have two words, or usual ranges."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for table in tables for key in table):
        entries = [table[key] for table in tables if key in table]
        nested = [entry for entry in entries if isinstance(entry, Mapping)]
        if len(nested) == len(entries):
            inner = {code for table in nested for code in table}
            merged[key] = {
                code: _one_word(what, code, [t[code] for t in nested if code in t])
                for code in sorted(inner)
            }
        else:
            merged[key] = _one_word(what, key, entries)
    return merged


def _sample_columns(parts: Sequence[ExplanationData]) -> SampleColumns:
    """The columns that any part has; unknown (None) for the samples of the others."""
    names = dict.fromkeys(name for part in parts for name in part.sample_columns)
    return {
        name: tuple(
            chain.from_iterable(
                part.sample_columns.get(name, (None,) * len(part)) for part in parts
            )
        )
        for name in names
    }


def _one_word(what: str, code: str, words: Sequence[Any]) -> Any:
    """The word that all have for a code."""
    for word in words[1:]:
        if word != words[0]:
            raise ValueError(
                f"the explanations have different {what}s for {code!r}: {words[0]!r} "
                f"and {word!r}. Give all the same ones."
            )
    return words[0]
