"""Whether one patient's attributions add up, and what is to be said of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from captum_ehr.explanation.words import CANCELS, OUTSIDE, cancellation, cancels

from .wording import number

if TYPE_CHECKING:
    from captum_ehr.explanation import Explanation

TOLERANCE = 1e-3
"""The relative residual up to which attributions are said to add up."""

type Status = Literal[
    "exact", "noted", "approximate", "caution", "off", "unanswered", "none"
]
"""Noted is exact with messages, approximate adds up with operations that no exact rule
served, caution adds up to what means little; unanswered is an output that is no number,
and none a method without promise."""

ADDED_UP: frozenset[Status] = frozenset({"exact", "noted", "approximate", "caution"})
"""The verdicts that say that attributions add up."""

SIGNS: dict[Status, str] = {
    "exact": "✓",
    "noted": "!",
    "approximate": "≈",
    "caution": "⚠",
    "off": "✗",
    "unanswered": "?",
    "none": "○",
}
"""What stands before each verdict."""

TOGETHER = "of the patient(s) explained together"
"""Whose structure is meant: of each one's alone nothing is known."""

MEANING = (
    "A sum that is complete says that nothing is missing from it: not that the model, "
    "the baseline or the explanation is right."
)
"""What adding up does not say."""


@dataclass(frozen=True)
class Verdict:
    """Whether attributions add up."""

    status: Status
    text: str  # the same in words
    operations: tuple[str, ...]  # those without an exact rule
    messages: tuple[str, ...]  # what else is to be said

    @property
    def sign(self) -> str:
        """What stands before the words."""
        return SIGNS[self.status]

    @property
    def meaning(self) -> str:
        """What the words do not say; empty where they say that nothing adds up."""
        return MEANING if self.status in ADDED_UP else ""


def verdict_of(explanation: Explanation, adds_up: bool = True) -> Verdict:
    """The verdict on an explanation of one patient."""
    report = explanation.diagnostics
    cancelled = cancels(explanation) if adds_up else ""
    operations = tuple(dict.fromkeys(report.fallbacks))
    first = sorted(report.messages, key=lambda message: "not add up" not in message)
    kept = [
        f"{one.operation}: the input's answer is kept for the reference at "
        f"{one.places} place(s) {TOGETHER}; f(x0) is the model's own all the same"
        for one in report.structure
        if not one.message
    ]
    messages = (*first, *report.notes, *kept, *filter(None, [cancelled]))
    status, text = _status(explanation, adds_up, ", ".join(operations), bool(messages))
    return Verdict(status, text, operations, messages)


def misses(explanation: Explanation, amount: float) -> bool:
    """Whether so much of one patient's change is more than rounding.

    As where it is measured, ``attr.completeness``: of a change that is itself no more
    than the last digits of the outputs, any residual is a large part.
    """
    at_input, at_baseline = explanation.f_input, explanation.f_baseline
    last = 2 * torch.finfo(at_input.dtype).eps * (at_input.abs() + at_baseline.abs())
    bound = torch.maximum(TOLERANCE * (at_input - at_baseline).abs(), last)
    return abs(amount) > float(bound[0])


def cautions(explanation: Explanation) -> list[str]:
    """Why what one patient's attributions add up to may mean little, in few words."""
    report, reasons = explanation.diagnostics, []
    change = explanation.f_input - explanation.f_baseline
    times = float(cancellation(explanation.attributions.values(), change)[0])
    if math.isinf(times):
        reasons.append("they cancel, for the output does not change")
    elif times > CANCELS:
        reasons.append(f"parts {times:.0f} times the change cancel")
    if any(OUTSIDE in note for note in report.notes):
        reasons.append(f"the reference {OUTSIDE}")
    if any(kept.message for kept in report.structure):
        reasons.append(f"f(x0) is of a reference with the structure {TOGETHER}")
    return reasons


def _status(
    explanation: Explanation, adds_up: bool, operations: str, has_messages: bool
) -> tuple[Status, str]:
    relative = float(explanation.relative_delta[0])
    at_input = float(explanation.f_input[0])
    change = abs(at_input - float(explanation.f_baseline[0]))
    if not math.isfinite(change):
        where = "the baseline" if math.isfinite(at_input) else "this patient"
        return "unanswered", f"no answer: the model's output for {where} is no number"
    if not adds_up:
        return "none", "this method does not promise a sum"
    if math.isnan(relative):
        return "off", "does not add up: there are attributions that are no numbers"
    if misses(explanation, float(explanation.delta[0])):
        # Beyond all bounds where f(x) = f(x0).
        size = f"{number(100 * relative, 2)}%" if relative < 100 else "more than all"
        text = f"does not add up: {size} of f(x) − f(x0) is missing or too much"
        return "off", text + (f"; not exact: {operations}" if operations else "")
    reasons = cautions(explanation)
    inexact = f"approximated: {operations}" if operations else ""
    if reasons:
        words = "; ".join(filter(None, [*reasons, inexact]))
        return "caution", f"the sum is complete, but {words}"
    if operations:
        return "approximate", f"the sum is complete; {inexact}"
    if has_messages:
        return "noted", "the sum is complete; there are remarks"
    return "exact", "the sum is complete"
