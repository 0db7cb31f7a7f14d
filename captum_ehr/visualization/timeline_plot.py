"""One patient's history as a figure: visits on true time, codes and labs coloured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_ehr.explanation import Explanation
from captum_ehr.scene.patient import Axis, PatientScene, patient_scene
from captum_ehr.scene.wording import number

from .chips import Canvas, ChipRows, ChipsOverTime, Limits, Panel
from .figure_page import Looks, Page, open_page
from .keys import scale_key
from .plot_arguments import (
    Patient,
    Ranges,
    at_least_one,
    one_patient,
    with_reference,
)
from .value_lines import ValueLines, names_room, names_wide

_COLUMN, _STEP, _BESIDE = 1.7, 0.45, 2.2
_WIDTH = (8.5, 16.5)


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
    values: bool = False,
    width: float | None = None,
    fontsize: float | None = None,
    title: bool | str = True,
    subtitle: bool | str = True,
) -> tuple[Figure, Axes]:
    """Draw one patient: a band per feature, a chip per code, a line per lab.

    The x axis is the time of the visits, or their order where no time is known, or the
    times are no clock (see :meth:`captum_ehr.Explanation.with_times`). Chips hang from
    their visit's dot, strongest first, side by side where visits are too close for
    their chips; a name stands below its code. Red raises the output, blue lowers it;
    codes and values share one colour scale. Long histories fold: the strongest visits
    have chips, the others only a dot with the colour of their sum, and what is not
    shown is counted. Usual ranges are shaded, and values outside of them have an arrow;
    what was not measured is a small hollow dot without a number.

    Args:
        explanation: The explanation.
        patient: An index or identifier; needed where there are several.
        ax: Where to draw; by default a new figure of fitting size, without pyplot.
        max_visits: The most visits per feature that get chips, as far as there is room;
            the figure says what it leaves out.
        max_codes: The most chips per visit; fewer where axes are given that have no
            room for them.
        max_values: The most lines per continuous feature, likewise.
        time_label: The words under the x axis where it is time, e.g. ``"days"``.
        reference: Usual ranges ``(low, high)`` of columns in place of the explanation's
            own (:meth:`captum_ehr.Explanation.with_ranges`), infinite where there is no
            bound, e.g. ``{"creatinine": (0.6, 1.2)}``; under a feature's key may stand
            a table of its own.
        values: Whether each attribution is written as a number, on chips and below
            dots as far as there is room, so that a grey print keeps the sign.
        width: The width of a new figure in inches; its height follows.
        fontsize: The size of ordinary text in points; by default 0.8 times the
            ``font.size`` of matplotlib's style.
        title: A heading in place of this figure's own; False for none.
        subtitle: The smaller text below it, likewise.

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
    explanation = with_reference(one_patient(explanation, patient), reference)
    scene = patient_scene(explanation, time_label=time_label)
    if not scene.bands:
        raise ValueError(f"nothing to show: {scene.patient_id!r} has no code or value.")
    looks = Looks(width, fontsize, title, subtitle)
    page = open_page(ax, looks, _width(scene, max_visits))
    limits = Limits(max_visits, max_codes, max_values)
    left = _beside(page, _panels(page, scene, limits, values))
    page.reserve(left, 0.12, 1.0)
    panels = _fitting(page, scene, limits, values)
    height = max(sum(panel.height for panel in panels), 0.5)
    page.reserve(left, 0.12, height)
    ax = page.ax
    ax.grid(visible=False)
    ax.set_xlim(scene.axis.low, scene.axis.high)
    ax.set_ylim(height, 0.0)
    _draw_panels(page, panels)
    _draw_axis(page, scene.axis)
    key = scale_key(scene.scale, scene.measure)
    figure, ax = page.finish(scene.head, scene.lines, key=key)
    # The unit of the y axis is an inch, also in axes that have more of them.
    ax.set_ylim(max(height, page.inner[1]), 0.0)
    return figure, ax


def _width(scene: PatientScene, max_visits: int) -> float:
    """The figure's width in inches: room for the widest band's chips."""
    wanted = [
        _COLUMN * min(len(band.steps), max_visits)
        for band in scene.bands
        if band.kind == "codes" and band.is_ordered
    ]
    wanted += [_STEP * len(b.steps) for b in scene.bands if b.kind == "series"]
    return min(max([_WIDTH[0], *(_BESIDE + one for one in wanted)]), _WIDTH[1])


def _panels(
    page: Page, scene: PatientScene, limits: Limits, values: bool
) -> list[Panel]:
    """The panel of each band of a patient."""
    axis = scene.axis
    canvas = Canvas(axis.low, axis.high - axis.low, page.inner[0])
    panels: list[Panel] = []
    for band in scene.bands:
        common = (page, band, canvas, scene.scale, limits, values)
        if not band.is_ordered:
            panels.append(ChipRows(*common))
            continue
        kind = ChipsOverTime if band.kind == "codes" else ValueLines
        panels.append(kind(*common, *axis.places(band)))
    return panels


def _beside(page: Page, panels: list[Panel]) -> float:
    """The inches that the names of features and columns take at the left."""
    names = [_band_name(page, panel) for panel in panels]
    wide = [names_wide(page, one) for one in panels if isinstance(one, ValueLines)]
    return max(page.widest(names, page.size, "bold"), *wide, 0.0) + 8 / 72


def _band_name(page: Page, panel: Panel) -> str:
    return page.fit(panel.band.feature, names_room(page), page.size, "bold")


def _fitting(
    page: Page, scene: PatientScene, limits: Limits, values: bool
) -> list[Panel]:
    """The panels, with fewer chips and lines where the axes given are not as high."""
    free = page.free(scene.head, scene.lines, 6.0)
    while True:
        panels = _panels(page, scene, limits, values)
        height = sum(panel.height for panel in panels)
        if height <= free:
            return panels
        codes, lines = limits.max_codes, limits.max_values
        if max(codes, lines) == 1:
            raise ValueError(
                f"there is no room: this patient's timeline needs {height:.1f} inches, "
                f"and the axes have {max(free, 0):.1f}. Give higher axes, a smaller "
                "fontsize, or title=False and subtitle=False."
            )
        fewer = (
            {"max_codes": codes - 1} if codes >= lines else {"max_values": lines - 1}
        )
        limits = replace(limits, **fewer)


def _draw_panels(page: Page, panels: list[Panel]) -> None:
    """All panels from top to bottom, their names at the left, a line between."""
    ax, top = page.ax, 0.0
    style: Any = {"fontweight": "bold", "ha": "right", "va": "center"}
    style |= {"size": page.size, "coords": ax.get_yaxis_transform()}
    for rank, panel in enumerate(panels):
        if rank % 2:
            ax.axhspan(top, top + panel.height, color=page.ink(0.035), zorder=0, lw=0)
        name, place = _band_name(page, panel), (0, top + 0.2 * panel.unit)
        page.label(name, place, (-8, 0), **style)
        panel.draw(ax, top)
        top += panel.height
        if rank < len(panels) - 1:
            ax.axhline(top, color=page.ink(0.2), lw=0.6, zorder=1)


def _draw_axis(page: Page, axis: Axis) -> None:
    ax = page.ax
    ax.set_yticks([])
    page.strip("top", "right", "left")
    if not axis.is_shown:
        ax.set_xticks([])
        ax.spines["bottom"].set_visible(False)
        return
    page.thin_ticks(known=[(place, number(place)) for place in axis.ticks])
    page.axis_label(axis.label)
