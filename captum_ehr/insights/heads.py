"""What a model says of a patient: scores, probabilities, predictions, right or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """The outputs of a model, and how to read them.

    Args:
        mode: PyHealth's word: binary, multiclass, multilabel or regression.
        classes: The name of each class; a binary model has two and one output.
        scale: Of the outputs: ``"logit"`` or ``"probability"``.
    """

    mode: str
    classes: tuple[str, ...]
    scale: str = "logit"

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
        return tuple(i for i, one in enumerate(chosen) if one)

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
            return tuple(i for i, one in enumerate(values) if one)
        return (int(values[0]),)

    def words(self, classes: tuple[int, ...] | None) -> str:
        """Classes by name."""
        if classes is None:
            return ""
        return ", ".join(
            self.classes[i] if i < len(self.classes) else str(i) for i in classes
        )
