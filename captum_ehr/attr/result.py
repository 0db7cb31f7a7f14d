"""What an explanation is made of before it takes its final form."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..propagation import Diagnostics, TwoSided
from .completeness import Balance
from .diagnosis import merged
from .targets import Index


@dataclass(eq=False)
class Run:
    """What one batch's two passes leave behind besides Captum's attributions."""

    sides: TwoSided | None = None
    f_input: Tensor = field(default_factory=lambda: torch.empty(0))
    f_baseline: Tensor = field(default_factory=lambda: torch.empty(0))
    index: list[Index] = field(default_factory=list)
    multipliers: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Result:
    """A whole batch: attributions shaped like the inputs, and their account."""

    attributions: tuple[Tensor, ...]
    f_input: Tensor
    f_baseline: Tensor
    index: list[Index]
    balance: Balance
    factor: Tensor
    diagnostics: Diagnostics


def joined(parts: list[Result]) -> Result:
    """Slices of a batch, put together again."""
    if len(parts) == 1:
        return parts[0]
    return Result(
        tuple(torch.cat(column) for column in zip(*(p.attributions for p in parts))),
        torch.cat([p.f_input for p in parts]),
        torch.cat([p.f_baseline for p in parts]),
        [index for p in parts for index in p.index],
        Balance(*(torch.cat(column) for column in zip(*(p.balance for p in parts)))),
        torch.cat([p.factor for p in parts]),
        merged([p.diagnostics for p in parts]),
    )
