"""How the output falls and rises as the strongest codes go and come."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from captum_ehr.explanation import Evaluation
from captum_ehr.scene.faithfulness import faithfulness_of

from .figure_page import Looks, open_page
from .keys import Dot, Part

_WIDTH, _NARROW, _HIGH = 9.0, 5.0, 0.7


def faithfulness(
    evaluation: Evaluation,
    methods: Sequence[str] | None = None,
    ax: FigureBase | Sequence[Axes] | None = None,
    *,
    width: float | None = None,
    fontsize: float | None = None,
    title: bool | str = True,
    subtitle: bool | str = True,
) -> tuple[Figure, list[Axes]]:
    """Draw the deletion and insertion curves of an evaluation.

    Args:
        evaluation: What :meth:`captum_ehr.DeepLiftEHR.evaluate` found.
        methods: Of which of its methods; by default all that have curves.
        ax: Two axes, or a figure to make them in; by default a new one, without
            pyplot.
        width: The width of a new figure in inches; its height follows. In narrow
            ones the curves stand below each other.
        fontsize: The size of ordinary text in points; by default 0.8 times the
            ``font.size`` of matplotlib's style.
        title: A heading in place of this figure's own; False for none.
        subtitle: The smaller text below it, likewise.

    Returns:
        The figure and its axes: deletion, insertion; each has a line per method.

    Raises:
        KeyError: If no such method was evaluated.
        ValueError: If none has curves, or there is no room.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> found = DeepLiftEHR(model).evaluate(
        ...     batch, measures=["curves"], show_progress=False
        ... )
        >>> figure, (deletion, insertion) = faithfulness(found)
        >>> len(insertion.lines)
        4
    """
    scene = faithfulness_of(evaluation, methods)
    is_down = (width or _WIDTH) < _NARROW
    looks = Looks(width, fontsize, title, subtitle)
    page = open_page(ax, looks, _WIDTH, (1.0, 1.0), is_down=is_down)
    side, apart = 4 * page.line, 3.5 * page.line
    page.gap = apart + 0.1 if is_down else side + 0.2
    panel = page.width - side if is_down else (page.width - 2 * side - 0.2) / 2
    page.reserve(side, 0.1, 2 * _HIGH * panel + page.gap if is_down else _HIGH * panel)
    for axes, curve in zip(page.axes, ("deletion", "insertion"), strict=True):
        for line in scene.methods:
            drawn = line.curves[curve]
            axes.plot(scene.fractions, drawn, color=line.color, ls=line.dashes, lw=1.5)
        page.frame(scene.across[curve], scene.up, axes)
    key: list[Part] = [Dot(line.color, line.method) for line in scene.methods]
    return page.finish(scene.heading, scene.lines, key=key)[0], page.axes
