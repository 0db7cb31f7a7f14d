"""All patients at a glance: who they are, and which codes move the model."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ..adapter import PyHealthAdapter
from ..explanation import Explanation
from ..explanation.words import unlike, without_answer
from .explainer import Explanations
from .output_head import Head
from .views import account, plain

#: Per patient the codes that stand in the record, as places in the list of codes.
type Presence = list[list[int]]


def codes_of(
    explanations: Explanations, rows: Sequence[int]
) -> tuple[list[dict[str, str]], Presence]:
    """Every code and column that any patient has, and who has which.

    Returns:
        ``{"feature", "code", "name"}`` of each, and per patient its codes.
    """
    places: dict[tuple[str, str], int] = {}
    codes: list[dict[str, str]] = []
    present: Presence = []
    for chunk in explanations.source.chunks(rows, 32):
        own: dict[str, dict[int, None]] = {str(row): {} for row in chunk}
        frame = explanations.blank(chunk).to_frame()
        columns = (frame[key] for key in ("patient_id", "feature", "code", "name"))
        for patient, feature, code, name in zip(*columns):
            place = places.setdefault((feature, code), len(codes))
            if place == len(codes):
                shown = name if name != code else ""
                codes.append({"feature": feature, "code": code, "name": shown})
            own[patient][place] = None
        present += [list(one) for one in own.values()]
    return codes, present


def overview_of(explanations: Explanations) -> dict[str, Any]:
    """Patients, predictions and codes, as plain data.

    Args:
        explanations: The patients and models; nothing is explained here.
    """
    source, heads = explanations.source, explanations.heads
    count = len(explanations.ids)
    codes, present = codes_of(explanations, range(count))
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
    head, made = explanations.heads[model], []
    for scores, true in zip(explanations.scores(model), actual):
        # NaN is of no class, and the largest of no scores.
        is_known = bool(torch.isfinite(scores).all())
        classes = head.predicted(scores) if is_known else ()
        probabilities = head.probabilities(scores)
        shown = scores if probabilities is None else probabilities
        made.append(
            {
                "text": head.words(classes) if is_known else "no answer",
                "score": plain(float(shown.max())),
                "is_probability": probabilities is not None,
                "classes": classes,
                "correct": classes == true if is_known and true is not None else None,
            }
        )
    return made


def _label(head: Head, label: Any) -> str:
    """What is true of a patient, in words."""
    if label is None:
        return ""
    if head.mode == "regression":
        return f"{float(torch.as_tensor(label).flatten()[0]):.4g}"
    return head.words(head.actual(label))


def _name(model: nn.Module) -> str:
    own = model.model if isinstance(model, PyHealthAdapter) else model
    return type(own).__name__


def _apart(names: Sequence[str]) -> list[str]:
    """Names that are each given once."""
    return [
        name if names.count(name) == 1 else f"{name} {names[: k + 1].count(name)}"
        for k, name in enumerate(names)
    ]


def contributions(explanation: Explanation, adds_up: bool) -> dict[str, Any]:
    """What the cohort needs of one patient: the account and a sum per code."""
    frame = explanation.to_frame()
    sums: dict[tuple[str, str], float] = {}
    for feature, code, one in zip(
        frame["feature"], frame["code"], frame["attribution"]
    ):
        sums[feature, code] = sums.get((feature, code), 0.0) + one
    return {
        "f_input": plain(float(explanation.f_input[0])),
        "f_baseline": plain(float(explanation.f_baseline[0])),
        "delta": plain(float(explanation.delta[0])),
        "status": account(explanation, adds_up)["status"],
        "target": explanation.target_label(0),
        "codes": [[feature, code, plain(s)] for (feature, code), s in sums.items()],
    }


def top_codes(
    parts: Iterable[dict[str, Any]], codes: Sequence[dict[str, str]]
) -> list[dict[str, Any]]:
    """The strongest codes over some patients.

    Args:
        parts: Per patient its :func:`contributions`.
        codes: What :func:`codes_of` found.

    Returns:
        By falling ``mean_abs``: ``feature``, ``code``, ``name``, ``patients`` (who
        have it), ``prevalence`` and, over all of the patients, counting 0 for who do
        not have it, ``mean`` of its sum in each and ``mean_abs`` of that sum's
        absolute value, as in :meth:`captum_ehr.Explanation.top`. Both are None where
        a sum is no number; such codes come last.
    """
    names = {(one["feature"], one["code"]): one["name"] for one in codes}
    sums: dict[tuple[str, str], list[float]] = {}
    count = 0
    for part in parts:
        count += 1
        for feature, code, one in part["codes"]:
            value = math.nan if one is None else one
            sums.setdefault((feature, code), []).append(value)
    sizes = {key: sum(map(abs, values)) / count for key, values in sums.items()}
    order = sorted(sums, key=lambda key: (math.isnan(sizes[key]), -sizes[key]))
    return [
        {
            "feature": feature,
            "code": code,
            "name": names.get((feature, code), ""),
            "patients": len(sums[feature, code]),
            "prevalence": len(sums[feature, code]) / count,
            "mean": plain(sum(sums[feature, code]) / count),
            "mean_abs": plain(sizes[feature, code]),
        }
        for feature, code in order
    ]


def note_of(parts: Collection[dict[str, Any]]) -> str:
    """What the sums over some patients are not good for; else empty.

    Args:
        parts: Per patient its :func:`contributions`.
    """
    lost = sum(any(one is None for *_, one in part["codes"]) for part in parts)
    words = [
        unlike({part["target"] for part in parts}),
        without_answer(lost, len(parts)),
    ]
    return " ".join(word[0].upper() + word[1:] for word in words if word)
