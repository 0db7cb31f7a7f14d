"""What Captum Insights' ``visualize`` returns."""

from __future__ import annotations

from typing import NamedTuple

from .features import FeatureOutput
from .store import Explanations, Setting


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


def output_of(
    explanations: Explanations, row: int, setting: Setting
) -> VisualizationOutput:
    """One patient, as Captum's classes show it."""
    source, head = explanations.source, explanations.heads[setting.model]
    explanation = explanations.one(row, setting)
    scores = explanations.scores(setting.model)[row]
    probabilities = head.probabilities(scores)
    best = (scores if probabilities is None else probabilities).topk(
        min(4, len(scores))
    )
    actual = head.actual(source.labels[row])
    data = source.encode([row], setting.model).features
    sums = [float(explanation.attributions[one.name].sum()) for one in source.features]
    whole = sum(map(abs, sums)) or 1.0
    target = explanation.target[0]
    return VisualizationOutput(
        [
            one.visualize(
                explanation.attributions[one.name], data[one.name].values, part / whole
            )
            for one, part in zip(source.features, sums)
        ],
        OutputScore(100, actual[0], head.words(actual[:1])) if actual else None,
        [
            OutputScore(float(score), int(i), head.targets[int(i)])
            for score, i in zip(best.values, best.indices)
        ],
        target if isinstance(target, int) else target[0],
        setting.model,
    )
