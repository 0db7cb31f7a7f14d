"""What to say when something is not exact, and about which operation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..propagation import Diagnostics, foreign_functions

if TYPE_CHECKING:
    from .result import Result

MIXED = (
    "the model mixes the patients of a batch: each one's attributions are to all of "
    "the batch's scores, and add up over the batch alone"
)
APART = (
    "the model mixes the patients of a batch: each was explained with the others held "
    "fixed"
)


def noted(report: Diagnostics, message: str) -> Diagnostics:
    """The report with a message put first, in place of what it explains."""
    rest = tuple(m for m in report.messages if not m.startswith(_SUMS))
    return replace(report, messages=(message, *rest))


_SUMS = "the attributions of patient(s)"


def account(
    report: Diagnostics, output: Tensor, result: Result, checked: bool
) -> Diagnostics:
    """The passes' diagnostics, with what the sums and the outputs add to them."""
    found = result.balance
    f_input, f_baseline = result.f_input, result.f_baseline
    messages = list(report.messages)
    if not bool((found.off | ~torch.isfinite(f_input - f_baseline)).any()):
        return report
    broken = ~(torch.isfinite(f_input) & torch.isfinite(f_baseline))
    if bool(broken.any()):
        messages.append(
            "the model's output is not finite, at the input or at the reference, for "
            f"patient(s) {_rows(broken)} of the batch; they have no attributions"
        )
    off = found.off & ~broken
    if checked and bool(off.any()):
        change = (f_input - f_baseline).abs()
        worst = (found.delta.abs() / change)[off].max().item()
        size = "all, as it is 0," if worst == float("inf") else f"{worst:.2g} of it"
        suspects = [*report.fallbacks, *foreign_functions(output)]
        names = ", ".join(dict.fromkeys(suspects)) or "none that a rule knows of"
        messages.append(
            f"{_SUMS} {_rows(off)} do not add up to f(x) - "
            f"f(x0): off by up to {size} before any rescaling, which was "
            f"not done; operations that are not exact: {names}"
        )
    return Diagnostics(report.operations, tuple(messages))


def _rows(flags: Tensor) -> list[int]:
    return [int(i) for i in flags.nonzero().flatten().tolist()]
