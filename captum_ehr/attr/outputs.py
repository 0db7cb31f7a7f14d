"""The model's output: its scale, its shape, and the explained values in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter import PyHealthAdapter


def select_again(output: Tensor, index: Tensor) -> Tensor:
    """``(batch,)``: the values at places of the output, or the contrast of two.

    Args:
        output: ``(batch, ...)``.
        index: ``(batch, dimensions)``, or ``(batch, 2, dimensions)`` of contrasts.

    Example:
        >>> output = torch.tensor([[1.0, 3.0], [2.0, 0.0]])
        >>> select_again(output, torch.tensor([[1], [0]]))
        tensor([3., 2.])
        >>> select_again(output, torch.tensor([[[1], [0]], [[1], [0]]]))
        tensor([ 2., -2.])
    """
    first, *second = _parts(output, index)
    return first - second[0] if second else first


def _parts(output: Tensor, index: Tensor) -> list[Tensor]:
    """``(batch,)`` values: one of a single output, two of a contrast."""
    rows = output.shape[0]
    if math.prod(output.shape[1:]) == 1:
        return [output.reshape(rows)]
    every = torch.arange(rows, device=output.device)
    places = index.unbind(1) if index.dim() == 3 else [index]
    return [output[(every, *place.unbind(1))] for place in places]


def scored(
    model: nn.Module, forward: Callable[..., Tensor], output: str
) -> Callable[..., Tensor]:
    """The forward of a model (or a view of it), on the scale asked for."""
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


def rounded_at(
    model: nn.Module, scale: str, index: Tensor, *outputs: Tensor
) -> Tensor | None:
    """``(batch,)``: the size of the numbers that the explained values are rounded at.

    Of a contrast that of both its outputs. Of logits that are worked out of
    probabilities more: the last digit of a probability p is one of 1/(1 - p) in its
    logit. None where the values are what the model has rounded.
    """
    adapted = isinstance(model, PyHealthAdapter)
    worked_out = adapted and scale == "logit" and model.scale != "logit"
    if not worked_out and index.dim() < 3:
        return None
    values = torch.stack([v for output in outputs for v in _parts(output, index)])
    return (1 + values.exp() if worked_out else values.abs()).sum(0)


def per_patient_output(forward: Callable[..., Any], name: str) -> Callable[..., Tensor]:
    """A forward whose output is one tensor with the patients first, or an error."""

    def rows(*args: Any) -> Tensor:
        output = forward(*args)
        with torch._C.DisableTorchFunction():  # no part of the model
            return _per_patient(_tensor(output, name), args[0].shape[0], name)

    return rows


def _tensor(output: Any, name: str) -> Tensor:
    """The one tensor of a model's output."""
    tensors = [output] if isinstance(output, Tensor) else list(_tensors(output))
    if len(tensors) != 1:
        what = type(output).__name__
        if isinstance(output, Mapping):
            what += f" with {', '.join(map(repr, output))}"
        raise TypeError(
            f"{name} returned {'several tensors' if tensors else 'no tensor'}: {what}; "
            "one tensor of scores is explained. Give a module whose forward returns "
            "that one, e.g. forward(self, *x): return self.model(*x).logits."
        )
    if not tensors[0].is_floating_point():
        raise TypeError(
            f"{name} returned a tensor of {tensors[0].dtype}; only real-valued scores "
            "can be explained, not classes or flags."
        )
    return tensors[0]


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple, Mapping)):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(part)


def _per_patient(output: Tensor, patients: int, name: str) -> Tensor:
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
