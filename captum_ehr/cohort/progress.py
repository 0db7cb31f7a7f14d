"""How far a cohort is: a bar in a terminal or notebook, else lines of the log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

logger = logging.getLogger("captum_ehr.cohort")

#: Told how many samples and tokens more are done.
type Told = Callable[[int, int], object]

_SECONDS = 30.0
"""Between two lines of the log."""


@contextmanager
def progress(
    samples: int, tokens: int, done: tuple[int, int], show: bool = True
) -> Iterator[Told]:
    """Tell how far it is, how fast, and how long it takes yet.

    By tokens, which is what takes time: the longest records are explained first. What
    is ``done`` already, samples and tokens, is counted among all. Where no bar is to
    ``show``, there are lines of the log.

    Yields:
        What to tell how many samples and tokens more are done.
    """
    if not (show and (sys.stderr.isatty() or "ipykernel" in sys.modules)):
        yield _lines(samples, tokens, done)
        return
    from tqdm.auto import tqdm

    have = done[0]
    with tqdm(total=tokens, initial=done[1], unit="tok", unit_scale=True) as bar:

        def more(more_samples: int, more_tokens: int) -> None:
            nonlocal have
            have += more_samples
            bar.set_postfix_str(f"{have:,} of {samples:,} samples", refresh=False)
            bar.update(more_tokens)

        yield more


def _lines(samples: int, tokens: int, done: tuple[int, int]) -> Told:
    """The same in lines of the log, one in half a minute and one at the end."""
    begun = told = time.monotonic()
    have, new = done[0], 0

    def more(more_samples: int, more_tokens: int) -> None:
        nonlocal have, new, told
        have, new = have + more_samples, new + more_tokens
        now = time.monotonic()
        if now - told < _SECONDS and have < samples:
            return
        told, rate = now, max(new, 1) / max(now - begun, 1e-9)
        left = timedelta(seconds=round((tokens - done[1] - new) / rate))
        said = f"{have:,} of {samples:,} samples, {rate:,.0f} tokens/s, {left} left"
        logger.info(said)

    return more
