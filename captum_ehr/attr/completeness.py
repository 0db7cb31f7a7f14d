"""Do the attributions add up? Measured first, polished after, said, never hidden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..propagation import Diagnostics, foreign_functions
from ..propagation.recording import compiled, opaque

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
        bound: ``(batch,)``, how much of it can be rounding.
        off: ``(batch,)``, boolean: more than that, or more than a thousandth of the
            change.
        gross: ``(batch,)``, Σ|attributions|, where it had to be known; else 0.
    """

    delta: Tensor
    bound: Tensor
    off: Tensor
    gross: Tensor

    @property
    def rounded(self) -> Tensor:
        """``(batch,)``, boolean: the residual is rounding, little or much."""
        return (self.delta.abs() <= self.bound) & torch.isfinite(self.delta)


def mixes(sums: Balance) -> bool:
    """Whether the sums fit the batch, though not its rows: its patients are mixed.

    What one patient has too much another then lacks; rounding errors do not cancel so.
    """
    wrong = sums.off & ~sums.rounded
    if sums.delta.shape[0] < 2 or not bool(wrong.any()):
        return False
    gross = sums.gross.sum()
    fine = sums.delta.dtype == torch.float64
    delta = sums.delta.double()
    bound = torch.minimum((1e-10 if fine else 1e-5) * gross, 1e-3 * delta.abs().sum())
    return bool((delta.sum().abs() <= bound) & torch.isfinite(bound))


def balance(
    attributions: tuple[Tensor, ...],
    f_input: Tensor,
    f_baseline: Tensor,
    gross: Callable[..., Tensor] | None = None,
    size: Tensor | None = None,
    parts: tuple[Tensor, ...] = (),
) -> Balance:
    """Measure Σ attributions against the change f(x) - f(x0) of each row.

    Rounding explains :data:`ROUNDINGS` times the dtype's eps of what was summed,
    Σ|attributions|, and :data:`DIGITS` times that of both outputs. More is out of
    tolerance; and so is more than a thousandth of the change, be it rounding or not,
    but for the last digit of the outputs, of which a difference has no more.

    Args:
        attributions: One tensor per input, which may be sums already.
        f_input: ``(batch,)``, f(x).
        f_baseline: ``(batch,)``, f(x0).
        gross: Gives the attributions' absolute sum per row, where they are sums; asked
            only if a row would be out of tolerance without.
        size: ``(batch,)``, what both outputs were rounded at together, where that is
            not their own size.
        parts: What ``gross`` is called with.

    Example:
        >>> attributions = (torch.tensor([[1.0, 2.0]]),)
        >>> result = balance(attributions, torch.tensor([3.0]), torch.tensor([1.0]))
        >>> result.delta, result.off
        (tensor([1.]), tensor([True]))
    """
    change = f_input - f_baseline
    total = torch.stack([_row_sum(a) for a in attributions]).sum(0)
    delta = total - change.double()
    wide = torch.promote_types(change.dtype, torch.float32)
    rough = ROUNDINGS * torch.finfo(wide).eps
    size = f_input.abs() + f_baseline.abs() if size is None else size
    last = torch.finfo(change.dtype).eps * size.double()
    bound = rough * change.abs().double() + DIGITS * last
    if gross is None:
        gross, parts = _absolute, attributions
    absolute = opaque(partial(_where_beyond, gross), delta, bound, *parts)
    bound = torch.maximum(bound, rough * absolute + DIGITS * last)
    within = torch.minimum(bound, torch.maximum(LARGE * change.abs(), 2 * last))
    off = ~(delta.abs() <= within) & torch.isfinite(change)
    return Balance(delta.to(change.dtype), bound.to(change.dtype), off, absolute)


def _where_beyond(
    gross: Callable[..., Tensor], delta: Tensor, bound: Tensor, *parts: Tensor
) -> Tensor:
    """Absolute sums, if a residual is beyond its bound; else zeros."""
    if compiled() or bool((delta.abs() <= bound).logical_not_().any()):
        return gross(*parts)
    return torch.zeros_like(delta)


def _absolute(*attributions: Tensor) -> Tensor:
    return torch.stack([_row_sum(a.abs()) for a in attributions]).sum(0)


