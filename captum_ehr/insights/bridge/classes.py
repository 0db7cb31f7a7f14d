"""A PyHealth classifier with one score, and one name, per class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...adapter import PyHealthAdapter
from ...attr.targets import scored

#: The class of patients who have none of a multilabel model's labels.
NO_LABEL = "(no label)"


class ClassScores(nn.Module):
    """A PyHealth classifier with one score per class, as Captum Insights needs it.

    Args:
        adapter: The model's adapter.
        width: How many outputs it has.
    """

    def __init__(self, adapter: PyHealthAdapter, width: int) -> None:
        super().__init__()
        if adapter.mode not in ("binary", "multiclass", "multilabel"):
            raise ValueError(
                f"Captum Insights shows classes, and {type(adapter.model).__name__} is "
                f"a {adapter.mode} model; use DeepLiftEHR(model).explain(batch)."
            )
        self.adapter = adapter
        self.width = width
        self.single = adapter.mode == "binary" and width == 1
        self.eval()

    def forward(self, *args: Tensor) -> Tensor:
        """``(patients, classes)``: one logit z as the classes -z and z."""
        score = self.adapter(*args)
        if self.single:
            return torch.cat([-score, score], dim=1)
        if self.adapter.mode == "multilabel":
            return torch.cat([score, 0 * score[:, :1]], dim=1)
        return score

    def probabilities(self, *args: Tensor) -> Tensor:
        """``(patients, classes)``, without the class of no label."""
        chance = scored(self.adapter, self.adapter, "probability")(*args)
        return torch.cat([1 - chance, chance], dim=1) if self.single else chance


def class_names(scores: ClassScores, given: Sequence[str] | None) -> list[str]:
    """One name per class, and one for who has no label, where there may be none."""
    adapter, count = scores.adapter, 2 if scores.single else scores.width
    vocabulary = sorted(adapter.labels.items(), key=lambda item: item[1])
    names = [str(label) for label, _ in vocabulary] if given is None else list(given)
    if given is None and len(names) != count:
        names = [str(index) for index in range(count)]
    if len(names) != count:
        raise ValueError(
            f"classes has {len(names)} name(s), {type(adapter.model).__name__} has "
            f"{count} classes{' (one logit: no and yes)' if scores.single else ''}: "
            f"give one for each of {[str(label) for label, _ in vocabulary]}."
        )
    return [*names, NO_LABEL] if adapter.mode == "multilabel" else names
