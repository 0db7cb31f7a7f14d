"""Several references at a time, where a batch is so small that calls are all it costs.

The batch is repeated for each of them, and explained as one of many patients. That is
the same, to rounding, as one reference after the other only for a model that takes each
patient for itself: so the first reference is explained alone, and what the others
give is taken only if their outputs at the inputs, and their account, are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..propagation import tuning
from .completeness import ROUNDINGS, noted
from .inputs import Prepared
from .result import Result, averaged
from .slicing import Follow, Forward, following
from .targets import Chosen, Target

#: Explains a batch against the mean of its references.
type Explain = Callable[[Prepared, Target], Result]

#: With fewer at a time, the input passes take what is saved.
_LEAST = 3


def how_many(model: nn.Module, prepared: Prepared, limit: int | None) -> int:
    """How many references at a time; 0 where one after the other is as quick.

    ``limit`` bounds the rows (``internal_batch_size``). Else numbers are bounded.
    """
    size = len(prepared.inputs[0])
    if len(prepared.references) <= _LEAST:
        return 0
    rows = tuning.TOGETHER // numbers_of(model, prepared) if limit is None else limit
    most = min(rows // size, len(prepared.references) - 1)
    return most if most >= _LEAST else 0


def numbers_of(model: nn.Module, prepared: Prepared) -> int:
    """How many numbers a row has: its positions times the widest layer or input."""
    widest = max(
        (
            max(p.shape, default=1)
            for module in model.modules()
            if not isinstance(module, nn.Embedding)
            for p in module.parameters(recurse=False)
        ),
        default=1,
    )
    numbers = sum(
        x.shape[1:-1].numel() * max(widest, x.shape[-1]) for x in prepared.inputs
    )
    return max(numbers, 1)


def in_stacks(
    prepared: Prepared,
    target: Target,
    most: int,
    each: bool,
    explain: Explain,
    forward: Forward,
) -> Result | None:
    """The mean over all references, up to ``most`` at a time.

    Returns:
        None where it may not be what one reference after the other gives: the model
        mixes patients or draws random numbers, something is kept for the reference
        or not finite, sums are off by more than rounding, or a pass fails. Else
        the result, of whose sums nothing has been said yet.
    """
    references = prepared.references
    parts = [first := explain(replace(prepared, references=references[:1]), target)]
    if not _accounted(first) or first.drawn or first.diagnostics.structure:
        return None
    report, size = noted(first.diagnostics), len(first.f_input)
    try:
        follow = following(prepared, (size + 1) // 2, forward)
        for k in range(1, len(references), most):
            some = _stacked(prepared, references[k : k + most], follow)
            count = len(some.inputs[0]) // size
            part = explain(some, Chosen(torch.cat([first.index] * count)))
            if not _accounted(part) or noted(part.diagnostics) != report:
                return None
            if not _same(part.f_input.view(count, size), first):
                return None
            parts.append(part)
    except (RuntimeError, ValueError, LookupError, TypeError, AssertionError):
        return None  # one after the other raises it again, if it is not of the stacking
    return replace(averaged(parts, each), diagnostics=report)


def _stacked(
    prepared: Prepared, references: tuple[tuple[Tensor, ...], ...], follow: Follow
) -> Prepared:
    """A batch once for each of some references, as one batch."""
    count = len(references)

    def again(value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            raise TypeError(f"Only tensors are repeated, not {type(value).__name__}.")
        return value.detach().repeat(count, *[1] * (value.dim() - 1))

    return replace(
        prepared,
        inputs=tuple(map(again, prepared.inputs)),
        references=(tuple(map(torch.cat, zip(*references))),),
        args=tuple(again(a) if f else a for a, f in zip(prepared.args, follow)),
        encoded=None,
        masks=None,
    )


def _accounted(result: Result) -> bool:
    """Whether all is finite and adds up, but for rounding."""
    balance = result.balance
    return result.finite and not bool((balance.off & ~balance.rounded).any())


def _same(outputs: Tensor, first: Result) -> bool:
    """Whether ``(references, batch)`` outputs are those of the batch by itself."""
    largest = torch.maximum(first.f_input.abs(), first.f_baseline.abs()).max()
    rounding = ROUNDINGS * torch.finfo(outputs.dtype).eps * largest
    return bool(((outputs - first.f_input).abs() <= rounding).all())