def _row_sum(a: Tensor) -> Tensor:
    """Per patient in float64, of tokens as they are reported: summed as they come."""
    tokens = a.sum(-1) if a.dim() > 2 else a
    return tokens.reshape(a.shape[0], -1).double().sum(1)


def polish(sums: Balance, change: Tensor) -> Tensor:
    """What makes the sum exact where it is off by rounding; 1 where it is off by more.

    Example:
        >>> delta = torch.tensor([1e-6, 1.0])
        >>> off = torch.tensor([False, True])
        >>> sums = Balance(delta, torch.full((2,), 1e-5), off, torch.zeros(2))
        >>> polish(sums, torch.tensor([1.0, 1.0]))
        tensor([1.0000, 1.0000])
    """
    total = (change + sums.delta).double()
    near = ~sums.off & (sums.delta.abs() <= LARGE * change.abs())
    factor = torch.where(near & (total != 0), change / total, 1.0)
    return factor.to(change.dtype)


#: Roundings of a sum's terms that come together: over all models of the tests, 40.
ROUNDINGS = 64

#: The same for the outputs: 4.
DIGITS = 8

#: The part of the change from which on a residual is always said.
LARGE = 1e-3

MIXED = (
    "the model mixes the patients of a batch: each one's attributions are to all of "
    "the batch's scores, and add up over the batch alone"
)
APART = (
    "the model mixes the patients of a batch: each was explained with the others held "
    "fixed"
)


def noted(report: Diagnostics, *first: str) -> Diagnostics:
    """The report without what sums are off, and with these messages in front."""
    rest = tuple(m for m in report.messages if not m.startswith(_SUMS))
    return replace(report, messages=(*first, *rest))


def impersonal(report: Diagnostics) -> Diagnostics:
    """The report without what it says of some rows by their number."""
    rest = (m for m in report.messages if not m.startswith((_SUMS, _BROKEN)))
    return replace(report, messages=tuple(rest))


_SUMS = "the attributions of patient(s)"
_BROKEN = "the model's output is not finite"


def told(
    report: Diagnostics,
    sums: Balance,
    f_input: Tensor,
    f_baseline: Tensor,
    output: Tensor,
    checked: bool,
    of: str = "",
) -> Diagnostics:
    """The passes' diagnostics, with what the sums and the outputs add to them.

    ``output`` is all of the input pass's; sums that are out of tolerance are only told
    where they are ``checked``. ``of`` says which of several outputs is explained.
    """
    messages = list(report.messages)
    if not bool((sums.off | ~torch.isfinite(f_input - f_baseline)).any()):
        return report
    broken = ~(torch.isfinite(f_input) & torch.isfinite(f_baseline))
    if bool(broken.any()):
        messages.append(
            f"{_BROKEN}, at the input or at the reference, for patient(s) "
            f"{_rows(broken)} of the batch; they have no attributions{of}"
        )
    change = (f_input - f_baseline).abs()
    wrong = sums.off & ~broken & checked
    off, lost = wrong & ~sums.rounded, wrong & sums.rounded
    if bool(off.any()):
        suspects = [*report.fallbacks, *foreign_functions(output)]
        names = ", ".join(dict.fromkeys(suspects)) or "none that a rule knows of"
        messages.append(
            f"{_SUMS} {_rows(off)} do not add up to f(x) - "
            f"f(x0): off by up to {_part(sums.delta, change, off)} before any "
            f"rescaling, which was not done; operations that are not exact: {names}{of}"
        )
    if bool(lost.any()):
        times = (sums.gross / change)[lost].max().item()
        messages.append(
            f"{_SUMS} {_rows(lost)} cancel, and do not add up to a thousandth: "
            f"Σ|attributions| is up to {times:.2g} times f(x) - f(x0), and rounding "
            f"takes up to {_part(sums.delta, change, lost)}; explain the model in "
            f"float64, or against a reference that is less unlike the input{of}"
        )
    return replace(report, messages=tuple(messages))


def _part(delta: Tensor, change: Tensor, rows: Tensor) -> str:
    worst = (delta.abs() / change)[rows].max().item()
    return "all, as it is 0," if worst == float("inf") else f"{worst:.2g} of it"


def _rows(flags: Tensor) -> list[int]:
    return [int(i) for i in flags.nonzero().flatten().tolist()]
