"""One patient as a table of colours: visits across, features or codes down."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from captum_ehr.explanation import Explanation
from captum_ehr.scene.patient import patient_scene
from captum_ehr.scene.tables import Grid, heatmap_grid
from captum_ehr.scene.wording import rounded
from captum_ehr.visualization.axes import (
    COLORMAP,
    MUTED,
    PLAIN,
    axes_size,
    color_bar,
    label,
    label_margin,
    label_rows,
    one_axes,
    strip,
    write_title,
)
from captum_ehr.visualization.plot_arguments import (
    Patient,
    at_least_one,
    check_finite,
    of_features,
    one_of,
    one_patient,
)

_ABSENT = "#e4e4e4"
_CELL, _NUMBERED = (0.24, 0.56), 0.42
_WIDTH, _ROW, _LEAST = (0.9, 9.5), 0.25, 1.2


def heatmap(
    explanation: Explanation,
    patient: Patient = None,
    ax: Axes | None = None,
    *,
    by: Literal["feature", "code"] = "feature",
    k: int = 30,
    max_visits: int = 30,
    features: Iterable[str] | None = None,
    time_label: str = "time",
) -> tuple[Figure, Axes]:
    """Draw one patient's visits against features, or against the strongest codes.

    Red raises the output, blue lowers it, white is zero; grey is where the patient
    has nothing, a circle stands where no value was measured. Features share a column
    where their times are the same, or, without times, their visits' numbers. At the
    right are the sums of the rows, on top those of the columns; rows and columns that
    are not shown are added up in a last one,
    so every sum is that of the explanation.

    Args:
        explanation: The explanation.
        patient: An index or identifier; needed where there are several.
        ax: Where to draw; by default a new figure of fitting size, without pyplot.
        by: What a row is.
        k: The most rows before the rest is one.
        max_visits: The most columns before the rest is one; the strongest are shown,
            in order.
        features: The features to show; by default all.
        time_label: The words under the x axis where it is time, e.g. ``"days"``.

    Returns:
        The figure and the axes.

    Raises:
        IndexError: If there is no patient of that index.
        KeyError: If there is none of that identifier, or no feature of a name.
        ValueError: If it is not said which of several patients, there is nothing to
            show, an attribution is not finite, a limit is less than 1, or ``by`` is
            unknown.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> figure, ax = heatmap(explanation, "p2", by="code")
        >>> sorted(label.get_text() for label in ax.get_yticklabels())
        ['E11.9', 'labs[0]', 'labs[1]']
    """
    at_least_one(k=k, max_visits=max_visits)
    one_of("by", by, ("feature", "code"))
    explanation = one_patient(explanation, patient)
    frame = of_features(explanation.to_frame(), explanation, features)
    check_finite(frame)
    grid = heatmap_grid(explanation, frame, by, k, max_visits)
    cell = min(max(_WIDTH[1] / len(grid.columns), _CELL[0]), _CELL[1])
    width = min(max(cell * len(grid.columns), _WIDTH[0]), _WIDTH[1])
    bottom = 0.6 + 0.066 * max(map(len, grid.columns))
    margins = (label_margin(grid.rows), 1.75, 1.35, bottom)
    height = max(_ROW * len(grid.rows), _LEAST)
    figure, ax = one_axes(ax, width, height, margins)
    _draw_cells(ax, grid)
    _draw_sums(ax, grid)
    if grid.is_timed:
        ax.set_xlabel(time_label, fontsize=9, **PLAIN)
    scene = patient_scene(explanation)
    # The sums on top stand upright where there is no room for them across.
    above = 14.0 if _cell_width(ax, grid) >= _NUMBERED else 34.0
    notes = ["○ not measured"] if grid.imputed.any() else []
    write_title(ax, scene.head, [*scene.lines, *notes], above)
    color_bar(ax, grid.scale, scene.measure, gap=0.85)
    return figure, ax


def _draw_cells(ax: Axes, grid: Grid) -> None:
    """The coloured table; a number in each cell where there is room."""
    limit = grid.scale.limit or 1.0
    ax.set_facecolor(_ABSENT)
    ax.pcolormesh(
        np.arange(len(grid.columns) + 1) - 0.5,
        np.arange(len(grid.rows) + 1) - 0.5,
        np.ma.masked_invalid(grid.cells),
        cmap=COLORMAP,
        norm=Normalize(-limit, limit),
        edgecolors="white",
        linewidth=0.8,
    )
    label_rows(ax, grid.rows)
    ax.set_ylim(len(grid.rows) - 0.5, -0.5)
    is_wide = _cell_width(ax, grid) >= 0.07 * max(map(len, grid.columns))
    ax.set_xticks(
        range(len(grid.columns)), grid.columns, rotation=0 if is_wide else 90, **PLAIN
    )
    strip(ax, "top", "right", "left", "bottom")
    ax.tick_params(axis="both", length=0)
    hollow = np.argwhere(grid.imputed) - (0.32, 0.36)
    look: Any = {"s": 7, "c": "white", "edgecolors": "#555555", "linewidths": 0.6}
    ax.scatter(hollow[:, 1], hollow[:, 0], **look)
    if _cell_width(ax, grid) < _NUMBERED:
        return
    style = {"ha": "center", "va": "center", "fontsize": 6.5, **PLAIN}
    words = iter(rounded(np.nan_to_num(grid.cells).ravel().tolist()))
    for ((row, column), size), text in zip(np.ndenumerate(grid.cells), words):
        if not math.isnan(size):
            ax.text(column, row, text, color=grid.scale.text(size), **style)


def _cell_width(ax: Axes, grid: Grid) -> float:
    return axes_size(ax)[0] / len(grid.columns)


def _draw_sums(ax: Axes, grid: Grid) -> None:
    """The sums of the columns on top, those of the rows at the right."""
    rotation = 0 if _cell_width(ax, grid) >= _NUMBERED else 90
    style: dict[str, Any] = {"size": 7, "color": MUTED}
    right, limit = len(grid.columns) - 0.5, grid.scale.limit
    across = rounded(np.nansum(grid.cells, axis=0).tolist(), limit)
    for column, total in enumerate(across):
        look = {"ha": "center", "va": "bottom", "rotation": rotation, **style}
        label(ax, total, (column, -0.5), (0, 4), **look)
    down = rounded(np.nansum(grid.cells, axis=1).tolist(), limit)
    for row, total in enumerate(down):
        label(ax, total, (right, row), (6, 0), va="center", **style)
    label(ax, "sum", (right, -0.5), (6, 4), va="bottom", fontweight="bold", **style)
