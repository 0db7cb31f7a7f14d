"""Where generators of random numbers stand: torch's, Python's and NumPy's."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

#: Where each of some generators of torch's stands.
type States = dict[torch.Generator, Tensor]


def torchs_own() -> tuple[torch.Generator, ...]:
    """The CPU's generator, then each CUDA device's, if these are in use."""
    cuda = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    return (torch.default_generator, *cuda)


def states(generators: Iterable[torch.Generator]) -> States:
    """Where they stand now."""
    with _disable_current_modes():  # these tensors are no part of what is computed
        return {generator: generator.get_state() for generator in generators}


def put_back(before: States) -> None:
    """Where they stood."""
    with _disable_current_modes():
        for generator, state in before.items():
            generator.set_state(state)


def moved(before: States) -> bool:
    """Whether anything was drawn since."""
    now = states(before)
    with _disable_current_modes():
        return not all(map(torch.equal, before.values(), now.values()))


def replaying(func: Callable[..., Any], state: States) -> Callable[..., Any]:
    """A function that draws the same random numbers whenever it is called."""

    @wraps(func)
    def replay(*args: Any, **kwargs: Any) -> Any:
        put_back(state)
        return func(*args, **kwargs)

    return replay


@contextmanager
def undisturbed() -> Iterator[None]:
    """After which torch's generators stand where they did; also a decorator."""
    before = states(torchs_own())
    try:
        yield
    finally:
        put_back(before)


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
