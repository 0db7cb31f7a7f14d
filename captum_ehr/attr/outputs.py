"""What a model returns, as one score or several for each patient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter import PyHealthAdapter


def scored(
    model: nn.Module, forward: Callable[..., Tensor], output: str
) -> Callable[..., Tensor]:
    """The forward of a model, on the scale asked for.

    Args:
        model: The explained model; a :class:`PyHealthAdapter` knows what it returns.
        forward: The same, or a view of it.
        output: ``"logit"`` or ``"probability"``.
    """
    if not isinstance(model, PyHealthAdapter) or output == model.scale:
        return forward
    mode = model.mode

    def logit(*args: Tensor) -> Tensor:
        return torch.logit(forward(*args))

    def probability(*args: Tensor) -> Tensor:
        score = forward(*args)
        if mode == "multiclass":
            return torch.softmax(score, dim=-1)
        return score if mode == "regression" else torch.sigmoid(score)

    return logit if output == "logit" else probability


def rounded_at(model: nn.Module, output: str, *values: Tensor) -> Tensor | None:
    """``(batch,)``: how coarse logits are that are worked out of probabilities.

    The last digit of a probability p is one of 1/(1 - p) in its logit; None where the
    values are what the model has rounded.
    """
    if output != "logit" or getattr(model, "scale", "logit") == "logit":
        return None
    return torch.stack([1 + value.exp() for value in values]).sum(0)


def per_patient_output(forward: Callable[..., Any], name: str) -> Callable[..., Tensor]:
    """A forward whose output is one tensor with the patients first, or an error.

    Args:
        forward: Of a model, its first argument with the patients first.
        name: What to call it.
    """

    def rows(*args: Any) -> Tensor:
        output = forward(*args)
        with torch._C.DisableTorchFunction():  # no part of the model
            return _rows(_tensor(output, name), args[0].shape[0], name)

    return rows


def _tensor(output: Any, name: str) -> Tensor:
    """The one tensor of a model's output."""
    found = [output] if isinstance(output, Tensor) else list(_tensors(output))
    if len(found) != 1:
        what = type(output).__name__
        if isinstance(output, Mapping):
            what += f" with {', '.join(map(repr, output))}"
        raise TypeError(
            f"{name} returned {'several tensors' if found else 'no tensor'}: {what}; "
            "one tensor of scores is explained. Give a module whose forward returns "
            "that one, e.g. forward(self, *x): return self.model(*x).logits."
        )
    if not found[0].is_floating_point():
        raise TypeError(
            f"{name} returned a tensor of {found[0].dtype}; only real-valued scores "
            "can be explained, not classes or flags."
        )
    return found[0]


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple, Mapping)):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(part)


def _rows(output: Tensor, patients: int, name: str) -> Tensor:
    """The output with a row per patient, also where one patient's was squeezed."""
    shape = tuple(output.shape)
    if patients == 1 and (not shape or shape[0] != 1):
        output = output.unsqueeze(0)
    elif not shape:
        raise ValueError(f"{name} returned one number for the batch, not one each.")
    elif shape[0] != patients:
        raise ValueError(
            f"{name} returned an output of shape {shape} for {patients} patients: the "
            "first dimension of inputs and output is the batch. If the model takes "
            "another dimension first (sequences, nodes), give a module that transposes."
        )
    if output.numel() == 0:
        raise ValueError(f"{name} returned an output of shape {shape}: it is empty.")
    return output
