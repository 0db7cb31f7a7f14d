"""From f(x0) to f(x), step by step, for one patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_ehr.explanation import Explanation
from captum_ehr.explanation.labels import Grouping
from captum_ehr.scene.palette import ColorScale
from captum_ehr.scene.patient import PatientScene, patient_scene
from captum_ehr.scene.tables import WaterfallBar, waterfall_bars
from captum_ehr.scene.wording import (
    has_probability,
    percent,
    probability,
    shorten,
    target_words,
)
from captum_ehr.visualization.axes import (
    EDGE,
    PLAIN,
    ROW,
    axes_size,
    bar_values,
    label,
    label_margin,
    label_rows,
    one_axes,
    strip,
    write_title,
)
from captum_ehr.visualization.plot_arguments import (
    Patient,
    at_least_one,
    check_finite,
    of_features,
    one_of,
    one_patient,
)

_WIDTH = 6.2
_PROBABILITIES = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07),
    *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97),
    *(0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999),
)


def waterfall(
    explanation: Explanation,
    patient: Patient = None,
    ax: Axes | None = None,
    *,
    k: int = 12,
    by: Literal["code", "visit", "feature"] = "code",
    mapping: Grouping | None = None,
    time_label: str = "time",
) -> tuple[Figure, Axes]:
    """Draw how a patient's codes and values lead from f(x0) to f(x).

    A bar per code, strongest first, each beginning where the one above ends; those
    beyond ``k`` are one bar, so that the bars always end at f(x). Where attributions
    do not add up to f(x) - f(x0), what is missing is a bar of its own. Under a logit
    that has a probability, the upper axis shows it; for bars in probabilities, give
    ``explanation.in_probability()``.

    Args:
        explanation: The explanation.
        patient: An index or identifier; needed where there are several.
        ax: Where to draw; by default a new figure of fitting size, without pyplot.
        k: The most bars before the rest is one.
        by: What a bar is: all of a ``"code"`` or column, of a ``"visit"``, or of a
            ``"feature"``; visits and features keep their order.
        mapping: Groups in place of codes; see
            :meth:`captum_ehr.Explanation.by_group`.
        time_label: What to call the time of a visit, e.g. ``"day"``.

    Returns:
        The figure and the axes.

    Raises:
        IndexError: If there is no patient of that index.
        KeyError: If there is none of that identifier, or ``mapping`` names a feature
            that there is not.
        ValueError: If it is not said which of several patients, there is nothing to
            show, an attribution is not finite, ``k`` is less than 1, or ``by`` is
            unknown.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> figure, ax = waterfall(explanation, "p1", k=3)
        >>> [label.get_text() for label in ax.get_yticklabels()][-2:]
        ['2 more', 'f(x)']
    """
    at_least_one(k=k)
    one_of("by", by, ("code", "visit", "feature"))
    explanation = one_patient(explanation, patient)
    check_finite(of_features(explanation.to_frame(), explanation, None))
    bars = waterfall_bars(explanation, by, mapping, k, time_label)
    scene = patient_scene(explanation)
    baseline = shorten(explanation.baseline, 24)
    start = "f(x0)" + (f", baseline {baseline}" if baseline else "")
    labels = [start, *(bar.label for bar in bars), "f(x)"]
    margins = (label_margin(labels), 0.3, 1.2, 0.55)
    figure, ax = one_axes(ax, _WIDTH, ROW * len(labels), margins)
    label_rows(ax, labels)
    _draw_bars(ax, scene, bars)
    strip(ax, "top", "right", "left")
    words = f"{scene.output} of {target_words(explanation)} (red raises, blue lowers)"
    ax.set_xlabel(words, fontsize=9, **PLAIN)
    above = 0.0
    if has_probability(explanation):
        _draw_probability(ax)
        above = 28.0
    write_title(ax, scene.head, scene.lines, above)
    return figure, ax


def _draw_bars(ax: Axes, scene: PatientScene, bars: Sequence[WaterfallBar]) -> None:
    """The bars, what joins them, their values, and the two outputs."""
    sizes = [bar.attribution for bar in bars]
    start, last = scene.f_baseline, len(bars) + 1
    ends = (start + np.cumsum(sizes)).tolist()
    # The rest may be many: it takes no colour from the others.
    scale = ColorScale.of(bar.attribution for bar in bars if bar.kind == "sum")
    colors = [
        "#ffffff" if bar.kind == "missing" else scale.color(bar.attribution)
        for bar in bars
    ]
    look: dict[str, Any] = {"color": colors, "edgecolor": EDGE, "lw": 0.6}
    drawn = ax.barh(range(1, last), sizes, 0.72, [start, *ends[:-1]], **look)
    if bars[-1].kind == "missing":
        drawn.patches[-1].set_hatch("////")
    for row, place in enumerate([start, *ends]):
        ax.plot([place, place], [row, row + 1], color="#999999", lw=0.8, zorder=0)
    outputs = [start, scene.f_input]
    ax.plot(outputs, [0, last], "D", color="black", ms=5, clip_on=False)
    reach = [*ends, *outputs]
    span = (max(reach) - min(reach)) or 1.0
    ax.set_xlim(min(reach) - 0.16 * span, max(reach) + 0.16 * span)
    if scene.output == "probability":
        # Partial sums may leave 0 to 1; probabilities do not.
        ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= round(tick, 9) <= 1])
    bar_values(ax, ends, sizes, first=1)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    look = {"va": "center", "size": 8, "fontweight": "bold", "bbox": box}
    label(ax, scene.output_words("baseline"), (start, 0), (7, 0), **look)
    label(ax, scene.output_words("input"), (scene.f_input, last), (7, 0), **look)


def _draw_probability(ax: Axes) -> None:
    """An upper axis with the probabilities of the logits, as many as have room."""
    low, high = ax.get_xlim()
    gap = 0.45 / axes_size(ax)[0] * (high - low)
    places: list[float] = []
    words: list[str] = []
    # From the middle outwards.
    for share in sorted(_PROBABILITIES, key=lambda share: abs(share - 0.5)):
        place = math.log(share / (1 - share))
        if low <= place <= high and all(abs(place - x) >= gap for x in places):
            places.append(place)
            words.append(f"{100 * share:g} %")
    if not places:
        places = [low, high]
        words = [percent(probability(end)) for end in places]
    top = ax.secondary_xaxis("top")
    top.set_xticks(places, words, fontsize=8, **PLAIN)
    top.tick_params(color="#999999")
    top.spines["top"].set_color("#999999")
    top.set_xlabel("probability", fontsize=8)
