"""What every figure is drawn on: axes with frames, labels, rows, the values of bars.

The conventions of all plots, also of new ones:

- The arguments ``width``, ``fontsize``, ``title`` and ``subtitle`` are a
  :class:`Looks`; every plot has them, by these names, and gives them to
  :func:`open_page`.
- ``page = open_page(ax, looks, width)`` gives axes: the caller's, or those of a new
  figure. ``page.size`` is the size of ordinary text in points, ``page.small`` that of
  notes, ``page.title_size`` that of the heading. No plot has sizes of its own.
- ``page.reserve(left, right, height)`` says what stands beside the axes, in inches, and
  how high they are where the figure is ours; ``page.lay_rows(labels)`` does so for rows
  with labels at their left. From then on ``page.inner`` is the size of the axes in
  inches. ``page.rows(wanted, head, lines, below)`` is how many rows have room in axes
  of the caller: a plot with more folds the rest.
- Row labels are cut by ``page.row_labels``; other names by ``page.fit``.
- At the end ``page.finish(head, lines, key=…, notes=…)`` measures what stands around
  the axes, makes room for it, writes heading, key and notes, and returns the figure.
- Colours that are no data are ``page.ink(share)``, so that styles are obeyed.

Nothing here touches pyplot, so no figure stays open and no backend is chosen. Every
text is drawn with :data:`~captum_ehr.visualization.measuring.PLAIN`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase

from captum_ehr.scene.wording import number

from .layout import LABELS, Layout, figure_of, ink
from .layout import Looks as Looks
from .measuring import PLAIN, SPACED

FRACTION = "axes fraction"
"""Places as shares of the axes."""

BAR, EDGE, LINE, MUTED = 0.7, 0.53, 0.4, 0.67
"""How much ink bars without a sign, outlines, frames and notes have."""


class Page(Layout):
    """Axes to draw on; where a method is not told which, on the first."""

    def ink(self, share: float, ax: Axes | None = None) -> str:
        """So much of the style's text colour on the colour behind the axes."""
        return ink(ax or self.ax, share)

    def strip(self, *sides: str, ax: Axes | None = None) -> None:
        """Take the frame away at some sides, mute the ticks, say them in our size."""
        ax = ax or self.ax
        for side in sides:
            ax.spines[side].set_visible(False)
        for spine in ax.spines.values():
            spine.set_color(ink(ax, LINE))
        ax.tick_params(labelsize=self.small, color=ink(ax, LINE))
        ax.grid(visible=False, axis="y")
        ax.set_axisbelow(True)

    def label(
        self,
        text: str,
        place: tuple[float, float],
        offset: tuple[float, float],
        ax: Axes | None = None,
        *,
        coords: Any = "data",
        size: float | None = None,
        **style: Any,
    ) -> None:
        """A small text some points away from a place, as it is, also outside."""
        (ax or self.ax).annotate(
            text,
            place,
            xycoords=coords,
            xytext=offset,
            textcoords="offset points",
            fontsize=size or self.small,
            annotation_clip=False,
            **PLAIN,
            **style,
        )

    def axis_label(self, text: str, axis: str = "x", ax: Axes | None = None) -> None:
        """What an axis shows, in as many lines as its length needs."""
        ax = ax or self.ax
        lines = self.wrap(text, max(axes_size(ax)[axis == "y"], 0.5), self.size)
        ax.set(**{f"{axis}label": "\n".join(lines)})
        words = ax.xaxis.label if axis == "x" else ax.yaxis.label
        words.set(fontsize=self.size, **SPACED, **PLAIN)

    def frame(self, across: str, up: str, ax: Axes | None = None) -> None:
        """The two axes of what is drawn, with few numbers, and what they show."""
        self.strip("top", "right", ax=ax)
        self.thin_ticks(ax=ax)
        self.axis_label(across, ax=ax)
        self.axis_label(up, "y", ax)

    def lay_rows(
        self,
        labels: Sequence[str],
        right: float = 0.1,
        height: float | None = None,
        share: float = LABELS,
    ) -> None:
        """Rows with labels at their left, which take at most a share of the width."""
        words, left = self.row_labels(labels, share)
        self.reserve(left, right, height or self.row * len(words))
        self.strip("top", "right", "left")
        self.label_rows(words)

    def label_rows(self, labels: Sequence[str], ax: Axes | None = None) -> None:
        """One row per label, the first on top."""
        ax = ax or self.ax
        ax.set_yticks(range(len(labels)), labels, **PLAIN)
        ax.set_ylim(len(labels) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0, labelsize=self.size)

    def bar_values(
        self,
        ends: Sequence[float],
        values: Sequence[float],
        words: Sequence[str],
        first: int = 0,
        ax: Axes | None = None,
    ) -> None:
        """Write each bar's value outside its end: right of what raises, else left."""
        for row, (end, value, text) in enumerate(zip(ends, values, words), first):
            align, shift = ("right", -3) if value < 0 else ("left", 3)
            self.label(text, (end, row), (shift, 0), ax, ha=align, va="center")

    def room_for_words(
        self,
        reach: tuple[float, float],
        words: Sequence[str],
        values: Sequence[float],
        free: float,
        ax: Axes | None = None,
    ) -> None:
        """The limits of an axis on which words stand beyond both ends of what is drawn.

        Args:
            reach: The least and the greatest that is drawn.
            words: Those beside the marks, at the left where the value is below 0.
            values: What they say.
            free: Inches at a side without words.
            ax: The axes.
        """
        ax, (low, high) = ax or self.ax, reach
        sides = [
            [word for word, value in zip(words, values) if (value < 0) == is_left]
            for is_left in (True, False)
        ]
        left, right = (
            self.widest(side, self.small) + 0.08 if side else free for side in sides
        )
        span, wide = (high - low) or abs(high) or 1.0, axes_size(ax)[0]
        unit = span / max(wide - left - right, 0.2 * wide)
        ax.set_xlim(low - left * unit, high + right * unit)

    def thin_ticks(
        self,
        around: float = 0.1,
        known: Sequence[tuple[float, str]] | None = None,
        bounds: tuple[float, float] = (-math.inf, math.inf),
        ax: Axes | None = None,
    ) -> None:
        """Leave out ticks of the x axis whose numbers would meet, or leave the axes.

        Args:
            around: How far numbers may stand out at the sides, in inches.
            known: The ticks and their words; by default those that there are.
            bounds: Between which ticks stand, with some room for rounding.
            ax: The axes, with the limits that they shall have.
        """
        ax = ax or self.ax
        if known is None:
            low, high = sorted(ax.get_xlim())
            low, high = max(low, bounds[0] - 1e-9), min(high, bounds[1] + 1e-9)
            places = [float(place) for place in ax.get_xticks() if low <= place <= high]
            formatter = ax.xaxis.get_major_formatter()
            words = formatter.format_ticks(places)
            # Fixed words have no factor beside the axis.
            if formatter.get_offset():
                words = [number(place) for place in places]
            known = list(zip(places, words, strict=True))
        _set_ticks(ax, known)
        dpi, box = figure_of(ax).dpi, ax.get_window_extent()
        kept, end = [], box.x0 - around * dpi
        for tick, text in zip(known, ax.get_xticklabels(), strict=True):
            extent = text.get_window_extent()
            if extent.x0 >= end and extent.x1 <= box.x1 + around * dpi:
                kept.append(tick)
                end = extent.x1 + 0.06 * dpi
        _set_ticks(ax, kept)


