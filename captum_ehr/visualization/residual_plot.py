"""Whether the attributions of a cohort add up, before any rescaling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_ehr.explanation import Explanation
from captum_ehr.scene.population import Residuals

from .beeswarm_plot import swarm
from .figure_page import BAR, FRACTION, MUTED, Looks, Page, axes_size, open_page
from .plot_arguments import at_least_one

BEYOND = "#d55e00"
"""The colour of patients beyond the tolerance."""

_WIDTH, _ROW_HEIGHT, _DOT = 8.5, 3.2, 18


def completeness(
    explanations: Explanation | Mapping[str, Explanation],
    ax: Axes | None = None,
    *,
    tolerance: float = 1e-3,
    max_named: int = 6,
    width: float | None = None,
    fontsize: float | None = None,
    title: bool | str = True,
    subtitle: bool | str = True,
) -> tuple[Figure, Axes]:
    """Draw how far each patient's attributions miss f(x) - f(x0), on a log scale.

    A dot is the raw ``|delta| / |f(x) - f(x0)|`` of a sample, measured before any
    rescaling: :attr:`captum_ehr.Explanation.relative_delta`. Those that miss nothing
    stand at the left edge, those that miss something although the output did not
    change, or whose delta is not a number, at the right one. Samples beyond the
    tolerance are diamonds and named.

    Args:
        explanations: One explanation, or several by the names to show.
        ax: Where to draw; by default a new figure of fitting size, without pyplot.
        tolerance: The part of the change that may be missing. What is beyond it is
            beyond the rounding that ``completeness="rescale"`` will polish.
        max_named: The most samples named in each row, as far as there is room; the
            others are counted.
        width: The width of a new figure in inches; its height follows.
        fontsize: The size of ordinary text in points; by default 0.8 times the
            ``font.size`` of matplotlib's style.
        title: A heading in place of this figure's own; False for none.
        subtitle: The smaller text below it, likewise.

    Returns:
        The figure and the axes. Each row is a collection of dots within the
        tolerance and one beyond it.

    Raises:
        ValueError: If there is no explanation or one has no sample, the tolerance is
            not above 0, or ``max_named`` is less than 1.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> figure, ax = completeness(explanation)
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['MLP']
    """
    at_least_one(max_named=max_named)
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}, expected more than 0.")
    if not isinstance(explanations, Mapping):
        explanations = {explanations.model_name or "model": explanations}
    rows = [
        Residuals.of(name, explanation, tolerance)
        for name, explanation in explanations.items()
    ]
    if not rows:
        raise ValueError("nothing to show: there is no explanation.")
    page = open_page(ax, Looks(width, fontsize, title, subtitle), _WIDTH)
    height = max(_ROW_HEIGHT * page.row * len(rows), 1.1)
    page.lay_rows([row.name for row in rows], height=height, share=0.3)
    _draw_rows(page, rows, tolerance, max_named)
    beyond = sum(int(row.beyond.sum()) for row in rows)
    samples = sum(len(row.sizes) for row in rows)
    line = (
        f"{samples} samples, {beyond or 'none'} beyond the tolerance of {tolerance:g}; "
        "raw, before any rescaling"
    )
    return page.finish("Do the attributions add up to f(x) - f(x0)?", [line])


def _draw_rows(
    page: Page, rows: list[Residuals], tolerance: float, max_named: int
) -> None:
    """The axis, the tolerance, the dots and the names of those beyond it."""
    ax = page.ax
    whole = np.concatenate([row.sizes for row in rows])
    known = np.append(whole[np.isfinite(whole) & (whole > 0)], tolerance)
    low, high = np.floor(np.log10([known.min(), known.max()])) + [0, 1]
    has_none, has_all = bool((whole == 0).any()), bool(np.isinf(whole).any())
    edges = 10.0 ** (low - has_none * 1.0), 10.0 ** (high + has_all * 1.0)
    ax.set_xscale("log")
    ax.set_xlim(*edges)
    ax.axvspan(tolerance, edges[1], color=page.ink(0.05), lw=0, zorder=0)
    ax.axvline(tolerance, color=BEYOND, lw=1.0, ls="--", zorder=1)
    _write_tolerance(page, tolerance)
    box = {"facecolor": page.ink(0), "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
    style: Any = {"color": page.ink(MUTED), "va": "center"}
    style |= {"coords": (FRACTION, "data"), "zorder": 4, "bbox": box}
    for place, row in enumerate(rows):
        _draw_dots(page, place, row, edges)
        words = _account(page, row, max_named)
        page.label(words, (0, place + 0.42), (3, 0), **style)
    _draw_axis(page, int(low), int(high), has_none, has_all)


def _write_tolerance(page: Page, tolerance: float) -> None:
    """What the dashed line is, on the side that has more room, above the dots."""
    ax, words = page.ax, f"tolerance {tolerance:g}"
    share = ax.transAxes.inverted().transform(ax.transData.transform((tolerance, 0)))[0]
    align, shift = ("left", 3) if share < 0.5 else ("right", -3)
    style: Any = {"coords": ("data", FRACTION), "va": "bottom", "color": BEYOND}
    page.label(words, (tolerance, 1), (shift, 1), ha=align, **style)


def _account(page: Page, row: Residuals, max_named: int) -> str:
    """The median and as many names as the axes have room for."""
    room = axes_size(page.ax)[0] - 0.1
    for most in range(max_named, -1, -1):
        words = row.account(most)
        if page.wide(words, page.small) <= room:
            break
    return page.fit(words, room, page.small)


def _draw_axis(page: Page, low: int, high: int, has_none: bool, has_all: bool) -> None:
    """Powers of ten, and at the edges what has no logarithm."""
    ax = page.ax
    powers = [10.0**power for power in range(low, high + 1)]
    words = [
        f"{power:.0e}".replace("e-0", "e-").replace("e+0", "e+") for power in powers
    ]
    words = ["1" if power == 1 else word for power, word in zip(powers, words)]
    if has_none:
        powers, words = [10.0 ** (low - 0.5), *powers], ["0", *words]
    if has_all:
        powers, words = [*powers, 10.0 ** (high + 0.5)], [*words, "∞"]
    ax.minorticks_off()
    page.thin_ticks(0.15, list(zip(powers, words)))
    page.axis_label("|delta| / |f(x) - f(x0)|")


def _draw_dots(
    page: Page, place: int, row: Residuals, edges: tuple[float, float]
) -> None:
    """The samples of one explanation, those beyond the tolerance as diamonds."""
    low, high = np.log10(edges)
    with np.errstate(divide="ignore"):
        powers = np.log10(row.sizes)
    powers = np.clip(
        powers, low + 0.5 * np.isneginf(powers), high - 0.5 * np.isposinf(powers)
    )
    width = _DOT**0.5 / 72 / axes_size(page.ax)[0]
    offsets = swarm((powers - low) / (high - low), width, 0.6)
    grey = page.ink(BAR)
    for chosen, marker, color in ((~row.beyond, "o", grey), (row.beyond, "D", BEYOND)):
        dots = 10.0 ** powers[chosen], place + offsets[chosen]
        look: Any = {"marker": marker, "color": color, "edgecolors": page.ink(0)}
        page.ax.scatter(*dots, s=_DOT, linewidths=0.3, zorder=3, **look)
