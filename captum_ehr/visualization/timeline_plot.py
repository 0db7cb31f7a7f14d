"""One patient's history as a figure: visits on true time, codes and labs coloured."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_ehr.explanation import Explanation
from captum_ehr.scene.patient import Axis, PatientScene, patient_scene
from captum_ehr.scene.wording import number, shorten
from captum_ehr.visualization.axes import (
    PLAIN,
    axes_size,
    color_bar,
    label,
    one_axes,
    strip,
    write_title,
)
from captum_ehr.visualization.chips import (
    Canvas,
    ChipRows,
    ChipsOverTime,
    Limits,
    Panel,
)
from captum_ehr.visualization.plot_arguments import (
    Patient,
    Ranges,
    at_least_one,
    one_patient,
    ranges_of,
)
from captum_ehr.visualization.value_lines import ValueLines

_MARGINS = (1.95, 1.15, 0.85, 0.5)
_COLUMN, _STEP = 1.7, 0.45
_WIDTH = (6.5, 14.5)


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

    The x axis is the time of the visits, or their order where no time is known, or the
    times are no clock (see :meth:`captum_ehr.Explanation.with_times`). Chips hang from
    their visit's dot, strongest first, side by side where visits are too close for
    their chips. Red raises the output, blue lowers it; codes and values share one
    colour scale. Long histories fold: the strongest visits have chips, the others only
    a dot with the colour of their sum, and what is not shown is counted.

    Args:
        explanation: The explanation.
        patient: An index or identifier; needed where there are several.
        ax: Where to draw; by default a new figure of fitting size, without pyplot.
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
        p1 | MLP: logit of label
    """
    at_least_one(max_visits=max_visits, max_codes=max_codes, max_values=max_values)
    ranges = ranges_of(explanation, reference)
    explanation = one_patient(explanation, patient)
    scene = patient_scene(explanation, ranges=ranges, time_label=time_label)
    if not scene.bands:
        raise ValueError(f"nothing to show: {scene.patient_id!r} has no code or value.")
    width = _width(scene, max_visits) if ax is None else axes_size(ax)[0]
    panels = _panels(scene, width, Limits(max_visits, max_codes, max_values))
    height = max(sum(panel.height for panel in panels), 1.5)
    figure, ax = one_axes(ax, width, height, _MARGINS)
    ax.set_xlim(scene.axis.low, scene.axis.high)
    ax.set_ylim(height, 0.0)
    _draw_panels(ax, panels)
    _draw_axis(ax, scene.axis)
    write_title(ax, scene.head, scene.lines)
    color_bar(ax, scene.scale, scene.measure)
    return figure, ax


def _width(scene: PatientScene, max_visits: int) -> float:
    """The axes' width in inches: room for the widest band's chips."""
    wanted = [
        _COLUMN * min(len(band.steps), max_visits)
        for band in scene.bands
        if band.kind == "codes" and band.is_ordered
    ]
    wanted += [_STEP * len(b.steps) for b in scene.bands if b.kind == "series"]
    return min(max([_WIDTH[0], *wanted]), _WIDTH[1])


def _panels(scene: PatientScene, width: float, limits: Limits) -> list[Panel]:
    """The panel of each band of a patient."""
    canvas = Canvas(scene.axis.low, scene.axis.high - scene.axis.low, width)
    panels: list[Panel] = []
    for band in scene.bands:
        if not band.is_ordered:
            panels.append(ChipRows(band, canvas, scene.scale, limits))
            continue
        kind = ChipsOverTime if band.kind == "codes" else ValueLines
        places = scene.axis.places(band)
        panels.append(kind(band, canvas, scene.scale, limits, *places))
    return panels


def _draw_panels(ax: Axes, panels: list[Panel]) -> None:
    """All panels from top to bottom, their names at the left, a line between."""
    style: Any = {"size": 9, "fontweight": "bold", "ha": "right", "va": "center"}
    top = 0.0
    for rank, panel in enumerate(panels):
        if rank % 2:
            ax.axhspan(top, top + panel.height, color="#f6f6f6", zorder=0, lw=0)
        name, place = shorten(panel.band.feature, 24), (0, top + 0.2)
        label(ax, name, place, (-8, 0), coords=ax.get_yaxis_transform(), **style)
        panel.draw(ax, top)
        top += panel.height
        if rank < len(panels) - 1:
            ax.axhline(top, color="#cccccc", lw=0.6, zorder=1)


def _draw_axis(ax: Axes, axis: Axis) -> None:
    ax.set_yticks([])
    strip(ax, "top", "right", "left")
    if not axis.is_shown:
        ax.set_xticks([])
        ax.spines["bottom"].set_visible(False)
        return
    ax.set_xticks(axis.ticks, [number(place) for place in axis.ticks])
    ax.set_xlabel(axis.label, fontsize=9, **PLAIN)
