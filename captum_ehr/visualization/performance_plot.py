"""How well an output ranks, and whether its probabilities are what comes to pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_ehr.scene.performance import Performance
from captum_ehr.scene.wording import shorten
from captum_ehr.visualization.axes import GREY, PLAIN, own_axes, strip, write_title

_SIZE, _LINE = 2.5, "#1d5a96"


def performance_curves(judged: Performance) -> tuple[Figure, list[Axes]]:
    """Draw the ROC, the precision over the recall, and the calibration.

    Args:
        judged: What :func:`captum_ehr.scene.performance.performance_of` found.

    Returns:
        The figure and its three axes; one whose curve has no meaning says so.
    """
    figure, axes = own_axes([_SIZE] * 3, _SIZE, (0.65, 0.3, 0.65, 0.6), 0.7)
    share = judged.positives / judged.samples if judged.samples else np.nan
    panels: list[tuple[Any, str, str, Any]] = [
        (judged.roc, "1 − specificity", "sensitivity", ([0, 1], [0, 1])),
        (judged.precision, "sensitivity", "precision", ([0, 1], [share, share])),
        (judged.calibration, "predicted", "observed", ([0, 1], [0, 1])),
    ]
    for ax, (curve, across, up, chance) in zip(axes, panels, strict=True):
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlabel(across, fontsize=8.5)
        ax.set_ylabel(up, fontsize=8.5)
        strip(ax, "top", "right")
        if curve is None:
            place: Any = {"ha": "center", "va": "center", "transform": ax.transAxes}
            ax.text(0.5, 0.5, "not defined", color=GREY, fontsize=9, **place, **PLAIN)
            continue
        ax.plot(*chance, color="#bbbbbb", lw=0.9, ls="--")
        is_bins = curve is judged.calibration
        ax.plot(*curve, "o-" if is_bins else "-", color=_LINE, lw=1.5, ms=3.5)
    heading = shorten(judged.target, 40)
    write_title(axes[0], heading, [f"{judged.positives} of {judged.samples} observed"])
    return figure, axes
