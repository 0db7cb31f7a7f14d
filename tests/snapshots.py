"""Everything of a model and its process that an explanation could have touched."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections import UserDict, UserList, deque
from typing import Any

import numpy as np
import sympy  # noqa: F401  (torch does when it needs it, which adds a filter of warnings)
import torch
from torch import Tensor, nn
from torch.nn.modules import module as all_modules

from captum_ehr.propagation.state import attributes

#: Of others there may come more at any time, with a module or in another thread.
LOGGERS = ("captum", "captum_ehr", "pyhealth", "torch")


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
        **torchs_settings(),
        **pythons_settings(),
    }


def torchs_settings() -> dict[str, Any]:
    """What torch has for all, and for this thread."""
    hooks = [name for name in vars(all_modules) if name.startswith("_global_")]
    return {
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "default": (torch.get_default_dtype(), torch.get_default_device()),
        "function modes": torch.overrides._get_current_function_mode_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "checks": (
            torch.is_anomaly_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.mkldnn.flags,
        ),
        "hooks for all": {name: str(vars(all_modules)[name]) for name in hooks},
        "saved tensors": _saved_tensors_hooks(),
    }


def _saved_tensors_hooks() -> Any:
    """Those of this thread; older versions of torch do not tell."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return top and top(False)


def pythons_settings() -> dict[str, Any]:
    """What Python, NumPy and the process have."""
    loggers = [logging.root, *map(logging.getLogger, LOGGERS)]
    return {
        "warnings": (list(warnings.filters), warnings.showwarning),
        "loggers": [
            (one.name, one.level, list(one.handlers), one.disabled, one.propagate)
            for one in loggers
        ],
        "logging": logging.root.manager.disable,
        "NumPy": np.geterr(),
        "streams": (sys.stdout, sys.stderr, sys.excepthook, sys.displayhook),
        "limits": (sys.getrecursionlimit(), sys.getswitchinterval()),
        "tracing": (sys.gettrace(), sys.getprofile(), threading.getprofile()),
        "interrupts": signal.getsignal(signal.SIGINT),
        "process": (dict(os.environ), os.getcwd(), list(sys.path)),
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
    if isinstance(value, Tensor) and value.is_sparse:
        parts = value._indices(), value._values()
        held = [(part.tolist(), part.data_ptr()) for part in parts]
        return id(value), held, value.requires_grad, value._version
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
    if isinstance(value, type):
        return id(value)
    held = attributes(value).items()
    return id(value), [(name, _state_of(each, depth + 2)) for name, each in held]
