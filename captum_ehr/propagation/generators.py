"""Where torch's generators of random numbers stand, on every device in use."""

from __future__ import annotations

import torch
from torch import Tensor

#: The CPU's generator, then each CUDA device's.
type States = tuple[Tensor, ...]


def states() -> States:
    """Where they stand now."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ()
    return (torch.get_rng_state(), *cuda)


def put_back(found: States) -> None:
    """Where they stood; nothing if none was asked for."""
    if found:
        torch.set_rng_state(found[0])
    for device, state in enumerate(found[1:]):
        torch.cuda.set_rng_state(state, device)


def moved(before: States) -> bool:
    """Whether anything was drawn since."""
    return not all(map(torch.equal, before, states()))
