"""One patient's explanation as plain data, fit for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..explanation import Explanation
from ..scene import PatientScene, patient_scene, verdict_of
from ..scene.history import Band, Item


def plain(number: float) -> float | None:
    """A number as JSON has it: None where it is not finite."""
    return float(number) if math.isfinite(number) else None


def account(explanation: Explanation, adds_up: bool) -> dict[str, Any]:
    """Whether one patient's attributions add up; see :class:`captum_ehr.scene.Verdict`.

    Args:
        explanation: Of one patient.
        adds_up: Whether the method promises it.
    """
    verdict = verdict_of(explanation, adds_up)
    return {
        "status": verdict.status,
        "text": verdict.text,
        "operations": list(verdict.operations),
        "messages": list(verdict.messages),
    }


def view_of(explanation: Explanation, adds_up: bool) -> dict[str, Any]:
    """What is shown of one patient: numbers, visits, codes, values; no padding.

    Args:
        explanation: Of one patient.
        adds_up: Whether the method promises that attributions add up.
    """
    scene = patient_scene(explanation, adds_up=adds_up)
    numbers = ("f_input", "f_baseline", "delta", "relative_delta", "total")
    return {
        "output": scene.output,
        **{name: plain(getattr(scene, name)) for name in numbers},
        "limit": scene.scale.limit,
        "complete": account(explanation, adds_up),
        "features": [
            {"feature": band.feature, "total": plain(band.total)}
            for band in scene.bands
        ],
        "visits": _visits(scene),
        "series": [_series(band) for band in scene.bands if band.kind == "series"],
        "columns": [
            {"feature": band.feature, "items": _items(band.ranked)}
            for band in scene.bands
            if band.kind == "columns"
        ],
    }


def _visits(scene: PatientScene) -> list[dict[str, Any]]:
    """Codes by visit, of each feature, strongest first."""
    return [
        {
            "label": scene.when(visit),
            "time": plain(visit.time),
            "visit": visit.visit - 1 if visit.visit else None,
            "total": plain(visit.total),
            "strength": visit.strength,
            "groups": [
                {"feature": feature, "items": _items(items)}
                for feature, items in visit.groups.items()
            ],
        }
        for visit in scene.visits
    ]


def _items(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [
        {
            "code": item.code,
            "name": item.name if item.is_named else "",
            "value": plain(item.value),
            "attribution": plain(item.attribution),
        }
        for item in items
    ]


def _series(band: Band) -> dict[str, Any]:
    """One continuous feature over time, a line per column, strongest first."""
    return {
        "feature": band.feature,
        "timed": band.is_timed,
        "lines": [
            {
                "code": line.items[0].code,
                "name": line.items[0].name if line.items[0].is_named else "",
                "total": plain(line.total),
                "points": [
                    {
                        "step": band.numbers[place] - 1,
                        "time": plain(band.steps[place].time),
                        "value": plain(item.value),
                        "attribution": plain(item.attribution),
                    }
                    for item, place in zip(line.items, line.places, strict=True)
                ],
            }
            for line in band.lines
        ],
    }
