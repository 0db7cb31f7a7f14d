"""How large words are as they are drawn, and how to make them fit.

Widths are asked of the renderer, for the font that is set: nothing is counted in
characters. What has no room is wrapped, then cut in the middle, since names of codes
and columns differ at both ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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


@dataclass(eq=False)
class Ruler:
    """Measures words as a figure draws them, in inches, and makes them fit."""

    figure: Figure

    def wide(self, text: str, size: float, weight: str = "normal") -> float:
        """The width of a line, on the screen or on paper."""
        style: Any = mpl.rcParams
        fonts = tuple(str(style[f"font.{name}"]) for name in _FONTS)
        return _width(text, size, weight, self.figure.dpi, fonts)

    def widest(
        self, texts: Iterable[str], size: float, weight: str = "normal"
    ) -> float:
        """The width of the widest of some texts, 0 if there is none."""
        return max((self.wide(text, size, weight) for text in texts), default=0.0)

    def fit(self, text: str, room: float, size: float, weight: str = "normal") -> str:
        """One line that is at most so wide, its middle cut where it must be.

        Example:
            >>> Ruler(Figure()).fit("congestive heart failure", 9.0, 8.0)
            'congestive heart failure'
            >>> cut = Ruler(Figure()).fit("congestive heart failure", 1.0, 8.0)
            >>> cut.startswith("conges"), "…" in cut, cut.endswith("ure")
            (True, True, True)
        """
        line = " ".join(text.split())
        if self.wide(line, size, weight) <= room:
            return line
        kept, most = 0, len(line) - 1
        while kept < most:
            middle = (kept + most + 1) // 2
            is_fine = self.wide(_cut(line, middle), size, weight) <= room
            kept, most = (middle, most) if is_fine else (kept, middle - 1)
        return _cut(line, kept)

    def wrap(
        self,
        text: str,
        room: float,
        size: float,
        weight: str = "normal",
        most: int | None = None,
    ) -> list[str]:
        """Lines of at most so many inches; of ``most``, the last is cut in its middle.

        A line breaks between its parts, which stand three spaces apart, and within a
        part that is too wide for a line between words.

        Example:
            >>> Ruler(Figure()).wrap("heart failure of unknown cause", 1.0, 8.0)
            ['heart failure of', 'unknown cause']
        """
        lines: list[str] = []
        for part in text.split(_APART):
            is_whole = self.wide(part, size, weight) <= room
            gap = _APART
            for word in [part] if is_whole else part.split():
                longer = gap.join([*lines[-1:], word])
                if lines and self.wide(longer, size, weight) <= room:
                    lines[-1] = longer
                else:
                    lines.append(self.fit(word, room, size, weight))
                gap = " "
        if most is None or len(lines) <= most:
            return lines
        last = self.fit(" ".join(lines[most - 1 :]), room, size, weight)
        return [*lines[: most - 1], last]

    def block_high(
        self, lines: Sequence[str], size: float, weight: str = "normal"
    ) -> float:
        """The height of lines that are one text; 0 without lines."""
        if not lines:
            return 0.0
        look: dict[str, Any] = {"fontsize": size, "fontweight": weight}
        block = Text(0, 0, "\n".join(lines), **look, **SPACED, **PLAIN)
        block.set_figure(self.figure)
        return block.get_window_extent().height / self.figure.dpi + 0.02


@lru_cache(maxsize=10_000)
def _width(
    text: str, size: float, weight: str, dpi: float, fonts: tuple[str, ...]
) -> float:
    """That of a text in the style's font, which the last argument tells apart."""
    font = FontProperties(size=size, weight=weight)
    renderer = RendererAgg(1, 1, dpi)
    wide, _, _ = renderer.get_text_width_height_descent(text, font, ismath=False)
    paper = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
    return _SLACK * max(wide / dpi, paper / 72)


def _cut(line: str, kept: int) -> str:
    """A line with so many of its characters, two at the head for one at the end."""
    tail = kept // 3
    return line[: kept - tail].rstrip() + "…" + line[len(line) - tail :].lstrip()
