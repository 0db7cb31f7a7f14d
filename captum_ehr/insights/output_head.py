"""What a model says of a patient: scores, probabilities, the likeliest class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .readers import FeatureOutput


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


def two_classes(outcome: str) -> tuple[str, str]:
    """What to call the classes of a binary model whose label is the outcome's key.

    Example:
        >>> two_classes("death")
        ('no death', 'death')
    """
    return f"no {outcome}", outcome


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

    def likeliest(self, scores: Tensor) -> tuple[int, ...]:
        """The likeliest of several classes of one patient's scores ``(outputs,)``.

        Of a binary model there is none: from which risk on somebody is called positive
        is for those to say who act on it.

        Example:
            >>> Head("multiclass", ("a", "b", "c")).likeliest(torch.tensor([0, 2, 1]))
            (1,)
            >>> Head("binary", ("no", "yes")).likeliest(torch.tensor([5.0]))
            ()
        """
        several = self.mode in ("multiclass", "multilabel")
        return (int(scores.argmax()),) if several else ()

    def is_right(
        self, classes: tuple[int, ...], actual: tuple[int, ...] | None
    ) -> bool | None:
        """Whether the likeliest class is the true one; None where nobody can say."""
        is_judged = self.mode == "multiclass" and classes and actual is not None
        return classes == actual if is_judged else None

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
