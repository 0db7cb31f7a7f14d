"""Where a figure's words are, as the renderer has them: none is lost, none meets."""

from itertools import combinations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

#: Pixels by which boxes may overlap: they have room around letters.
TOUCH = 1.5


def words_of(figure: Figure) -> list[tuple[Text, np.ndarray]]:
    """The visible texts with their corners in pixels, also where they are turned."""
    figure.canvas.draw()
    texts = figure.findobj(lambda one: isinstance(one, Text))
    seen = [one for one in texts if one.get_visible() and one.get_text().strip()]
    return [(one, one.get_window_extent()) for one in seen if _is_drawn(one)]


def _is_drawn(text: Text) -> bool:
    """Whether it is on the figure: ticks beyond the limits and in off axes are not."""
    axes = text.axes
    if axes is None:
        return True
    if not axes.get_visible():
        return False
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = axis.get_major_ticks() + axis.get_minor_ticks()
        for tick in ticks:
            if text in (tick.label1, tick.label2):
                low, high = sorted(limits)
                span = 1e-9 * (high - low)
                return axes.axison and low - span <= tick.get_loc() <= high + span
        if text in (axis.label, axis.offsetText):
            return axes.axison
    return True


def outside(figure: Figure) -> list[str]:
    """What leaves the figure."""
    box = figure.bbox
    return [
        text.get_text()
        for text, place in words_of(figure)
        if place.x0 < box.x0 - TOUCH
        or place.y0 < box.y0 - TOUCH
        or place.x1 > box.x1 + TOUCH
        or place.y1 > box.y1 + TOUCH
    ]


def meeting(figure: Figure) -> list[tuple[str, str]]:
    """The pairs of texts that lie over each other."""
    found = []
    for (one, a), (other, b) in combinations(words_of(figure), 2):
        both = Bbox.intersection(a, b)
        if both is not None and min(both.width, both.height) > TOUCH:
            found.append((one.get_text(), other.get_text()))
    return found


def smallest(figure: Figure) -> float:
    """The size of the smallest text in points."""
    return min(text.get_fontsize() for text, _ in words_of(figure))
