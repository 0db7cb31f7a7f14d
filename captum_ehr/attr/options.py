"""The options of an explainer, checked before anything runs."""

from __future__ import annotations

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
    if internal_batch_size is not None and not (
        isinstance(internal_batch_size, Integral) and internal_batch_size >= 1
    ):
        raise ValueError(
            f"internal_batch_size={internal_batch_size!r}; a whole number, at least 1."
        )
    if not isinstance(segments, int) or segments < 1:
        raise ValueError(f"segments={segments!r}; a whole number, at least 1.")


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