def _set_ticks(ax: Axes, ticks: Sequence[tuple[float, str]]) -> None:
    ax.set_xticks([place for place, _ in ticks], [word for _, word in ticks], **PLAIN)


def axes_size(ax: Axes) -> tuple[float, float]:
    """The width and height of axes in inches."""
    box, dpi = ax.get_window_extent(), figure_of(ax).dpi
    return box.width / dpi, box.height / dpi


def open_page(
    ax: Axes | FigureBase | Sequence[Axes] | None,
    looks: Looks,
    width: float,
    shares: Sequence[float] = (1.0,),
    is_down: bool = False,
) -> Page:
    """Axes to draw on: the caller's, or those of a new figure so many inches wide.

    Args:
        ax: Axes, as many as shares; a figure to make them in; or None.
        looks: What the caller says.
        width: Of a new figure, where the caller does not say.
        shares: The sizes of axes to each other.
        is_down: Whether they stand below each other.

    Raises:
        ValueError: If both axes and a width are given.
    """
    if ax is not None and looks.width is not None:
        raise ValueError(
            "width is that of a new figure, and axes or a figure are given, which have "
            "their own; leave one of them out."
        )
    is_own = ax is None
    if ax is None:
        ax = Figure(figsize=(looks.width or width, 1.0), layout="none")  # type: ignore[arg-type]
        FigureCanvasAgg(ax)
    if isinstance(ax, FigureBase):
        axes = [ax.add_axes((0, 0, 1, 1), label=str(i)) for i in range(len(shares))]
    else:
        axes = [ax] if isinstance(ax, Axes) else list(ax)
    figure = figure_of(axes[0])
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    return Page(figure, axes, looks, is_own, shares, is_down)
