"""An explanation in a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .explanation import Explanation


def summary(explanation: Explanation) -> list[str]:
    """What was explained, in a few words: model, patients, output, baseline."""
    labels = {explanation.target_label(i) for i in range(len(explanation))}
    parts = [
        explanation.model_name or "unnamed model",
        f"{len(explanation)} patient(s)",
        f"{explanation.output} of "
        + (f"{len(labels)} targets" if len(labels) != 1 else f"target {labels.pop()}"),
    ]
    if explanation.baseline:
        parts.append(f"baseline {explanation.baseline}")
    return parts


def completeness(explanation: Explanation) -> list[str]:
    """Whether the attributions add up, in one or two lines of plain words."""
    if not len(explanation):
        return []
    mean = "" if len(explanation) == 1 else "mean "
    at_baseline = explanation.f_baseline.detach().double().mean().item()
    at_input = explanation.f_input.detach().double().mean().item()
    total = explanation.total.mean().item()
    worst = explanation.relative_delta.max().item()
    change = f"{mean}f(x0) {at_baseline:.4f} → f(x) {at_input:.4f}"
    return [
        f"{change}, sum of attributions {total:+.4f}",
        f"largest |delta| / |f(x) - f(x0)| before rescaling: {worst:.1e}",
    ]


def described(explanation: Explanation) -> str:
    """A few lines: what was explained, whether it adds up, the top codes."""
    lines = [" | ".join(summary(explanation)), *completeness(explanation)]
    lines += [f"! {message}" for message in explanation.diagnostics.messages]
    for row in explanation.top(5).to_dict("records"):
        code = row["code"]
        if row["name"] != code:
            code += f" ({row['name']})"
        mean = f"mean {row['mean']:+.4g}, {row['patients']} patient(s) have it"
        lines.append(f"{row['feature']} {code}: {mean}")
    return "Explanation: " + "\n  ".join(lines)
