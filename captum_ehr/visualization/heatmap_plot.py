"""One patient as a table of colours: visits across, features or codes down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_ehr.explanation import Explanation
from captum_ehr.scene.patient import patient_scene
from captum_ehr.scene.tables import heatmap_grid
from captum_ehr.scene.wording import rounded

from .color_table import (
    column_sums,
    draw_cells,
    draw_circles,
    label_columns,
    row_sums,
    sums_wide,
)
from .figure_page import Looks, open_page
from .keys import scale_key
from .plot_arguments import (
    Patient,
    at_least_one,
    check_finite,
    of_features,
    one_of,
    one_patient,
)

_WIDTH, _CELL = (6.5, 12.5), 0.45


def heatmap(
    explanation: Explanation,
    patient: Patient = None,
    ax: Axes | None = None,
    *,
    by: Literal["feature", "code"] = "feature",
    k: int = 30,
    max_visits: int = 30,
    features: Iterable[str] | None = None,
    bins: int | None = None,
    values: bool | None = None,
    time_label: str = "time",
    width: float | None = None,
    fontsize: float | None = None,
    title: bool | str = True,
    subtitle: bool | str = True,
) -> tuple[Figure, Axes]:
    """Draw one patient's visits against features, or against the strongest codes.

    Red raises the output, blue lowers it, white is zero; pale grey is where the patient
    has nothing, a circle stands where no value was measured. Features share a column
    where their times are the same, or, without times, their visits' numbers; where
    codes and values are of different times, or there are many, ``bins`` puts them into
    equal stretches of time. At the right are the sums of the rows, on top those of the
    columns; rows and columns that are not shown are added up in a last one without
    colour, so every sum is that of the explanation.

    Args:
        explanation: The explanation.
        patient: An index or identifier; needed where there are several.
        ax: Where to draw; by default a new figure of fitting size, without pyplot.
        by: What a row is.
        k: The most rows before the rest is one; fewer where axes are given that have
            no room for them.
        max_visits: The most columns before the rest is one; the strongest are shown,
            in order. With ``bins``, no column is left out.
        features: The features to show; by default all.
        bins: How many stretches of equal length the times are put into, or of as many
            visits where there are no times; sums are kept.
        values: Whether each cell has its number, so that a grey print keeps the sign;
            by default where all numbers have room.
        time_label: The words under the x axis where it is time, e.g. ``"days"``.
        width: The width of a new figure in inches; its height follows.
        fontsize: The size of ordinary text in points; by default 0.8 times the
            ``font.size`` of matplotlib's style.
        title: A heading in place of this figure's own; False for none.
        subtitle: The smaller text below it, likewise.

    Returns:
        The figure and the axes.

    Raises:
        IndexError: If there is no patient of that index.
        KeyError: If there is none of that identifier, or no feature of a name.
        ValueError: If it is not said which of several patients, there is nothing to
            show, an attribution is not finite, a limit is less than 1, ``by`` is
            unknown, or there is no room for a figure or for ``values=True``.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> figure, ax = heatmap(explanation, "p2", by="code")
        >>> sorted(label.get_text() for label in ax.get_yticklabels())
        ['E11.9', 'labs[0]', 'labs[1]']
    """
    at_least_one(k=k, max_visits=max_visits, bins=1 if bins is None else bins)
    one_of("by", by, ("feature", "code"))
    looks = Looks(width, fontsize, title, subtitle)
    explanation = one_patient(explanation, patient)
    frame = of_features(explanation.to_frame(), explanation, features)
    check_finite(frame)
    scene = patient_scene(explanation)
    page = open_page(ax, looks, _WIDTH[0])
    most = page.rows(k, scene.head, scene.lines, 9.0, 1)
    grid = heatmap_grid(explanation, frame, by, most, max_visits, bins)
    if page.is_own and width is None:
        wanted = 4.0 + _CELL * len(grid.columns)
        page.figure.set_figwidth(min(max(wanted, _WIDTH[0]), _WIDTH[1]))
    down = rounded(np.nansum(grid.cells, axis=1).tolist(), grid.scale.limit)
    across = np.nansum(grid.cells, axis=0).tolist()
    height = page.row * max(len(grid.rows), 2.5)
    page.lay_rows(grid.rows, sums_wide(page, down), height)
    draw_cells(page, grid.cells, grid.scale, grid.shown, values)
    draw_circles(page, np.argwhere(grid.imputed))
    label_columns(page, grid.columns)
    column_sums(page, across, rounded(across, grid.scale.limit))
    row_sums(page, down, len(grid.columns))
    if grid.is_timed:
        page.axis_label(time_label)
    key = scale_key(grid.scale, scene.measure)
    notes = ["○ not measured"] if grid.imputed.any() else []
    return page.finish(scene.head, [*scene.lines, *notes], key=key)
