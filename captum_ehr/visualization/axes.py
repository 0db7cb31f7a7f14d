"""What figures share: their places, titles, colour bar, rows of codes and notes.

Nothing here touches pyplot, so no figure stays open and no backend is chosen.
Names come from data, and ``$``, ``_`` or ``^`` in them are no formula: every text is
drawn with :data:`PLAIN`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from captum_ehr.explanation.words import answer, mixed_targets, remarks
from captum_ehr.visualization.colors import STOPS, ColorScale
from captum_ehr.visualization.layout import shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    from captum_ehr.explanation import Explanation

PLAIN: dict[str, Any] = {"parse_math": False, "usetex": False}
"""What makes a text be drawn as it is."""

MUTED, GREY, EDGE = "#555555", "#4d4d4d", "#777777"
"""Colours of notes, of what is neither raising nor lowering, and of outlines."""

ROW = 0.27
"""The height of a row in inches, in figures of our own."""

_TITLE = 7.6
"""What a title needs at least, in inches from the left edge of the axes."""

Margins = tuple[float, float, float, float]
"""Left, right, top and bottom, in inches."""


def figure_of(ax: Axes) -> Figure:
    """The figure that axes are in.

    Raises:
        ValueError: If they are in none.
    """
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("ax belongs to no figure; give axes of a figure.")
    return figure


def axes_size(ax: Axes) -> tuple[float, float]:
    """The width and height of axes in inches."""
    box, size = ax.get_position(), figure_of(ax).get_size_inches()
    return float(box.width * size[0]), float(box.height * size[1])


def own_axes(
    widths: Sequence[float], height: float, margins: Margins, gap: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A new figure around axes of given sizes, side by side.

    Args:
        widths: Of each of the axes, in inches.
        height: Of all of them, in inches.
        margins: Around them.
        gap: Between them, in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    left, right, top, bottom = margins
    inner = sum(widths) + gap * (len(widths) - 1)
    wide = left + max(inner + right, _TITLE)
    high = top + height + bottom
    figure = Figure(figsize=(wide, high), facecolor="white")
    FigureCanvasAgg(figure)
    axes, edge = [], left
    for width in widths:
        box = (edge / wide, bottom / high, width / wide, height / high)
        axes.append(figure.add_axes(box))
        edge += width + gap
    return figure, axes


def one_axes(
    ax: Axes | None, width: float, height: float, margins: Margins
) -> tuple[Figure, Axes]:
    """The caller's axes, or new ones of the given size in inches."""
    if ax is not None:
        return figure_of(ax), ax
    figure, axes = own_axes([width], height, margins)
    return figure, axes[0]


def strip(ax: Axes, *sides: str) -> None:
    """Take the frame away at some sides, and mute the ticks."""
    for side in sides:
        ax.spines[side].set_visible(False)
    for spine in ax.spines.values():
        spine.set_color("#999999")
    ax.tick_params(labelsize=8, color="#999999")


def write_title(ax: Axes, head: str, lines: Sequence[str], above: float = 0.0) -> None:
    """A heading and lines of smaller text below it, over the axes.

    Args:
        ax: The axes.
        head: The heading.
        lines: The smaller text.
        above: The points to leave free between it and the axes.
    """
    pad = above + len(lines) * 13 + 10
    style: dict[str, Any] = {"loc": "left", "fontsize": 11, "fontweight": "bold"}
    ax.set_title(head, pad=pad, **style, **PLAIN)
    ax.annotate(
        "\n".join(lines),
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, above + 8),
        textcoords="offset points",
        va="bottom",
        fontsize=8.5,
        color="#444444",
        annotation_clip=False,
        **PLAIN,
    )


