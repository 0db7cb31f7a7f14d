"""One patient's history as a figure: visits on true time, codes and labs coloured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from captum_ehr.visualization.choosing import (
    Patient,
    Ranges,
    at_least_one,
    one_patient,
    ranges_of,
)
from captum_ehr.visualization.layout import Limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from captum_ehr.explanation import Explanation


def timeline(
    explanation: Explanation,
    patient: Patient = None,
    ax: Axes | None = None,
    *,
    max_visits: int = 12,
    max_codes: int = 6,
    max_values: int = 8,
    time_label: str = "time",
    reference: Ranges | None = None,
) -> tuple[Figure, Axes]:
    """Draw one patient: a band per feature, a chip per code, a line per lab.

    The x axis is the time of the visits; where no time is known, or times do not run
    forward (gaps since the visit before), their order. Chips
    hang from their visit's dot, strongest first, side by side where visits are too
    close for their chips. Red raises the output, blue lowers it; codes and values
    share one colour scale. Long histories fold: the strongest visits have chips, the
    others only a dot with the colour of their sum, and what is not shown is counted.

    Args:
        explanation: The explanation.
        patient: The patient's index in it, or identifier; not needed where there is
            only one.
        ax: Where to draw. Without it a figure of fitting size is made, independent
            of pyplot and its backends.
        max_visits: The most visits per feature that get chips.
        max_codes: The most chips per visit.
        max_values: The most lines per continuous feature.
        time_label: The words under the x axis where it is time, e.g. ``"days"``.
        reference: The usual range ``(low, high)`` of columns, infinite where there is
            no bound, e.g. ``{"creatinine": (0.6, 1.2)}``; under a feature's key may
            stand a table of its own. Ranges are shaded, and values outside of them
            marked with an arrow.

    Returns:
        The figure and the axes.

    Raises:
        IndexError: If there is no patient of that index.
        KeyError: If there is none of that identifier, or ``reference`` names a column
            or feature that there is not.
        ValueError: If it is not said which of several patients, the patient has no
            code and no value, a limit is less than 1, or a range is not in order.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> figure, ax = timeline(explanation, "p1", reference={"labs[0]": (0.6, 1.2)})
        >>> print(ax.get_title("left"))
        p1 | MLP: logit of 1
    """
    at_least_one(max_visits=max_visits, max_codes=max_codes, max_values=max_values)
    ranges = ranges_of(explanation, reference)
    limits = Limits(max_visits, max_codes, max_values)
    # Here and not above: the package must import where matplotlib is not installed.
    from captum_ehr.visualization.figure import draw

    return draw(one_patient(explanation, patient), ax, limits, time_label, ranges)
