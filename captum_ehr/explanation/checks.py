"""Whether the parts of an explanation fit together; errors name what does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

from captum_ehr.adapter.records import FeatureKeyError, FeatureRecord

from .rows import is_series

if TYPE_CHECKING:
    from .explanation import Explanation

PER_PATIENT = ("f_input", "f_baseline", "delta", "rescale_factor")
"""The fields with one number per patient."""


def check(explanation: Explanation) -> None:
    """Raise a ValueError, or a KeyError, that names what does not fit."""
    count = len(explanation.patient_ids)
    for name in PER_PATIENT:
        shape = tuple(getattr(explanation, name).shape)
        if shape != (count,):
            raise ValueError(
                f"{name} has shape {shape}, expected ({count},): one number for "
                "each of patient_ids."
            )
    if len(explanation.target) != count:
        raise ValueError(
            f"target has {len(explanation.target)} entries, expected {count}: one for "
            "each of patient_ids."
        )
    if explanation.output not in ("logit", "probability"):
        raise ValueError(
            f"output is {explanation.output!r}, expected 'logit' or 'probability'."
        )
    if set(explanation.attributions) != set(explanation.features):
        raise ValueError(
            f"attributions are for the features {sorted(explanation.attributions)}, "
            f"expected {sorted(explanation.features)}: give one tensor per feature."
        )
    for key, record in explanation.features.items():
        _check_feature(key, record, explanation.attributions[key], count)
    check_keys("names", explanation.names, explanation.features)
    check_keys("units", explanation.units, explanation.features)


def check_sums(explanation: Explanation) -> None:
    """Raise a ValueError where the attributions are not those of the outputs.

    They add up to ``(f_input - f_baseline + delta) * rescale_factor``, to rounding, and
    are numbers wherever that is one.
    """
    f_input, f_baseline, delta, factor = (
        getattr(explanation, name).detach().to("cpu", torch.float64)
        for name in PER_PATIENT
    )
    total, size = explanation.total, f_input.abs() + f_baseline.abs() + delta.abs()
    digits = torch.finfo(torch.float32).eps  # what float64 may have been made from
    for one in (explanation.f_input, *explanation.attributions.values()):
        digits = max(digits, torch.finfo(one.dtype).eps)
    for one in explanation.attributions.values():
        size = size + one.detach().to("cpu", torch.float64).abs().flatten(1).sum(1)
    raw = f_input - f_baseline + delta
    fits = (total - raw * factor).abs() <= 64 * digits * size
    off = ~(fits & torch.isfinite(total)) & torch.isfinite(raw)
    if bool(off.any()):
        row = int(off.nonzero()[0])
        raise ValueError(
            f"the attributions of {int(off.sum())} patient(s), such as "
            f"{explanation.patient_ids[row]!r}, add up to {total[row]:.6g}; by "
            "f_input, f_baseline, delta and rescale_factor it should be "
            f"{float(raw[row] * factor[row]):.6g}. If they were changed on purpose, "
            "delta has to say what is missing or too much."
        )


def check_keys(
    what: str, table: Mapping[str, object], features: Mapping[str, FeatureRecord]
) -> None:
    """Refuse a table with an entry of its own for a feature that there is not."""
    unknown = [
        key
        for key, one in table.items()
        if isinstance(one, Mapping) and key not in features
    ]
    if unknown:
        raise FeatureKeyError(
            f"{what} has entries for the feature(s) "
            f"{', '.join(map(repr, unknown))}, which this explanation does not have; "
            f"its features are {', '.join(map(repr, features))}."
        )


def _check_feature(
    key: str, record: FeatureRecord, attribution: Tensor, count: int
) -> None:
    """Raise a ValueError that names what does not fit in a feature."""
    shape = tuple(record.values.shape)
    if not shape or shape[0] != count:
        expected = f"{count} patient(s) along the first axis"
        _refuse(key, "values have shape", shape, expected)
    if tuple(attribution.shape) != shape:
        _refuse(key, "attributions have shape", tuple(attribution.shape), shape)
    if tuple(record.mask.shape) != shape or record.mask.dtype != torch.bool:
        came = f"{record.mask.dtype} of shape {tuple(record.mask.shape)}"
        _refuse(key, "the mask is", came, f"torch.bool of shape {shape}")
    if record.time is not None:
        steps = {shape[1] if len(shape) > 1 else 1}
        if len(shape) == 2 and not record.is_token:
            steps.add(1)
        allowed = [(count, n) for n in sorted(steps)]
        if tuple(record.time.shape) not in allowed:
            words = " or ".join(map(str, allowed))
            _refuse(key, "time has shape", tuple(record.time.shape), words)
    if record.vocabulary is not None:
        _check_ids(key, record)
        return
    width = shape[-1] if len(shape) > 1 else 1
    named = width if record.columns is None else len(record.columns)
    if named != width and not is_series(record):
        _refuse(key, "there are column names:", named, width)


def _check_ids(key: str, record: FeatureRecord) -> None:
    """Every token id is an index into the vocabulary."""
    values, size = record.values, len(record.vocabulary or ())
    if values.is_floating_point():
        _refuse(key, "token ids are", values.dtype, "an integer dtype")
    if values.ndim > 4:
        _refuse(key, "token ids have", f"{values.ndim} axes", "1 to 4 axes")
    ids = values[record.mask]
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        came = f"{int(ids.min())} to {int(ids.max())}"
        expected = f"0 to {size - 1}, as in its vocabulary"
        _refuse(key, "token ids run from", came, expected)


def _refuse(key: str, what: str, came: object, expected: object) -> NoReturn:
    raise ValueError(f"feature {key!r}: {what} {came}, expected {expected}.")
