"""One patient's pairs: as a table of colours, and as a network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from captum_ehr.scene.pairing import PairScene, pair_scene
from captum_ehr.scene.palette import bar_color
from captum_ehr.scene.wording import rounded, signed
from captum_ehr.visualization.axes import (
    COLORMAP,
    EDGE,
    MUTED,
    PLAIN,
    color_bar,
    footnote,
    label,
    label_margin,
    label_rows,
    one_axes,
    strip,
    write_title,
)
from captum_ehr.visualization.plot_arguments import at_least_one

if TYPE_CHECKING:
    from captum_ehr.explanation import Interactions
    from captum_ehr.explanation.feature_record import Words

_CELL, _LEAST = 0.5, 1.2


def pair_heatmap(
    pairs: Interactions,
    ax: Axes | None = None,
    *,
    k: int = 15,
    names: Words | None = None,
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
    scene = _drawable(pair_scene(pairs, k, names=names))
    count, margin = len(scene.labels), label_margin(scene.labels)
    side = max(_CELL * count, _LEAST)
    figure, ax = one_axes(ax, side, side, (margin, 1.75, 1.25, margin))
    limit = scene.scale.limit or 1.0
    edges = np.arange(count + 1) - 0.5
    look: dict[str, Any] = {"cmap": COLORMAP, "norm": Normalize(-limit, limit)}
    ax.pcolormesh(edges, edges, scene.cells, edgecolors="white", linewidth=0.8, **look)
    label_rows(ax, scene.labels)
    ax.set_ylim(count - 0.5, -0.5)
    ax.set_xticks(range(count), scene.labels, rotation=90, fontsize=8, **PLAIN)
    strip(ax, "top", "right", "left", "bottom")
    ax.tick_params(axis="both", length=0)
    words = iter(rounded(scene.cells.ravel().tolist()))
    for (row, column), size in np.ndenumerate(scene.cells):
        style = {"ha": "center", "va": "center", "fontsize": 6.5, **PLAIN}
        ax.text(column, row, next(words), color=scene.scale.text(size), **style)
    for row, total in enumerate(rounded(scene.totals)):
        place = (count - 0.5, row)
        label(ax, total, place, (6, 0), va="center", size=7, color=MUTED)
    top = (count - 0.5, -0.5)
    label(ax, "sum", top, (6, 4), va="bottom", size=7, color=MUTED, fontweight="bold")
    write_title(ax, scene.head, scene.lines, 14.0)
    color_bar(ax, scene.scale, scene.output, gap=0.85)
    return figure, ax


def pair_network(
    pairs: Interactions,
    ax: Axes | None = None,
    *,
    k: int = 12,
    edges: int = 15,
    names: Words | None = None,
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
    scene = _drawable(pair_scene(pairs, k, edges, names))
    shown = min(k, len(pairs.players[0]))
    margin = label_margin(scene.labels)
    figure, ax = one_axes(ax, 3.6, 3.6, (margin, margin, 1.0, 0.75))
    angles = [math.pi / 2 - 2 * math.pi * place / shown for place in range(shown)]
    spots = [(math.cos(angle), math.sin(angle)) for angle in angles]
    _draw_bonds(ax, scene, spots)
    alone = [float(scene.cells[place, place]) for place in range(shown)]
    most = max(map(abs, alone)) or 1.0
    for (x, y), size, text in zip(spots, alone, scene.labels):
        area = 30 + 270 * abs(size) / most
        ax.scatter([x], [y], area, bar_color(size), edgecolors=EDGE, zorder=3)
        side = "left" if x > 0.1 else "right" if x < -0.1 else "center"
        rise = "bottom" if y > 0.9 else "top" if y < -0.9 else "center"
        label(ax, text, (x, y), (13 * x, 13 * y), ha=side, va=rise, size=8)
    ax.set_xlim(-1.15, 1.15)
    ax.set_ylim(-1.15, 1.15)
    ax.set_axis_off()
    write_title(ax, scene.head, scene.lines)
    hidden = len(pairs.players[0]) - shown
    rest = f"; {hidden} codes with weaker pairs are not shown" if hidden else ""
    footnote(ax, f"lines: effect of the pair; dots: what is the code's alone{rest}")
    return figure, ax


def _draw_bonds(ax: Axes, scene: PairScene, spots: list[tuple[float, float]]) -> None:
    """The lines, the weakest first, and the effects of the strongest three."""
    most = max((abs(bond.effect) for bond in scene.bonds), default=1.0)
    for rank, bond in reversed(list(enumerate(scene.bonds))):
        (x, y), (u, v) = (spots[end] for end in bond.ends)
        share = abs(bond.effect) / most
        look: dict[str, Any] = {"lw": 0.4 + 5 * share, "alpha": 0.35 + 0.6 * share}
        ax.plot([x, u], [y, v], color=bar_color(bond.effect), zorder=1, **look)
        if rank < 3:
            middle = ((x + u) / 2, (y + v) / 2)
            style: dict[str, Any] = {"ha": "center", "va": "center"}
            box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none"}
            label(ax, signed(bond.effect), middle, (0, 0), bbox=box, **style)


def _drawable(scene: PairScene) -> PairScene:
    """The scene, if there is something to draw."""
    if not scene.labels:
        raise ValueError("nothing to show: the patient has no code or value.")
    if not np.isfinite(scene.cells).all():
        raise ValueError(
            "the effects of the patient's pairs are not finite; see pairs.diagnostics."
        )
    return scene
