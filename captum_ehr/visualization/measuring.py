"""How large words are as they are drawn, and how to make them fit.

Widths are asked of the renderer, for the font that is set: nothing is counted in
characters. What has no room is wrapped, then cut in the middle, since names of codes
and columns differ at both ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

PLAIN: dict[str, Any] = {"parse_math": False, "usetex": False}
"""What draws a text as it is: ``$``, ``_`` or ``^`` in names are no formula."""

LEADING = 1.35
"""The distance of lines, in sizes of their letters."""

SPACED: dict[str, Any] = {"linespacing": 1.35}
"""How matplotlib is told so: it counts from a letter's height without what is below."""

_APART = "   "
"""What stands between the parts of a line; it breaks there first."""

_SLACK = 1.03
"""Letters are moved to whole pixels, and widths vary with their number."""


_FONTS = ("family", "style", "variant", "stretch", "serif", "sans-serif", "monospace")


def extent(
    figure: Figure, text: str, size: float, weight: str = "normal"
) -> tuple[float, float]:
    """The width and height of a line in inches, on the screen or on paper."""
    style: Any = mpl.rcParams
    fonts = tuple(str(style[f"font.{name}"]) for name in _FONTS)
    return _extent(text, size, weight, figure.dpi, fonts)


@lru_cache(maxsize=10_000)
def _extent(
    text: str, size: float, weight: str, dpi: float, fonts: tuple[str, ...]
) -> tuple[float, float]:
    """That of a text in the style's font, which the last argument tells apart."""
    font = FontProperties(size=size, weight=weight)
    renderer = RendererAgg(1, 1, dpi)
    wide, high, _ = renderer.get_text_width_height_descent(text, font, ismath=False)
    paper = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
    return _SLACK * max(wide / dpi, paper / 72), high / dpi


def widest(
    figure: Figure, texts: Iterable[str], size: float, weight: str = "normal"
) -> float:
    """The width of the widest of some texts in inches, 0 if there is none."""
    return max((extent(figure, text, size, weight)[0] for text in texts), default=0.0)


def fit(
    figure: Figure, text: str, room: float, size: float, weight: str = "normal"
) -> str:
    """One line that is at most so many inches wide, its middle cut where it must be.

    Example:
        >>> fit(Figure(), "congestive heart failure", 9.0, 8.0)
        'congestive heart failure'
        >>> cut = fit(Figure(), "congestive heart failure", 1.0, 8.0)
        >>> cut.startswith("conges"), "…" in cut, cut.endswith("ure")
        (True, True, True)
    """
    line = " ".join(text.split())
    if extent(figure, line, size, weight)[0] <= room:
        return line
    kept, most = 0, len(line) - 1
    while kept < most:
        middle = (kept + most + 1) // 2
        is_fine = extent(figure, _cut(line, middle), size, weight)[0] <= room
        kept, most = (middle, most) if is_fine else (kept, middle - 1)
    return _cut(line, kept)


def _cut(line: str, kept: int) -> str:
    """A line with so many of its characters, two at the head for one at the end."""
    tail = kept // 3
    return line[: kept - tail].rstrip() + "…" + line[len(line) - tail :].lstrip()


def wrap(
    figure: Figure,
    text: str,
    room: float,
    size: float,
    weight: str = "normal",
    most: int | None = None,
) -> list[str]:
    """Lines of at most so many inches; of ``most``, the last is cut in its middle.

    A line breaks between its parts, which stand three spaces apart, and within a part
    that is too wide for a line between words.

    Example:
        >>> wrap(Figure(), "heart failure of unknown cause", 1.0, 8.0)
        ['heart failure of', 'unknown cause']
    """
    lines: list[str] = []
    for part in text.split(_APART):
        whole = (
            [part] if extent(figure, part, size, weight)[0] <= room else part.split()
        )
        gap = _APART
        for word in whole:
            longer = gap.join([*lines[-1:], word])
            if lines and extent(figure, longer, size, weight)[0] <= room:
                lines[-1] = longer
            else:
                lines.append(fit(figure, word, room, size, weight))
            gap = " "
    if most is None or len(lines) <= most:
        return lines
    return [
        *lines[: most - 1],
        fit(figure, " ".join(lines[most - 1 :]), room, size, weight),
    ]


def lines_high(lines: Sequence[str], size: float) -> float:
    """The height in inches of lines below each other."""
    return len(lines) * LEADING * size / 72


def block_high(figure: Figure, lines: Sequence[str], size: float, weight: str) -> float:
    """The height in inches of lines that are one text; 0 without lines."""
    if not lines:
        return 0.0
    look: dict[str, Any] = {"fontsize": size, "fontweight": weight, **SPACED, **PLAIN}
    block = Text(0, 0, "\n".join(lines), **look)
    block.set_figure(figure)
    return block.get_window_extent().height / figure.dpi + 0.02
