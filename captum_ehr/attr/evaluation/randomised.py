"""A model that has learnt its last layer in vain: its weights are shuffled."""

from __future__ import annotations

import copy
from typing import Any

import torch
from captum.attr import DeepLift
from torch import Tensor, nn

from ...adapter import EncodedBatch, PyHealthAdapter
from ...propagation import private_view


def over(adapter: PyHealthAdapter, model: nn.Module) -> PyHealthAdapter:
    """The same adapter of another model of the same features."""
    other = copy.copy(adapter)
    other._modules = {**adapter._modules, "model": model}
    return other


def explaining[T: DeepLift](dl: T, adapter: PyHealthAdapter) -> T:
    """The same explainer of another model."""
    other = copy.copy(dl)
    other.model = other.forward_func = adapter
    return other


def head_of(adapter: PyHealthAdapter, encoded: EncodedBatch) -> str | None:
    """The path of the linear layer whose output is the model's own.

    None where there is none, or it has no weight of its own.
    """
    view, made = private_view(adapter.model), []

    def look(name: str) -> Any:
        def keep(module: nn.Module, _: Any, output: Any) -> None:
            made.append((name, output.detach() if isinstance(output, Tensor) else None))

        return keep

    for name, module in view.named_modules():
        if isinstance(module, nn.Linear) and "weight" in module._parameters:
            module.register_forward_hook(look(name))
    with torch.no_grad():
        inputs, args = encoded.inputs, encoded.additional_forward_args
        score = over(adapter, view)(*inputs, *args)
    for name, output in reversed(made):
        if output is not None and output.numel() == score.numel():
            flat = output.reshape(score.shape)
            made_of_it = flat, flat.sigmoid(), flat.softmax(-1)
            if any(torch.equal(score, way) for way in made_of_it):
                return name
    return None


def shuffled(
    adapter: PyHealthAdapter, head: str, generator: torch.Generator
) -> PyHealthAdapter:
    """The adapter of a private copy of the model, its head's weights shuffled.

    All other parameters are shared with the model, which is not touched.
    """
    view = private_view(adapter.model)
    layer = view.get_submodule(head)
    weight = layer.weight.detach()
    order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
    mixed = weight.reshape(-1)[order].reshape(weight.shape)
    layer._parameters["weight"] = nn.Parameter(mixed, requires_grad=False)
    return over(adapter, view)
