"""One patient's history as a figure: visits on true time, codes and labs coloured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from captum_ehr.visualization.layout import Limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from captum_ehr.explanation import Explanation


def timeline(
    explanation: Explanation,
    patient: int = 0,
    ax: Axes | None = None,
    *,
    max_visits: int = 12,
    max_codes: int = 6,
    max_values: int = 8,
    time_label: str = "time",
) -> tuple[Figure, Axes]:
    """Draw one patient: a band per feature, a chip per code, a line per lab.

    The x axis is the time of the visits; where no time is known, their order. Chips
    hang from their visit's dot, strongest first, side by side where visits are too
    close for their chips. Red raises the output, blue lowers it; codes and values
    share one colour scale. Long histories fold: the strongest visits have chips, the
    others only a dot with the colour of their sum, and what is not shown is counted.

    Args:
        explanation: The explanation.
        patient: The patient's index in it.
        ax: Where to draw. Without it a figure of fitting size is made, independent
            of pyplot and its backends.
        max_visits: The most visits per feature that get chips.
        max_codes: The most chips per visit.
        max_values: The most lines per continuous feature.
        time_label: The words under the x axis where it is time, e.g. ``"days"``.

    Returns:
        The figure and the axes.

    Raises:
        IndexError: If there is no such patient.
        ValueError: If a limit is less than 1.

    Example:
        >>> figure, axes = timeline(explanation, 0)  # doctest: +SKIP
        >>> figure.savefig("patient.png")  # doctest: +SKIP
    """
    limits = {
        "max_visits": max_visits,
        "max_codes": max_codes,
        "max_values": max_values,
    }
    for name, limit in limits.items():
        if limit < 1:
            raise ValueError(f"{name} is {limit}, expected at least 1.")
    # Here and not above: the package must import where matplotlib is not installed.
    from captum_ehr.visualization.figure import draw

    return draw(explanation, patient, ax, Limits(**limits), time_label)
