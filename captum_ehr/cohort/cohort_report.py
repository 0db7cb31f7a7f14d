"""A cohort as one HTML page: performance, strongest codes, who is missing."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ..explanation.resampling import Resampling
from ..explanation.writing import write_text
from ..scene.patient import patient_scene
from ..scene.performance import Errors, Hits, Performance
from ..scene.population import PopulationScene, top_codes
from ..scene.wording import footer, number, percent, several
from .cohort_tables import code_table
from .judging import judged
from .stored import StoredCohort, explained_for, targets_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TARGETS, _FAILED, _MESSAGES = 6, 100, 10
"""The most outputs, samples set aside and messages that are shown."""


def write_cohort_report(
    stored: StoredCohort,
    path: str | Path,
    *,
    title: str,
    threshold: float,
    k: int,
    patients: Sequence[str],
) -> Path:
    """Write the page; see :meth:`Cohort.report`."""
    from ..visualization.html import render
    from ..visualization.plot_arguments import at_least_one

    at_least_one(k=k)
    how, judgement = Resampling(), judged(stored, threshold)
    counts = targets_of(stored.patients().select("target").collect())
    targets = [target for target, _ in counts.most_common()]
    notes, shown = [" · ".join(stored.summary())], stored.of_patients(patients)
    if len(targets) > _TARGETS:
        notes.append(
            f"Codes of {_TARGETS} of {len(targets)} explained outputs are shown."
        )
    page = render(
        "cohort_report.html",
        title=title or stored.header.model_name or "Cohort",
        notes=notes,
        note=judgement.note,
        judged=[_output(one) for one in judgement.outputs],
        targets=[_target(stored, one, k, how) for one in targets[:_TARGETS]],
        level=_level(how),
        failed=stored.failures[:_FAILED],
        failed_words=_failed(len(stored.failures)),
        patients=[*map(patient_scene, stored.explanations(shown))],
        footer=[footer(stored.header)],
    )
    return write_text(path, page)


def _failed(count: int) -> str:
    if not count:
        return "Every sample could be explained."
    such = f"; the first {_FAILED}:" if count > _FAILED else ":"
    return f"{several(count, 'sample')} could not be explained{such}"


def _output(judged: Performance | Errors | Hits) -> dict[str, Any]:
    """One output's numbers in words, and its curves."""
    facts = [("samples", str(judged.samples))]
    if judged.unknown:
        facts.append(("left out, not known", str(judged.unknown)))
    if isinstance(judged, Hits):
        share = judged.right / judged.samples if judged.samples else nan
        facts.append(("explained class is the observed one", _share(share)))
        return {"title": "Predicted classes", "facts": facts, "curves": ""}
    if isinstance(judged, Errors):
        facts += [
            ("mean absolute error", number(judged.mean_absolute)),
            ("root mean square error", number(judged.root_mean_square)),
            ("R²", _score(judged.r2)),
        ]
        return {"title": judged.target, "facts": facts, "curves": ""}
    from ..visualization.performance_plot import performance_curves

    facts += [
        ("observed", str(judged.positives)),
        ("AUROC", _score(judged.auroc)),
        ("AUPRC", _score(judged.auprc)),
        ("Brier score", _score(judged.brier)),
        ("calibration: intercept", _score(judged.intercept)),
        ("calibration: slope", _score(judged.slope)),
    ]
    if (decision := judged.decision) is not None:
        facts += [
            (f"at {decision.threshold:g} or more", several(decision.called, "sample")),
            ("sensitivity", _share(decision.sensitivity)),
            ("specificity", _share(decision.specificity)),
            ("positive predictive value", _share(decision.positive_value)),
            ("negative predictive value", _share(decision.negative_value)),
        ]
    curves = _picture(performance_curves(judged)[0])
    return {"title": judged.target, "facts": facts, "curves": curves}


def _score(value: float) -> str:
    return "not defined" if isnan(value) else f"{value:.3f}"


def _share(value: float) -> str:
    return "not defined" if isnan(value) else percent(value)


def _target(
    stored: StoredCohort, target: Any, k: int, how: Resampling
) -> dict[str, Any]:
    """The codes of the samples that were explained for an output."""
    from ..visualization.interval_plot import intervals

    only = explained_for(target)
    table = code_table(stored, None, "", only, how)
    people = stored.patients().filter(only).collect()
    account, note = stored.account(), table.attrs.get("note")
    said = (*_messages(people["messages"]), *account.notes, *([note] if note else []))
    scene = PopulationScene(
        len(people),
        top_codes(table.head(k).to_dict("records"), len(people)),
        len(table),
        residuals=_residuals(people),
        rescaled=people.filter(pl.col("rescale_factor") != 1).height,
        rescaled_by=_rescaled_by(people),
        fallbacks=account.fallbacks,
        remarks=said,
        level=how.level,
    )
    name = stored.header.target_label(target)
    lines = f"{several(len(people), 'sample')}; lines: {_level(how)} intervals"
    title = f"Strongest codes: {name}"
    figure = intervals(table, k=k, title=title, subtitle=lines)[0]
    return {"name": name, "cohort": scene, "figure": _picture(figure)}


def _residuals(people: pl.DataFrame) -> tuple[float, float]:
    """The median and the largest relative delta of those with an answer."""
    delta, change = pl.col("delta"), pl.col("f_input") - pl.col("f_baseline")
    missed = pl.when(delta == 0).then(0.0).otherwise(delta.abs() / change.abs())
    sizes = people.select(size=missed)["size"].drop_nulls().to_numpy()
    return (float(np.median(sizes)), float(sizes.max())) if len(sizes) else (nan, nan)


def _rescaled_by(people: pl.DataFrame) -> float:
    """How far a factor is from 1 at most; of those with an answer."""
    factors = people["rescale_factor"].drop_nulls().drop_nans().to_numpy()
    return float(np.abs(factors - 1).max()) if len(factors) else 0.0


def _messages(messages: pl.Series) -> list[str]:
    """What is to be said, and of how many samples, the most frequent first."""
    counts = messages.explode().drop_nulls().value_counts().rows()
    counts.sort(key=lambda pair: (-pair[1], pair[0]))
    words = [f"{text} ({several(count, 'sample')})" for text, count in counts]
    rest = len(words) - _MESSAGES
    return words[:_MESSAGES] + ([f"and {rest} more"] if rest > 0 else [])


def _level(how: Resampling) -> str:
    return f"{100 * how.level:g} %"


def _picture(figure: Figure) -> str:
    """A figure as the source of an image."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=144)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
