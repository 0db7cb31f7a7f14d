"""A batch in slices of patients, and the additional arguments with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .inputs import Prepared

#: The model's output for inputs and arguments.
type Forward = Callable[[Prepared], Tensor]

#: Which of the additional arguments are one per patient.
type Follow = tuple[bool, ...]


def sliced(
    prepared: Prepared, step: int, forward: Forward
) -> list[tuple[int, Prepared]]:
    """Slices of ``step`` patients, and where each begins.

    What a PyHealth batch brings along is one per patient. A user's own argument is,
    as for Captum, where it has as many entries as there are patients. That may be a
    coincidence (a mask of steps by steps, a matrix of weights), so where the model
    takes it whole as well, its output decides, which must not change by slicing.
    """
    size = len(prepared.inputs[0])
    if step >= size:
        return [(0, prepared)]
    follow = following(prepared, step, forward)
    return [
        (k, _piece(prepared, slice(k, k + step), follow)) for k in range(0, size, step)
    ]


def following(prepared: Prepared, step: int, forward: Forward) -> Follow:
    """Which arguments are one per patient; where in doubt, slices of ``step`` tell."""
    size = len(prepared.inputs[0])
    follow = tuple(_entries(a) == size for a in prepared.args)
    if any(follow) and prepared.encoded is None:
        return _decided(prepared, step, follow, forward)
    return follow


def _decided(prepared: Prepared, step: int, follow: Follow, forward: Forward) -> Follow:
    """Which arguments are one per patient, asked of the model where there is doubt."""
    first = slice(0, step)
    ways: list[tuple[Follow, Tensor]] = []
    for way in _ways(follow):
        try:
            ways.append((way, forward(_piece(prepared, first, way))))
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
            continue
    if not ways or all(_close(output, ways[0][1]) for _, output in ways):
        return ways[0][0] if ways else follow
    whole = forward(prepared)
    last = slice((len(whole) - 1) // step * step, None)
    for way, output in ways:
        if _close(output, whole[first]):
            if _close(forward(_piece(prepared, last, way)), whole[last]):
                return way
    named = [k for k, follows in enumerate(follow) if follows]
    raise ValueError(
        f"internal_batch_size={step}: the additional argument(s) {named} have as many "
        f"entries as the batch ({len(whole)}), but whether they are cut with it or "
        "not, the model's output for a slice is not that for the whole batch. Explain "
        "all patients at once."
    )


def _ways(follow: Follow) -> list[Follow]:
    """All ways to cut these arguments or not, the ones that cut most first."""
    doubtful = sum(follow) <= _MANY
    choices = [(True, False) if f and doubtful else (f,) for f in follow]
    return sorted(product(*choices), key=sum, reverse=True)


#: So many arguments whose length is the batch's are tried one by one; more are no
#: coincidence.
_MANY = 4


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, 1e-4, 1e-5, equal_nan=True)


def _piece(prepared: Prepared, part: slice, follow: Sequence[bool]) -> Prepared:
    """Some of the patients."""
    return replace(
        prepared,
        inputs=tuple(x[part] for x in prepared.inputs),
        references=tuple(tuple(x[part] for x in r) for r in prepared.references),
        args=tuple(a[part] if f else a for a, f in zip(prepared.args, follow)),
        encoded=None,
        masks=None,
    )


def _entries(value: Any) -> int | None:
    """How many entries an argument has along its first dimension."""
    if isinstance(value, (Tensor, np.ndarray)):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, (list, tuple)) else None
