"""How axes are placed on a figure, with what stands around them in inches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.figure import Figure, FigureBase
from matplotlib.transforms import Bbox, ScaledTranslation, Transform

from .keys import Part, draw_key, key_lines
from .measuring import LEADING, PLAIN, SPACED, Ruler

_PAD, _GAP = 0.04, 0.06
"""What stays free at the edges, and above and below the smaller text, in inches."""

_LARGER = 1.06
"""How much longer words may be at another resolution: letters stand on whole pixels."""

_LEAST_WIDTH, _LEAST_HEIGHT = 2.0, 0.3
"""Of a figure, and of the axes in it, in inches."""

LABELS = 0.42
"""The most of the width that the labels of rows take before they are cut."""


@dataclass(frozen=True)
class Looks:
    """What a caller says of a figure's looks."""

    width: float | None = None  # of a new figure, in inches
    fontsize: float | None = None  # in points; by default 0.8 times the style's
    title: bool | str = True
    subtitle: bool | str = True

    def __post_init__(self) -> None:
        if self.width is not None and not self.width >= _LEAST_WIDTH:
            raise ValueError(
                f"width is {self.width}, expected at least {_LEAST_WIDTH:g} inches."
            )
        if self.fontsize is not None and not self.fontsize > 0:
            raise ValueError(f"fontsize is {self.fontsize}, expected points above 0.")


def ink(ax: Axes, share: float) -> str:
    """So much of the style's text colour on the colour behind the axes."""
    face = to_rgba(ax.get_facecolor())
    if face[3] < 1:
        face = to_rgba(figure_of(ax).get_facecolor())
    text = to_rgb(mpl.rcParams["text.color"])
    red, green, blue = (share * a + (1 - share) * b for a, b in zip(text, face))
    return to_hex((red, green, blue))