def patient_title(ax: Axes, one: Explanation, above: float = 0.0) -> None:
    """The model, the patient, f(x0) → f(x), whether it adds up, what is to be told."""
    patient = shorten(one.patient_ids[0], 40)
    baseline = f" ({shorten(one.baseline, 20)})" if one.baseline else ""
    account = (
        f"f(x0){baseline} {output_words(one, 'f_baseline')} → f(x) "
        f"{output_words(one, 'f_input')}   "
        f"sum of attributions {float(one.total[0]):+.3f}   "
        f"completeness: |delta| / |f(x) - f(x0)| = {float(one.relative_delta[0]):.1g}"
    )
    head = f"{patient} | {model_words(one)}{one.output} of {target_words(one)}"
    write_title(ax, head, [account, *_messages(one)], above)


def cohort_title(ax: Axes, explanation: Explanation, what: str) -> None:
    """The model, what is shown, of how many, against what baseline."""
    samples, people = len(explanation), len(set(explanation.patient_ids))
    size = f"{people} patient{'s' * (people != 1)}"
    if people < samples:
        size = f"{samples} samples of {size}"
    baseline = shorten(explanation.baseline, 20)
    against = f", each against the baseline {baseline}" if baseline else ""
    head = (
        f"{model_words(explanation)}{what} to the {explanation.output} of "
        f"{target_words(explanation)}"
    )
    write_title(ax, head, [size + against, *_messages(explanation)])


def _messages(explanation: Explanation) -> list[str]:
    """The first of what is to be said, if there is something, and how many more.

    That a cohort is of unlike targets comes before what concerns each patient.
    """
    mixed = mixed_targets(explanation)
    messages = sorted(remarks(explanation), key=lambda one: one != mixed)
    more = f" (+{len(messages) - 1} more)" if len(messages) > 1 else ""
    return ["! " + shorten(one, 100) + more for one in messages[:1]]


def model_words(explanation: Explanation) -> str:
    """The model's name and a colon, or nothing where it has no name."""
    name = shorten(explanation.model_name, 30)
    return f"{name}: " if name else ""


def target_words(explanation: Explanation) -> str:
    """The explained output's name, if it is one for all samples."""
    labels = {explanation.target_label(i) for i in range(len(explanation))}
    return shorten(labels.pop(), 40) if len(labels) == 1 else "each sample's class"


def output_words(one: Explanation, name: str) -> str:
    """``f_input`` or ``f_baseline`` of one patient; a logit with its probability."""
    output = float(getattr(one, name)[0])
    if not (math.isfinite(output) and has_probability(one)):
        return answer(output)
    return f"{output:.3f} ({percent(sigmoid(output))})"


def has_probability(explanation: Explanation) -> bool:
    """True for a logit that is known to have its sigmoid as probability."""
    return explanation.output == "logit" and explanation.mode in (
        "binary",
        "multilabel",
    )


def sigmoid(logit: float) -> float:
    """The probability of a logit; does not overflow."""
    small = math.exp(-abs(logit))
    return (1 if logit >= 0 else small) / (1 + small)


def percent(share: float) -> str:
    """A share in per cent, with digits where it is near 0 or 1.

    Example:
        >>> percent(0.234), percent(0.0012), percent(0.9996), percent(1.0)
        ('23 %', '0.12 %', '99.96 %', '100 %')
    """
    edge = min(share, 1 - share)
    digits = 0 if edge >= 0.095 or edge == 0 else 1 if edge >= 0.0095 else 2
    return f"{100 * share:.{digits}f} %"


def rounded(values: Sequence[float], limit: float | None = None) -> list[str]:
    """Attributions with their signs, all with the digits that the largest needs.

    Args:
        values: The attributions.
        limit: What to count as the largest absolute one; by default the largest.

    Example:
        >>> rounded([0.438, -0.0312, 0.001]), rounded([0.0438, -0.0312])
        (['+0.44', '-0.03', '0'], ['+0.044', '-0.031'])
    """
    if limit is None:
        limit = max((abs(value) for value in values), default=0.0)
    digits = 2 if limit <= 0 else max(2, 1 - math.floor(math.log10(limit)))
    words = [f"{value:+.{digits}f}" for value in values]
    return [word if float(word) else "0" for word in words]


