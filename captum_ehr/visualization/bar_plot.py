"""What raises and lowers the output over all patients: three bars per code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from captum_ehr.explanation import Explanation
from captum_ehr.explanation.labels import Grouping
from captum_ehr.scene.palette import ColorScale
from captum_ehr.scene.wording import (
    code_labels,
    percent,
    population_title,
    rounded,
    signed,
)
from captum_ehr.visualization.axes import (
    EDGE,
    GREY,
    PLAIN,
    ROW,
    bar_values,
    figure_of,
    footnote,
    label,
    label_margin,
    label_rows,
    own_axes,
    strip,
    write_title,
)
from captum_ehr.visualization.plot_arguments import (
    at_least_one,
    check_finite,
    of_features,
    one_target,
)

_PANELS = ("mean", "mean absolute", "prevalence")


def cohort_bar(
    explanation: Explanation,
    ax: Figure | Sequence[Axes] | None = None,
    *,
    k: int = 20,
    features: Iterable[str] | None = None,
    mapping: Grouping | None = None,
) -> tuple[Figure, np.ndarray[Any, Any]]:
    """Draw the strongest codes of a cohort: mean, mean absolute value, prevalence.

    The means are over all samples explained, counting 0 for those that do not have
    the code, of the sum of its attributions in each:
    :meth:`~captum_ehr.Explanation.top`. The
    third panel says what share of the samples has it. So a code that is rare and
    strong and one that is common and weak can be told apart.

    Args:
        explanation: The explanation.
        ax: A figure, or three axes side by side. Without it a figure of fitting size
            is made, independent of pyplot and its backends.
        k: How many codes; the others are added up in a note below.
        features: The features to show; by default all.
        mapping: Groups in place of codes; see
            :meth:`captum_ehr.Explanation.by_group`.

    Returns:
        The figure and its three axes, as an array.

    Raises:
        KeyError: If there is no such feature, here or in ``mapping``.
        TypeError: If ``ax`` is neither a figure nor axes.
        ValueError: If samples are of different targets, ``ax`` are not three, ``k`` is
            less than 1, features and groups are both given, an attribution is not
            finite, or there is nothing to show.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> figure, axes = cohort_bar(explanation, k=2, features=["conditions"])
        >>> [panel.get_xlabel() for panel in axes][1:]
        ['mean absolute value', 'share of samples']
    """
    at_least_one(k=k)
    one_target(explanation)
    if mapping is not None and features is not None:
        raise ValueError(
            "features and mapping are both given; give the groups of the wanted "
            "features alone: mapping={feature: groups}."
        )
    check_finite(of_features(explanation.to_frame(), explanation, features))
    table = explanation.top(None, mapping)
    if mapping is None:
        table = of_features(table, explanation, features)
    top, rest = table.head(k), table[k:]
    labels = code_labels(top)
    figure, axes = _three_axes(ax, labels)
    _draw_bars(axes, top, labels, len(explanation))
    if len(rest):
        footnote(
            axes[0],
            f"+{len(rest)} more, weaker: "
            f"means together {signed(rest['mean'].sum(), 3)}, "
            f"mean absolute values {signed(rest['mean_abs'].sum(), 3).lstrip('+')}",
        )
    write_title(axes[0], *population_title(explanation))
    return figure, np.array(axes, dtype=object)


def _three_axes(
    ax: Figure | Sequence[Axes] | None, labels: Sequence[str]
) -> tuple[Figure, list[Axes]]:
    """The caller's figure or axes, or new ones, for three panels."""
    if ax is None:
        margins = (label_margin(labels), 0.5, 0.75, 0.85)
        height = max(ROW * len(labels), 0.8)
        return own_axes([3.0, 2.0, 1.5], height, margins, 0.25)
    if isinstance(ax, FigureBase):
        return ax, list(ax.subplots(1, 3, width_ratios=[3.0, 2.0, 1.5]))
    if isinstance(ax, Axes):
        raise TypeError("there are three panels: give a figure or three axes, not one.")
    axes = list(np.ravel(np.asarray(ax, dtype=object)))
    if len(axes) != len(_PANELS) or not all(isinstance(panel, Axes) for panel in axes):
        raise ValueError(
            f"ax has {len(axes)} entries, expected three axes, for "
            f"{', '.join(_PANELS)}; or a figure."
        )
    return figure_of(axes[0]), axes


def _draw_bars(
    axes: Sequence[Axes], table: pd.DataFrame, labels: Sequence[str], samples: int
) -> None:
    """The three panels; only the first has the labels."""
    rows = range(len(labels))
    means = table["mean"].tolist()
    sizes = table["mean_abs"].tolist()
    shares = (table["samples"] / samples).tolist()
    scale = ColorScale.of(means)
    colors = [scale.color(mean) for mean in means]
    axes[0].barh(rows, means, 0.72, color=colors, edgecolor=EDGE, lw=0.6)
    axes[0].axvline(0, color="#999999", lw=0.8)
    axes[1].barh(rows, sizes, 0.72, color=GREY)
    axes[2].barh(rows, shares, 0.72, color="#a6a6a6")
    bar_values(axes[0], means, means)
    plain = [word.lstrip("+") for word in rounded(sizes)]
    for panel, numbers, words in (
        (axes[1], sizes, plain),
        (axes[2], shares, [percent(share) for share in shares]),
    ):
        for row, size in enumerate(numbers):
            label(panel, words[row], (size, row), (3, 0), va="center")
    _set_limits(axes, means, sizes)
    titles = ("mean (raises →, ← lowers)", "mean absolute value", "share of samples")
    for panel, name in zip(axes, titles, strict=True):
        label_rows(panel, labels if panel is axes[0] else [""] * len(labels))
        strip(panel, "top", "right", "left")
        panel.set_xlabel(name, fontsize=8.5, **PLAIN)


def _set_limits(
    axes: Sequence[Axes], means: Sequence[float], sizes: Sequence[float]
) -> None:
    """Room for the values written at the bars' ends."""
    low, high = min([0.0, *means]), max([0.0, *means])
    room = 0.2 * (high - low or 1.0)
    axes[0].locator_params(axis="x", nbins=5)
    axes[1].locator_params(axis="x", nbins=4)
    axes[0].set_xlim(low - room * (low < 0), high + room * (high > 0))
    axes[1].set_xlim(0, 1.3 * max(sizes) or 1.0)
    axes[2].set_xlim(0, 1.4)
    axes[2].set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
