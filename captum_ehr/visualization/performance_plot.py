"""How well an output ranks, and whether its probabilities are what comes to pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_ehr.scene.performance import Performance
from captum_ehr.scene.wording import shorten

from .figure_page import LINE, Looks, Page, open_page
from .measuring import PLAIN

_WIDTH, _NARROW, _LINE = 9.5, 5.0, "#3b82c4"


def performance_curves(judged: Performance, **looks: Any) -> tuple[Figure, list[Axes]]:
    """Draw the ROC, the precision over the recall, and the calibration.

    In narrow figures the curves stand below each other.

    Args:
        judged: What :func:`captum_ehr.scene.performance.performance_of` found.
        **looks: ``width``, ``fontsize``, ``title``, ``subtitle``, as of all figures.

    Returns:
        The figure and its three axes; one whose curve has no meaning says so.
    """
    said = Looks(**looks)
    is_down = (said.width or _WIDTH) < _NARROW
    page = open_page(None, said, _WIDTH, (1.0, 1.0, 1.0), is_down=is_down)
    side, apart = 3 * page.line, 2 * page.line
    page.gap = side + 0.2
    panel = page.width - apart if is_down else (page.width - 3 * side - 0.4) / 3
    height = 3 * 0.75 * panel + 2 * page.gap if is_down else panel
    page.reserve(side, 0.1, height)
    share = judged.positives / judged.samples if judged.samples else np.nan
    panels: list[tuple[Any, str, str, Any]] = [
        (judged.roc, "1 − specificity", "sensitivity", ([0, 1], [0, 1])),
        (judged.precision, "sensitivity", "precision", ([0, 1], [share, share])),
        (judged.calibration, "predicted", "observed", ([0, 1], [0, 1])),
    ]
    for ax, (curve, across, up, chance) in zip(page.axes, panels, strict=True):
        style = "o-" if curve is judged.calibration else "-"
        _draw(page, ax, curve, chance, style)
        page.frame(across, up, ax)
    observed = f"{judged.positives} of {judged.samples} observed"
    return page.finish(shorten(judged.target, 80), [observed])[0], page.axes


def _draw(page: Page, ax: Axes, curve: Any, chance: Any, style: str) -> None:
    """One curve beside the one of chance."""
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    if curve is None:
        place: Any = {"ha": "center", "va": "center", "transform": ax.transAxes}
        ax.text(0.5, 0.5, "not defined", fontsize=page.size, **place, **PLAIN)
        return
    ax.plot(*chance, color=page.ink(LINE, ax), lw=0.9, ls="--")
    ax.plot(*curve, style, color=_LINE, lw=1.5, ms=3.5)
