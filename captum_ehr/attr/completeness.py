"""Do the attributions add up? Measured first, polished after, never hidden."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

#: What to do about completeness; see :class:`captum_ehr.DeepLiftEHR`.
type Completeness = Literal["rescale", "check", "raise", "off"]

CHOICES: tuple[Completeness, ...] = ("rescale", "check", "raise", "off")


class AttributionWarning(UserWarning):
    """Something about an attribution is not exact; the message names it."""


class CompletenessError(RuntimeError):
    """The attributions do not add up, and ``completeness="raise"`` was asked for."""


class Balance(NamedTuple):
    """How a batch of attributions adds up.

    Args:
        delta: ``(batch,)``, Σ attributions - (f(x) - f(x0)).
        factor: ``(batch,)``, what would make the sum exact; 1 where the sum is out
            of tolerance, for a factor would then hide an error.
        off: ``(batch,)``, boolean: out of tolerance.
    """

    delta: Tensor
    factor: Tensor
    off: Tensor


def mixes(found: Balance, attributions: tuple[Tensor, ...]) -> bool:
    """Whether the sums fit the batch, though not its rows: its patients are mixed."""
    if len(found.delta) < 2 or not bool(found.off.any()):
        return False
    gross = torch.stack([a.double().abs().sum() for a in attributions]).sum()
    fine = found.delta.dtype == torch.float64
    return bool(found.delta.double().sum().abs() <= (1e-10 if fine else 1e-5) * gross)


def balance(attributions: tuple[Tensor, ...], change: Tensor) -> Balance:
    """Measure Σ attributions against the change f(x) - f(x0) of each row.

    Out of tolerance is what rounding does not explain: a thousandth of the change
    and a hundred-thousandth of the attributions' absolute sum, in float32; the cube
    of the first and the square of the second in float64.

    Example:
        >>> result = balance((torch.tensor([[1.0, 2.0]]),), torch.tensor([2.0]))
        >>> result.delta, result.off
        (tensor([1.]), tensor([True]))
    """
    flat = [a.flatten(1) if a.dim() > 1 else a.unsqueeze(1) for a in attributions]
    wide = torch.float64
    total = torch.stack([f.sum(1, dtype=wide) for f in flat]).sum(0)
    gross = torch.stack([f.abs().sum(1, dtype=wide) for f in flat]).sum(0)
    change_ = change.double()
    delta = total - change_
    fine = change.dtype == torch.float64
    net, rough = (1e-9, 1e-10) if fine else (1e-3, 1e-5)
    off = delta.abs() > torch.maximum(net * change_.abs(), rough * gross)
    near = delta.abs() <= net * change_.abs()
    factor = torch.where(near & (total != 0), change_ / total, 1.0)
    return Balance(delta.to(change.dtype), factor.to(change.dtype), off)
