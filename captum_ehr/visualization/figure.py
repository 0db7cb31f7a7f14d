"""The figure of a timeline: its size, axis, title and colour bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from captum_ehr.visualization import colors
from captum_ehr.visualization.canvas import Canvas
from captum_ehr.visualization.layout import Limits, PatientView, patient_view, shorten
from captum_ehr.visualization.panels import Panel, plan_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from captum_ehr.explanation import Explanation

_LEFT, _RIGHT, _TOP, _BOTTOM = 1.75, 1.15, 0.85, 0.5
_COLUMN = 1.25
_WIDTH = (6.5, 14.5)


@dataclass(frozen=True)
class _Axis:
    """The shared x axis: its values, and whether they are times."""

    low: float
    high: float
    is_time: bool
    is_shown: bool


def draw(
    explanation: Explanation,
    patient: int,
    ax: Axes | None,
    limits: Limits,
    time_label: str,
) -> tuple[Figure, Axes]:
    """Draw a timeline; see :func:`captum_ehr.visualization.timeline`."""
    view = patient_view(explanation, patient)
    axis = _axis(view)
    width = _width(view, limits.max_visits) if ax is None else _axes_width(ax)
    span = axis.high - axis.low
    canvas = Canvas(axis.low, span, width)
    panels = plan_panels(view, canvas, limits)
    height = max(sum(panel.height for panel in panels), 1.5)
    figure, ax = _place(width, height) if ax is None else (_figure_of(ax), ax)
    ax.set_xlim(axis.low, axis.high)
    ax.set_ylim(height, 0.0)
    _draw_panels(ax, panels)
    if not panels:
        ax.text(0.5, 0.5, "no codes or values", transform=ax.transAxes, ha="center")
    _draw_axis(ax, axis, time_label)
    _draw_title(ax, explanation, view)
    _draw_scale(figure, ax, view)
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


def _axes_width(ax: Axes) -> float:
    box = ax.get_position()
    return float(box.width * _figure_of(ax).get_size_inches()[0])


def _figure_of(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("ax belongs to no figure; give axes of a figure.")
    return figure


def _place(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of its own, with axes of the given size in inches."""
    whole = (_LEFT + width + _RIGHT, _TOP + height + _BOTTOM)
    figure = Figure(figsize=whole, facecolor="white")
    FigureCanvasAgg(figure)
    box = (_LEFT / whole[0], _BOTTOM / whole[1], width / whole[0], height / whole[1])
    return figure, figure.add_axes(box)


def _axis(view: PatientView) -> _Axis:
    """The x axis over all bands: times where any is known, else visit numbers."""
    steps = [step for band in view.bands if band.is_ordered for step in band.steps]
    times = [step.time for step in steps if math.isfinite(step.time)]
    numbers = [float(step.visit) + 1 for step in steps if step.visit is not None]
    places = times or numbers or [0.0]
    low, high = min(places), max(places)
    margin = 0.06 * (high - low) or 0.5
    return _Axis(low - margin, high + margin, bool(times), bool(times or numbers))


def _draw_panels(ax: Axes, panels: Sequence[Panel]) -> None:
    """All panels from top to bottom, their names at the left, a line between."""
    top = 0.0
    for number, panel in enumerate(panels):
        if number % 2:
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
            parse_math=False,
            annotation_clip=False,
        )
        panel.draw(ax, top)
        top += panel.height
        if number < len(panels) - 1:
            ax.axhline(top, color="#cccccc", lw=0.6, zorder=1)


def _draw_axis(ax: Axes, axis: _Axis, time_label: str) -> None:
    ax.set_yticks([])
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(labelsize=8, color="#888888")
    if not axis.is_shown:
        ax.set_xticks([])
        ax.spines["bottom"].set_visible(False)
        return
    ax.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=not axis.is_time))
    label = time_label if axis.is_time else "visit (in order; no times known)"
    ax.set_xlabel(label, fontsize=9, parse_math=False)


def _draw_title(ax: Axes, explanation: Explanation, view: PatientView) -> None:
    """What was explained, f(x0) → f(x), completeness and what is to be reported."""
    model = f"{shorten(explanation.model_name, 30)}: " if explanation.model_name else ""
    baseline = f" ({shorten(explanation.baseline, 20)})" if explanation.baseline else ""
    head = (
        f"{shorten(view.patient_id, 40)} | {model}{view.output} of "
        f"{shorten(view.target, 40)}"
    )
    account = (
        f"f(x0){baseline} {view.f_baseline:.3f} → f(x) {view.f_input:.3f}   "
        f"sum of attributions {view.total:+.3f}   "
        f"completeness: |delta| / |f(x) - f(x0)| = {view.relative_delta:.1g}"
    )
    lines = [account]
    messages = explanation.diagnostics.messages
    if messages:
        more = f" (+{len(messages) - 1} more)" if len(messages) > 1 else ""
        lines.append("! " + shorten(messages[0], 100) + more)
    below = len(lines) * 13 + 5
    ax.set_title(
        head,
        loc="left",
        fontsize=11,
        fontweight="bold",
        pad=below + 5,
        parse_math=False,
    )
    ax.annotate(
        "\n".join(lines),
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 8),
        textcoords="offset points",
        va="bottom",
        fontsize=8.5,
        color="#444444",
        parse_math=False,
        annotation_clip=False,
        linespacing=1.4,
    )


def _draw_scale(figure: Figure, ax: Axes, view: PatientView) -> None:
    """The colour bar, symmetric about zero."""
    limit = view.scale.limit or 1.0
    colormap = LinearSegmentedColormap.from_list("attribution", colors.STOPS)
    mappable = ScalarMappable(Normalize(-limit, limit), colormap)
    # In inches from the axes' right edge, whatever the figure's size.
    width = _axes_width(ax)
    height = ax.get_position().height * figure.get_size_inches()[1]
    tall = min(height - 0.4, 2.6)
    place = ax.inset_axes(
        (1 + 0.2 / width, 1 - (tall + 0.2) / height, 0.14 / width, tall / height)
    )
    bar = figure.colorbar(mappable, cax=place)
    bar.set_label(f"attribution ({view.output})", fontsize=7.5)
    ends = ((1.0, "raises", "bottom", 3), (0.0, "lowers", "top", -3))
    for end, word, side, away in ends:
        bar.ax.annotate(
            word,
            (0, end),
            xycoords="axes fraction",
            xytext=(0, away),
            textcoords="offset points",
            va=side,
            fontsize=7.5,
        )
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_linewidth(0.4)
