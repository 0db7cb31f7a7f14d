"""One patient's explanation as plain data, fit for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..explanation import Explanation
from ..explanation.words import cancels
from ..visualization.layout import (
    Band,
    Item,
    PatientView,
    Step,
    number,
    patient_view,
    strongest,
    total_of,
)

#: The relative residual up to which attributions are said to add up.
TOLERANCE = 1e-3


def plain(number: float) -> float | None:
    """A number as JSON has it: None where it is not finite."""
    return float(number) if math.isfinite(number) else None


def account(explanation: Explanation, adds_up: bool) -> dict[str, Any]:
    """Whether one patient's attributions add up, and what is to be said of it.

    Args:
        explanation: Of one patient.
        adds_up: Whether the method promises it.

    Returns:
        ``status``: ``"exact"``, ``"noted"`` (exact, with messages), ``"approximate"``
        (adds up, with operations that no exact rule served), ``"off"``,
        ``"unanswered"`` where the output is no number, or ``"none"`` where nothing is
        promised; ``text``, ``operations`` and ``messages``.
    """
    status, text = _verdict(explanation, adds_up)
    report = explanation.diagnostics
    messages = sorted(report.messages, key=lambda one: "not add up" not in one)
    return {
        "status": status,
        "text": text,
        "operations": list(dict.fromkeys(report.fallbacks)),
        "messages": [*messages, *report.notes, *_cancels(explanation, adds_up)],
    }


def _cancels(explanation: Explanation, adds_up: bool) -> list[str]:
    said = cancels(explanation) if adds_up else ""
    return [said] if said else []


def _verdict(explanation: Explanation, adds_up: bool) -> tuple[str, str]:
    """The status, and what it means."""
    diagnostics = explanation.diagnostics
    relative = float(explanation.relative_delta[0])
    ends = float(explanation.f_input[0]), float(explanation.f_baseline[0])
    change = abs(ends[0] - ends[1])
    names = list(dict.fromkeys(diagnostics.fallbacks))
    # Of a change that is itself rounding, any residual is a large part.
    small = abs(float(explanation.delta[0])) <= 1e-6 * max(1.0, change)
    if not math.isfinite(change):
        where = "the baseline" if math.isfinite(ends[0]) else "this patient"
        return "unanswered", f"no answer: the model's output for {where} is no number"
    if not adds_up:
        return "none", "this method does not promise a sum"
    if math.isnan(relative):
        return "off", "does not add up: there are attributions that are no numbers"
    if not (relative <= TOLERANCE or small):
        # Beyond all bounds where f(x) = f(x0).
        size = f"{relative:.0%}" if relative < 100 else "more than all"
        text = f"does not add up: {size} of f(x) − f(x0) is missing or too much"
        return "off", text + (f"; not exact: {', '.join(names)}" if names else "")
    if names:
        return "approximate", f"adds up; approximated: {', '.join(names)}"
    if diagnostics.messages or diagnostics.notes or _cancels(explanation, adds_up):
        return "noted", "adds up; there are remarks"
    return "exact", "adds up"


def view_of(explanation: Explanation, adds_up: bool) -> dict[str, Any]:
    """What is shown of one patient: numbers, visits, codes, values; no padding.

    Args:
        explanation: Of one patient.
        adds_up: Whether the method promises that attributions add up.
    """
    view = patient_view(explanation, 0)
    features = [
        {"feature": band.feature, "total": plain(band.total)} for band in view.bands
    ]
    return {
        "output": view.output,
        "f_input": plain(view.f_input),
        "f_baseline": plain(view.f_baseline),
        "delta": plain(view.delta),
        "relative_delta": plain(view.relative_delta),
        "total": plain(view.total),
        "limit": view.scale.limit,
        "complete": account(explanation, adds_up),
        "features": features,
        "visits": _visits(view),
        "series": [_series(band) for band in view.bands if band.kind == "series"],
        "columns": [
            {"feature": band.feature, "items": _items(band.steps[0].items)}
            for band in view.bands
            if band.kind == "columns"
        ],
    }


def _visits(view: PatientView) -> list[dict[str, Any]]:
    """Codes by visit: steps of different features are one where their times agree.

    Features without times go together by the number of the visit; codes with neither
    make one entry without a place in time.
    """
    steps: dict[tuple[int, float], list[Step]] = {}
    for band in view.bands:
        for step in band.steps if band.kind == "codes" else ():
            key = (2, step.time) if math.isfinite(step.time) else (0, 0.0)
            if key[0] == 0 and step.visit is not None:
                key = (1, float(step.visit))
            steps.setdefault(key, []).append(step)
    return [_visit(key, steps[key]) for key in sorted(steps)]


def _visit(key: tuple[int, float], steps: Sequence[Step]) -> dict[str, Any]:
    """One visit: when, and the codes of each feature, strongest first."""
    kind, place = key
    groups: dict[str, list[Item]] = {}
    for step in steps:
        for item in step.items:
            groups.setdefault(item.feature, []).append(item)
    words = ("all codes", f"visit {place + 1:.0f}", f"time {number(place)}")
    return {
        "label": words[kind],
        "time": place if kind == 2 else None,
        "visit": int(place) if kind == 1 else None,
        "total": plain(math.fsum(step.total for step in steps)),
        "strength": math.fsum(step.strength for step in steps),
        "groups": [
            {"feature": feature, "items": _items(items)}
            for feature, items in groups.items()
        ],
    }


def _items(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [
        {
            "code": item.code,
            "name": item.name if item.is_named else "",
            "value": plain(item.value),
            "attribution": plain(item.attribution),
        }
        for item in strongest(items)
    ]


def _series(band: Band) -> dict[str, Any]:
    """One continuous feature over time, a line per column, strongest first."""
    lines: dict[str, list[dict[str, Any]]] = {}
    kept: dict[str, list[Item]] = {}
    for place, step in enumerate(band.steps):
        for item in step.items:
            kept.setdefault(item.code, []).append(item)
            lines.setdefault(item.code, []).append(
                {
                    "step": place if step.visit is None else step.visit,
                    "time": plain(step.time),
                    "value": plain(item.value),
                    "attribution": plain(item.attribution),
                }
            )
    ranked = sorted(kept, key=lambda code: -sum(item.strength for item in kept[code]))
    return {
        "feature": band.feature,
        "timed": band.is_timed,
        "lines": [
            {
                "code": code,
                "name": kept[code][0].name if kept[code][0].is_named else "",
                "total": plain(total_of(kept[code])),
                "points": lines[code],
            }
            for code in ranked
        ],
    }
