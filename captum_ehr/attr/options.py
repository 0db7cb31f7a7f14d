"""Options of explainers, and what they may not be."""

from __future__ import annotations

from collections.abc import Mapping

from .classes import whole
from .completeness import CHOICES


def check_options(
    output: str,
    completeness: str,
    mixing: str,
    internal_batch_size: int | None,
    segments: int,
    rules: object,
) -> None:
    """Refuse options that do not exist; the message names the choices."""
    if completeness not in CHOICES:
        raise ValueError(f"completeness={completeness!r}; it is one of {CHOICES}.")
    if output not in ("logit", "probability"):
        raise ValueError(f"output={output!r}; it is 'logit' or 'probability'.")
    if mixing not in ("apart", "together"):
        raise ValueError(f"mixing={mixing!r}; it is 'apart' or 'together'.")
    if internal_batch_size is not None and not counts(internal_batch_size):
        raise ValueError(
            f"internal_batch_size={internal_batch_size!r}; a whole number, at least 1."
        )
    if not counts(segments):
        raise ValueError(f"segments={segments!r}; a whole number, at least 1.")
    if rules is not None and not isinstance(rules, Mapping):
        raise TypeError(
            "rules: expected a mapping from torch functions or module types to rules, "
            f"got {type(rules).__name__}."
        )


def counts(value: object) -> bool:
    """Whether something is a whole number, at least 1."""
    return whole(value) and value >= 1  # type: ignore[operator]
