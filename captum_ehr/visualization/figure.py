"""The figure of a timeline: its size, axis, title and colour bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from captum_ehr.visualization.axes import (
    PLAIN,
    axes_size,
    color_bar,
    one_axes,
    patient_title,
    strip,
)
from captum_ehr.visualization.canvas import Canvas
from captum_ehr.visualization.layout import (
    Limits,
    PatientView,
    number,
    patient_view,
    shorten,
)
from captum_ehr.visualization.panels import Panel, plan_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from captum_ehr.explanation import Explanation
    from captum_ehr.visualization.choosing import Range

_MARGINS = (1.95, 1.15, 0.85, 0.5)
_COLUMN = 1.7
_WIDTH = (6.5, 14.5)


@dataclass(frozen=True)
class _Axis:
    """The shared x axis: its values, the only one, and whether they are times."""

    low: float
    high: float
    only: float | None
    is_time: bool
    is_shown: bool


def draw(
    one: Explanation,
    ax: Axes | None,
    limits: Limits,
    time_label: str,
    ranges: Mapping[tuple[str, str], Range],
) -> tuple[Figure, Axes]:
    """Draw a timeline; see :func:`captum_ehr.visualization.timeline`."""
    view = patient_view(one, 0, ranges)
    if not view.bands:
        raise ValueError(f"nothing to show: {view.patient_id!r} has no code or value.")
    axis = _axis(view)
    width = _width(view, limits.max_visits) if ax is None else axes_size(ax)[0]
    canvas = Canvas(axis.low, axis.high - axis.low, width)
    panels = plan_panels(view, canvas, limits)
    height = max(sum(panel.height for panel in panels), 1.5)
    figure, ax = one_axes(ax, width, height, _MARGINS)
    ax.set_xlim(axis.low, axis.high)
    ax.set_ylim(height, 0.0)
    _draw_panels(ax, panels)
    _draw_axis(ax, axis, time_label)
    patient_title(ax, one)
    color_bar(ax, view.scale, view.output)
    return figure, ax


def _width(view: PatientView, max_visits: int) -> float:
    """The axes' width in inches: room for the widest band's chips."""
    columns = [
        min(len(band.steps), max_visits)
        for band in view.bands
        if band.kind == "codes" and band.is_ordered
    ]
    steps = [len(band.steps) * 0.45 for band in view.bands if band.kind == "series"]
    wanted = max([_COLUMN * n for n in columns] + steps, default=0.0)
    return min(max(wanted, _WIDTH[0]), _WIDTH[1])


def _axis(view: PatientView) -> _Axis:
    """The x axis over all bands: times where any is known, else the order."""
    steps = [step for band in view.bands if band.is_ordered for step in band.steps]
    times = [step.time for step in steps if math.isfinite(step.time)]
    numbers = [n for b in view.bands if b.is_ordered for n in b.numbers]
    places = times or numbers or [0.0]
    low, high = min(places), max(places)
    margin = 0.06 * (high - low) or 0.5
    only = low if low == high else None
    is_shown = bool(times or numbers)
    return _Axis(low - margin, high + margin, only, bool(times), is_shown)


def _draw_panels(ax: Axes, panels: Sequence[Panel]) -> None:
    """All panels from top to bottom, their names at the left, a line between."""
    top = 0.0
    for place, panel in enumerate(panels):
        if place % 2:
            ax.axhspan(top, top + panel.height, color="#f6f6f6", zorder=0, lw=0)
        ax.annotate(
            shorten(panel.feature, 24),
            (0, top + 0.2),
            xycoords=ax.get_yaxis_transform(),
            xytext=(-8, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=9,
            fontweight="bold",
            annotation_clip=False,
            **PLAIN,
        )
        panel.draw(ax, top)
        top += panel.height
        if place < len(panels) - 1:
            ax.axhline(top, color="#cccccc", lw=0.6, zorder=1)


def _draw_axis(ax: Axes, axis: _Axis, time_label: str) -> None:
    ax.set_yticks([])
    strip(ax, "top", "right", "left")
    if not axis.is_shown:
        ax.set_xticks([])
        ax.spines["bottom"].set_visible(False)
        return
    if axis.only is None:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=not axis.is_time))
    else:
        ax.set_xticks([axis.only], [number(axis.only)])
    label = time_label if axis.is_time else "visit (in order; no times to go by)"
    ax.set_xlabel(label, fontsize=9, **PLAIN)
