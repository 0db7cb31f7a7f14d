"""How a code acts in each patient of a cohort: one dot per patient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_ehr.explanation import Explanation
from captum_ehr.scene.population import CodeSamples, code_samples
from captum_ehr.scene.wording import code_labels, population_title

from .figure_page import LINE, Looks, Page, axes_size, open_page
from .keys import Dot, Part, Ramp
from .plot_arguments import of_cohort, weaker

PRESENT, ABSENT = 0.75, 0.18
"""How much ink dots of samples with and without a code have."""

VALUES = "cividis"
"""The colours from low values to high ones; the same to all eyes."""

_WIDTH, _ROW_HEIGHT, _DOT = 8.5, 1.26, 16

SPAN = (0.05, 0.95)
"""The quantiles of the values that the ends of their colours are."""

_STEP = 0.13
"""The distance of dots in a stack, in rows, where there is room."""


def cohort_beeswarm(
    explanation: Explanation,
    ax: Axes | None = None,
    *,
    k: int = 20,
    features: Iterable[str] | None = None,
    width: float | None = None,
    fontsize: float | None = None,
    title: bool | str = True,
    subtitle: bool | str = True,
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
        width: The width of a new figure in inches; its height follows.
        fontsize: The size of ordinary text in points; by default 0.8 times the
            ``font.size`` of matplotlib's style.
        title: A heading in place of this figure's own; False for none.
        subtitle: The smaller text below it, likewise.

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
    frame, table = of_cohort(explanation, k, features)
    page = open_page(ax, Looks(width, fontsize, title, subtitle), _WIDTH)
    head, lines = population_title(explanation)
    most = page.rows(k, head, lines, 6.0)
    top = table.head(most)
    height = max(_ROW_HEIGHT * page.row * len(top), 0.8)
    page.lay_rows(code_labels(top), height=height)
    rows = [
        code_samples(frame, feature, code, len(explanation))
        for feature, code in zip(top["feature"], top["code"], strict=True)
    ]
    _draw_dots(page, rows)
    page.thin_ticks()
    unit = explanation.target_unit or explanation.output_word
    page.axis_label(f"← lowers   attribution ({unit})   raises →")
    return page.finish(head, lines, key=_key(page, rows), notes=weaker(table[most:]))


def dot_colors(page: Page, has: np.ndarray, values: np.ndarray | None) -> list[Any]:
    """The colour of each dot: of its value, else of presence."""
    present, absent = page.ink(PRESENT), page.ink(ABSENT)
    if values is None:
        return [present if is_known else absent for is_known in has]
    known = values[np.isfinite(values)]
    low, high = np.quantile(known, SPAN) if len(known) else (0.0, 0.0)
    share = (np.clip(values, low, high) - low) / ((high - low) or 1.0)
    scale = colormaps[VALUES]
    # One value alone is neither low nor high.
    middle = high == low
    return [
        scale(0.5 if middle else float(part)) if is_known else absent
        for part, is_known in zip(share, has & np.isfinite(values), strict=True)
    ]


def _draw_dots(page: Page, rows: list[CodeSamples]) -> None:
    """A row of dots per code, each on a thin line, and the line of zero."""
    ax = page.ax
    whole = np.concatenate([row.sizes for row in rows])
    low, high = min(float(whole.min()), 0.0), max(float(whole.max()), 0.0)
    room = 0.05 * ((high - low) or 1.0)
    ax.set_xlim(low - room, high + room)
    span = high - low + 2 * room
    ax.axvline(0, color=page.ink(LINE), lw=0.8, zorder=1)
    ax.grid(visible=True, axis="y", color=page.ink(0.07), lw=0.8, zorder=0)
    face, absent = page.ink(0), page.ink(ABSENT)
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
            c=dot_colors(page, row.has, row.values),
            edgecolors=[face if is_there else absent for is_there in row.has],
            linewidths=0.25,
            zorder=3,
        )


def _key(page: Page, rows: list[CodeSamples]) -> list[Part]:
    """What the colours of values, and dark and pale dots, mean."""
    key: list[Part] = []
    if any(row.values is not None for row in rows):
        key.append(Ramp(colormaps[VALUES], "value low", "high"))
    if any(row.values is None or not row.has.all() for row in rows):
        key.append(Dot(page.ink(PRESENT), "has it"))
        key.append(Dot(page.ink(ABSENT), "has it not"))
    return key


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
