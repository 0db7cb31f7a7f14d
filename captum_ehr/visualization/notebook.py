"""An explanation as the last line of a notebook cell: a compact piece of HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from captum_ehr.scene.patient import patient_scene
from captum_ehr.scene.population import population_scene
from captum_ehr.visualization.html import render

if TYPE_CHECKING:
    from captum_ehr.explanation import Explanation

_PATIENTS = 3


def to_html(explanation: Explanation) -> str:
    """Some patients' visits as coloured chips, self-contained, all data escaped.

    Args:
        explanation: The explanation; the first few patients are shown.
    """
    patients = range(min(len(explanation), _PATIENTS))
    return render(
        "notebook.html",
        cohort=population_scene(explanation, k=0),
        patients=[patient_scene(explanation, patient) for patient in patients],
    )
