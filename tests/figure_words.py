"""Where a figure's words are, as the renderer has them: none is lost, none meets."""

from itertools import combinations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

#: Pixels by which boxes may overlap: they have room around letters.
TOUCH = 1.5

type Place = tuple[Text, Bbox]


def words_of(figure: Figure) -> list[Place]:
    """The visible texts with their boxes in pixels."""
    figure.draw_without_rendering()  # a figure's own canvas may not draw at all
    axes = figure.findobj(lambda one: isinstance(one, Axes))
    hidden = {id(text) for one in axes for text in _hidden(one)}
    texts = figure.findobj(lambda one: isinstance(one, Text))
    seen = [one for one in texts if one.get_visible() and one.get_text().strip()]
    return [(one, one.get_window_extent()) for one in seen if id(one) not in hidden]


def _hidden(axes: Axes) -> list[Text]:
    """What matplotlib does not draw: of axes switched off, ticks beyond the limits."""
    found = []
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        low, high = sorted(limits)
        span = 1e-9 * (high - low)
        if not axes.axison or not axis.get_visible():
            found += axis.findobj(lambda one: isinstance(one, Text))
        for tick in axis.get_major_ticks() + axis.get_minor_ticks():
            if not low - span <= tick.get_loc() <= high + span:
                found += [tick.label1, tick.label2]
    return found


def outside(figure: Figure, words: list[Place]) -> list[str]:
    """What leaves the figure."""
    box = figure.bbox.padded(TOUCH)
    return [
        text.get_text()
        for text, place in words
        if not (box.contains(*place.min) and box.contains(*place.max))
    ]


def meeting(words: list[Place]) -> list[tuple[str, str]]:
    """The pairs of texts that lie over each other."""
    found = []
    for (one, a), (other, b) in combinations(words, 2):
        both = Bbox.intersection(a, b)
        if both is not None and min(both.width, both.height) > TOUCH:
            found.append((one.get_text(), other.get_text()))
    return found


def smallest(figure: Figure) -> float:
    """The size of the smallest text in points."""
    return min(text.get_fontsize() for text, _ in words_of(figure))
