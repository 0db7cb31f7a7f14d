"""What an explanation holds, checked: tensors, records, words. Nothing is done with it.

:class:`captum_ehr.Explanation` is this with the methods that people call. They, and the
functions of this class in the modules beside it, do all that is done with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor

from ..propagation import Diagnostics
from .explained import Explained, OfTargets
from .feature_record import FeatureKeyError, FeatureRecord, Ranges, Words, range_of
from .sample_columns import PER_PATIENT, SampleColumns, checked


@dataclass(frozen=True, eq=False)
class ExplanationData(OfTargets):
    """The fields of :class:`captum_ehr.Explanation`, which documents them."""

    attributions: dict[str, Tensor]
    features: dict[str, FeatureRecord]
    f_input: Tensor
    f_baseline: Tensor
    delta: Tensor
    rescale_factor: Tensor
    target: tuple[Explained, ...]
    diagnostics: Diagnostics
    patient_ids: tuple[str, ...]
    model_name: str = ""
    output: str = "logit"
    target_names: tuple[str, ...] | None = None
    baseline: str = ""
    names: Words = field(default_factory=dict)
    units: Words = field(default_factory=dict)
    mode: str | None = None
    fingerprint: str = ""
    target_unit: str = ""
    ranges: Ranges = field(default_factory=dict)
    sample_columns: SampleColumns = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that everything fits together; values of samples become Python's."""
        _check(self)
        ranges = {
            key: {code: range_of(code, bounds) for code, bounds in table.items()}
            for key, table in self.ranges.items()
        }
        columns = checked(self.sample_columns, len(self))
        for name, words in (("ranges", ranges), ("sample_columns", columns)):
            object.__setattr__(self, name, words)

    @property
    def total(self) -> Tensor:
        """``(patients,)`` float64: the sum of all attributions of each patient."""
        total = torch.zeros(len(self), dtype=torch.float64)
        for attribution in self.attributions.values():
            total = total + row_sums(attribution)
        return total

    @property
    def relative_delta(self) -> Tensor:
        """``(patients,)`` float64: ``|delta| / |f_input - f_baseline|``.

        0 where nothing is missing, infinite where something is missing although
        the output did not change.
        """
        numbers = (self.delta, self.f_input, self.f_baseline)
        delta, at_input, at_baseline = map(row_sums, numbers)
        ratio = delta.abs() / (at_input - at_baseline).abs()
        return torch.where(delta == 0, torch.zeros_like(ratio), ratio)


def row_sums(tensor: Tensor) -> Tensor:
    """``(patients,)`` float64, on the CPU: the sum of each patient's numbers."""
    numbers = tensor.detach().to("cpu", torch.float64)
    return numbers.flatten(1).sum(1) if numbers.ndim > 1 else numbers


def padding_sums(explanation: ExplanationData) -> Tensor:
    """``(patients,)``: the sum of what is attributed where nothing stands."""
    total = torch.zeros(len(explanation.patient_ids), dtype=torch.float64)
    for key, record in explanation.features.items():
        total += row_sums(explanation.attributions[key].masked_fill(record.mask, 0.0))
    return total


def check_keys(
    what: str, keys: Iterable[str], features: Mapping[str, FeatureRecord]
) -> None:
    """Refuse keys of features that there are not; ``what`` has them."""
    unknown = [key for key in keys if key not in features]
    if unknown:
        raise FeatureKeyError(
            f"{what} the feature(s) {', '.join(map(repr, unknown))}, which this "
            "explanation does not have; its features are "
            f"{', '.join(map(repr, features))}."
        )


def _check(explanation: ExplanationData) -> None:
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
    for what in ("names", "units", "ranges"):
        words = getattr(explanation, what).items()
        tables = [key for key, table in words if isinstance(table, Mapping)]
        check_keys(f"{what} has entries for", tables, explanation.features)


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
    if record.measured is not None:
        _check_measured(key, record)
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
    if named != width and not record.is_series:
        _refuse(key, "there are column names:", named, width)


def _check_measured(key: str, record: FeatureRecord) -> None:
    """Which values were measured is said of each, and of nothing but values."""
    flags, shape = record.measured, tuple(record.values.shape)
    assert flags is not None
    if record.is_token:
        _refuse(key, "measured is given for", "codes", "it for continuous values alone")
    if tuple(flags.shape) != shape or flags.dtype != torch.bool:
        came = f"{flags.dtype} of shape {tuple(flags.shape)}"
        _refuse(key, "measured is", came, f"torch.bool of shape {shape}, as its values")


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


def check_sums(explanation: ExplanationData) -> None:
    """Raise a ValueError where the attributions are not those of the outputs.

    They add up to ``(f_input - f_baseline + delta) * rescale_factor``, to rounding, and
    are numbers wherever that is one.
    """
    f_input, f_baseline, delta, factor = (
        row_sums(getattr(explanation, name)) for name in PER_PATIENT
    )
    total, size = explanation.total, f_input.abs() + f_baseline.abs() + delta.abs()
    digits = torch.finfo(torch.float32).eps  # what float64 may have been made from
    for tensor in explanation.attributions.values():
        size = size + row_sums(tensor.abs())
    for tensor in (explanation.f_input, *explanation.attributions.values()):
        digits = max(digits, torch.finfo(tensor.dtype).eps)
    raw = f_input - f_baseline + delta
    off = is_off(total, raw, factor, size, digits)
    if bool(off.any()):
        row = int(off.nonzero()[0])
        raise ValueError(
            f"the attributions of {int(off.sum())} patient(s), such as "
            f"{explanation.patient_ids[row]!r}, add up to {total[row]:.6g}; by "
            "f_input, f_baseline, delta and rescale_factor it should be "
            f"{float(raw[row] * factor[row]):.6g}. If they were changed on purpose, "
            "delta has to say what is missing or too much."
        )


def is_off(
    total: Tensor, raw: Tensor, factor: Tensor, size: Tensor, digits: float
) -> Tensor:
    """``(patients,)`` booleans: where a total is not ``raw * factor``, to rounding."""
    fits = (total - raw * factor).abs() <= 64 * digits * size
    return ~(fits & torch.isfinite(total)) & torch.isfinite(raw)
