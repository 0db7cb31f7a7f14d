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
from captum_ehr.scene.account import Change
from captum_ehr.scene.palette import ColorScale
from captum_ehr.scene.patient import PatientScene, patient_scene
from captum_ehr.scene.tables import waterfall_bars
from captum_ehr.scene.wording import (
    has_probability,
    percent,
    probability,
    rounded,
    shorten,
    target_words,
)

from .figure_page import EDGE, LINE, Looks, Page, axes_size, open_page
from .measuring import PLAIN
from .plot_arguments import (
    Patient,
    at_least_one,
    check_finite,
    of_features,
    one_of,
    one_patient,
)

_WIDTH = 8.5
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
    width: float | None = None,
    fontsize: float | None = None,
    title: bool | str = True,
    subtitle: bool | str = True,
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
        k: The most bars before the rest is one; fewer where axes are given that have
            no room for them.
        by: What a bar is: all of a ``"code"`` or column, of a ``"visit"``, or of a
            ``"feature"``; visits and features keep their order.
        mapping: Groups in place of codes; see
            :meth:`captum_ehr.Explanation.by_group`.
        time_label: What to call the time of a visit, e.g. ``"day"``.
        width: The width of a new figure in inches; its height follows.
        fontsize: The size of ordinary text in points; by default 0.8 times the
            ``font.size`` of matplotlib's style.
        title: A heading in place of this figure's own; False for none.
        subtitle: The smaller text below it, likewise.

    Returns:
        The figure and the axes.

    Raises:
        IndexError: If there is no patient of that index.
        KeyError: If there is none of that identifier, or ``mapping`` names a feature
            that there is not.
        ValueError: If it is not said which of several patients, there is nothing to
            show, an attribution is not finite, ``k`` is less than 1, ``by`` is
            unknown, or there is no room for a figure.

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
    looks = Looks(width, fontsize, title, subtitle)
    explanation = one_patient(explanation, patient)
    check_finite(of_features(explanation.to_frame(), explanation, None))
    scene = patient_scene(explanation)
    has_top = has_probability(explanation)
    page = open_page(ax, looks, _WIDTH)
    most = page.rows(k, scene.head, scene.lines, 7.0 if has_top else 4.0, 4)
    bars = waterfall_bars(explanation, by, mapping, most, time_label)
    baseline = shorten(explanation.baseline, 24)
    start = "f(x0)" + (f", baseline {baseline}" if baseline else "")
    page.lay_rows([start, *(bar.name for bar in bars), "f(x)"])
    words = f"{scene.output} of {target_words(explanation)}"
    words += "   (red raises, blue lowers)"
    if _draw_bars(page, scene, bars):
        words += "   partial sums may leave 0 to 1"
    page.axis_label(words)
    if has_top:
        _draw_probability(page)
    return page.finish(scene.head, scene.lines)


def _draw_bars(page: Page, scene: PatientScene, bars: Sequence[Change]) -> bool:
    """The bars, what joins them, their values, and the two outputs.

    Returns:
        Whether sums on the way are beyond what a probability can be.
    """
    ax, sizes = page.ax, [bar.size for bar in bars]
    start, last = scene.f_baseline, len(bars) + 1
    ends = (start + np.cumsum(sizes)).tolist()
    # The rest may be many: it takes no colour from the others.
    scale = ColorScale.of(bar.size for bar in bars if bar.kind == "item")
    colors = [
        page.ink(0) if bar.kind == "missing" else scale.color(bar.size) for bar in bars
    ]
    look: dict[str, Any] = {"color": colors, "edgecolor": page.ink(EDGE), "lw": 0.6}
    drawn = ax.barh(range(1, last), sizes, 0.72, [start, *ends[:-1]], **look)
    if bars[-1].kind == "missing":
        drawn.patches[-1].set_hatch("////")
    joint: dict[str, Any] = {"color": page.ink(LINE), "lw": 0.8, "zorder": 0}
    for row, place in enumerate([start, *ends]):
        ax.plot([place, place], [row, row + 1], **joint)
    outputs = [start, scene.f_input]
    black: dict[str, Any] = {"color": page.ink(1), "ms": 0.6 * page.size}
    ax.plot(outputs, [0, last], "D", clip_on=False, **black)
    reach = [*ends, *outputs]
    words = rounded(sizes)
    page.room_for_words((min(reach), max(reach)), words, sizes, 0.08)
    _widen(page, scene)
    # Partial sums may leave 0 to 1; probabilities do not.
    is_probability = scene.output == "probability"
    page.thin_ticks(bounds=(0, 1) if is_probability else (-math.inf, math.inf))
    page.bar_values(ends, sizes, words, first=1)
    _write_outputs(page, scene, last)
    return is_probability and not 0 <= min(ends) <= max(ends) <= 1


def _write_outputs(page: Page, scene: PatientScene, last: int) -> None:
    """f(x0) and f(x) in numbers, on the side that has more room."""
    low, high = page.ax.get_xlim()
    box = {"facecolor": page.ink(0), "edgecolor": "none", "pad": 1}
    style: Any = {"size": page.size, "va": "center", "fontweight": "bold", "bbox": box}
    for place, row, words in _outputs(scene, last):
        align, shift = ("left", 7) if place < (low + high) / 2 else ("right", -7)
        page.label(words, (place, row), (shift, 0), ha=align, **style)


def _outputs(scene: PatientScene, last: int) -> list[tuple[float, int, str]]:
    """Of f(x0) and f(x): the place, the row, and the number in words."""
    return [
        (scene.f_baseline, 0, scene.output_words("baseline")),
        (scene.f_input, last, scene.output_words("input")),
    ]


def _widen(page: Page, scene: PatientScene) -> None:
    """Move the end of the axis away where a number would leave it."""
    ax, wide = page.ax, axes_size(page.ax)[0]
    for place, _, words in _outputs(scene, 0):
        low, high = ax.get_xlim()
        long = page.wide(words, page.size, "bold") + 9 / 72
        share = max(1 - long / wide, 0.2)
        if place < (low + high) / 2:
            ax.set_xlim(low, max(high, low + (place - low) / share))
        else:
            ax.set_xlim(min(low, high - (high - place) / share), high)


def _draw_probability(page: Page) -> None:
    """An upper axis with the probabilities of the logits, as many as have room."""
    ax, (low, high) = page.ax, page.ax.get_xlim()
    wide = page.wide("99.99 %", page.small) + 0.06
    unit = (high - low) / axes_size(ax)[0]
    places: list[float] = []
    words: list[str] = []
    # From the middle outwards.
    for share in sorted(_PROBABILITIES, key=lambda share: abs(share - 0.5)):
        place = math.log(share / (1 - share))
        if low <= place <= high and all(abs(place - x) >= wide * unit for x in places):
            places.append(place)
            words.append(f"{100 * share:g} %")
    if not places:
        inset = wide * unit / 2
        places = [low + inset, high - inset]
        words = [percent(probability(end)) for end in places]
    top = ax.secondary_xaxis("top")
    top.set_xticks(places, words, **PLAIN)
    top.tick_params(color=page.ink(LINE), labelsize=page.small)
    top.spines["top"].set_color(page.ink(LINE))
    top.set_xlabel("probability", fontsize=page.small, labelpad=6)
