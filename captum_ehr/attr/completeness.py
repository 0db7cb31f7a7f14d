"""Do the attributions add up? Measured first, polished after, never hidden."""

from __future__ import annotations

from collections.abc import Callable
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
        gross: ``(batch,)``, Σ|attributions|, where it had to be known; else 0.
    """

    delta: Tensor
    factor: Tensor
    off: Tensor
    gross: Tensor


def mixes(found: Balance) -> bool:
    """Whether the sums fit the batch, though not its rows: its patients are mixed.

    What one patient has too much another then lacks; rounding errors do not cancel so.
    """
    if len(found.delta) < 2 or not bool(found.off.any()):
        return False
    gross = found.gross.sum()
    fine = found.delta.dtype == torch.float64
    delta = found.delta.double()
    bound = torch.minimum((1e-10 if fine else 1e-5) * gross, 1e-3 * delta.abs().sum())
    return bool((delta.sum().abs() <= bound) & torch.isfinite(bound))


def balance(
    attributions: tuple[Tensor, ...],
    f_input: Tensor,
    f_baseline: Tensor,
    gross: Callable[[], Tensor] | None = None,
) -> Balance:
    """Measure Σ attributions against the change f(x) - f(x0) of each row.

    Out of tolerance is what rounding does not explain: a thousandth of the change
    and a hundred-thousandth of the attributions' absolute sum, in float32; the cube
    of the first and the square of the second in float64; and the last digits of the
    outputs themselves, whose difference has no more.

    Args:
        attributions: One tensor per input, which may be sums already.
        f_input: ``(batch,)``, f(x).
        f_baseline: ``(batch,)``, f(x0).
        gross: Gives the attributions' absolute sum per row, where they are sums; asked
            only if a row would be out of tolerance without.

    Example:
        >>> attributions = (torch.tensor([[1.0, 2.0]]),)
        >>> result = balance(attributions, torch.tensor([3.0]), torch.tensor([1.0]))
        >>> result.delta, result.off
        (tensor([1.]), tensor([True]))
    """
    change = f_input - f_baseline
    total = torch.stack([_row_sum(a) for a in attributions]).sum(0)
    change_ = change.double()
    delta = total - change_
    fine = change.dtype == torch.float64
    net, rough = _NET[fine], 1e-10 if fine else 1e-5
    last = 1e-10 if fine else 16 * torch.finfo(change.dtype).eps
    digits = last * (f_input.abs() + f_baseline.abs())
    bound = torch.maximum(net * change_.abs(), digits.double())
    off = _beyond(delta, bound, change)
    size = torch.zeros_like(total)
    if bool(off.any()):
        absolute = [_row_sum(a.abs()) for a in attributions] if gross is None else []
        size = gross() if gross is not None else torch.stack(absolute).sum(0)
        off = _beyond(delta, torch.maximum(bound, rough * size), change)
    short = delta.to(change.dtype)
    return Balance(short, polish(short, change), off, size)


def _beyond(delta: Tensor, bound: Tensor, change: Tensor) -> Tensor:
    """Out of bounds, or no number at all, where the outputs are finite."""
    within = (delta.abs() <= bound) & torch.isfinite(delta)
    return ~within & torch.isfinite(change)


def _row_sum(a: Tensor) -> Tensor:
    """Per patient in float64, of tokens as they are reported: summed as they come."""
    tokens = a.sum(-1) if a.dim() > 2 else a
    return tokens.reshape(len(a), -1).double().sum(1)


def polish(delta: Tensor, change: Tensor) -> Tensor:
    """What makes the sum exact where it is nearly so; 1 where that would hide an error.

    Example:
        >>> polish(torch.tensor([1e-4, 1.0]), torch.tensor([1.0, 1.0]))
        tensor([0.9999, 1.0000])
    """
    total = (change + delta).double()
    near = delta.abs() <= _NET[change.dtype == torch.float64] * change.abs()
    factor = torch.where(near & (total != 0), change / total, 1.0)
    return factor.to(change.dtype)


#: The part of the change that rounding may take away: in float32, in float64.
_NET = (1e-3, 1e-9)
