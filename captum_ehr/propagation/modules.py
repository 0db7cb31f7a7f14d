"""Modules that the passes see as one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .declarations import Entry
from .pairs import Multiplier
from .passes import InputPass
from .reference import ReferencePass


def call_module(table_entry: Entry, module: nn.Module) -> Callable[..., Any]:
    """A module's forward that the passes see as one call, for module-level rules."""
    forward = module.forward
    entry = table_entry._replace(rule=_with_module(table_entry, module))

    def run(*args: Any, **kwargs: Any) -> Any:
        mode = active_pass() if torch._C._is_torch_function_mode_enabled() else None
        if mode is None:
            return forward(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if isinstance(mode, InputPass):
                mode.tape.functions.append(forward)
                return mode.dispatch(entry, forward, args, kwargs)
            return mode.__torch_function__(forward, (), args, kwargs)

    return run


def _with_module(entry: Entry, module: nn.Module) -> Callable[..., Any]:
    rule = entry.rule
    assert rule is not None

    def bound(*args: Any, **kwargs: Any) -> Multiplier:
        return rule(module, *args, **kwargs)

    bound.__name__ = getattr(rule, "__name__", "module rule")
    return bound


def active_pass() -> InputPass | ReferencePass | None:
    """The pass that this thread is in."""
    for mode in reversed(torch.overrides._get_current_function_mode_stack()):
        if isinstance(mode, (InputPass, ReferencePass)):
            return mode
    return None
