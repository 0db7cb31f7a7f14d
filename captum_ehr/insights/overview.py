"""All patients at a glance: who they are, what is predicted, which codes there are."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..adapter import PyHealthAdapter
from ..scene.performance import Performance, performance_of
from ..scene.wording import NO_ANSWER, number, ordinal, percent
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
        keys = ("patient_id", "feature", "code", "name", "unit")
        for patient, feature, code, name, unit in zip(*(frame[key] for key in keys)):
            place = places.setdefault((feature, code), len(codes))
            if place == len(codes):
                named = name if name != code else ""
                about = {"feature": feature, "code": code, "name": named}
                codes.append({**about, "unit": unit or ""})
            held[patient][place] = None
        present += map(list, held.values())
    return codes, present


def overview_of(explanations: Explanations) -> dict[str, Any]:
    """Patients, predictions and codes, as plain data."""
    source, heads = explanations.source, explanations.heads
    codes, present = codes_of(explanations)
    actual = [heads[0].actual(label) for label in source.labels]
    models = range(len(source.models))
    return {
        "models": _apart([_name(model) for model in source.models]),
        "targets": [head.targets for head in heads],
        "codes": codes,
        "is_predicted": True,
        **people_of(explanations.ids, heads[0], source.labels, source.groups, present),
        "predictions": [_predictions(explanations, model, actual) for model in models],
    }


def people_of(
    ids: Sequence[str],
    head: Head,
    labels: Sequence[Any],
    groups: Mapping[str, Sequence[str]],
    present: Sequence[Sequence[int]],
) -> dict[str, Any]:
    """Who the patients are, what is true of them, and which codes each has."""
    return {
        "mode": head.mode,
        "classes": [] if head.mode == "regression" else head.classes,
        "groups": list(groups),
        "patients": [
            {
                "id": name,
                "label": _label(head, labels[row]),
                "observed": _quantity(head, labels[row]),
                "actual": head.actual(labels[row]),
                "groups": [values[row] for values in groups.values()],
                "codes": present[row],
            }
            for row, name in enumerate(ids)
        ],
    }


def prediction_of(
    head: Head,
    classes: tuple[int, ...],
    score: float,
    is_probability: bool,
    actual: tuple[int, ...] | None,
) -> dict[str, Any]:
    """What a model says of a patient, in words; a score that is none is no answer."""
    is_known = math.isfinite(score)
    words = percent(score) if is_probability else number(score)
    return {
        "text": head.words(classes) if is_known else NO_ANSWER,
        "score": plain(score),
        "words": words if is_known else NO_ANSWER,
        "is_probability": is_probability,
        "classes": classes,
        "correct": head.is_right(classes, actual) if is_known else None,
    }


def ranked(head: Head, said: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Predictions with each patient's rank by falling score, and in words.

    From 1, equal scores sharing the first; None where there is no answer, and of
    several classes, whose scores are not of one thing.
    """
    scores = sorted(-one["score"] for one in said if one["score"] is not None)
    has_rank = head.mode in ("binary", "regression")
    made = []
    for one in said:
        rank = None
        if has_rank and one["score"] is not None:
            rank = bisect_left(scores, -one["score"]) + 1
        words = f"{ordinal(rank)} of {len(scores)}" if rank else ""
        made.append({**one, "rank": rank, "rank_words": words})
    return made


def performance(
    overview: Mapping[str, Any], rows: Sequence[int], model: int
) -> Performance | None:
    """Of a binary model's probabilities over some patients; None of any other.

    Also None where no outcome is known.
    """
    said = [overview["predictions"][model][row] for row in rows]
    actual = [overview["patients"][row]["actual"] for row in rows]
    observed = [None if classes is None else 1 in classes for classes in actual]
    if overview["mode"] != "binary" or not any(one is not None for one in observed):
        return None
    return performance_of(
        overview["targets"][model][0],
        np.array(observed, dtype=float),  # NaN for None
        np.array([one["score"] for one in said], dtype=float),
        is_probability=all(one["is_probability"] for one in said),
    )


def _predictions(
    explanations: Explanations,
    model: int,
    actual: Sequence[tuple[int, ...] | None],
) -> list[dict[str, Any]]:
    """Per patient what a model says; of several classes also whether it is right."""
    head, predictions = explanations.heads[model], []
    for scores, true in zip(explanations.scores(model), actual):
        # NaN is of no class, and the largest of no scores.
        is_known = bool(torch.isfinite(scores).all())
        classes = head.likeliest(scores) if is_known else ()
        probabilities = head.probabilities(scores)
        score = float((scores if probabilities is None else probabilities).max())
        is_probability = probabilities is not None
        score = score if is_known else math.nan
        predictions.append(prediction_of(head, classes, score, is_probability, true))
    return ranked(head, predictions)


def _quantity(head: Head, label: Any) -> float | None:
    """What a regression is to predict; None of classes, and where it is unknown."""
    if label is None or head.mode != "regression":
        return None
    quantity: float | None = plain(float(torch.as_tensor(label).flatten()[0]))
    return quantity


def _label(head: Head, label: Any) -> str:
    """What is true of a patient, in words."""
    quantity = _quantity(head, label)
    return head.words(head.actual(label)) if quantity is None else number(quantity)


def _name(model: nn.Module) -> str:
    return type(model.model if isinstance(model, PyHealthAdapter) else model).__name__


def _apart(names: Sequence[str]) -> list[str]:
    """Names that are each given once."""
    return [
        name if names.count(name) == 1 else f"{name} {names[: k + 1].count(name)}"
        for k, name in enumerate(names)
    ]
