"""A private view of a model: its own module objects, shared parameters.

Hooks, swapped modules, ``.eval()`` and attributes set on a user's model are seen by
every other thread that uses it. A view has the same classes, hooks and memory; what is
set on it is set on it alone, and it vanishes with the explanation. Whatever leads to a
module is copied with it: containers, plain objects, bound methods and closures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from .copies import Copier, Wrap
from .declarations import Entry
from .passes import InputPass
from .reference import ReferencePass
from .state import State


def private_view(
    model: nn.Module, wrap: Wrap | None = None, backward_hooks: bool = True
) -> Any:
    """Copy a model's module objects along their tree, in eval mode.

    Parameters and buffers share the model's memory but are detached, so that
    whatever needs a gradient in a pass depends on the attributed inputs. Each pass
    leaves the view in the state in which it found it.

    Args:
        model: Any module.
        wrap: Called with each copied module; a function that it returns becomes
            that copy's ``forward``.
        backward_hooks: Whether the hooks of the backward pass are in force, also the
            global ones. They are meant for gradients, not for multipliers.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1), nn.Dropout()).train()
        >>> view = private_view(model)
        >>> view.training, model.training, view[0] is model[0]
        (False, True, False)
        >>> view[0].weight.data_ptr() == model[0].weight.data_ptr()
        True
    """
    copier = Copier(wrap, backward_hooks)
    view = copier.value(model)
    copier.finish_hooks()
    if not isinstance(view, torch.jit.ScriptModule):
        begin = partial(_begin, copier.state.without(view))
        view.register_forward_pre_hook(begin, prepend=True)
    return view


def _begin(state: State, view: nn.Module, _: Any) -> None:
    if torch._C._is_torch_function_mode_enabled() and (mode := active_pass()):
        mode.tape.enter(state, view)


def private_args(args: Sequence[Any]) -> tuple[list[Any], State]:
    """A forward's further arguments, on which it may write as on its attributes.

    Modules among them are left as they are.
    """
    copier = Copier()
    copier.seen.update(
        (id(module), module) for module in args if isinstance(module, nn.Module)
    )
    return copier.value(list(args)), copier.state


def call_module(entry: Entry, module: nn.Module) -> Callable[..., Any]:
    """A module's forward that the passes see as one call, for module-level rules."""
    forward, rule = module.forward, entry.rule
    assert rule is not None
    of_module: Any = partial(rule, module)
    of_module.__name__ = getattr(rule, "__name__", "module rule")
    entry = entry._replace(rule=of_module)

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


def active_pass() -> InputPass | ReferencePass | None:
    """The pass that this thread is in."""
    for mode in reversed(torch.overrides._get_current_function_mode_stack()):
        if isinstance(mode, (InputPass, ReferencePass)):
            return mode
    return None
