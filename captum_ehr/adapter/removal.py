"""PyHealth's removal metrics of attributions: comprehensiveness and sufficiency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .adapter import PyHealthAdapter
from .encoded import EncodedBatch
from .packing import unpacked
from .schema import zero_labels

#: How much is removed, or kept, in percent of a feature's places: PyHealth's default.
PERCENTAGES = (1, 5, 10, 20, 50)

#: How often each patient's record is evaluated for both metrics.
EVALUATIONS = 2 * (1 + len(PERCENTAGES))

#: What PyHealth's metrics know of; a regression has no class.
MODES = ("binary", "multiclass", "multilabel")


class _Known:
    """A metric that is told what the model is, and need not print it."""

    mode: str

    def _detect_classifier_type(self) -> None:
        self.classifier_type = self.mode


def removal(
    adapter: PyHealthAdapter,
    encoded: EncodedBatch,
    attributions: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """PyHealth's metrics, computed by PyHealth, of the class that is predicted.

    Codes are removed as PyHealth does it, by writing padding in their place, values by
    writing 0: another reference than that of the attributions. Everybody counts; where
    a binary model predicts the negative label, the attributions speak for that one.

    Args:
        adapter: The model, of which a private view is evaluated.
        encoded: The patients.
        attributions: By feature key, shaped like the token ids or raw values, of the
            predicted class, or of a binary model's one output.

    Returns:
        ``"comprehensiveness"`` and ``"sufficiency"``, ``(patients,)`` differences of
        probabilities.

    Raises:
        ValueError: If the model is of no mode that they know.
    """
    from pyhealth.metrics.interpretability import (
        ComprehensivenessMetric,
        SufficiencyMetric,
    )

    if adapter.mode not in MODES:
        raise ValueError(f"a model of mode {adapter.mode!r} predicts no class")
    batch, found = _batch(adapter, encoded), {}
    for metric in (ComprehensivenessMetric, SufficiencyMetric):
        known: Any = type(metric.__name__, (_Known, metric), {"mode": adapter.mode})
        name = metric.__name__.removesuffix("Metric").lower()
        # PyHealth puts the model that it is given into eval mode.
        asked = known(adapter.private().model, [*PERCENTAGES], sample_filter=_everybody)
        scores, _ = asked.compute(batch, dict(attributions))
        found[name] = scores
    return found


def _batch(adapter: PyHealthAdapter, encoded: EncodedBatch) -> dict[str, Any]:
    """As the data loader yields it, but for labels, which change no score."""
    args = encoded.additional_forward_args
    entries, rest = unpacked(adapter.features, encoded.inputs, args)
    return {
        **{entry.feature.key: entry.whole() for entry in entries},
        **dict(zip(adapter.extra_keys, rest)),
        **zero_labels(adapter.model, len(encoded), adapter.device),
    }


def _everybody(probability: Tensor, mode: str) -> Tensor:
    """Everybody counts, a binary model's patients for the class that is predicted."""
    from pyhealth.metrics.interpretability.utils import SampleClass

    classes = torch.full(probability.shape, int(SampleClass.POSITIVE))
    classes = classes.to(probability.device)
    if mode == "binary":
        classes[probability < 0.5] = int(SampleClass.NEGATIVE)
    return classes
