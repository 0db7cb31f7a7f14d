"""What a batch says beside the features: of each sample, and of what was measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..explanation import FeatureRecord
from ..explanation.feature_record import as_flags
from ..explanation.sample_columns import Plain, is_taken, kinds, plain
from .features import Feature

MEASURED = "_measured"
"""After a feature key: the entry that says which of its values were measured."""


def sample_columns(
    batch: Mapping[str, Any], count: int, model: Any, read: Collection[str]
) -> dict[str, tuple[Plain, ...]]:
    """The entries with one word, number or truth value per sample.

    Labels stand as the dataset writes them. An entry whose name the tables of an
    explanation have already gets ``sample_`` in front; one with values of several kinds
    is written in words.

    Args:
        batch: A data loader's.
        count: How many samples it has.
        model: PyHealth's, which says what its labels are.
        read: The entries that the model reads.
    """
    other = {*read, *(key + MEASURED for key in read), *_lists(model), "patient_id"}
    columns: dict[str, tuple[Plain, ...]] = {}
    for key, entry in batch.items():
        values = None if key in other else _values(entry, count)
        if values is None:
            continue
        labels = _labels(model, key)
        values = [labels.get(value, value) for value in values]
        if len(kinds(values)) > 1:
            values = [None if value is None else str(value) for value in values]
        name = str(key)
        while is_taken(name) or (name != key and name in batch):
            name = f"sample_{name}"
        columns[name] = tuple(values)
    return columns


def _lists(model: Any) -> set[str]:
    """Features of the dataset that are more than one number, read or not."""
    processors = getattr(model.dataset, "input_processors", {})
    features = (Feature(key, one, None) for key, one in processors.items())
    return {one.key for one in features if one.ids or (one.dims, one.width) != (1, 1)}


def _labels(model: Any, key: str) -> dict[Any, Plain]:
    """From the index of a class to its label; empty where a label is something else."""
    if getattr(model, "mode", None) not in ("binary", "multiclass"):
        return {}
    if key not in getattr(model, "label_keys", ()):
        return {}
    processor = model.dataset.output_processors.get(key)
    vocabulary = getattr(processor, "label_vocab", None) or {}
    return {index: plain(label) for label, index in vocabulary.items()}


def _values(entry: Any, count: int) -> list[Plain] | None:
    """One plain value per sample; None where an entry is something else."""
    if isinstance(entry, Tensor) and entry.dim() == 2 and entry.shape[1] == 1:
        entry = entry.squeeze(1)
    if isinstance(entry, (str, Mapping)) or not hasattr(entry, "__getitem__"):
        return None
    try:
        return [plain(value) for value in entry] if len(entry) == count else None
    except TypeError:  # of no length, or of something else than plain values
        return None


def with_measured(
    record: FeatureRecord, key: str, batch: Mapping[str, Any]
) -> FeatureRecord:
    """A feature with what the batch says of which of its values were measured.

    Raises:
        ValueError: If it does not have the shape of the values, or holds something
            else than truth values.
    """
    entry = batch.get(key + MEASURED)
    if entry is None or record.is_token:
        return record
    shape, device = tuple(record.values.shape), record.values.device
    if not isinstance(entry, (list, tuple)):
        flags = as_flags(key, entry)
    else:
        each = [as_flags(key, flags) for flags in entry]
        if len(each) != shape[0]:
            _refuse(key, f"that of {len(each)} samples", shape)
        flags = torch.zeros(shape, dtype=torch.bool)
        for row, one in enumerate(each):
            _check_one(key, row, one, record)
            flags[row][tuple(map(slice, one.shape))] = one
    if tuple(flags.shape) != shape:
        _refuse(key, f"one of shape {tuple(flags.shape)}", shape)
    return replace(record, measured=flags.to(device))


def _check_one(key: str, row: int, flags: Tensor, record: FeatureRecord) -> None:
    """One sample's: as its values are without the batch's padding."""
    whole, mask = tuple(record.values.shape[1:]), record.mask[row]
    real = mask.reshape(len(mask), -1).any(1).nonzero() if mask.dim() else mask[:0]
    least = int(real.max()) + 1 if len(real) else 0
    shape = tuple(flags.shape)
    fits = shape == whole
    if mask.dim() and (len(whole) > 1 or record.time is not None):  # steps are padded
        padded = len(shape) == len(whole) and shape[1:] == whole[1:]
        fits = padded and least <= shape[0] <= whole[0]
    if not fits:
        steps = f", or fewer steps but not under {least}" if len(whole) > 1 else ""
        _refuse(key, f"for sample {row} one of shape {shape}", f"{whole}{steps}")


def _refuse(key: str, came: str, expected: Any) -> None:
    raise ValueError(
        f"Feature {key!r}: the batch has {key + MEASURED!r}, which says which of its "
        f"values were measured: {came}, expected {expected}, True or False for each "
        "value. Leave it out, or call it otherwise, if it is something else."
    )
