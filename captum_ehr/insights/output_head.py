"""What a model says of a patient: scores, probabilities, predictions, right or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..adapter import EncodedBatch
from ..explanation import Contrast, Explanation
from .readers import BaseFeature, FeatureOutput


class OutputScore(NamedTuple):
    """A score, its class's index, and the class; Captum's fields."""

    score: float
    index: int  # type: ignore[assignment]  # Captum's name
    label: str


class VisualizationOutput(NamedTuple):
    """One model's explanation of one patient; Captum's fields."""

    feature_outputs: list[FeatureOutput]
    actual: OutputScore | None
    predicted: list[OutputScore]
    active_index: int
    model_index: int


@dataclass(frozen=True)
class Head:
    """The outputs of a model, and how to read them."""

    mode: str  # PyHealth's word
    classes: tuple[str, ...]  # of a binary model two, for its one output
    scale: str = "logit"  # or probability

    @property
    def targets(self) -> tuple[str, ...]:
        """The name of each output."""
        return self.classes[-1:] if self.mode == "binary" else self.classes

    def probabilities(self, scores: Tensor) -> Tensor | None:
        """``(..., outputs)`` scores as probabilities; None where they are none.

        Example:
            >>> Head("binary", ("no", "yes")).probabilities(torch.zeros(1, 1))
            tensor([[0.5000]])
        """
        if self.mode == "regression":
            return None
        if self.scale == "probability":
            return scores
        return scores.softmax(-1) if self.mode == "multiclass" else scores.sigmoid()

    def predicted(self, scores: Tensor) -> tuple[int, ...]:
        """The predicted classes of one patient's scores ``(outputs,)``.

        Example:
            >>> Head("multiclass", ("a", "b", "c")).predicted(torch.tensor([0, 2, 1]))
            (1,)
        """
        probabilities = self.probabilities(scores.double())
        if probabilities is None:
            return ()
        if self.mode == "multiclass":
            return (int(probabilities.argmax()),)
        chosen = (probabilities >= 0.5).tolist()
        if self.mode == "binary":
            return (int(chosen[0]),)
        return tuple(i for i, is_chosen in enumerate(chosen) if is_chosen)

    def actual(self, label: Any) -> tuple[int, ...] | None:
        """The true classes of a label as the dataset has it; None where unknown.

        Example:
            >>> Head("multilabel", ("a", "b")).actual(torch.tensor([0.0, 1.0]))
            (1,)
        """
        if label is None or self.mode == "regression":
            return None
        values = torch.as_tensor(label).flatten().tolist()
        if self.mode == "multilabel":
            return tuple(i for i, value in enumerate(values) if value)
        return (int(values[0]),)

    def words(self, classes: tuple[int, ...] | None) -> str:
        """Classes by name."""
        if classes is None:
            return ""
        return ", ".join(
            self.classes[i] if i < len(self.classes) else str(i) for i in classes
        )

    def listed(self, scores: Tensor, most: int = 4) -> list[OutputScore]:
        """The likeliest outputs of one patient's scores ``(outputs,)``, best first."""
        probabilities = self.probabilities(scores)
        shown = scores if probabilities is None else probabilities
        best = shown.topk(min(most, len(shown)))
        return [
            OutputScore(float(score), int(i), self.targets[int(i)])
            for score, i in zip(best.values, best.indices)
        ]


def output_of(
    explanation: Explanation,
    encoded: EncodedBatch,
    features: Sequence[BaseFeature],
    head: Head,
    scores: Tensor,
    label: Any,
    model: int,
) -> VisualizationOutput:
    """One patient's explanation, as Captum's classes show it."""
    parts = [explanation.attributions[feature.name] for feature in features]
    sums = [float(part.sum()) for part in parts]
    whole = sum(map(abs, sums)) or 1.0
    actual = head.actual(label)
    target = explanation.target[0]
    place = target.a if isinstance(target, Contrast) else target
    return VisualizationOutput(
        [
            feature.visualize(part, encoded.features[feature.name].values, sum_ / whole)
            for feature, part, sum_ in zip(features, parts, sums)
        ],
        OutputScore(100, actual[0], head.words(actual[:1])) if actual else None,
        head.listed(scores),
        place if isinstance(place, int) else place[0],
        model,
    )
