"""A page about models and their patients, and the view of a notebook."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captum_ehr.explanation.writing import write_text
from captum_ehr.scene.patient import patient_scene
from captum_ehr.scene.population import population_scene
from captum_ehr.scene.wording import footer

if TYPE_CHECKING:
    from captum_ehr.explanation import Explanation, Interactions

_MOST_PATIENTS, _NOTEBOOK_PATIENTS = 20, 3

_LEVEL = 0.95
"""Of the intervals of the strongest codes."""


def write_report(
    explanations: Mapping[str, Explanation] | Explanation,
    path: str | Path,
    *,
    title: str,
    planted: Collection[str] = (),
    patients: Sequence[int] | None = None,
    notes: Sequence[str] = (),
    interactions: Mapping[str, Interactions] | Interactions | None = None,
) -> Path:
    """Write explanations as one HTML page that needs nothing else.

    Per model: the strongest codes of the cohort, whether the attributions add up,
    and each patient's visits, codes and values, coloured by attribution. Padding is
    never shown. The page asks for nothing over the network, and every string of the
    data is escaped.

    Args:
        explanations: By the model's name to show, or one explanation.
        path: Where to, readable by its owner alone; an existing file is replaced.
        title: The page's heading.
        planted: Codes known to matter, e.g. those a synthetic outcome was made
            from; they are marked, and their ranks are given.
        patients: Indices of the patients to show; by default the first 20.
        notes: Remarks to show below the heading, one paragraph each.
        interactions: Those of the same patients, by the same names or of the one
            explanation; of each patient shown, the strongest pair is then named.

    Returns:
        The path that was written.

    Raises:
        ValueError: If there is no explanation, or interactions are not of the same
            patients, outputs, model and reference.
        TypeError: If ``planted`` or ``notes`` is one string.
        IndexError: If an explanation has no patient of an asked index.

    Example:
        >>> write_report(explanation, "report.html", title="RNN")  # doctest: +SKIP
        PosixPath('report.html')
    """
    for name, strings in (("planted", planted), ("notes", notes)):
        if isinstance(strings, str):
            raise TypeError(
                f"{name} is the string {strings!r}, expected a collection of strings: "
                f"write [{strings!r}]."
            )
    if not isinstance(explanations, Mapping):
        explanations = {explanations.model_name or "model": explanations}
    if interactions is not None and not isinstance(interactions, Mapping):
        interactions = dict.fromkeys(list(explanations)[:1], interactions)
    if not explanations:
        raise ValueError("explanations is empty, expected at least one Explanation.")
    pairs = _matching(explanations, interactions or {})
    page = _page(explanations, title, set(planted), patients, notes, pairs)
    return write_text(path, page)


def _matching(
    explanations: Mapping[str, Explanation], interactions: Mapping[str, Interactions]
) -> Mapping[str, Interactions]:
    """Interactions, if they are of what the explanations are of."""
    for name, pairs in interactions.items():
        explanation = explanations.get(name)
        if explanation is None:
            raise ValueError(
                f"interactions are given for {name!r}, which is no explanation; these "
                f"are {', '.join(map(repr, explanations))}."
            )
        for what in ("patient_ids", "target", "output", "baseline", "fingerprint"):
            if getattr(pairs, what) != getattr(explanation, what):
                raise ValueError(
                    f"the interactions of {name!r} have another {what} than its "
                    "explanation; make both of the same batch, model and options."
                )
    return interactions


def page_html(
    explanation: Explanation, path: str | Path | None = None, *, title: str = ""
) -> str:
    """The page of one explanation; see :meth:`captum_ehr.Explanation.to_html`."""
    name = explanation.model_name or "model"
    if len(explanation) == 1:
        page = _one_patient(explanation, title)
    else:
        page = _page({name: explanation}, title or name, (), None, ())
    if path is not None:
        write_text(path, page)
    return page


def _one_patient(explanation: Explanation, title: str) -> str:
    """One patient, with no cohort about it."""
    from captum_ehr.visualization.html import render

    name = f" · {explanation.model_name}" if explanation.model_name else ""
    return render(
        "one_patient.html",
        title=title or explanation.patient_ids[0] + name,
        notes=(),
        scene=patient_scene(explanation),
        footer=[footer(explanation)],
    )


def notebook_html(explanation: Explanation) -> str:
    """The first patients' visits as chips, self-contained, all data escaped."""
    # Here and in _page: importing the package does not load jinja2.
    from captum_ehr.visualization.html import render

    patients = range(len(explanation))[:_NOTEBOOK_PATIENTS]
    return render(
        "notebook.html",
        cohort=population_scene(explanation, k=0),
        patients=[patient_scene(explanation, patient) for patient in patients],
    )


def _page(
    explanations: Mapping[str, Explanation],
    title: str,
    planted: Collection[str],
    patients: Sequence[int] | None,
    notes: Sequence[str],
    interactions: Mapping[str, Interactions] | None = None,
) -> str:
    from captum_ehr.visualization.html import render

    models = []
    for name, explanation in explanations.items():
        default = range(len(explanation))[:_MOST_PATIENTS]
        places = default if patients is None else patients
        pairs = (interactions or {}).get(name)
        models.append(
            {
                "name": name,
                "cohort": population_scene(explanation, planted=planted, level=_LEVEL),
                "patients": [
                    patient_scene(explanation, place, pairs=pairs) for place in places
                ],
            }
        )
    feet = [
        ([name] if len(explanations) > 1 else []) + footer(explanation)
        for name, explanation in explanations.items()
    ]
    return render("report.html", title=title, notes=notes, models=models, footer=feet)