def colormap() -> LinearSegmentedColormap:
    """The scale of attributions as matplotlib wants it."""
    from matplotlib.colors import LinearSegmentedColormap

    # An odd number of colours, so that one of them is zero's white.
    return LinearSegmentedColormap.from_list("attribution", STOPS, N=257)


def color_bar(ax: Axes, scale: ColorScale, output: str, gap: float = 0.2) -> None:
    """The scale at the right of the axes, symmetric about zero.

    Args:
        ax: The axes.
        scale: The patient's scale.
        output: ``"logit"`` or ``"probability"``.
        gap: The distance from the axes in inches.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    limit = scale.limit or 1.0
    # In inches from the axes' right edge, whatever the figure's size.
    width, height = axes_size(ax)
    tall = max(min(height - 0.4, 2.6), 0.3 * height)
    place = (1 + gap / width, 1 - (tall + 0.2) / height, 0.14 / width, tall / height)
    side = ax.inset_axes(place)
    mappable = ScalarMappable(Normalize(-limit, limit), colormap())
    bar = figure_of(ax).colorbar(mappable, cax=side)
    bar.set_label(f"attribution ({output})", fontsize=7.5)
    for end, word, align, away in (
        (1, "raises", "bottom", 3),
        (0, "lowers", "top", -3),
    ):
        side.annotate(
            word,
            (0, end),
            xycoords="axes fraction",
            xytext=(0, away),
            textcoords="offset points",
            va=align,
            fontsize=7.5,
        )
    side.tick_params(labelsize=7)
    bar.outline.set_linewidth(0.4)


def code_labels(table: pd.DataFrame, width: int = 44) -> list[str]:
    """What to call each row of a table with ``feature``, ``code`` and ``name``.

    The code and its name, if it has one; the unit, where the table has it; the
    feature where the same code stands in two.
    """
    units = table["unit"] if "unit" in table else [None] * len(table)
    twice = table["code"].duplicated(keep=False)
    rows = zip(table["feature"], table["code"], table["name"], units, twice)
    labels = []
    for feature, code, name, unit, is_twice in rows:
        words = code if name == code else f"{code} {name}"
        tail = f" ({shorten(unit, 12)})" if unit else ""
        tail += f" [{shorten(feature, 14)}]" if is_twice else ""
        labels.append(shorten(words, max(width - len(tail), 8)) + tail)
    return labels


def label_rows(ax: Axes, labels: Sequence[str]) -> None:
    """One row per label, the first on top."""
    ax.set_yticks(range(len(labels)), labels, fontsize=8, **PLAIN)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def label_margin(labels: Sequence[str]) -> float:
    """The inches that row labels need at the left of the axes."""
    return 0.25 + 0.066 * max(map(len, labels), default=0)


def footnote(ax: Axes, text: str) -> None:
    """A muted line below the axes and their label."""
    ax.annotate(
        text,
        (0, 0),
        xycoords="axes fraction",
        xytext=(0, -38),
        textcoords="offset points",
        va="top",
        fontsize=7.5,
        color=MUTED,
        annotation_clip=False,
        **PLAIN,
    )


def bar_values(
    ax: Axes, ends: Sequence[float], values: Sequence[float], first: int = 0
) -> None:
    """Write each bar's value outside its end: right of what raises, else left.

    Args:
        ax: The axes, a row per bar.
        ends: Where each bar ends.
        values: What to write.
        first: The row of the first.
    """
    words = rounded(values)
    for row, (end, value) in enumerate(zip(ends, values, strict=True), first):
        is_left = value < 0
        ax.annotate(
            words[row - first],
            (end, row),
            xytext=(-3 if is_left else 3, 0),
            textcoords="offset points",
            ha="right" if is_left else "left",
            va="center",
            fontsize=7.5,
            **PLAIN,
        )
