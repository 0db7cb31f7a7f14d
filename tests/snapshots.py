"""Everything of a model and its process that an explanation could have touched."""

from __future__ import annotations

import random
from collections import UserDict, UserList, deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Values to be compared: parameters, buffers, attributes, hooks, flags, generators.

    Args:
        model: Any module.
    """
    return {
        **model_state(model),
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
        "settings": (
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.overrides._get_current_function_mode_stack(),
        ),
    }


def model_state(model: nn.Module) -> dict[str, Any]:
    """Those of the model alone."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        found[f"{path}: itself"] = id(module), module.training
        for name, value in vars(module).items():
            if name != "dataset":
                found[f"{path}.{name}"] = _state_of(value)
    return found


def _state_of(value: Any, depth: int = 0) -> Any:
    if isinstance(value, Tensor):
        graph = None if value.grad is None else value.grad.tolist(), value.grad_fn
        flags = value.requires_grad, value._version, value.data_ptr()
        return id(value), value.detach().tolist().__repr__(), flags, graph
    if isinstance(value, nn.Module) or depth > 3:
        return id(value)
    if isinstance(value, (dict, UserDict)):
        pairs = [(id(k), _state_of(v, depth + 1)) for k, v in value.items()]
        return id(value), pairs
    if isinstance(value, (list, tuple, set, frozenset, deque, UserList)):
        return id(value), [_state_of(item, depth + 1) for item in value]
    if isinstance(value, np.ndarray):
        return id(value), value.tolist()
    if callable(value) and getattr(value, "__closure__", None):
        cells = [_state_of(c.cell_contents, depth + 1) for c in value.__closure__]
        return id(value), cells
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return id(value), _state_of(vars(value), depth + 1)
    return id(value)
