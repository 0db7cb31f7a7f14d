"""A cohort as a table of colours: its patients across, the strongest codes down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_ehr.explanation import Explanation
from captum_ehr.scene.dependence import CohortGrid, cohort_grid
from captum_ehr.scene.wording import number, population_title

from .color_table import draw_cells
from .figure_page import FRACTION, LINE, MUTED, Looks, Page, open_page
from .keys import scale_key
from .plot_arguments import of_cohort, one_of, weaker

_WIDTH, _CURVE, _NARROW = 8.5, 0.45, 0.12


def cohort_heatmap(
    explanation: Explanation,
    ax: Axes | None = None,
    *,
    k: int = 20,
    order: Literal["output", "similarity"] = "output",
    features: Iterable[str] | None = None,
    width: float | None = None,
    fontsize: float | None = None,
    title: bool | str = True,
    subtitle: bool | str = True,
) -> tuple[Figure, Axes]:
    """Draw all samples of a cohort against the strongest codes.

    A column is a sample, a row a code or a column of values; red raises the output,
    blue lowers it, pale grey is where a sample has it not. Above is f(x). The deepest
    colour is the 99th percentile of what is shown, so that one sample does not take the
    colour from all others; what is beyond has the same.

    Args:
        explanation: The explanation.
        ax: Where to draw; by default a new figure of fitting size, without pyplot.
        k: How many codes, by the mean absolute attribution over all samples; the
            others are added up in a note below.
        order: ``"output"``, the highest f(x) at the left; or ``"similarity"``, samples
            with like attributions side by side (average linkage), up to 5,000.
        features: The features to show; by default all.
        width: The width of a new figure in inches; its height follows.
        fontsize: The size of ordinary text in points; by default 0.8 times the
            ``font.size`` of matplotlib's style.
        title: A heading in place of this figure's own; False for none.
        subtitle: The smaller text below it, likewise.

    Returns:
        The figure and the axes; the cells are one mesh, the codes from the top, a
        masked one where a sample has it not.

    Raises:
        KeyError: If there is no such feature.
        ValueError: If samples are of different targets, ``k`` is less than 1, ``order``
            is unknown, there are too many samples for it, an attribution is not finite,
            there is nothing to show, or no room.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> figure, ax = cohort_heatmap(explanation, k=3)
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['E11.9', 'I50.9', 'A41.9']
    """
    one_of("order", order, ("output", "similarity"))
    frame, table = of_cohort(explanation, k, features)
    page = open_page(ax, Looks(width, fontsize, title, subtitle), _WIDTH)
    head, lines = population_title(explanation)
    most = page.rows(k, head, lines, 7.0, 4)
    grid = cohort_grid(explanation, frame, table.head(most), order)
    page.lay_rows(grid.rows, 0.3, max(page.row * len(grid.rows), 0.8))
    draw_cells(page, grid.cells, grid.scale, grid.cells.shape, False)
    _part_rows(page, grid)
    page.ax.set_xticks([])
    how = "by falling f(x)" if order == "output" else "like ones side by side"
    page.axis_label(f"{len(grid.samples)} samples, {how}")
    _draw_outputs(page, grid)
    unit = explanation.target_unit or explanation.output_word
    notes = ["the deepest colours are the 99th percentile; some are beyond"]
    notes = [*notes * grid.is_cut, *weaker(table[most:])]
    return page.finish(head, lines, key=scale_key(grid.scale, unit), notes=notes)


def _part_rows(page: Page, grid: CohortGrid) -> None:
    """Lines between rows alone, where columns are too narrow for some between them."""
    if page.inner[0] / len(grid.samples) >= _NARROW:
        return
    page.ax.collections[0].set(edgecolor="face", linewidth=0.1)
    for row in range(1, len(grid.cells)):
        page.ax.axhline(row - 0.5, color=page.ink(0), lw=1.2)


def _draw_outputs(page: Page, grid: CohortGrid) -> None:
    """The output of each column, on top."""
    count, high = len(grid.samples), page.inner[1]
    side = page.ax.inset_axes((0, 1 + 0.08 / high, 1, _CURVE / high))
    side.patch.set_visible(False)
    page.strip("top", "right", "bottom", "left", ax=side)
    edges = np.arange(count + 1) - 0.5
    side.stairs(grid.outputs, edges, color=page.ink(0.75), lw=0.9, baseline=None)
    side.set_xlim(-0.5, count - 0.5)
    side.set_xticks([])
    known = grid.outputs[np.isfinite(grid.outputs)]
    if not len(known):
        return
    low, top = float(known.min()), float(known.max())
    side.set_yticks([])
    if low <= 0 <= top:
        side.axhline(0, color=page.ink(LINE), lw=0.6, ls=":")
    look: Any = {"coords": FRACTION, "va": "center", "color": page.ink(MUTED)}
    page.label("f(x)", (0, 0.5), (-6, 0), side, ha="right", **look)
    for place, value in ((1, top), (0, low))[: 1 + (top > low)]:
        page.label(number(value, 2), (1, place), (4, 0), side, ha="left", **look)
