"""A page about models and their patients, and the view of a notebook."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captum_ehr.explanation.writing import write_text
from captum_ehr.scene.patient import patient_scene
from captum_ehr.scene.population import population_scene

if TYPE_CHECKING:
    from captum_ehr.explanation import Explanation

_MOST_PATIENTS, _NOTEBOOK_PATIENTS = 20, 3


def write_report(
    explanations: Mapping[str, Explanation] | Explanation,
    path: str | Path,
    *,
    title: str,
    planted: Collection[str] = (),
    patients: Sequence[int] | None = None,
    notes: Sequence[str] = (),
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

    Returns:
        The path that was written.

    Raises:
        ValueError: If there is no explanation.
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
    if not explanations:
        raise ValueError("explanations is empty, expected at least one Explanation.")
    return write_text(path, _page(explanations, title, set(planted), patients, notes))


def page_html(
    explanation: Explanation, path: str | Path | None = None, *, title: str = ""
) -> str:
    """The page of one explanation; see :meth:`captum_ehr.Explanation.to_html`."""
    name = explanation.model_name or "model"
    page = _page({name: explanation}, title or name, (), None, ())
    if path is not None:
        write_text(path, page)
    return page


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
) -> str:
    from captum_ehr.visualization.html import render

    models = []
    for name, explanation in explanations.items():
        default = range(len(explanation))[:_MOST_PATIENTS]
        places = default if patients is None else patients
        models.append(
            {
                "name": name,
                "cohort": population_scene(explanation, planted=planted),
                "patients": [patient_scene(explanation, place) for place in places],
            }
        )
    return render("report.html", title=title, notes=notes, models=models)
