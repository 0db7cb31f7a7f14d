"""The one colour scale of all figures and pages: red raises, blue lowers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

# ColorBrewer's RdBu: told apart with any of the usual colour deficiencies, and, by
# its lightness, in print.
STOPS = (
    "#2166ac",
    "#4393c3",
    "#92c5de",
    "#d1e5f0",
    "#ffffff",
    "#fddbc7",
    "#f4a582",
    "#d6604d",
    "#b2182b",
)
"""Colours from the most lowering to the most raising, evenly spaced."""

UNKNOWN = "#d9d9d9"
"""The colour of what is not a number."""

# Black, not nearly: only then has every colour of the scale a contrast of 4.5.
DARK, LIGHT = "#000000", "#ffffff"


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _luminance(color: str) -> float:
    """The relative luminance of a colour, as WCAG 2 defines it."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (channel / 255 for channel in _channels(color))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def text_color(background: str) -> str:
    """The text colour with the higher contrast on a background.

    Args:
        background: A colour as ``"#rrggbb"``.

    Example:
        >>> text_color("#ffffff"), text_color("#2166ac")
        ('#000000', '#ffffff')
    """
    light = _luminance(background)
    on_dark = (max(light, _luminance(DARK)) + 0.05) / (
        min(light, _luminance(DARK)) + 0.05
    )
    return DARK if on_dark >= 1.05 / (light + 0.05) else LIGHT


@dataclass(frozen=True)
class ColorScale:
    """Attributions to colours, symmetric about zero, which is white.

    Args:
        limit: The absolute attribution that has the deepest colour; not negative.

    Example:
        >>> scale = ColorScale(2.0)
        >>> scale.color(2.0), scale.color(0.0), scale.color(-2.0)
        ('#b2182b', '#ffffff', '#2166ac')
    """

    limit: float

    @classmethod
    def of(cls, attributions: Iterable[float]) -> ColorScale:
        """The scale that just spans some attributions; what is not finite counts not.

        Example:
            >>> ColorScale.of([0.5, -2.0, float("nan")]).limit
            2.0
        """
        finite = (abs(one) for one in attributions if math.isfinite(one))
        return cls(max(finite, default=0.0))

    def color(self, attribution: float) -> str:
        """The colour of an attribution as ``"#rrggbb"``; beyond the limit the end's."""
        if math.isnan(attribution):
            return UNKNOWN
        if self.limit <= 0 or attribution == 0:
            return STOPS[len(STOPS) // 2]
        share = max(-1.0, min(1.0, attribution / self.limit))
        place = (share + 1) / 2 * (len(STOPS) - 1)
        low = min(int(place), len(STOPS) - 2)
        mix = place - low
        pairs = zip(_channels(STOPS[low]), _channels(STOPS[low + 1]), strict=True)
        return "#" + "".join(f"{round(a + (b - a) * mix):02x}" for a, b in pairs)

    def text(self, attribution: float) -> str:
        """The text colour to write on :meth:`color` with."""
        return text_color(self.color(attribution))
