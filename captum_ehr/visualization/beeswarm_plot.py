"""How a code acts in each patient of a cohort: one dot per patient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from captum_ehr.explanation import Explanation
from captum_ehr.scene.population import CodeSamples, code_samples
from captum_ehr.scene.wording import code_labels, population_title, signed
from captum_ehr.visualization.axes import (
    axes_size,
    figure_of,
    footnote,
    label_margin,
    label_rows,
    one_axes,
    strip,
    write_title,
)
from captum_ehr.visualization.plot_arguments import (
    at_least_one,
    check_finite,
    of_features,
    one_target,
)

PRESENT, ABSENT = "#404040", "#d0d0d0"
"""The colours of samples with and without a code."""

VALUES = "cividis"
"""The colours from low values to high ones; the same to all eyes."""

_WIDTH, _ROW_HEIGHT, _DOT = 6.6, 0.34, 16
_SPAN = (0.05, 0.95)

_STEP = 0.13
"""The distance of dots in a stack, in rows, where there is room."""


def cohort_beeswarm(
    explanation: Explanation,
    ax: Axes | None = None,
    *,
    k: int = 20,
    features: Iterable[str] | None = None,
) -> tuple[Figure, Axes]:
    """Draw the strongest codes of a cohort with one dot per sample.

    A dot stands at the sum of the code's attributions in the sample. Codes: dark
    where the sample has the code, pale at zero where it has not. Values: coloured
    from the column's low values (blue) to its high ones (yellow) by their mean in
    the sample, between the 5th and the 95th percentile of the cohort. Red and blue
    are not used here: right raises, left lowers.

    Args:
        explanation: The explanation.
        ax: Where to draw; by default a new figure of fitting size, without pyplot.
        k: How many codes, by the mean absolute attribution over all samples; the
            others are added up in a note below.
        features: The features to show; by default all.

    Returns:
        The figure and the axes. Each row is one collection of dots, in the order of
        the samples.

    Raises:
        KeyError: If there is no such feature.
        ValueError: If samples are of different targets, ``k`` is less than 1, an
            attribution is not finite, or there is nothing to show.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> figure, ax = cohort_beeswarm(explanation, features=["labs"])
        >>> [len(row.get_offsets()) for row in ax.collections]
        [4, 4]
    """
    at_least_one(k=k)
    one_target(explanation)
    frame = of_features(explanation.to_frame(), explanation, features)
    check_finite(frame)
    table = of_features(explanation.top(None), explanation, features)
    top, rest = table.head(k), table[k:]
    labels = code_labels(top)
    margins = (label_margin(labels), 1.1, 0.75, 0.85)
    height = max(_ROW_HEIGHT * len(labels), 1.0)
    figure, ax = one_axes(ax, _WIDTH, height, margins)
    label_rows(ax, labels)
    rows = [
        code_samples(frame, feature, code, len(explanation))
        for feature, code in zip(top["feature"], top["code"], strict=True)
    ]
    _draw_dots(ax, rows)
    unit = explanation.target_unit or explanation.output_word
    ax.set_xlabel(f"← lowers     attribution ({unit})     raises →", fontsize=9)
    if any(row.values is not None for row in rows):
        _value_bar(ax)
    if any(row.values is None or not row.has.all() for row in rows):
        _presence_key(ax)
    if len(rest):
        footnote(
            ax,
            f"+{len(rest)} more codes or columns, weaker: mean together "
            f"{signed(rest['mean'].sum(), 3)}",
        )
    write_title(ax, *population_title(explanation))
    return figure, ax


def dot_colors(has: np.ndarray, values: np.ndarray | None) -> list[Any]:
    """The colour of each dot: of its value, else of presence."""
    if values is None:
        return [PRESENT if is_known else ABSENT for is_known in has]
    known = values[np.isfinite(values)]
    low, high = np.quantile(known, _SPAN) if len(known) else (0.0, 0.0)
    share = (np.clip(values, low, high) - low) / ((high - low) or 1.0)
    scale = colormaps[VALUES]
    # One value alone is neither low nor high.
    middle = high == low
    return [
        scale(0.5 if middle else float(part)) if is_known else ABSENT
        for part, is_known in zip(share, has & np.isfinite(values), strict=True)
    ]


def _draw_dots(ax: Axes, rows: list[CodeSamples]) -> None:
    """A row of dots per code, each on a thin line, and the line of zero."""
    whole = np.concatenate([row.sizes for row in rows])
    low, high = min(float(whole.min()), 0.0), max(float(whole.max()), 0.0)
    room = 0.05 * ((high - low) or 1.0)
    ax.set_xlim(low - room, high + room)
    span = high - low + 2 * room
    ax.axvline(0, color="#999999", lw=0.8, zorder=1)
    ax.grid(axis="y", color="#eeeeee", lw=0.8, zorder=0)
    ax.set_axisbelow(True)
    strip(ax, "top", "right", "left")
    width = _DOT**0.5 / 72 / axes_size(ax)[0]
    for place, row in enumerate(rows):
        # Those that have it in the middle of each stack and on top.
        order = np.argsort(~row.has, kind="stable")
        offsets = np.empty(len(order))
        shares = (row.sizes - low + room) / span
        offsets[order] = swarm(shares[order], width, 0.8)
        ax.scatter(
            row.sizes,
            place + offsets,
            s=_DOT,
            c=dot_colors(row.has, row.values),
            edgecolors=["white" if is_there else ABSENT for is_there in row.has],
            linewidths=0.25,
            zorder=3,
        )


def _value_bar(ax: Axes) -> None:
    """What the colours of values mean."""
    width, height = axes_size(ax)
    tall = min(0.5 * height, 1.6)
    place = (1 + 0.15 / width, 1 - tall / height, 0.12 / width, tall / height)
    side = ax.inset_axes(place)
    bar = figure_of(ax).colorbar(ScalarMappable(cmap=VALUES), cax=side)
    bar.set_ticks([0, 1], labels=["low", "high"], fontsize=7.5)
    bar.set_label("value", fontsize=7.5, labelpad=-8)
    bar.outline.set_linewidth(0.4)


def _presence_key(ax: Axes) -> None:
    """What dark and pale dots mean."""
    size = _DOT**0.5
    dots = [
        Line2D([], [], marker="o", ls="", ms=size, color=color, label=label)
        for color, label in ((PRESENT, "has it"), (ABSENT, "has it not"))
    ]
    place: Any = {"loc": "lower left", "bbox_to_anchor": (1, 0), "borderaxespad": 0}
    ax.legend(handles=dots, fontsize=7.5, frameon=False, handletextpad=0.1, **place)


def swarm(places: Sequence[float] | np.ndarray, size: float, room: float) -> np.ndarray:
    """How far to move each dot off its row, so that those nearby can be seen.

    Dots whose places fall into one bin of the dots' width stand in a stack about the
    row, the first in its middle; a stack that is taller than the room is pressed
    together. Places, 0 to 1, and the dots' size are in widths of the axes, the room and
    what is returned in rows.

    Example:
        >>> swarm([0.1, 0.1, 0.1, 0.9], 0.02, 0.8).round(2).tolist()
        [0.0, 0.13, -0.13, 0.0]
    """
    bins = np.floor(np.asarray(places, dtype=float) / size).astype(int)
    offsets = np.zeros(len(bins))
    for place in np.unique(bins):
        members = np.flatnonzero(bins == place)
        # 0, 1, -1, 2, -2 … from the middle outwards.
        order = np.arange(len(members))
        steps = (order + 1) // 2 * np.where(order % 2, 1, -1)
        reach = max(len(members) // 2, 1)
        offsets[members] = steps * min(_STEP, room / 2 / reach)
    return offsets
