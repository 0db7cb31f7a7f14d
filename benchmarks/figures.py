"""The two figures: time over the floor, and correlation with Shapley values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .families import MEASURED
from .table import LABELS, OWN, Results, of_training


class Style(NamedTuple):
    """How a method is drawn: colour (Okabe and Ito's) and shape, in all figures."""

    color: str
    marker: str


STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "ours": Style("#D55E00", "o"),
        "ours_3": Style("#D55E00", "*"),
        "pyhealth_deeplift": Style("#0072B2", "s"),
        "captum_deeplift": Style("#56B4E9", "D"),
        "pyhealth_ig_50": Style("#009E73", "s"),
        "captum_ig_50": Style("#009E73", "^"),
        "ig_200": Style("#009E73", "^"),
        "gradient_shap": Style("#CC79A7", "v"),
        "kernel_shap": Style("#000000", "P"),
        "shap_gradient": Style("#CC79A7", "X"),
        "gradient_x_input": Style("#E69F00", "<"),
        "lime": Style("#000000", ">"),
        "random": Style("#999999", "x"),
    }
)

#: Correlations are drawn by their distance to 1, on a logarithmic scale.
TICKS = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)
NEAREST = 5e-5


def write(results: Results, folder: Path) -> list[Path]:
    """Draw the figures of the parts that were measured.

    Returns:
        The files.
    """
    made = []
    for part, draw in (("speed", speed), ("faithfulness", faithfulness)):
        if part in results:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{part}.png"
            draw(results).savefig(path, dpi=150, metadata={"Software": None})
            made.append(path)
    return made


def speed(results: Results) -> Any:
    """Time over the floor by model and method, on a logarithmic scale."""
    rows = {r["model"]: r for r in results["speed"]["rows"] if r["threads"] == 1}
    found = {
        model: {name: spread["median"] for name, spread in row["over_floor"].items()}
        for model, row in rows.items()
    }
    figure, axes = _dots(found, lambda value: value)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} ×")
    axes.axvline(1, color="#444444", linewidth=1)
    settings = results["speed"]["settings"]
    axes.set_xlabel(
        "time of one attribution, over one plain forward and one plain "
        "forward-and-backward"
    )
    low, high = settings["lengths"]
    _title(
        figure,
        "What an explanation costs",
        f"Batch of {settings['batch']}, histories of {low} to {high}, one CPU thread",
    )
    return figure


def faithfulness(results: Results, training: str = "regularised") -> Any:
    """Correlation with Shapley values by model and method."""
    found = {
        row["model"]: {
            name: one["correlation"]["median"]
            for name, one in row["methods"].items()
            if name in STYLES
        }
        for row in of_training(results, training)
    }
    figure, axes = _dots(found, distance)
    axes.set_xscale("log")
    axes.set_xlim(1.4, NEAREST / 1.4)
    axes.set_xticks([distance(tick) for tick in TICKS])
    axes.set_xticklabels(["≤ 0", *(f"{tick:g}" for tick in TICKS[1:])])
    axes.xaxis.set_minor_locator(_nothing())
    axes.set_xlabel("correlation with sampled Shapley values (further right: better)")
    count = results["faithfulness"]["settings"]["explained"]
    _title(
        figure,
        "How faithful an explanation is",
        f"Trained models, tokens of {count} patients each, medians",
    )
    return figure


def distance(correlation: float) -> float:
    """From 1, between what is drawn leftmost and rightmost."""
    return min(1.0, max(NEAREST, 1 - correlation))


def _dots(
    found: Mapping[str, Mapping[str, float]], place: Callable[[float], float]
) -> tuple[Any, Any]:
    """A line for each model, a dot for each method, ours in front."""
    from matplotlib.figure import Figure

    models = [model for model in MEASURED if model in found]
    figure = Figure(figsize=(9, 1.9 + 0.36 * len(models)), layout="constrained")
    axes = figure.add_subplot()
    names = [n for n in STYLES if any(n in one for one in found.values())]
    for name in reversed(names):
        style, own = STYLES[name], name in OWN
        at = [(k, found[m][name]) for k, m in enumerate(models) if name in found[m]]
        edge: dict[str, Any] = {} if style.marker == "x" else {"edgecolors": "white"}
        axes.scatter(
            [place(value) for _, value in at],
            [k for k, _ in at],
            s=85 if own else 48,
            marker=style.marker,
            color=style.color,
            linewidths=1.5 if style.marker == "x" else 0.6,
            **edge,
            zorder=4 if own else 3,
            label=LABELS[name],
        )
    _frame(axes, models)
    _legend(axes, names)
    return figure, axes


def _frame(axes: Any, models: Sequence[str]) -> None:
    axes.set_yticks(range(len(models)), models)
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.grid(axis="x", color="#f0f0f0", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _legend(axes: Any, names: Iterable[str]) -> None:
    """Below, in the order of the table."""
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles))
    wanted = [LABELS[name] for name in names]
    axes.figure.legend(
        [by_label[label] for label in wanted],
        wanted,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=9,
    )


def _title(figure: Any, title: str, below: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    figure.axes[0].set_title(below, loc="left", fontsize=10, color="#444444")


def _nothing() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
