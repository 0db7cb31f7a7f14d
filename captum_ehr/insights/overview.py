"""All patients at a glance: who they are, what is predicted, which codes there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..adapter import PyHealthAdapter
from ..scene.wording import NO_ANSWER, number, percent
from .explainer import Explanations
from .output_head import Head
from .views import plain


def codes_of(
    explanations: Explanations,
) -> tuple[list[dict[str, str]], list[list[int]]]:
    """Every code and column that any patient has, and per patient their places."""
    places: dict[tuple[str, str], int] = {}
    codes: list[dict[str, str]] = []
    present: list[list[int]] = []
    for chunk in explanations.source.chunks(range(len(explanations.ids)), 32):
        held: dict[str, dict[int, None]] = {str(row): {} for row in chunk}
        frame = explanations.blank(chunk).to_frame()
        columns = (frame[key] for key in ("patient_id", "feature", "code", "name"))
        for patient, feature, code, name in zip(*columns):
            place = places.setdefault((feature, code), len(codes))
            if place == len(codes):
                named = name if name != code else ""
                codes.append({"feature": feature, "code": code, "name": named})
            held[patient][place] = None
        present += map(list, held.values())
    return codes, present


def overview_of(explanations: Explanations) -> dict[str, Any]:
    """Patients, predictions and codes, as plain data."""
    source, heads = explanations.source, explanations.heads
    count = len(explanations.ids)
    codes, present = codes_of(explanations)
    actual = [heads[0].actual(label) for label in source.labels]
    models = range(len(source.models))
    return {
        "models": _apart([_name(model) for model in source.models]),
        "targets": [head.targets for head in heads],
        "classes": [] if heads[0].mode == "regression" else heads[0].classes,
        "groups": list(source.groups),
        "codes": codes,
        "patients": [
            {
                "id": explanations.ids[row],
                "label": _label(heads[0], source.labels[row]),
                "actual": actual[row],
                "groups": [values[row] for values in source.groups.values()],
                "codes": present[row],
            }
            for row in range(count)
        ],
        "predictions": [_predictions(explanations, model, actual) for model in models],
    }


def _predictions(
    explanations: Explanations,
    model: int,
    actual: Sequence[tuple[int, ...] | None],
) -> list[dict[str, Any]]:
    """Per patient what a model says, and whether it is right."""
    head, predictions = explanations.heads[model], []
    for scores, true in zip(explanations.scores(model), actual):
        # NaN is of no class, and the largest of no scores.
        is_known = bool(torch.isfinite(scores).all())
        classes = head.predicted(scores) if is_known else ()
        probabilities = head.probabilities(scores)
        score = float((scores if probabilities is None else probabilities).max())
        in_words = number(score) if probabilities is None else percent(score)
        predictions.append(
            {
                "text": head.words(classes) if is_known else NO_ANSWER,
                "score": plain(score),
                "words": in_words if is_known else NO_ANSWER,
                "is_probability": probabilities is not None,
                "classes": classes,
                "correct": classes == true if is_known and true is not None else None,
            }
        )
    return predictions


def _label(head: Head, label: Any) -> str:
    """What is true of a patient, in words."""
    if label is None:
        return ""
    if head.mode == "regression":
        return f"{float(torch.as_tensor(label).flatten()[0]):.4g}"
    return head.words(head.actual(label))


def _name(model: nn.Module) -> str:
    return type(model.model if isinstance(model, PyHealthAdapter) else model).__name__


def _apart(names: Sequence[str]) -> list[str]:
    """Names that are each given once."""
    return [
        name if names.count(name) == 1 else f"{name} {names[: k + 1].count(name)}"
        for k, name in enumerate(names)
    ]
