"""One patient's pairs: as a table of colours, and as a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from captum_ehr.scene.pairing import PairScene, pair_scene
from captum_ehr.scene.palette import bar_color
from captum_ehr.scene.wording import rounded, signed

from .chips import spread
from .color_table import draw_cells, label_columns, row_sums, sums_wide
from .figure_page import EDGE, LINE, Looks, Page, open_page
from .keys import scale_key
from .plot_arguments import at_least_one

if TYPE_CHECKING:
    from captum_ehr.explanation import Interactions
    from captum_ehr.explanation.feature_record import Words

_CELL, _WIDTH = 0.55, 7.5


def pair_heatmap(
    pairs: Interactions,
    ax: Axes | None = None,
    *,
    k: int = 15,
    names: Words | None = None,
    values: bool | None = None,
    width: float | None = None,
    fontsize: float | None = None,
    title: bool | str = True,
    subtitle: bool | str = True,
) -> tuple[Figure, Axes]:
    """Draw which of one patient's codes act together, as a table of colours.

    Red raises the output, blue lowers it, white is zero. On the diagonal stands what
    a code adds alone; each pair stands twice, with half of its effect. At the right
    are the sums of the rows, which are the codes' attributions. Codes that are not
    shown are added up in a last row and column.

    Args:
        pairs: Of one patient, ``pairs[0]``.
        ax: Where to draw; by default a new figure of fitting size, without pyplot.
        k: The most codes before the rest is one; those with the strongest pairs.
        names: Names of codes, such as ``explanation.names``.
        values: Whether each cell has its number, so that a grey print keeps the sign;
            by default where all numbers have room.
        width: The width of a new figure in inches; its height follows.
        fontsize: The size of ordinary text in points; by default 0.8 times the
            ``font.size`` of matplotlib's style.
        title: A heading in place of this figure's own; False for none.
        subtitle: The smaller text below it, likewise.

    Returns:
        The figure and the axes.

    Raises:
        ValueError: If there is not exactly one patient, it has no codes or no finite
            effects, or ``k`` is less than 1.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> figure, ax = pair_heatmap(DeepLiftEHR(model).interactions(batch)["p1"], k=2)
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['I50.9', 'I10', '3 others']
    """
    at_least_one(k=k)
    page = open_page(ax, Looks(width, fontsize, title, subtitle), _WIDTH)
    head, lines = _words(pairs, names)
    most = page.rows(k, head, lines, 9.0, 1)
    scene = _drawable(pair_scene(pairs, most, names=names))
    count, totals = len(scene.labels), rounded(scene.totals)
    if page.is_own and width is None:
        page.figure.set_figwidth(min(max(3.5 + _CELL * count, 6.5), 12.0))
    left, right = page.row_labels(scene.labels)[1], sums_wide(page, totals)
    side = (page.width - left - right) / count
    height = min(max(side, page.row), 2 * page.row)
    page.lay_rows(scene.labels, right, count * height)
    draw_cells(page, scene.cells, scene.scale, scene.cells.shape, values)
    label_columns(page, scene.labels)
    row_sums(page, totals, count)
    key = scale_key(scene.scale, scene.output)
    return page.finish(scene.head, scene.lines, key=key)


def pair_network(
    pairs: Interactions,
    ax: Axes | None = None,
    *,
    k: int = 12,
    edges: int = 15,
    names: Words | None = None,
    width: float | None = None,
    fontsize: float | None = None,
    title: bool | str = True,
    subtitle: bool | str = True,
) -> tuple[Figure, Axes]:
    """Draw one patient's codes in a circle, and lines between those that act together.

    A line is as wide as the pair's effect is strong, a dot as large as what its code
    adds alone; red raises the output, blue lowers it.

    Args:
        pairs: Of one patient, ``pairs[0]``.
        ax: Where to draw; by default a new figure of fitting size, without pyplot.
        k: The most codes; those with the strongest pairs. Others are counted below.
        edges: The most lines, the strongest.
        names: Names of codes, such as ``explanation.names``.
        width: The width of a new figure in inches; its height follows.
        fontsize: The size of ordinary text in points; by default 0.8 times the
            ``font.size`` of matplotlib's style.
        title: A heading in place of this figure's own; False for none.
        subtitle: The smaller text below it, likewise.

    Returns:
        The figure and the axes.

    Raises:
        ValueError: If there is not exactly one patient, it has no codes or no finite
            effects, or a limit is less than 1.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> figure, ax = pair_network(DeepLiftEHR(model).interactions(batch)["p1"])
        >>> len(ax.lines), "N18.3" in [text.get_text() for text in ax.texts]
        (10, True)
    """
    at_least_one(k=k, edges=edges)
    page = open_page(ax, Looks(width, fontsize, title, subtitle), _WIDTH)
    scene = _drawable(pair_scene(pairs, k, edges, names))
    shown = min(k, len(pairs.players[0]))
    labels, wide = page.row_labels(scene.labels[:shown], 0.29)
    side = wide + 0.12
    across = page.width - 2 * side
    page.reserve(side, side, max(across, math.ceil(shown / 2) * 1.1 * page.line))
    angles = [math.pi / 2 - 2 * math.pi * place / shown for place in range(shown)]
    spots = [(math.cos(angle), math.sin(angle)) for angle in angles]
    page.ax.set_xlim(-1.15, 1.15)
    page.ax.set_ylim(-1.15, 1.15)
    page.ax.set_axis_off()
    _draw_bonds(page, scene, spots)
    alone = [float(scene.cells[place, place]) for place in range(shown)]
    most = max(map(abs, alone)) or 1.0
    edge = page.ink(EDGE)
    for (x, y), size in zip(spots, alone):
        area = 30 + 270 * abs(size) / most
        page.ax.scatter([x], [y], area, bar_color(size), edgecolors=edge, zorder=3)
    _write_labels(page, labels, spots)
    hidden = len(pairs.players[0]) - shown
    rest = f"; {hidden} codes with weaker pairs are not shown" if hidden else ""
    note = f"lines: effect of the pair; dots: what is the code's alone{rest}"
    return page.finish(scene.head, scene.lines, notes=[note])


def _write_labels(
    page: Page, labels: Sequence[str], spots: Sequence[tuple[float, float]]
) -> None:
    """Names in two columns beside the circle, joined to their dots."""
    ax, (_, high) = page.ax, page.inner
    unit, leaders = 2.3 / high, []
    for side in (-1, 1):
        mine = [i for i, (x, _) in enumerate(spots) if (x >= -1e-9) == (side > 0)]
        mine.sort(key=lambda i: spots[i][1])
        wanted = [(spots[i][1] + 1.15) / unit for i in mine]
        gap = min(page.line, high / max(len(mine), 1))
        for i, at in zip(mine, spread(wanted, gap, high), strict=True):
            end = 1.15 * side, at * unit - 1.15
            leaders.append((spots[i], end))
            style: Any = {"ha": "left" if side > 0 else "right", "va": "center"}
            page.label(labels[i], end, (3 * side, 0), size=page.size, **style)
    look: Any = {"colors": page.ink(LINE), "linewidths": 0.5, "linestyles": ":"}
    ax.add_collection(LineCollection(leaders, zorder=2, **look), autolim=False)


def _draw_bonds(page: Page, scene: PairScene, spots: list[tuple[float, float]]) -> None:
    """The lines, the weakest first, and the effects of the strongest three."""
    ax, written = page.ax, []
    most = max((abs(bond.effect) for bond in scene.bonds), default=1.0)
    for rank, bond in reversed(list(enumerate(scene.bonds))):
        (x, y), (u, v) = (spots[end] for end in bond.ends)
        share = abs(bond.effect) / most
        look: dict[str, Any] = {"lw": 0.4 + 5 * share, "alpha": 0.35 + 0.6 * share}
        ax.plot([x, u], [y, v], color=bar_color(bond.effect), zorder=1, **look)
        if rank < 3:
            written.append(((x + u) / 2, (y + v) / 2, signed(bond.effect)))
    _write_effects(page, written[::-1])


def _write_effects(page: Page, written: list[tuple[float, float, str]]) -> None:
    """Effects in the middle of their lines, where those before left room."""
    wide, high = page.inner
    box = {"boxstyle": "round,pad=0.15", "fc": page.ink(0), "ec": "none"}
    style: Any = {"ha": "center", "va": "center", "bbox": box}
    room = page.wide("+0.0000", page.small) * 2.3 / wide
    line = 1.6 * page.small / 72 * 2.3 / high
    kept: list[tuple[float, float]] = []
    for x, y, words in written:
        if all(abs(x - u) >= room or abs(y - v) >= line for u, v in kept):
            kept.append((x, y))
            page.label(words, (x, y), (0, 0), **style)


def _words(pairs: Interactions, names: Words | None) -> tuple[str, Sequence[str]]:
    """The heading, which is the same for any number of players."""
    scene = pair_scene(pairs, 1, names=names)
    return scene.head, scene.lines


def _drawable(scene: PairScene) -> PairScene:
    """The scene, if there is something to draw."""
    if not scene.labels:
        raise ValueError("nothing to show: the patient has no code or value.")
    if not np.isfinite(scene.cells).all():
        raise ValueError(
            "the effects of the patient's pairs are not finite; see pairs.diagnostics."
        )
    return scene
