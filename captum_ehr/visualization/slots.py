"""How much of a figure belongs to some of its axes, in shares of the figure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.transforms import Bbox


def figure_of(ax: Axes) -> Figure:
    """The figure that axes are in; refuse axes that are in none."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("ax belongs to no figure; give axes of a figure.")
    return figure


def place_of(axes: Sequence[Axes]) -> Bbox:
    """Where axes were put, together."""
    return Bbox.union([ax.get_position(original=True) for ax in axes])


def slot_of(axes: Sequence[Axes], parent: FigureBase) -> Bbox:
    """What is theirs: halfway to their neighbours, else to the figure's edge.

    Example:
        >>> from matplotlib.figure import Figure
        >>> figure = Figure()
        >>> one = figure.add_axes((0.1, 0.1, 0.3, 0.8))
        >>> other = figure.add_axes((0.6, 0.1, 0.3, 0.8))
        >>> slot_of([one], figure).extents.round(3).tolist()
        [0.0, 0.0, 0.5, 1.0]
    """
    box, mine = place_of(axes), set(map(id, axes))
    every: list[Axes] = parent.axes  # type: ignore[assignment]
    others = [place_of([ax]) for ax in every if id(ax) not in mine]
    beside = [o for o in others if o.y0 < box.y1 and o.y1 > box.y0]
    across = [o for o in others if o.x0 < box.x1 and o.x1 > box.x0]
    return Bbox.from_extents(
        max([0.0, *((o.x1 + box.x0) / 2 for o in beside if o.x1 <= box.x0)]),
        max([0.0, *((o.y1 + box.y0) / 2 for o in across if o.y1 <= box.y0)]),
        min([1.0, *((o.x0 + box.x1) / 2 for o in beside if o.x0 >= box.x1)]),
        min([1.0, *((o.y0 + box.y1) / 2 for o in across if o.y0 >= box.y1)]),
    )


def within(ends: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """A stretch moved, and if need be cut, to lie between two places.

    Example:
        >>> within((0.0, 5.0), 2.0, 9.0), within((0.0, 5.0), 2.0, 6.0)
        ((2.0, 7.0), (2.0, 6.0))
    """
    start, end = max(ends[0], low), max(ends[0], low) + ends[1] - ends[0]
    return max(low, start - max(end - high, 0.0)), min(end, high)
