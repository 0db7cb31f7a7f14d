"""One patient as a table of colours: visits across, features or codes down."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from captum_ehr.visualization.axes import (
    MUTED,
    PLAIN,
    axes_size,
    code_labels,
    color_bar,
    colormap,
    label_margin,
    label_rows,
    one_axes,
    patient_title,
    rounded,
    strip,
)
from captum_ehr.visualization.choosing import (
    Patient,
    at_least_one,
    check_finite,
    of_features,
    one_of,
    one_patient,
)
from captum_ehr.visualization.colors import ColorScale
from captum_ehr.visualization.layout import number, shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from captum_ehr.explanation import Explanation

_ABSENT = "#e4e4e4"
_CELL, _NUMBERED = (0.24, 0.56), 0.42
_WIDTH, _ROW, _LEAST = (0.9, 9.5), 0.25, 1.2
_NOWHERE, _TIMED, _VISIT, _STEP = range(4)

type _Place = tuple[int, str, float]
"""Where a column stands: its kind, its feature if it has one alone, its number."""


@dataclass(frozen=True)
class _Grid:
    """Attributions by row and column.

    Args:
        cells: ``(rows, columns)``; NaN where the patient has nothing.
        rows: What to call each row.
        columns: What to call each column.
        scale: The colours, of the cells that are not a sum of what is not shown.
        is_timed: Columns are times.
    """

    cells: np.ndarray
    rows: list[str]
    columns: list[str]
    scale: ColorScale
    is_timed: bool


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
    has nothing. Features share a column where their times are the same, or, without
    times, their visits' numbers. At the right are the sums of the rows, on top those
    of the columns; rows and columns that are not shown are added up in a last one,
    so every sum is that of the explanation.

    Args:
        explanation: The explanation.
        patient: The patient's index in it, or identifier; not needed where there is
            only one.
        ax: Where to draw. Without it a figure of fitting size is made, independent
            of pyplot and its backends.
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
    one = one_patient(explanation, patient)
    frame = of_features(one.to_frame(), one, features)
    check_finite(frame)
    grid = _grid(one, frame, by, k, max_visits)
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
    # The sums on top stand upright where there is no room for them across.
    patient_title(ax, one, 14.0 if _cell_width(ax, grid) >= _NUMBERED else 34.0)
    color_bar(ax, grid.scale, one.output, gap=0.85)
    return figure, ax


def _grid(
    one: Explanation, frame: pd.DataFrame, by: str, k: int, max_visits: int
) -> _Grid:
    """The table, with what is beyond the limits added up at its end."""
    keys = ["feature", "code"] if by == "code" else ["feature"]
    places = _places(one, frame)
    columns = sorted(set(places))
    column_of = {place: i for i, place in enumerate(columns)}
    frame = frame.assign(
        _row=frame.groupby(keys, sort=False).ngroup(),
        _column=[column_of[place] for place in places],
    )
    sums = frame.groupby(["_row", "_column"])["attribution"].sum()
    cells = sums.unstack().to_numpy(dtype=float)
    first = frame.drop_duplicates(keys)
    if by == "code":
        labels = code_labels(first, 40)
    else:
        labels = [shorten(feature, 40) for feature in first["feature"]]
    rows = _strongest(cells)[:k]
    cells, labels = _fold(cells, labels, rows if by == "code" else sorted(rows))
    shown = sorted(_strongest(cells.T)[:max_visits])
    words = [_words(place) for place in columns]
    if columns == [(_NOWHERE, "", 0.0)]:
        words = ["all"]
    across, words = _fold(cells.T, words, shown)
    # What is not shown may be much: it takes no colour from the others.
    scale = ColorScale.of(across.T[: len(rows), : len(shown)].ravel().tolist())
    is_timed = any(kind == _TIMED for kind, *_ in columns)
    return _Grid(across.T, labels, words, scale, is_timed)


def _places(one: Explanation, frame: pd.DataFrame) -> list[_Place]:
    """The column of each row: its time, else its visit, else its feature's own step."""
    tokens = {key for key, record in one.features.items() if record.is_token}
    visits = frame["visit"].astype("float64").to_numpy(na_value=math.nan)
    places: list[_Place] = []
    for feature, visit, time in zip(
        frame["feature"], visits, frame["time"], strict=True
    ):
        if math.isfinite(time):
            places.append((_TIMED, "", time))
        elif math.isnan(visit):
            places.append((_NOWHERE, "", 0.0))
        # Steps of an untimed series are no visits: 3 is not the third admission.
        elif feature in tokens:
            places.append((_VISIT, "", visit))
        else:
            places.append((_STEP, feature, visit))
    return places


