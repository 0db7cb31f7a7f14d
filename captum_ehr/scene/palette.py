"""The one colour scale of all figures and pages: red raises, blue lowers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .wording import signed

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

RAMP = f"linear-gradient(90deg,{','.join(STOPS)})"
"""The scale as CSS draws it."""

LOWERS, RAISES, OUTPUT = STOPS[1], STOPS[-2], "#8b949c"
"""The colours of bars whose length says how much, and of the outputs themselves."""

UNKNOWN = "#d9d9d9"
"""The colour of what is not a number."""

USUAL = "#8fbf8f"
"""The colour of usual ranges, to be laid on thinly."""

# Black, not nearly: only then has every colour of the scale a contrast of 4.5.
DARK, LIGHT = "#000000", "#ffffff"

SIZE = 201
"""How many colours the scale has; odd, so that one of them is zero's white."""


def text_color(background: str) -> str:
    """The text colour with the higher contrast on a background, as WCAG 2 has it.

    Example:
        >>> text_color("#ffffff"), text_color("#2166ac")
        ('#000000', '#ffffff')
    """
    share = _channels(background) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    light = float(linear @ (0.2126, 0.7152, 0.0722))
    return DARK if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else LIGHT


def _channels(color: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(color[1:]), np.uint8).astype(float)


def _table() -> tuple[tuple[str, str], ...]:
    stops = np.array([_channels(stop) for stop in STOPS])
    places, known = np.linspace(0, 1, SIZE), np.linspace(0, 1, len(STOPS))
    mixed = [np.interp(places, known, channel).round() for channel in stops.T]
    colors = ["#" + bytes(rgb.astype(np.uint8)).hex() for rgb in np.array(mixed).T]
    return tuple((color, text_color(color)) for color in colors)


TABLE = _table()
"""From the most lowering to the most raising: ``(background, text)`` colours."""


@dataclass(frozen=True)
class ColorScale:
    """Attributions to colours, symmetric about zero, which is white.

    Example:
        >>> scale = ColorScale(2.0)
        >>> scale.color(2.0), scale.color(0.0), scale.color(-2.0)
        ('#b2182b', '#ffffff', '#2166ac')
    """

    limit: float  # the absolute attribution that has the deepest colour
    is_signed: bool = True  # else grey, from white at 0

    @classmethod
    def of(cls, attributions: Iterable[float], is_signed: bool = True) -> ColorScale:
        """The scale that just spans some attributions; what is not finite counts not.

        Example:
            >>> ColorScale.of([0.5, -2.0, float("nan")]).limit
            2.0
        """
        finite = (abs(size) for size in attributions if math.isfinite(size))
        return cls(max(finite, default=0.0), is_signed)

    def pair(self, attribution: float) -> tuple[str, str]:
        """The background and the text on it; beyond the limit the end's.

        The place in :data:`TABLE` is ``floor((share + 1) / 2 * SIZE)``, as matplotlib
        and the page's script have it.
        """
        if math.isnan(attribution):
            return UNKNOWN, DARK
        share = 0.0
        if self.limit > 0:
            share = max(-1.0, min(1.0, attribution / self.limit))
        if not self.is_signed:
            grey = "#" + f"{round(255 - 150 * abs(share)):02x}" * 3
            return grey, text_color(grey)
        return TABLE[min(int((share + 1) / 2 * SIZE), SIZE - 1)]

    def color(self, attribution: float) -> str:
        """The colour of an attribution as ``"#rrggbb"``."""
        return self.pair(attribution)[0]

    def text(self, attribution: float) -> str:
        """The text colour to write on :meth:`color` with."""
        return self.pair(attribution)[1]

    def bar(self, attribution: float) -> str:
        """The colour of a bar whose length is the attribution."""
        return bar_color(attribution) if self.is_signed else OUTPUT

    def words(self, attribution: float, digits: int = 2) -> str:
        """An attribution, with its sign where that means something."""
        words = signed(attribution, digits)
        return words if self.is_signed else words.removeprefix("+")

    @property
    def ramp(self) -> str:
        """The scale as CSS draws it."""
        return RAMP if self.is_signed else "linear-gradient(90deg,#ffffff,#696969)"


def bar_color(attribution: float) -> str:
    """The colour of a bar whose length is the attribution."""
    if math.isnan(attribution):
        return UNKNOWN
    return LOWERS if attribution < 0 else RAISES
