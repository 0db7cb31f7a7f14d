"""Where generators of random numbers stand: torch's, Python's and NumPy's."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: The CPU's generator, then each CUDA device's.
type States = tuple[Tensor, ...]


def states() -> States:
    """Where torch's stand now, on every device in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ()
    return (torch.get_rng_state(), *cuda)


def put_back(before: States) -> None:
    """Where they stood; nothing if none was asked for."""
    if before:
        torch.set_rng_state(before[0])
    for device, state in enumerate(before[1:]):
        torch.cuda.set_rng_state(state, device)


def moved(before: States) -> bool:
    """Whether anything was drawn since."""
    return not all(map(torch.equal, before, states()))


def replaying(func: Callable[..., Any], state: States) -> Callable[..., Any]:
    """A function that draws the same random numbers whenever it is called."""

    @wraps(func)
    def replay(*args: Any, **kwargs: Any) -> Any:
        put_back(state)
        return func(*args, **kwargs)

    return replay


def undisturbed(func: Callable[..., Any]) -> Callable[..., Any]:
    """A function after which torch's generators stand where they did."""

    @wraps(func)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        before = states()
        try:
            return func(*args, **kwargs)
        finally:
            put_back(before)

    return quiet


def global_states() -> tuple[Any, Any]:
    """Where Python's and NumPy's own generators stand, which all threads draw from."""
    return random.getstate(), np.random.get_state()


def put_back_globals(before: tuple[Any, Any]) -> None:
    """Where they stood."""
    random.setstate(before[0])
    np.random.set_state(before[1])


def globals_moved(before: tuple[Any, Any]) -> bool:
    """Whether anybody has drawn from them since."""
    if random.getstate() != before[0]:
        return True
    now: Any = np.random.get_state()
    then = before[1]
    return bool(now[2:] != then[2:] or now[1].tobytes() != then[1].tobytes())


def alone() -> bool:
    """Whether no other thread runs, which might draw as well."""
    return len(sys._current_frames()) == 1
