"""Rescale handlers written for Captum's DeepLift, as rules for module types."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..pairs import Multiplier, Pair, Rule, pairs_in
from .integral import vjp


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

    The handler sees the one attributed tensor that the module is called with, wherever
    it stands, and the module's other arguments are what they are. Of several, or of a
    module that gives several tensors, it says nothing: these calls are integrated.

    Args:
        handler: Called as ``handler(module, inputs, outputs, grad_input, grad_output,
            eps=eps)`` with the input's rows above the reference's, as Captum does;
            returns the new gradient of the inputs.
        eps: What Captum passes for "no difference".
    """

    def rule(module: Any, y: Any, /, *args: Any, **kwargs: Any) -> Multiplier:
        pairs = list(pairs_in((args, kwargs)))
        if len(pairs) != 1 or not isinstance(y, Pair):
            return NotImplemented
        (x,) = pairs
        inputs, outputs = torch.cat(x.sides), torch.cat(y.sides)
        plain = partial(type(module).forward, module)

        def multiplier(upstream: Tensor) -> tuple[tuple[Pair, Tensor]]:
            both = torch.cat([upstream, upstream])
            ends = (vjp(plain, args, kwargs, pairs, at, [upstream])[0] for at in (1, 0))
            gradient = torch.cat([_or_zeros(end, x) for end in ends])
            changed = handler(module, inputs, outputs, gradient, both, eps=eps)
            return ((x, changed.chunk(2)[0]),)

        return multiplier

    rule.__name__ = getattr(handler, "__name__", "captum_handler")
    return rule


def _or_zeros(gradient: Tensor | None, x: Pair) -> Tensor:
    return torch.zeros_like(x.input) if gradient is None else gradient
