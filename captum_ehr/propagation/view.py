"""A private view of a model: its own module objects, shared parameters.

Hooks, swapped modules, ``.eval()`` and attributes set on a user's model are seen by
every other thread that uses it. A view has the same classes, hooks, buffers and
memory; what is set on it is set on it alone, and it vanishes with the explanation.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def private_view(
    model: nn.Module,
    wrap: Callable[[nn.Module], Callable[..., Any] | None] | None = None,
) -> Any:
    """Copy a model's module objects along their tree, in eval mode.

    Parameters and buffers share the model's memory but are detached, so that
    whatever needs a gradient in a pass depends on the attributed inputs.

    Args:
        model: Any module.
        wrap: Called with each copied module; a function that it returns becomes
            that copy's ``forward``.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1), nn.Dropout()).train()
        >>> view = private_view(model)
        >>> view.training, model.training, view[0] is model[0]
        (False, True, False)
        >>> view[0].weight.data_ptr() == model[0].weight.data_ptr()
        True
    """
    return _Copier(wrap).module(model)


class _Copier:
    """Copies each module once, however often it stands in the tree."""

    def __init__(
        self, wrap: Callable[[nn.Module], Callable[..., Any] | None] | None
    ) -> None:
        self.wrap = wrap
        self.seen: dict[int, Any] = {}
        dynamo = sys.modules.get("torch._dynamo")
        self.compiled = getattr(dynamo, "OptimizedModule", ())

    def module(self, module: nn.Module) -> nn.Module:
        if id(module) in self.seen:
            return self.seen[id(module)]
        if isinstance(module, torch.jit.ScriptModule):
            return module
        copy = module.__class__.__new__(module.__class__)
        self.seen[id(module)] = copy
        state = copy.__dict__
        for name, value in module.__dict__.items():
            plain = type(value) in _PLAIN or name in _SHARED
            state[name] = value if plain else self.value(value)
        state["training"] = False
        # What torch.compile made is bound to the model's modules, in their mode and
        # with their gradients, and would trace the passes too: the copy runs its own.
        state.pop("_compiled_call_impl", None)
        if isinstance(module, self.compiled):
            state["forward"] = state["_modules"]["_orig_mod"]
        forward = self.wrap(copy) if self.wrap is not None else None
        if forward is not None:
            state["forward"] = forward
        return copy

    def value(self, value: Any) -> Any:
        kind = type(value)
        if kind is dict and not value:
            return {}
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, Tensor):
            return self.tensor(value)
        if kind is weakref.ref:
            target = value()
            return weakref.ref(self.value(target)) if target is not None else value
        if kind is dict:
            return {
                key: item if type(item) in _PLAIN else self.value(item)
                for key, item in value.items()
            }
        if kind is list:
            return [self.value(item) for item in value]
        if kind is tuple:
            return tuple(self.value(item) for item in value)
        return value

    def tensor(self, value: Tensor) -> Tensor:
        if not value.requires_grad and not isinstance(value, nn.Parameter):
            return value.clone() if value.is_inference() else value
        known = self.seen.get(id(value))
        if known is None:
            known = value.detach()
            if known.is_inference():
                known = known.clone()
            self.seen[id(value)] = known
        return known


#: What needs no copy, most of what modules hold.
_PLAIN = frozenset({bool, float, int, str, type(None)})

#: Attributes that a view shares with the model: hooks (part of what the model
#: computes, or of loading its parameters) and PyHealth's dataset, which is large and
#: never written.
_SHARED = frozenset(
    {
        "_forward_hooks",
        "_forward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called",
        "_forward_pre_hooks_with_kwargs",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_non_persistent_buffers_set",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
        "dataset",
    }
)
