"""A terminal that shows the demo, not the log of the libraries below it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch

_LOGGERS = ("pyhealth", "litdata", "distributed", "dask")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what libraries log, print and warn of while this runs.

    What DeepLiftEHR warns of stands in the explanation's diagnostics too, which the
    demo shows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Importing PyHealth sets its logger's level, so it comes first.
        import pyhealth  # noqa: F401

        loggers = [logging.getLogger(name) for name in _LOGGERS]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        sink = io.StringIO()
        try:
            with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: models this small lose time to any other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
