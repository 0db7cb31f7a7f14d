"""From f(x0) to f(x), step by step, for one patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from captum_ehr.visualization.axes import (
    EDGE,
    PLAIN,
    ROW,
    axes_size,
    bar_values,
    code_labels,
    has_probability,
    label_margin,
    label_rows,
    one_axes,
    output_words,
    patient_title,
    percent,
    sigmoid,
    strip,
    target_words,
)
from captum_ehr.visualization.choosing import (
    Patient,
    at_least_one,
    check_finite,
    of_features,
    one_of,
    one_patient,
)
from captum_ehr.visualization.colors import ColorScale
from captum_ehr.visualization.layout import number, shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from captum_ehr.explanation import Explanation
    from captum_ehr.explanation.labels import Grouping

_WIDTH = 6.2
_PROBABILITIES = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07),
    *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97),
    *(0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999),
)


@dataclass(frozen=True)
class _Step:
    """One bar.

    Args:
        label: What to call it.
        attribution: How far it moves the output.
        kind: ``"one"`` of what is shown, the ``"rest"``, or what is ``"missing"``.
    """

    label: str
    attribution: float
    kind: Literal["one", "rest", "missing"] = "one"


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
        patient: The patient's index in it, or identifier; not needed where there is
            only one.
        ax: Where to draw. Without it a figure of fitting size is made, independent
            of pyplot and its backends.
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
    one = one_patient(explanation, patient)
    check_finite(of_features(one.to_frame(), one, None))
    steps = _steps(one, by, mapping, k, time_label)
    baseline = shorten(one.baseline, 24)
    labels = [step.label for step in steps]
    labels = ["f(x0)" + (f", baseline {baseline}" if baseline else ""), *labels, "f(x)"]
    margins = (label_margin(labels), 0.3, 1.2, 0.55)
    figure, ax = one_axes(ax, _WIDTH, ROW * len(labels), margins)
    label_rows(ax, labels)
    _draw_steps(ax, one, steps)
    strip(ax, "top", "right", "left")
    words = f"{one.output} of {target_words(one)} (red raises, blue lowers)"
    ax.set_xlabel(words, fontsize=9, **PLAIN)
    above = 0.0
    if has_probability(one):
        _draw_probability(ax)
        above = 28.0
    patient_title(ax, one, above)
    return figure, ax


def _steps(
    one: Explanation, by: str, mapping: Grouping | None, k: int, time_label: str
) -> list[_Step]:
    """The bars: what is shown, the rest, and what does not add up."""
    if mapping is not None:
        table = one.by_group(mapping)
        labels = [shorten(group, 44) for group in table["group"]]
    elif by == "code":
        table = one.by_code()
        labels = [
            f"{label} ×{count}" if count > 1 else label
            for label, count in zip(code_labels(table), table["count"], strict=True)
        ]
    elif by == "visit":
        table = one.by_visit()
        labels = _visit_labels(table, time_label)
    else:
        table = one.by_feature()
        labels = [shorten(feature, 44) for feature in table["feature"]]
    sizes = table["attribution"].to_numpy(dtype=float)
    shown = set(np.argsort(-np.abs(sizes), kind="stable")[:k].tolist())
    steps = [_Step(labels[i], float(sizes[i])) for i in sorted(shown)]
    rest = [float(size) for i, size in enumerate(sizes) if i not in shown]
    if rest:
        steps.append(_Step(f"{len(rest)} more", math.fsum(rest), "rest"))
    change = float(one.f_input[0]) - float(one.f_baseline[0])
    missing = change - math.fsum(sizes)
    scale = max(abs(float(one.f_input[0])), abs(float(one.f_baseline[0])))
    # What a picture could show; less is rounding, and in the title.
    if abs(missing) > max(1e-3 * abs(change), 1e-6 * scale):
        steps.append(_Step("not attributed", missing, "missing"))
    return steps


def _visit_labels(table: pd.DataFrame, time_label: str) -> list[str]:
    """What to call each row of ``by_visit``."""
    labels = []
    rows = zip(table["visit"], table["time"], table["features"], strict=True)
    for visit, time, features in rows:
        place = f"{time_label} {number(time)}" if math.isfinite(time) else ""
        if not place and isinstance(visit, int):
            place = f"visit {visit + 1}"
        labels.append(shorten(f"{place or 'no visit'}: {features}", 44))
    return labels


def _draw_steps(ax: Axes, one: Explanation, steps: Sequence[_Step]) -> None:
    """The bars, what joins them, their values, and the two outputs."""
    sizes = [step.attribution for step in steps]
    start = float(one.f_baseline[0])
    ends = (start + np.cumsum(sizes)).tolist()
    starts = [start, *ends[:-1]]
    # The rest may be many: it takes no colour from the others.
    scale = ColorScale.of(step.attribution for step in steps if step.kind == "one")
    colors = [
        "#ffffff" if step.kind == "missing" else scale.color(step.attribution)
        for step in steps
    ]
    rows = range(1, len(steps) + 1)
    bars = ax.barh(rows, sizes, 0.72, starts, color=colors, edgecolor=EDGE, lw=0.6)
    if steps[-1].kind == "missing":
        bars.patches[-1].set_hatch("////")
    for row, place in enumerate([start, *ends]):
        ax.plot([place, place], [row, row + 1], color="#999999", lw=0.8, zorder=0)
    outputs = [start, float(one.f_input[0])]
    ax.plot(outputs, [0, len(steps) + 1], "D", color="black", ms=5, clip_on=False)
    reach = [start, *ends, outputs[1]]
    span = (max(reach) - min(reach)) or 1.0
    ax.set_xlim(min(reach) - 0.16 * span, max(reach) + 0.16 * span)
    if one.output == "probability":
        # Partial sums may leave 0 to 1; probabilities do not.
        ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= round(tick, 9) <= 1])
    bar_values(ax, ends, sizes, first=1)
    for name, row in (("f_baseline", 0), ("f_input", len(steps) + 1)):
        ax.annotate(
            output_words(one, name),
            (float(getattr(one, name)[0]), row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            fontweight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            **PLAIN,
        )


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
        places, words = [low, high], [percent(sigmoid(one)) for one in (low, high)]
    top = ax.secondary_xaxis("top")
    top.set_xticks(places, words, fontsize=8, **PLAIN)
    top.tick_params(color="#999999")
    top.spines["top"].set_color("#999999")
    top.set_xlabel("probability", fontsize=8)
