"""A batch in slices of patients, and the additional arguments with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .forms import Prepared

#: From inputs and arguments to the model's output.
type Forward = Callable[[Prepared], Tensor]


def sliced(prepared: Prepared, step: int, forward: Forward) -> list[Prepared]:
    """The same in slices of ``step`` patients.

    What a PyHealth batch brings along is one per patient. A user's own argument is
    taken to be so where it has as many entries as there are patients, but that may be
    a coincidence (a mask of steps by steps): the model's output decides, which must
    not change where a batch is cut.

    Raises:
        ValueError: If it does.
    """
    size = len(prepared.inputs[0])
    if step >= size:
        return [prepared]
    follow = [_entries(a) == size for a in prepared.args]
    known = prepared.form in ("mapping", "encoded") or not any(follow)
    if not known:
        follow = _checked(prepared, step, follow, forward)
    return [_piece(prepared, slice(k, k + step), follow) for k in range(0, size, step)]


def _checked(
    prepared: Prepared, step: int, follow: list[bool], forward: Forward
) -> list[bool]:
    """Which arguments are one per patient, as the model's own output tells."""
    size = len(prepared.inputs[0])
    square = [
        isinstance(a, Tensor) and a.shape[:2] == (size, size) for a in prepared.args
    ]
    ways = [follow, [f and not s for f, s in zip(follow, square)]]
    whole = forward(prepared)
    last = (size - 1) // step * step
    for way in ways[: 2 if any(square) else 1]:
        try:
            ends = [
                (forward(_piece(prepared, part, way)), whole[part])
                for part in (slice(0, step), slice(last, size))
            ]
        except (RuntimeError, ValueError, IndexError, TypeError):
            continue
        if all(torch.allclose(a, b, 1e-4, 1e-5, equal_nan=True) for a, b in ends):
            return way
    cut = [k for k, one in enumerate(follow) if one]
    raise ValueError(
        f"internal_batch_size={step}: with the additional argument(s) {cut} cut along "
        f"their first dimension, which has as many entries as the batch ({size}), the "
        "model's output changes. If these are not one per patient, keep them in the "
        "module; if its patients influence each other, explain them all at once."
    )


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
