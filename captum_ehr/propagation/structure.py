"""Masks, lengths, indices and branches: the input's are kept for the reference.

Half of PyHealth's models derive a patient's mask from the embedding's values
(``x.abs().sum(-1) != 0``). A reference of zeros would have no tokens at all, and
often divide by their number; but which tokens there are belongs to the patient.
So where a comparison differs because one of the sides is exactly zero, the input's
answer stands. A threshold that the change really crosses is something else: there
the reference keeps its own answer, and the crossing is reported.

How many there are is known at once on the CPU; on other devices it stays a tensor,
which nobody has to wait for before the passes are done.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def structural_value(call: Any, args: Any, kwargs: Any) -> tuple[Any, int | Tensor]:
    """The reference's value of a structural call, and how many thresholds it crossed.

    Args:
        call: The recorded call, with its arguments and output at the input.
        args: The same call's arguments at the reference.
        kwargs: As ``args``.
    """
    own = call.function(*args, **kwargs)
    ours = call.output
    if not isinstance(own, Tensor) or own.dtype != torch.bool:
        return ours, different(own, ours)
    if own.shape != ours.shape:
        return ours, 1
    if on_cpu(own) and torch.equal(own, ours):
        return ours, 0
    differs = own ^ ours
    presence = differs & _presence(call, args, ours)
    crossed = differs & ~presence
    return torch.where(crossed, own, ours), _known(crossed.sum())


def _presence(call: Any, args: Any, like: Tensor) -> Tensor:
    """Where the compared value is exactly zero on one of the two sides."""
    found = torch.zeros_like(like)
    for ours, theirs in zip(call.args, args):
        if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
            zero = (ours == 0) | (theirs == 0)
            if zero.dtype == torch.bool and _broadcasts(zero, like):
                found = found | zero
            elif zero.numel():
                return torch.ones_like(like)
    return found


def _broadcasts(a: Tensor, b: Tensor) -> bool:
    try:
        return torch.broadcast_shapes(a.shape, b.shape) == b.shape
    except RuntimeError:
        return False


def different(a: Any, b: Any) -> int | Tensor:
    """1 where two values are not the same, else 0."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _known((a != b).any()) if a.shape == b.shape else 1
    return int(type(a) is not type(b) or not np.array_equal(a, b))


def _known(number: Tensor) -> int | Tensor:
    return int(number) if on_cpu(number) else number


def on_cpu(tensor: Tensor) -> bool:
    """Whether its values can be read without waiting for a device."""
    return tensor.device.type == "cpu"
