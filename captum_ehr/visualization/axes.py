"""What figures share: their places, titles, colour bar, rows of codes and notes.

Nothing here touches pyplot, so no figure stays open and no backend is chosen.
Names come from data, and ``$``, ``_`` or ``^`` in them are no formula: every text is
drawn with :data:`PLAIN`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from captum_ehr.scene.palette import TABLE, ColorScale
from captum_ehr.scene.wording import rounded

PLAIN: dict[str, Any] = {"parse_math": False, "usetex": False}
"""What makes a text be drawn as it is."""

FRACTION = "axes fraction"
"""Places as shares of the axes."""

MUTED, GREY, EDGE = "#555555", "#4d4d4d", "#777777"
"""Colours of notes, of what is neither raising nor lowering, and of outlines."""

ROW = 0.27
"""The height of a row in inches, in figures of our own."""

_TITLE = 7.6
"""What a title needs at least, in inches from the left edge of the axes."""

Margins = tuple[float, float, float, float]
"""Left, right, top and bottom, in inches."""


def figure_of(ax: Axes) -> Figure:
    """The figure that axes are in; refuse axes that are in none."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("ax belongs to no figure; give axes of a figure.")
    return figure


def axes_size(ax: Axes) -> tuple[float, float]:
    """The width and height of axes in inches."""
    box, size = ax.get_position(), figure_of(ax).get_size_inches()
    return float(box.width * size[0]), float(box.height * size[1])


def own_axes(
    widths: Sequence[float], height: float, margins: Margins, gap: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A new figure around axes side by side; all sizes in inches."""
    left, right, top, bottom = margins
    inner = sum(widths) + gap * (len(widths) - 1)
    wide = left + max(inner + right, _TITLE)
    high = top + height + bottom
    figure = Figure(figsize=(wide, high), facecolor="white")
    FigureCanvasAgg(figure)
    axes, edge = [], left
    for width in widths:
        box = (edge / wide, bottom / high, width / wide, height / high)
        axes.append(figure.add_axes(box))
        edge += width + gap
    return figure, axes


def one_axes(
    ax: Axes | None, width: float, height: float, margins: Margins
) -> tuple[Figure, Axes]:
    """The caller's axes, or new ones of the given size in inches."""
    if ax is not None:
        return figure_of(ax), ax
    figure, axes = own_axes([width], height, margins)
    return figure, axes[0]


def strip(ax: Axes, *sides: str) -> None:
    """Take the frame away at some sides, and mute the ticks."""
    for side in sides:
        ax.spines[side].set_visible(False)
    for spine in ax.spines.values():
        spine.set_color("#999999")
    ax.tick_params(labelsize=8, color="#999999")


def write_title(ax: Axes, head: str, lines: Sequence[str], above: float = 0.0) -> None:
    """A heading and smaller text, so many points above the axes."""
    pad = above + len(lines) * 13 + 10
    style: dict[str, Any] = {"loc": "left", "fontsize": 11, "fontweight": "bold"}
    ax.set_title(head, pad=pad, **style, **PLAIN)
    look: dict[str, Any] = {"size": 8.5, "va": "bottom", "color": "#444444"}
    label(ax, "\n".join(lines), (0, 1), (0, above + 8), coords=FRACTION, **look)


def label(
    ax: Axes,
    text: str,
    place: tuple[float, float],
    offset: tuple[float, float],
    *,
    coords: Any = "data",
    size: float = 7.5,
    **style: Any,
) -> None:
    """A text some points away from a place, as it is, also outside of the axes."""
    ax.annotate(
        text,
        place,
        xycoords=coords,
        xytext=offset,
        textcoords="offset points",
        fontsize=size,
        annotation_clip=False,
        **PLAIN,
        **style,
    )


COLORMAP = ListedColormap([background for background, _ in TABLE], "attribution")
"""The scale of attributions as matplotlib wants it."""


def color_bar(ax: Axes, scale: ColorScale, output: str, gap: float = 0.2) -> None:
    """The scale, some inches right of the axes, symmetric about zero."""
    limit = scale.limit or 1.0
    # In inches from the axes' right edge, whatever the figure's size.
    width, height = axes_size(ax)
    tall = max(min(height - 0.4, 2.6), 0.3 * height)
    place = (1 + gap / width, 1 - (tall + 0.2) / height, 0.14 / width, tall / height)
    side = ax.inset_axes(place)
    mappable = ScalarMappable(Normalize(-limit, limit), COLORMAP)
    bar = figure_of(ax).colorbar(mappable, cax=side)
    bar.set_label(f"attribution ({output})", fontsize=7.5)
    label(side, "raises", (0, 1), (0, 3), coords=FRACTION, va="bottom")
    label(side, "lowers", (0, 0), (0, -3), coords=FRACTION, va="top")
    side.tick_params(labelsize=7)
    bar.outline.set_linewidth(0.4)


def label_rows(ax: Axes, labels: Sequence[str]) -> None:
    """One row per label, the first on top."""
    ax.set_yticks(range(len(labels)), labels, fontsize=8, **PLAIN)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def label_margin(labels: Sequence[str]) -> float:
    """The inches that row labels need at the left of the axes."""
    return 0.25 + 0.066 * max(map(len, labels), default=0)


def footnote(ax: Axes, text: str) -> None:
    """A muted line below the axes and their label."""
    label(ax, text, (0, 0), (0, -38), coords=FRACTION, va="top", color=MUTED)


def bar_values(
    ax: Axes, ends: Sequence[float], values: Sequence[float], first: int = 0
) -> None:
    """Write each bar's value outside its end: right of what raises, else left."""
    words = rounded(values)
    for row, (end, value) in enumerate(zip(ends, values, strict=True), first):
        is_left = value < 0
        align = "right" if is_left else "left"
        offset = (-3 if is_left else 3, 0)
        label(ax, words[row - first], (end, row), offset, ha=align, va="center")
