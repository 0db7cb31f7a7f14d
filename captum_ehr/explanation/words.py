"""An explanation in a few words."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from torch import Tensor

from .data import ExplanationData, row_sums

CANCELS = 10.0
"""How many times what they explain attributions may be before that is told."""

OUTSIDE = "is outside of what the dataset holds"
"""What is said of a reference that no patient has."""


def summary(explanation: ExplanationData) -> list[str]:
    """What was explained, in a few words: model, patients, output, baseline."""
    labels = {explanation.target_label(i) for i in range(len(explanation))}
    parts = [
        explanation.model_name or "unnamed model",
        f"{len(explanation)} patient(s)",
        f"{explanation.output_word} of "
        + (f"{len(labels)} targets" if len(labels) != 1 else f"target {labels.pop()}"),
    ]
    if explanation.baseline:
        parts.append(f"baseline {explanation.baseline}")
    return parts


def completeness(explanation: ExplanationData) -> list[str]:
    """Whether the attributions add up, in one or two lines of plain words."""
    if not len(explanation):
        return []
    mean = "" if len(explanation) == 1 else "mean "
    at_baseline = row_sums(explanation.f_baseline).mean().item()
    at_input = row_sums(explanation.f_input).mean().item()
    total = explanation.total.mean().item()
    worst = explanation.relative_delta.max().item()
    change = f"{mean}f(x0) {at_baseline:.4f} → f(x) {at_input:.4f}"
    return [
        f"{change}, sum of attributions {total:+.4f}",
        f"largest |delta| / |f(x) - f(x0)| before rescaling: {worst:.1e}",
    ]


def target_labels(explanation: ExplanationData) -> list[str]:
    """Per sample the name of its target; different ones have different names."""
    names = {t: explanation.target_label(i) for i, t in enumerate(explanation.target)}
    if len(set(names.values())) < len(names):
        names = {target: f"{name} ({target})" for target, name in names.items()}
    return [names[target] for target in explanation.target]


def mixed_targets(explanation: ExplanationData) -> str:
    """What to know where patients are explained for different outputs; else empty."""
    return unlike({*target_labels(explanation)})


def unlike(targets: Collection[str]) -> str:
    """The same of the names of the different targets."""
    if len(targets) < 2:
        return ""
    some = sorted(set(targets))
    words = ", ".join(map(repr, some[:5])) + (", …" if len(some) > 5 else "")
    return (
        f"patients are explained for {len(targets)} different targets ({words}): sums "
        "and means over them add unlike outputs. Explain one, target=..., or select "
        "the patients of one."
    )


def unanswered(explanation: ExplanationData) -> str:
    """What to know where some attributions are no numbers; else empty."""
    return without_answer(int((~explanation.total.isfinite()).sum()), len(explanation))


def without_answer(count: int, patients: int) -> str:
    """The same of how many patients, and of how many."""
    if not count:
        return ""
    return (
        f"{count} of {patients} patient(s) have attributions that are no "
        "numbers (NaN), as where the model has no answer; sums with them are NaN."
    )


def answer(value: float, form: str = "%.3f") -> str:
    """A number that the model may not have given.

    Example:
        >>> answer(0.5), answer(float("nan"))
        ('0.500', 'no answer')
    """
    return "no answer" if value != value else form % value


def cancellation(attributions: Iterable[Tensor], change: Tensor) -> Tensor:
    """``(patients,)``: Σ|attributions| / |f(x) - f(x0)|; 1 where both are 0.

    Example:
        >>> cancellation([torch.tensor([[3.0, -1.0]])], torch.tensor([2.0]))
        tensor([2.], dtype=torch.float64)
    """
    change = row_sums(change).abs()
    size = sum((row_sums(a.abs()) for a in attributions), torch.zeros_like(change))
    return (size / change).nan_to_num(nan=1.0, posinf=float("inf"))


def cancels(explanation: ExplanationData) -> str:
    """What to know where Σ|attributions| is many times f(x) - f(x0); else empty.

    Of several patients there are always some whose score is the reference's: only where
    it is a tenth of them is it told.
    """
    change = explanation.f_input - explanation.f_baseline
    times = cancellation(explanation.attributions.values(), change)
    many = times[times > CANCELS]
    if not len(many) or 10 * len(many) < len(explanation):
        return ""
    alone = len(explanation) == 1
    whose = "" if alone else f" of {len(many)} of {len(explanation)} patients"
    size = f"{float(many[0]):.0f}" if alone else f"more than {CANCELS:.0f}"
    return (
        f"attributions{whose} cancel: Σ|attributions| is {size} times |f(x) - f(x0)|; "
        "what one code adds, others take away"
    )


def remarks(explanation: ExplanationData) -> list[str]:
    """All that is to be said of it: what is not exact, and what to know."""
    report = explanation.diagnostics
    more = (cancels(explanation), mixed_targets(explanation))
    return [*report.messages, *report.notes, *filter(None, more)]


def caution(message: str) -> None:
    """Warn, at the line outside of this package that asked."""
    package = str(Path(__file__).parents[1])
    warnings.warn(message, UserWarning, stacklevel=2, skip_file_prefixes=(package,))
