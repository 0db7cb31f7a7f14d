"""How far a slow method is, and its end between two runs of the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import nn


class StoppedError(RuntimeError):
    """Nobody waits for the explanation any more."""


class Watch(NamedTuple):
    """Who waits for an explanation."""

    tell: Callable[[int, int | None], None]  # runs of the model so far, and of how many
    stopped: threading.Event


_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(
    tell: Callable[[int, int | None], None], stopped: threading.Event
) -> Iterator[None]:
    """Tell of what is counted in this block; end it once ``stopped`` is set.

    Example:
        >>> runs, model = [], nn.Identity()
        >>> with watched(lambda *run: runs.append(run), threading.Event()):
        ...     with counted(model, 2):
        ...         _ = model(1), model(2)
        >>> runs
        [(1, 2), (2, 2)]
    """
    token = _WATCH.set(Watch(tell, stopped))
    try:
        yield
    finally:
        _WATCH.reset(token)


@contextmanager
def counted(model: nn.Module, total: int | None) -> Iterator[None]:
    """Count the runs of a model, ``total`` in the end, where somebody watches.

    Raises:
        StoppedError: From the model, if nobody waits any more.
    """
    watch, done = _WATCH.get(), 0
    if watch is None:
        yield
        return

    def count(*_: object) -> None:
        nonlocal done
        if watch.stopped.is_set():
            raise StoppedError("Cancelled: nobody waits for it.")
        done += 1
        watch.tell(done, total)

    handle = model.register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()
