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
    change = (f_input - f_baseline).abs()
    off = found.off & ~broken & ~found.rounded if checked else broken & False
    if bool(off.any()):
        suspects = [*report.fallbacks, *foreign_functions(output)]
        names = ", ".join(dict.fromkeys(suspects)) or "none that a rule knows of"
        messages.append(
            f"{_SUMS} {_rows(off)} do not add up to f(x) - "
            f"f(x0): off by up to {_part(found.delta, change, off)} before any "
            f"rescaling, which was not done; operations that are not exact: {names}"
        )
    lost = found.off & ~broken & found.rounded if checked else broken & False
    if bool(lost.any()):
        times = (found.gross / change)[lost].max().item()
        messages.append(
            f"{_SUMS} {_rows(lost)} cancel, and do not add up to a thousandth: "
            f"Σ|attributions| is up to {times:.2g} times f(x) - f(x0), and rounding "
            f"takes up to {_part(found.delta, change, lost)}; explain the model in "
            "float64, or against a reference that is less unlike the input"
        )
    return replace(report, messages=tuple(messages))


def _part(delta: Tensor, change: Tensor, rows: Tensor) -> str:
    worst = (delta.abs() / change)[rows].max().item()
    return "all, as it is 0," if worst == float("inf") else f"{worst:.2g} of it"


def _rows(flags: Tensor) -> list[int]:
    return [int(i) for i in flags.nonzero().flatten().tolist()]