def _words(place: _Place) -> str:
    """What to call a column."""
    kind, feature, at = place
    if kind == _TIMED:
        return number(at)
    if kind == _NOWHERE:
        return "no visit"
    name = "visit" if kind == _VISIT else shorten(feature, 12)
    return f"{name} {int(at) + 1}"


def _strongest(cells: np.ndarray) -> list[int]:
    """The rows by the sum of absolute attributions, strongest first."""
    strength = np.nansum(np.abs(cells), axis=1)
    order: list[int] = np.argsort(-strength, kind="stable").tolist()
    return order


def _fold(
    cells: np.ndarray, labels: Sequence[str], shown: Sequence[int]
) -> tuple[np.ndarray, list[str]]:
    """The shown rows, and all others as one, with the sums that they have."""
    rest = [i for i in range(len(cells)) if i not in set(shown)]
    kept, words = cells[list(shown)], [labels[i] for i in shown]
    if not rest:
        return kept, words
    empty = np.isnan(cells[rest]).all(axis=0)
    total = np.where(empty, math.nan, np.nansum(cells[rest], axis=0))
    return np.vstack([kept, total]), [*words, f"{len(rest)} more"]


def _draw_cells(ax: Axes, grid: _Grid) -> None:
    """The coloured table; a number in each cell where there is room."""
    from matplotlib.colors import Normalize

    limit = grid.scale.limit or 1.0
    ax.set_facecolor(_ABSENT)
    ax.pcolormesh(
        np.arange(len(grid.columns) + 1) - 0.5,
        np.arange(len(grid.rows) + 1) - 0.5,
        np.ma.masked_invalid(grid.cells),
        cmap=colormap(),
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
    if _cell_width(ax, grid) < _NUMBERED:
        return
    words = rounded(np.nan_to_num(grid.cells).ravel().tolist())
    for (row, column), size in np.ndenumerate(grid.cells):
        if not math.isnan(size):
            color = grid.scale.text(size)
            ax.text(
                column,
                row,
                words[row * len(grid.columns) + column],
                ha="center",
                va="center",
                fontsize=6.5,
                color=color,
                **PLAIN,
            )


def _cell_width(ax: Axes, grid: _Grid) -> float:
    return axes_size(ax)[0] / len(grid.columns)


def _draw_sums(ax: Axes, grid: _Grid) -> None:
    """The sums of the columns on top, those of the rows at the right."""
    rotation = 0 if _cell_width(ax, grid) >= _NUMBERED else 90
    style = {"fontsize": 7, "color": MUTED, "annotation_clip": False, **PLAIN}
    across = rounded(np.nansum(grid.cells, axis=0).tolist(), grid.scale.limit)
    for column, total in enumerate(across):
        ax.annotate(
            total,
            (column, -0.5),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            rotation=rotation,
            **style,
        )
    down = rounded(np.nansum(grid.cells, axis=1).tolist(), grid.scale.limit)
    for row, total in enumerate(down):
        ax.annotate(
            total,
            (len(grid.columns) - 0.5, row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            **style,
        )
    ax.annotate(
        "sum",
        (len(grid.columns) - 0.5, -0.5),
        xytext=(6, 4),
        textcoords="offset points",
        va="bottom",
        fontweight="bold",
        **style,
    )