@dataclass(eq=False)
class Layout(Ruler):
    """Axes side by side, or below each other, and the room around them."""

    axes: list[Axes]
    looks: Looks
    is_own: bool
    shares: Sequence[float] = (1.0,)  # of the axes, of the width or height
    is_down: bool = False
    gap: float = 0.0  # between them, in inches
    margins: list[float] = field(default_factory=lambda: [0.0] * 4)
    # ^ left, right, top and bottom, in inches

    @property
    def ax(self) -> Axes:
        """The first axes."""
        return self.axes[0]

    @property
    def _lowest(self) -> Axes:
        """Those below which key and notes stand."""
        return self.axes[-1] if self.is_down else self.ax

    @property
    def size(self) -> float:
        """The size of ordinary text in points."""
        base = mpl.rcParams["font.size"]
        return self.looks.fontsize or 0.8 * float(base)

    @property
    def small(self) -> float:
        """The size of notes in points."""
        return 0.88 * self.size

    @property
    def title_size(self) -> float:
        """The size of the heading in points."""
        return 1.2 * self.size

    @property
    def line(self) -> float:
        """The distance of lines of ordinary text in inches."""
        return LEADING * self.size / 72

    # The room ----------------------------------------------------------------------

    @property
    def _parent(self) -> FigureBase:
        parent = self.ax.get_figure(root=False)
        return self.figure if parent is None else parent

    @property
    def _inches(self) -> tuple[float, float]:
        box: Bbox = self._parent.bbox  # type: ignore[attr-defined]
        dpi = self.figure.dpi
        return box.width / dpi, box.height / dpi

    @property
    def _given(self) -> Bbox:
        """The axes as they were given, in shares of their figure."""
        return place_of(self.axes)

    @property
    def _slot(self) -> Bbox:
        """What is theirs: halfway to their neighbours, else to the figure's edge."""
        if self.figure.get_layout_engine() is not None:
            return self._given
        return slot_of(self.axes, self._parent)

    @property
    def width(self) -> float:
        """All the width there is for the axes and what stands around, in inches."""
        return self._slot.width * self._inches[0] - 2 * _PAD

    @property
    def inner(self) -> tuple[float, float]:
        """The width and height of the axes together, in inches."""
        box, (wide, high) = self._inner, self._inches
        return box.width * wide, box.height * high

    @property
    def _inner(self) -> Bbox:
        """As given; moved, and smaller, where what stands around has no room else."""
        (wide, high), slot, given = self._inches, self._slot, self._given
        left, right, top, bottom = self.margins
        x = within(given.intervalx, slot.x0 + left / wide, slot.x1 - right / wide)
        y = within(given.intervaly, slot.y0 + bottom / high, slot.y1 - top / high)
        return Bbox.from_extents(x[0], y[0], x[1], y[1])

    def locate(self, index: int, ax: Axes, renderer: Any) -> Bbox:
        """Where one of the axes is, as matplotlib asks at each drawing."""
        box, (wide, high) = self._inner, self._inches
        gap = self.gap / (high if self.is_down else wide)
        whole = box.height if self.is_down else box.width
        unit = (whole - gap * (len(self.axes) - 1)) / sum(self.shares)
        start = unit * sum(self.shares[:index]) + gap * index
        end = start + unit * self.shares[index]
        if self.is_down:
            return Bbox.from_extents(box.x0, box.y1 - end, box.x1, box.y1 - start)
        return Bbox.from_extents(box.x0 + start, box.y0, box.x0 + end, box.y1)

    def free(self, head: str, lines: Sequence[str], below: float) -> float:
        """The most inches of height, with so many lines of text below; or infinite."""
        if self.is_own:
            return math.inf
        high, (titles, words) = self._inches[1], self._heading(head, lines)
        around = self._heading_high(titles, words) + below * self.line + 2 * _PAD
        return min(self._given.height * high, self._slot.height * high - around)

    @property
    def row(self) -> float:
        """The height of a row in a figure of ours, in inches."""
        return 2.4 * self.size / 72

    def rows(
        self, wanted: int, head: str, lines: Sequence[str], below: float, more: int = 0
    ) -> int:
        """How many of the wanted rows have room, besides ``more`` others, or 1."""
        free = self.free(head, lines, below)
        if math.isinf(free):
            return wanted
        return max(1, min(wanted, int(free / (1.4 * self.size / 72)) - more))

    def reserve(self, left: float, right: float, height: float) -> None:
        """Make room at the sides; the height is that of new axes, in inches."""
        margins = [left + _PAD, right + _PAD, 0.0, 0.0]
        self._place(margins, max(height, _LEAST_HEIGHT))

    def _place(self, margins: list[float], height: float) -> None:
        self.margins = margins
        if self.is_own:
            whole = margins[2] + height + margins[3]
            self.figure.set_size_inches(self.figure.get_figwidth(), whole)
        wide, high = self.inner
        if min(wide / len(self.axes), high) < _LEAST_HEIGHT - 1e-6:
            size = [a * b for a, b in zip(self._slot.size, self._inches)]
            raise ValueError(
                f"there is no room: {size[0]:.1f} × {size[1]:.1f} inches for the axes "
                "and what stands around them. Give larger axes or a greater width, a "
                "smaller fontsize, or title=False and subtitle=False."
            )
        for index, ax in enumerate(self.axes):
            locator = partial(self.locate, index)
            ax.set_axes_locator(locator)
            ax.apply_aspect(locator(ax, None))

    # Words -------------------------------------------------------------------------

    def row_labels(
        self, labels: Sequence[str], share: float = LABELS
    ) -> tuple[list[str], float]:
        """Labels as there is room for, and the inches that they and a gap take."""
        (wide, _), box, slot = self._inches, self._given, self._slot
        room = max(share * self.width, (box.x0 - slot.x0) * wide - _PAD) - 0.1
        words = [self.fit(label, room, self.size) for label in labels]
        return words, self.widest(words, self.size) + 0.1

    def _heading(self, head: str, lines: Sequence[str]) -> tuple[list[str], list[str]]:
        """The lines of the title and of what stands below."""
        title, below = self.looks.title, self.looks.subtitle
        first = title if isinstance(title, str) else head if title else ""
        rest = [below] if isinstance(below, str) else lines if below else []
        titles = self.wrap(first, self.width, self.title_size, "bold", 2)
        return list(filter(None, titles)), list(filter(None, self._wrapped(rest)))

    def _wrapped(self, notes: Iterable[str]) -> list[str]:
        """The lines of some notes, each as wide as there is room."""
        room, size = self.width, self.small
        return [line for note in notes for line in self.wrap(note, room, size)]

    def _heading_high(self, titles: Sequence[str], words: Sequence[str]) -> float:
        high = self.block_high(titles, self.title_size, "bold")
        high += self.block_high(words, self.small)
        return high + _GAP * (bool(titles) + bool(words))

    def finish(
        self,
        head: str,
        lines: Sequence[str],
        *,
        key: Sequence[Part] = (),
        notes: Sequence[str] = (),
    ) -> tuple[Figure, Axes]:
        """Measure what stands around the axes; write heading, key and notes there.

        Returns:
            The figure and its first axes.
        """
        height = self.inner[1]
        left, right, above, below = self._overhang()
        titles, words = self._heading(head, lines)
        rows = key_lines(self, key, self.width, self.small)
        texts = self._wrapped(notes)
        row = 1.5 * self.small / 72
        text = self.block_high(texts, self.small)
        top = above + self._heading_high(titles, words) + _PAD
        foot = below + (0.05 + row * len(rows) if rows else 0.0)
        margins = [
            max(self.margins[0], left + _PAD),
            max(self.margins[1], right + _PAD),
            top,
            foot + (0.03 + text if texts else 0.0) + _PAD,
        ]
        self._place(margins, height)
        edge = -(self._inner.x0 - self._slot.x0) * self._inches[0] + _PAD
        self._write_heading(titles, words, (edge, above))
        draw_key(self, self._lowest, rows, (edge, -below - 0.05), row, self.small)
        self._write_notes(texts, (edge, -foot - 0.03))
        return self.figure, self.ax

    def _write_notes(self, lines: Sequence[str], place: tuple[float, float]) -> None:
        """Muted lines, so many inches right of and above the axes' lower corner."""
        if lines:
            look: Any = {"va": "top", "fontsize": self.small, **SPACED, **PLAIN}
            look |= {"color": ink(self.ax, 0.67), "transform": self.inches(*place, 0)}
            self.ax.text(0, 0, "\n".join(lines), **look)

    def _overhang(self) -> tuple[float, float, float, float]:
        """How far what is drawn reaches beyond the axes, in inches."""
        inside = Bbox.union([ax.get_window_extent() for ax in self.axes])
        boxes = [ax.get_tightbbox() for ax in self.axes]
        whole = Bbox.union([inside, *(box for box in boxes if box is not None)])
        dpi = self.figure.dpi
        return (
            _LARGER * (inside.x0 - whole.x0) / dpi,
            _LARGER * (whole.x1 - inside.x1) / dpi,
            (whole.y1 - inside.y1) / dpi,
            _LARGER * (inside.y0 - whole.y0) / dpi,
        )

    def inches(self, right: float, up: float, corner: float) -> Transform:
        """From inches to the screen, from the lower (0) or upper (1) left corner.

        The origin is so far from the corner of all axes together.
        """
        scale = self.figure.dpi_scale_trans
        shift = ScaledTranslation(right, up, scale)
        origin: Any = (self.ax if corner else self._lowest).transAxes
        return scale + shift + ScaledTranslation(0, corner, origin)

    def _write_heading(
        self, titles: Sequence[str], words: Sequence[str], place: tuple[float, float]
    ) -> None:
        """The title and smaller text, so many inches right of and above the axes."""
        right, up = place
        small = self.block_high(words, self.small)
        small += _GAP if words else 0.0
        if words:
            look: Any = {"va": "bottom", "fontsize": self.small, **SPACED, **PLAIN}
            look |= {"color": ink(self.ax, 0.73)}
            where = self.inches(right, up + _GAP, 1)
            self.ax.text(0, 0, "\n".join(words), transform=where, **look)
        if titles:
            look = {"loc": "left", "fontsize": self.title_size, "fontweight": "bold"}
            title = self.ax.set_title("\n".join(titles), y=1, **look, **SPACED, **PLAIN)
            title.set_position((0, 0))
            title.set_transform(self.inches(right, up + _GAP + small, 1))


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
