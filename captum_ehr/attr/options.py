"""The options of an explainer, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

from torch import nn

from ..adapter import PyHealthAdapter, is_pyhealth_model
from .completeness import CHOICES


def check(
    output: str,
    completeness: str,
    mixing: str,
    internal_batch_size: int | None,
    segments: int,
) -> None:
    """Refuse options that do not exist.

    Raises:
        ValueError: If an option is unknown; the message names the choices.
    """
    if completeness not in CHOICES:
        raise ValueError(f"completeness={completeness!r}; it is one of {CHOICES}.")
    if output not in ("logit", "probability"):
        raise ValueError(f"output={output!r}; it is 'logit' or 'probability'.")
    if mixing not in ("apart", "together"):
        raise ValueError(f"mixing={mixing!r}; it is 'apart' or 'together'.")
    if internal_batch_size is not None and not _counts(internal_batch_size):
        raise ValueError(
            f"internal_batch_size={internal_batch_size!r}; a whole number, at least 1."
        )
    if not _counts(segments):
        raise ValueError(f"segments={segments!r}; a whole number, at least 1.")


def check_rules(rules: object) -> None:
    """Refuse what is no table of rules.

    Raises:
        TypeError: If it is not.
    """
    if rules is not None and not isinstance(rules, Mapping):
        raise TypeError(
            "rules: expected a mapping from torch functions or module types to rules, "
            f"got {type(rules).__name__}."
        )


def _counts(value: object) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and value >= 1  # type: ignore[operator]


def explained(model: object, output: str, attribute_time: bool) -> nn.Module:
    """The module to explain: PyHealth's models wrapped, others as they are.

    Raises:
        TypeError: If it is no module.
        ValueError: If an option needs a PyHealth model and this is none.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"Expected a PyHealth model, a PyHealthAdapter or another nn.Module, "
            f"got {type(model).__name__}."
        )
    if is_pyhealth_model(model):
        return PyHealthAdapter(model, attribute_time=attribute_time)
    if attribute_time:
        raise ValueError(
            "attribute_time=True needs a PyHealth model; of an adapter say "
            "PyHealthAdapter(model, attribute_time=True)."
        )
    if output == "probability" and not isinstance(model, PyHealthAdapter):
        raise ValueError(
            "output='probability' needs a PyHealth model, whose mode says how its "
            "logit becomes one; put the sigmoid or softmax into your module."
        )
    return model
