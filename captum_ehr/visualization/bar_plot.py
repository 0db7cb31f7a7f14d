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

from .figure_page import BAR, EDGE, LINE, Looks, Page, open_page
from .measuring import PLAIN
from .plot_arguments import at_least_one, check_finite, of_features, one_target

_PANELS = ("mean", "mean absolute", "prevalence")
_WIDTH, _SHARES = 10.5, (3.0, 2.0, 1.5)

_NARROW = 5.0
"""Below so many inches, labels stand above their bars: beside them is no room."""


def cohort_bar(
    explanation: Explanation,
    ax: Figure | Sequence[Axes] | None = None,
    *,
    k: int = 20,
    features: Iterable[str] | None = None,
    mapping: Grouping | None = None,
    level: float | None = None,
    width: float | None = None,
    fontsize: float | None = None,
    title: bool | str = True,
    subtitle: bool | str = True,
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
        k: How many codes; the others are added up in a note below. Fewer where axes
            are given that have no room for them.
        features: The features to show; by default all.
        mapping: Groups in place of codes; see
            :meth:`captum_ehr.Explanation.by_group`.
        level: Of intervals of the two means, such as .95, drawn as lines; None for
            none. By bootstrap over patients.
        width: The width of a new figure in inches; its height follows.
        fontsize: The size of ordinary text in points; by default 0.8 times the
            ``font.size`` of matplotlib's style.
        title: A heading in place of this figure's own; False for none.
        subtitle: The smaller text below it, likewise.

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
    table = explanation.top(None, mapping, level=level)
    if mapping is None:
        table = of_features(table, explanation, features)
    looks = Looks(width, fontsize, title, subtitle)
    page = open_page(_three_axes(ax), looks, _WIDTH, _SHARES)
    page.gap = 0.25 if page.width >= _NARROW else 0.12
    head, lines = population_title(explanation)
    most = page.rows(k, head, lines, 7.0)
    is_narrow = page.width < _NARROW
    most = max(most // 2, 1) if is_narrow and not page.is_own else most
    top, rest = table.head(most), table[most:]
    _reserve(page, code_labels(top), is_narrow)
    _draw_bars(page, top, len(explanation))
    notes = []
    if level is not None:
        notes = [f"lines: {100 * level:g} % intervals, by bootstrap over patients"]
    if len(rest):
        notes += [
            f"+{len(rest)} more, weaker: "
            f"means together {signed(rest['mean'].sum(), 3)}, "
            f"mean absolute values {signed(rest['mean_abs'].sum(), 3).lstrip('+')}",
        ]
    figure, _ = page.finish(head, lines, notes=notes)
    return figure, np.array(page.axes, dtype=object)


def _three_axes(
    ax: Figure | Sequence[Axes] | None,
) -> FigureBase | Sequence[Axes] | None:
    """The caller's figure or axes, if they are for three panels."""
    if ax is None or isinstance(ax, FigureBase):
        return ax
    if isinstance(ax, Axes):
        raise TypeError("there are three panels: give a figure or three axes, not one.")
    axes = list(np.ravel(np.asarray(ax, dtype=object)))
    if len(axes) != len(_PANELS) or not all(isinstance(panel, Axes) for panel in axes):
        raise ValueError(
            f"ax has {len(axes)} entries, expected three axes, for "
            f"{', '.join(_PANELS)}; or a figure."
        )
    return axes


def _reserve(page: Page, labels: list[str], is_narrow: bool) -> None:
    """Room for the rows, and their labels: beside the first axes, or above the bars."""
    for panel in page.axes:
        page.strip("top", "right", "left", ax=panel)
    if not is_narrow:
        page.lay_rows(labels)
    else:
        page.reserve(0.05, 0.05, 1.7 * page.row * len(labels))
        # The last axes are drawn last: nothing covers the words.
        where = page.ax.get_yaxis_transform()
        look: Any = {"va": "bottom", "fontsize": page.size, "transform": where}
        for row, text in enumerate(labels):
            words = page.fit(text, page.width - 0.1, page.size)
            page.axes[-1].text(0, row - 0.28, words, **look, **PLAIN)
    for panel in page.axes[0 if is_narrow else 1 :]:
        page.label_rows([""] * len(labels), panel)
    for panel in page.axes:
        panel.set_ylim(len(labels) - 0.4, -0.8 if is_narrow else -0.6)


def _draw_bars(page: Page, table: pd.DataFrame, samples: int) -> None:
    """The three panels, with a number at each bar."""
    means, sizes = table["mean"].tolist(), table["mean_abs"].tolist()
    shares = (table["samples"] / samples).tolist()
    scale = ColorScale.of(means)
    edge = page.ink(EDGE)
    looks: list[dict[str, Any]] = [
        {"color": [scale.color(mean) for mean in means], "edgecolor": edge, "lw": 0.6},
        {"color": page.ink(BAR / 2 if "mean_low" in table else BAR)},
        {"color": page.ink(BAR / 2)},
    ]
    plain = [word.lstrip("+") for word in rounded(sizes)]
    columns = [
        ("mean", "mean   (raises →, ← lowers)", means, rounded(means)),
        ("mean_abs", "mean absolute value", sizes, plain),
        ("", "share of samples", shares, [percent(share) for share in shares]),
    ]
    high = 0.72 if page.width >= _NARROW else 0.42
    for panel, (column, name, values, words), look in zip(page.axes, columns, looks):
        panel.barh(range(len(values)), values, high, **look)
        ends = _ends(page, panel, table, column, values)
        _set_limits(page, panel, ends, words)
        page.bar_values(ends, values, words, ax=panel)
        page.axis_label(name, ax=panel)
    page.ax.axvline(0, color=page.ink(LINE), lw=0.8)


def _ends(
    page: Page, panel: Axes, table: pd.DataFrame, column: str, values: list[float]
) -> list[float]:
    """Draw the intervals that there are; where each bar or its line ends."""
    if f"{column}_low" not in table:
        return values
    low, high = table[f"{column}_low"].to_numpy(), table[f"{column}_high"].to_numpy()
    panel.hlines(range(len(values)), low, high, color=page.ink(1.0, panel), lw=1.0)
    far = np.where(np.array(values) < 0, np.fmin(low, values), np.fmax(high, values))
    return list(map(float, far))


def _set_limits(
    page: Page, panel: Axes, values: Sequence[float], words: Sequence[str]
) -> None:
    """Room for the numbers at the bars' ends, and for those of the axis."""
    is_share = panel is page.axes[2]
    reach = min([0.0, *values]), max([1.0 if is_share else 0.0, *values])
    page.room_for_words(reach, words, values, 0.05, panel)
    known = [(share / 2, f"{50 * share} %") for share in range(3)] if is_share else None
    panel.locator_params(axis="x", nbins=5)
    page.thin_ticks(page.gap / 2 - 0.03, known, ax=panel)
