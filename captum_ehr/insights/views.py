"""One patient, and what each adds to the cohort, as plain data fit for JSON."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..explanation import Explanation
from ..explanation.words import without_answer
from ..scene import PatientScene, verdict_of
from ..scene.history import Band, Item
from ..scene.wording import tiny


def plain(data: Any) -> Any:
    """Data as JSON has it: None where a number is not finite.

    Example:
        >>> plain({"a": (1.5, math.nan), "b": [math.inf, "c", 2]})
        {'a': [1.5, None], 'b': [None, 'c', 2]}
    """
    if isinstance(data, Mapping):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def said_of(
    overview: Mapping[str, Any], model: int, said: Mapping[str, Any]
) -> tuple[str, str]:
    """What a model says of a patient, and what that is called."""
    mode = overview["mode"]
    word = "likeliest" if mode == "multilabel" else "predicted"
    if not overview["is_predicted"]:
        word = "explained"
    elif mode == "binary" and said["is_probability"]:
        word = f"risk of {overview['targets'][model][0]}"
    is_known = said["score"] is not None
    parts = [said["text"] if is_known else "", said["words"], said["rank_words"]]
    return word, " · ".join(filter(None, parts))


def view_of(scene: PatientScene) -> dict[str, Any]:
    """What is shown of one patient: numbers, visits, codes, values; no padding."""
    names = "output target f_input f_baseline delta relative_delta total".split()
    return plain(
        {
            **{name: getattr(scene, name) for name in names},
            "limit": scene.scale.limit,
            "complete": asdict(scene.verdict),
            "features": [
                {"feature": band.feature, "total": band.total} for band in scene.bands
            ],
            "visits": [
                {
                    "label": scene.when(visit),
                    "time": visit.time,
                    "visit": visit.visit,
                    "total": visit.total,
                    "strength": visit.strength,
                    "groups": [
                        {"feature": feature, "items": _items(items)}
                        for feature, items in visit.groups.items()
                    ],
                }
                for visit in scene.visits
            ],
            "series": [_series(band) for band in scene.bands if band.kind == "series"],
            "columns": [
                {"feature": band.feature, "items": _items(band.ranked)}
                for band in scene.bands
                if band.kind == "columns"
            ],
        }
    )


def rows_of(scene: PatientScene) -> list[list[Any]]:
    """What is said of one patient as rows of a table.

    Returns:
        Feature, number of the visit or step from 1, time, code, name, value, unit,
        whether it was measured and attribution of each code and value; None for what
        there is not, or is not known.
    """
    return [
        [
            item.feature,
            step.visit or (None if step.is_timed else place),
            plain(step.time),
            item.code,
            item.name if item.is_named else "",
            plain(item.value),
            item.unit,
            item.measured,
            plain(item.attribution),
        ]
        for band in scene.bands
        for step, number in zip(band.steps, band.numbers, strict=True)
        for place in [number if band.is_ordered else None]
        for item in step.items
    ]


def part_of(
    explanation: Explanation, adds_up: bool, places: Mapping[tuple[str, str], int]
) -> dict[str, Any]:
    """What the cohort needs of one patient: the account and a sum per code.

    A sum is None where it is no number, which is not 0. ``places`` are those of
    features and codes in the overview's list.
    """
    frame = explanation.to_frame()
    sums: dict[int, float] = {}
    for feature, code, attribution in zip(
        frame["feature"], frame["code"], frame["attribution"]
    ):
        place = places[feature, code]
        sums[place] = sums.get(place, 0.0) + attribution
    delta = float(explanation.delta[0])
    return plain(
        {
            "f_input": float(explanation.f_input[0]),
            "f_baseline": float(explanation.f_baseline[0]),
            "delta": delta,
            "delta_words": tiny(delta),
            "status": verdict_of(explanation, adds_up).status,
            "target": explanation.target_label(0),
            "codes": list(sums.items()),
        }
    )


def sums_of(
    parts: Collection[Mapping[str, Any]], codes: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    """The strongest codes over some patients.

    Returns:
        By falling ``mean_abs``: ``feature``, ``code``, ``name``, ``unit``,
        ``patients`` (who have it), ``prevalence`` and, over all of the patients,
        counting 0 for who do not have it, ``mean`` of its sum in each and ``mean_abs``
        of that sum's absolute value, as in :meth:`captum_ehr.Explanation.top`. Both
        are None where a sum is no number; such codes come last.
    """
    pairs = [pair for part in parts for pair in part["codes"]]
    places = np.array([place for place, _ in pairs], dtype=np.int64)
    sums = np.array([total for _, total in pairs], dtype=float)  # NaN for None
    patients = np.bincount(places, minlength=len(codes))
    count = max(len(parts), 1)
    mean, mean_abs = (
        np.bincount(places, values, len(codes)) / count for values in (sums, abs(sums))
    )
    return [
        {
            **codes[place],
            "patients": int(patients[place]),
            "prevalence": float(patients[place] / count),
            "mean": plain(float(mean[place])),
            "mean_abs": plain(float(mean_abs[place])),
        }
        for place in np.argsort(-mean_abs, kind="stable").tolist()
        if patients[place]
    ]


def remarks_of(parts: Collection[Mapping[str, Any]]) -> list[str]:
    """What the sums over some patients are not good for."""
    lost = sum(any(s is None for _, s in part["codes"]) for part in parts)
    targets = len({part["target"] for part in parts})
    unlike = (
        f"The patients are explained for {targets} different targets: sums and means "
        "over them add unlike outputs. Choose one target."
    )
    remarks = (unlike if targets > 1 else "", without_answer(lost, len(parts)))
    return list(filter(None, remarks))


def _items(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [_called(item) | _numbers(item) for item in items]


def _called(item: Item) -> dict[str, Any]:
    name = item.name if item.is_named else ""
    return {
        "code": item.code,
        "name": name,
        "unit": item.unit,
        "usual": item.usual if item.usual_words else None,
    }


def _numbers(item: Item) -> dict[str, Any]:
    return {
        "value": item.value,
        "measured": item.measured,
        "attribution": item.attribution,
    }


def _series(band: Band) -> dict[str, Any]:
    """One continuous feature over time, a line per column, strongest first."""
    whens = [
        {"step": number, "time": step.time}
        for number, step in zip(band.numbers, band.steps, strict=True)
    ]
    lines = [
        {
            **_called(line.items[0]),
            "total": line.total,
            "points": [
                whens[place] | _numbers(item)
                for place, item in zip(line.places, line.items, strict=True)
            ],
        }
        for line in band.lines
    ]
    return {
        "feature": band.feature,
        "timed": band.is_timed,
        "note": band.note,
        "lines": lines,
    }
