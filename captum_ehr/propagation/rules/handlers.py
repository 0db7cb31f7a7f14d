"""Rescale handlers written for Captum's DeepLift, as rules for module types."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..pairs import Multiplier, Pair, Rule


def is_captum_handler(function: Callable[..., Any]) -> bool:
    """Whether a function has the signature of Captum's DeepLift handlers.

    Example:
        >>> is_captum_handler(
        ...     lambda module, inputs, outputs, grad_input, grad_output, eps: None
        ... )
        True
    """
    try:
        names = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return {"grad_input", "grad_output"} <= set(names)


def captum_handler(handler: Callable[..., Any], eps: float = 1e-10) -> Rule:
    """A rule for a module type from a handler in Captum's signature, unchanged.

    Args:
        handler: Called as ``handler(module, inputs, outputs, grad_input, grad_output,
            eps=eps)`` with the input's rows above the reference's, as Captum does;
            returns the new gradient of the inputs.
        eps: What Captum passes for "no difference".
    """

    def rule(module: Any, y: Pair, x: Pair, *_: Any) -> Multiplier:
        inputs, outputs = torch.cat(x.sides), torch.cat(y.sides)

        def multiplier(upstream: Tensor) -> tuple[tuple[Pair, Tensor]]:
            both = torch.cat([upstream, upstream])
            with torch.enable_grad():
                leaf = inputs.detach().clone().requires_grad_()
                plain = type(module).forward(module, leaf)
                (gradient,) = torch.autograd.grad(plain, leaf, both)
            found = handler(module, inputs, outputs, gradient, both, eps=eps)
            return ((x, found.chunk(2)[0]),)

        return multiplier

    rule.__name__ = getattr(handler, "__name__", "captum_handler")
    return rule
