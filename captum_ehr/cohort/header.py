"""What is told of a cohort and of its parts, in ``cohort.json`` and ``part.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from ..explanation.explained import Explained, label_of
from ..explanation.feature_record import Times
from ..propagation import Diagnostics
from .manifest import CohortError, checked

type _Float = Literal["float16", "bfloat16", "float32", "float64"]
type _Number = Literal[_Float, "uint8", "int8", "int16", "int32", "int64", "bool"]


@dataclass(frozen=True)
class Feature:
    """What all patients have of a feature in common."""

    key: str
    dtype: _Number
    time_dtype: _Number | None
    vocabulary: tuple[str, ...] | None
    columns: tuple[str, ...] | None
    times: Times | None = None
    measured: bool = False  # whether it is known which of its values were

    @property
    def is_untimed_series(self) -> bool:
        """Whether its steps, if it has any, are numbered without times."""
        return self.vocabulary is None and self.time_dtype is None


@dataclass(frozen=True)
class Header:
    """What all explanations of a cohort have in common."""

    features: tuple[Feature, ...]
    dtype: _Float
    model_name: str
    output: Literal["logit", "probability"]
    target_names: tuple[str, ...] | None
    baseline: str
    names: dict[str, str | dict[str, str]]
    units: dict[str, str | dict[str, str]]
    mode: str | None
    fingerprint: str
    target_unit: str = ""
    ranges: dict[str, dict[str, tuple[float | None, float | None]]] = field(
        default_factory=dict
    )

    def target_label(self, target: Explained) -> str:
        """The name of an explained output, else its index."""
        return label_of(target, self.target_names)


class Failure(TypedDict):
    """Who could not be explained, and why."""

    patient_id: str
    sample: int
    reason: str


@dataclass(frozen=True)
class Report:
    """A part's ``part.json``, as far as it is read."""

    diagnostics: Diagnostics
    failed: tuple[Failure, ...]


@dataclass(frozen=True)
class _Manifest:
    explanation: Header


def header_in(manifest: Mapping[str, Any], path: Path) -> Header:
    """What ``cohort.json`` tells of the explanations.

    Raises:
        CohortError: If it is of another form, or has words for other features.
    """
    header = checked(_Manifest, manifest, path).explanation
    keys = {feature.key for feature in header.features}
    tables = (
        key
        for words in (header.names, header.units, header.ranges)
        for key, table in words.items()
        if not isinstance(table, str)
    )
    if unknown := {*tables} - keys:
        raise CohortError(
            f"{path}: it has words for {unknown.pop()!r}, which is none of its "
            f"features; these are {', '.join(map(repr, sorted(keys)))}."
        )
    return header


def report_in(held: dict[str, Any], path: Path) -> Report:
    """What a part tells of itself; JSON has no infinite numbers."""
    account = held.get("diagnostics")
    if isinstance(account, dict) and account.get("cancellation", 0.0) is None:
        held = {**held, "diagnostics": {**account, "cancellation": math.inf}}
    return checked(Report, held, path)
