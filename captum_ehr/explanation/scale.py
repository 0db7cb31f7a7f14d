"""From the logit's scale to the probability's; the sums come along."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .explanation import Explanation

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


def in_probability(explanation: Explanation) -> Explanation:
    """On the scale of probabilities: adds up to p(x) - p(x0).

    Each attribution is multiplied by the exact slope of the sigmoid between the
    two outputs, (p(x) - p(x0)) / (f(x) - f(x0)), as DeepLIFT does for a
    non-linearity at the output. In float64. With several references, p(x0) is the
    probability of their mean logit.

    Returns:
        A new explanation; one that is in probabilities already is itself.

    Raises:
        ValueError: If the model is multiclass (explain the probability in place of
            the logit), a regression, or it is not known what it is.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> given = explanation.in_probability()
        >>> change = given.f_input - given.f_baseline
        >>> torch.allclose(given.total, change, atol=1e-6)
        True
    """
    mode = explanation.mode
    if explanation.output == "probability" and mode != "regression":
        return explanation
    if mode not in ("binary", "multilabel"):
        why = _WHY_NOT.get(mode, _WHY_NOT[None])
        raise ValueError(f"in_probability: {why}")
    at_input, at_baseline = explanation.f_input.double(), explanation.f_baseline
    slope = sigmoid_slope(at_input, at_baseline.double())

    def scaled(tensor: Tensor) -> Tensor:
        return tensor.double() * slope.view(-1, *[1] * (tensor.ndim - 1))

    attributions = explanation.attributions.items()
    return replace(
        explanation,
        attributions={key: scaled(one) for key, one in attributions},
        f_input=torch.sigmoid(at_input),
        f_baseline=torch.sigmoid(at_baseline.double()),
        delta=scaled(explanation.delta),
        output="probability",
    )


def sigmoid_slope(one: Tensor, other: Tensor) -> Tensor:
    """``(sigmoid(a) - sigmoid(b)) / (a - b)``, also where a is b, without cancellation.

    Of a > b the numerator is ``-expm1(b - a) * sigmoid(a) * sigmoid(-b)``.

    Example:
        >>> sigmoid_slope(torch.tensor([0.0, 1e-9]), torch.tensor([0.0, 0.0]))
        tensor([0.2500, 0.2500])
    """
    high, low = torch.maximum(one, other), torch.minimum(one, other)
    change = high - low
    share = torch.where(change > 0, -torch.expm1(-change) / change, 1.0)
    return share * torch.sigmoid(high) * torch.sigmoid(-low)
