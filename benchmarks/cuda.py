"""The same times on a CUDA card, where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from . import speed
from .speed import Row

#: One thread of the CPU, which has but to keep the card busy.
Settings = partial(
    speed.Settings,
    threads=(1,),
    seconds=4.0,
    sampling=("pyhealth_ig_50", "captum_ig_50"),
    slow=2,
    device="cuda",
)


def quick() -> speed.Settings:
    """Settings that take seconds."""
    return replace(speed.quick(), threads=(1,), device="cuda")


def jobs(settings: speed.Settings) -> dict[str, Callable[[], Row]]:
    """One per model; none without a card."""
    return speed.jobs(settings) if torch.cuda.is_available() else {}
