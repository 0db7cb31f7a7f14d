"""A value, or how often a code stands in a record, against what it adds."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from captum_ehr.explanation import Explanation
from captum_ehr.scene.dependence import Column, Measured, measured
from captum_ehr.scene.history import IMPUTED
from captum_ehr.scene.palette import USUAL
from captum_ehr.scene.wording import number, population_title, several, usual_range

from .beeswarm_plot import ABSENT, SPAN, VALUES, dot_colors
from .figure_page import LINE, Looks, Page, open_page
from .keys import Dot, Part, Ramp
from .plot_arguments import check_finite, one_target

_WIDTH, _HEIGHT, _DOT = 5.5, 3.2, 18


def dependence(
    explanation: Explanation,
    column: Column,
    color: Column | None = None,
    ax: Axes | None = None,
    *,
    width: float | None = None,
    fontsize: float | None = None,
    title: bool | str = True,
    subtitle: bool | str = True,
) -> tuple[Figure, Axes]:
    """Draw a value against its attribution, one dot per sample of a cohort.

    Across is the mean of the column's values in the sample, or how often a code stands
    in its record; up is the sum of its attributions. Samples without a value are
    counted in a note, those without a code stand at 0. The usual range is shaded; dots
    are hollow where no value was measured. Where dots of one value are at several
    heights, what else is in the record matters: ``color`` shows by which.

    Args:
        explanation: The explanation.
        column: A column of values, a code, or its name; with its feature before it,
            ``("labs", "lactate")``, where several are called so.
        color: Another one, whose low (blue) and high (yellow) values or counts the
            colours are, between the 5th and the 95th percentile of the dots.
        ax: Where to draw; by default a new figure of fitting size, without pyplot.
        width: The width of a new figure in inches; its height follows.
        fontsize: The size of ordinary text in points; by default 0.8 times the
            ``font.size`` of matplotlib's style.
        title: A heading in place of this figure's own; False for none.
        subtitle: The smaller text below it, likewise.

    Returns:
        The figure and the axes; the dots are one collection, in the order of the
        samples that have a value.

    Raises:
        KeyError: If no sample has such a code or column.
        ValueError: If several are called so, samples are of different targets, an
            attribution is not finite, or there is no room.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> figure, ax = dependence(explanation, "labs[0]", color="I10")
        >>> ax.collections[0].get_offsets()[:, 0].round(1).tolist()
        [1.8, 0.9, 1.1, 2.4]
    """
    one_target(explanation)
    frame = explanation.to_frame()
    check_finite(frame)
    shown = measured(explanation, frame, column)
    other = None if color is None else measured(explanation, frame, color)
    page = open_page(ax, Looks(width, fontsize, title, subtitle), _WIDTH)
    page.reserve(0.65, 0.1, _HEIGHT * (page.width / _WIDTH) ** 0.5)
    has = np.isfinite(shown.amounts)
    key = _draw(page, shown, other, has)
    unit = explanation.target_unit or explanation.output_word
    across = f"{shown.label}, times in the record" if shown.is_count else shown.label
    page.frame(across, f"attribution ({unit})")
    without = int((~has).sum())
    notes = [f"{several(without, 'sample')} without a value"] * (without > 0)
    notes += _shade_usual(page.ax, shown)
    notes += [IMPUTED] * bool(shown.is_imputed[has].any())
    return page.finish(*population_title(explanation), key=key, notes=notes)


def _shade_usual(ax: Axes, shown: Measured) -> list[str]:
    """The usual range where it is on the axes, and what it is."""
    if shown.usual is None:
        return []
    low, high = shown.usual
    least, most = ax.get_xlim()
    if low < most and high > least:
        ends = max(low, least), min(high, most)
        ax.axvspan(*ends, color=USUAL, alpha=0.25, lw=0, zorder=0)
        ax.set_xlim(least, most)
    return [f"shaded: usual {usual_range(low, high)}"]


def _draw(
    page: Page, shown: Measured, other: Measured | None, has: np.ndarray
) -> list[Part]:
    """The dots and the line of zero; what the colours mean."""
    ax = page.ax
    ax.axhline(0, color=page.ink(LINE), lw=0.8, zorder=1)
    if shown.is_count:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    look: Any = {"s": _DOT, "zorder": 3}
    dots = shown.amounts[has], shown.sizes[has]
    amounts = other.amounts[has] if other else None
    colors = dot_colors(page, np.ones(len(dots[0]), bool), amounts)
    hollow = shown.is_imputed[has]
    behind = page.ink(0)
    pairs = [(behind, c) if empty else (c, behind) for c, empty in zip(colors, hollow)]
    faces, edges = zip(*pairs) if pairs else ((), ())
    widths = np.where(hollow, 0.8, 0.3)
    look |= {"facecolors": faces, "edgecolors": edges, "linewidths": widths}
    ax.scatter(*dots, **look)
    if other is None or amounts is None:
        return []
    known = amounts[np.isfinite(amounts)]
    name = page.fit(other.label, page.width, page.small)
    if not len(known):
        return [name, "no dot has a value of it"]
    low, high = (number(float(end)) for end in np.quantile(known, SPAN))
    times = " times" if other.is_count else ""
    ramp = Ramp(colormaps[VALUES], low, f"{high}{times}")
    none = Dot(page.ink(ABSENT), "no value of it")
    return [name, ramp, *([none] if len(known) < len(amounts) else [])]
