"""Dots side by side where they would cover each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def swarm(places: Sequence[float] | np.ndarray, size: float, room: float) -> np.ndarray:
    """How far to move each dot off its row, so that those nearby can be seen.

    Dots whose places fall into one bin of the dots' width stand in a stack about the
    row, the first in its middle; a stack that is taller than the room is pressed
    together.

    Args:
        places: Along the row, in widths of the axes: 0 to 1.
        size: The width of a dot, in widths of the axes.
        room: The height of a stack, in rows.

    Returns:
        ``(dots,)``, in rows; within ``room / 2`` of 0.

    Example:
        >>> swarm([0.1, 0.1, 0.1, 0.9], 0.02, 0.8).round(2).tolist()
        [0.0, 0.13, -0.13, 0.0]
    """
    bins = np.floor(np.asarray(places, dtype=float) / size).astype(int)
    offsets = np.zeros(len(bins))
    for one in np.unique(bins):
        members = np.flatnonzero(bins == one)
        # 0, 1, -1, 2, -2 … from the middle outwards.
        order = np.arange(len(members))
        steps = (order + 1) // 2 * np.where(order % 2, 1, -1)
        reach = max(len(members) // 2, 1)
        offsets[members] = steps * min(_STEP, room / 2 / reach)
    return offsets


_STEP = 0.13
"""The distance of dots in a stack, in rows, where there is room."""
