"""From the logit's scale to the probability's; the sums come along."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .data import ExplanationData
from .explained import Contrast

_WHY_NOT = {
    "regression": "the model is a regression: its output is no logit and has no "
    "probability.",
    "multiclass": "the model is multiclass: a probability depends on the logits of all "
    "classes, this explanation holds the attributions to one. Explain the probability "
    'itself: DeepLiftEHR(model, output="probability").explain(batch).',
    None: "it is not known what the model's output is. Say so with "
    'dataclasses.replace(explanation, mode="binary") (or "multilabel") if it is a '
    "logit whose sigmoid is the probability.",
}


def in_probability[E: ExplanationData](explanation: E) -> E:
    """On the scale of probabilities; see :meth:`Explanation.in_probability`."""
    mode = explanation.mode
    if any(isinstance(target, Contrast) for target in explanation.target):
        raise ValueError(
            "in_probability: the explanation is of a contrast, and a difference of "
            "logits is no logit of a class. Explain the difference of probabilities "
            'itself: DeepLiftEHR(model, output="probability").explain(batch, ...).'
        )
    if explanation.output == "probability" and mode != "regression":
        return explanation
    if mode not in ("binary", "multilabel"):
        why = _WHY_NOT.get(mode, _WHY_NOT[None])
        raise ValueError(f"in_probability: {why}")
    at_input, at_baseline = explanation.f_input.double(), explanation.f_baseline
    slope = sigmoid_slope(at_input, at_baseline.double())

    def scaled(tensor: Tensor) -> Tensor:
        return tensor.double() * slope.view(-1, *[1] * (tensor.ndim - 1))

    return replace(
        explanation,
        attributions={k: scaled(a) for k, a in explanation.attributions.items()},
        f_input=torch.sigmoid(at_input),
        f_baseline=torch.sigmoid(at_baseline.double()),
        delta=scaled(explanation.delta),
        output="probability",
    )


def sigmoid_slope(a: Tensor, b: Tensor) -> Tensor:
    """``(sigmoid(a) - sigmoid(b)) / (a - b)``, also where a is b, without cancellation.

    Of a > b the numerator is ``-expm1(b - a) * sigmoid(a) * sigmoid(-b)``.

    Example:
        >>> sigmoid_slope(torch.tensor([0.0, 1e-9]), torch.tensor([0.0, 0.0]))
        tensor([0.2500, 0.2500])
    """
    high, low = torch.maximum(a, b), torch.minimum(a, b)
    change = high - low
    share = torch.where(change > 0, -torch.expm1(-change) / change, 1.0)
    return share * torch.sigmoid(high) * torch.sigmoid(-low)
