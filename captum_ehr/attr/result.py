"""What an explanation is made of before it takes its final form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..propagation import Diagnostics
from .completeness import Balance, polish
from .inputs import Prepared


@dataclass(frozen=True, eq=False)
class Result:
    """A whole batch: attributions shaped like the inputs, and their account.

    Args:
        attributions: One tensor per input; the mean over the references.
        f_input: ``(batch,)``.
        f_baseline: ``(batch,)``; the mean over the references.
        index: ``(batch, ...)``; where each patient's value stands in the output.
        balance: How they add up.
        diagnostics: What ran, and what is to be said of it.
        factor: ``(batch,)``; by what they were rescaled.
        deltas: ``(batch, references)``; the residual against each.
        each: Where asked for, ``(batch, references, ...)`` per input.
        drawn: Whether the model draws random numbers.
        shape: That of the model's output for one patient.
    """

    attributions: tuple[Tensor, ...]
    f_input: Tensor
    f_baseline: Tensor
    index: Tensor
    balance: Balance
    diagnostics: Diagnostics = Diagnostics()
    factor: Tensor = field(default_factory=lambda: torch.ones(()))
    deltas: Tensor = field(default_factory=lambda: torch.empty(0))
    each: tuple[Tensor, ...] = ()
    drawn: bool = False
    shape: tuple[int, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether all outputs and all sums are."""
        return bool(torch.isfinite(self.balance.delta).all())

    def rescaled(self) -> Result:
        """With rounding polished away in place, where it is no more than that."""
        factor = polish(self.balance, self.f_input - self.f_baseline)

        def scaled(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            shaped = (factor.view(-1, *[1] * (a.dim() - 1)) for a in parts)
            return tuple(a.mul_(f.to(a.dtype)) for a, f in zip(parts, shaped))

        return replace(
            self,
            attributions=scaled(self.attributions),
            each=scaled(self.each),
            factor=factor,
        )

    def outputs_of(self, prepared: Prepared) -> list[Result]:
        """Of outputs one after the other, each with all patients, each one's."""
        count = len(self.f_input) // len(prepared.inputs[0])
        if count == 1:
            return [self]
        return list(map(self.filled, zip(*(x.chunk(count) for x in self.tensors()))))

    def tensors(self) -> list[Tensor]:
        """All of its tensors; each has the patients first."""
        numbers = (getattr(self, name) for name in _NUMBERS)
        return [*self.attributions, *self.each, *self.balance, *numbers]

    def filled(self, tensors: Iterable[Tensor]) -> Result:
        """The same with other tensors, in the order of :meth:`tensors`."""
        rest = iter(tensors)
        parts, each, sums = (
            tuple(islice(rest, len(some)))
            for some in (self.attributions, self.each, self.balance)
        )
        fields: dict[str, Any] = dict(zip(_NUMBERS, rest, strict=True))
        fields |= {"attributions": parts, "each": each, "balance": Balance(*sums)}
        return replace(self, **fields)


_NUMBERS = ("f_input", "f_baseline", "index", "factor", "deltas")


def joined_outputs(parts: list[tuple[Prepared, Result]]) -> Result:
    """Slices of a batch, each with the same outputs, put together again by output."""
    if len(parts) == 1:
        return parts[0][1]
    slices = [result.outputs_of(prepared) for prepared, result in parts]
    whole = joined([joined(list(column)) for column in zip(*slices)])
    report = sum((result.diagnostics for _, result in parts), Diagnostics())
    return replace(whole, diagnostics=report)


def averaged(parts: list[Result], each: bool) -> Result:
    """The mean over several references, which may also be kept one by one.

    Each part is the batch against one reference; all but the first may be that against
    several, one after the other.
    """
    first = parts[0]
    if len(parts) == 1:
        return replace(
            first,
            deltas=first.balance.delta.unsqueeze(1),
            each=tuple(a.unsqueeze(1).clone() for a in first.attributions if each),
            factor=torch.ones_like(first.f_input),
        )
    size = len(first.f_input)

    def column(tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(tensors)).unflatten(0, (-1, size))

    columns = [column(c) for c in zip(*(p.attributions for p in parts))]
    deltas, bound, off, gross = map(column, zip(*(p.balance for p in parts)))
    delta = deltas.double().mean(0).to(deltas.dtype)
    return replace(
        first,
        attributions=tuple(c.mean(0) for c in columns),
        f_baseline=column(p.f_baseline for p in parts).mean(0),
        balance=Balance(delta, bound.mean(0), off.any(0), gross.mean(0)),
        diagnostics=sum((p.diagnostics for p in parts), Diagnostics()),
        factor=torch.ones_like(first.f_input),
        deltas=deltas.T.contiguous(),
        each=tuple(c.transpose(0, 1).contiguous() for c in columns if each),
    )


def joined(parts: list[Result]) -> Result:
    """Slices of a batch, put together again."""
    if len(parts) == 1:
        return parts[0]
    whole = parts[0].filled(map(torch.cat, zip(*(p.tensors() for p in parts))))
    report = sum((p.diagnostics for p in parts), Diagnostics())
    return replace(whole, diagnostics=report, drawn=any(p.drawn for p in parts))
