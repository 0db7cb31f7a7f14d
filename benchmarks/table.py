"""The short table of the README, and the two of all results in the docs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from .families import MEASURED

REFUSED = "–"

#: Correlations that print alike are equal; and how near counts as near.
EQUAL, NEAR = 0.0005, 0.01

LABELS: Mapping[str, str] = MappingProxyType(
    {
        "ours": "DeepLiftEHR",
        "ours_first": "DeepLiftEHR, first batch",
        "ours_compiled": "DeepLiftEHR, compiled",
        "ours_3": "DeepLiftEHR, 3 segments",
        "pyhealth_deeplift": "PyHealth DeepLift",
        "captum_deeplift": "Captum DeepLift",
        "pyhealth_ig_50": "PyHealth IG, 50 steps",
        "captum_ig_50": "Captum IG, 50 steps",
        "ig_50": "Captum IG, 50 steps",
        "ig_200": "Captum IG, 200 steps",
        "gradient_x_input": "Gradient × input",
        "gradient_shap": "GradientShap, 50 samples",
        "kernel_shap": "KernelShap, 50 samples",
        "shap_gradient": "SHAP GradientExplainer, 50",
        "lime": "Lime, 200 samples",
        "random": "Random",
    }
)

#: What this project brings; none of them stands in another's way.
OWN = frozenset({"ours", "ours_first", "ours_compiled", "ours_3"})

SHORT_HEAD = (
    "Model",
    "Missing: ours",
    "Missing: PyHealth / Captum",
    "Shapley r: ours / best other",
    "Cost: ours / PyHealth",
)

SHORT_NOTES: Mapping[str, str] = MappingProxyType(
    {
        "completeness": (
            "Missing: the part of f(x) − f(x0) that the attributions do not sum to, "
            "before any rescaling, of DeepLiftEHR and the DeepLifts of PyHealth and "
            "Captum (on our adapter); median of {explained} patients."
        ),
        "faithfulness": (
            "Shapley r: correlation with sampled Shapley values, and that of the best "
            "of all other methods (IG: Captum's Integrated Gradients); median of "
            "{explained} patients."
        ),
        "speed": (
            "Cost: time over that of one plain forward and one forward-and-backward, "
            "of DeepLiftEHR (from the third batch of its shapes on) and PyHealth's "
            "DeepLift; a model that mixes the patients of a batch (AdaCare) is run "
            "once for each."
        ),
    }
)

MODEL_HEAD = (
    "Model",
    "Error: ours",
    "PyHealth",
    "Captum",
    "Time / floor: ours",
    "PyHealth",
    "Faster than IG-50",
    "Memory",
    "Shapley r: ours",
    "best other",
    "PyHealth",
)

METHOD_HEAD = (
    "Method",
    "Models",
    "Shapley r",
    "worst",
    "first",
    "within .01",
    "Planted: ours",
    "this",
    "Trainings: ours",
    "this",
)

NOTES: Mapping[str, str] = MappingProxyType(
    {
        "completeness": (
            "Error: |Σ attributions − (f(x) − f(x0))| / |f(x) − f(x0)| before any "
            "rescaling, of DeepLiftEHR, PyHealth's DeepLift and Captum's DeepLift on "
            "our adapter; median over {explained} patients."
        ),
        "speed": (
            "Time of one attribution over one plain forward and one plain "
            "forward-and-backward, of DeepLiftEHR and PyHealth's DeepLift; batch of "
            "{batch}, histories of {lengths[0]} to {lengths[1]}, one thread, medians; "
            "ours from the third batch on. "
            "IG-50: PyHealth's Integrated Gradients, or † Captum's on our adapter."
        ),
        "memory": (
            "Memory: peak over that of the plain forward-and-backward, batch of "
            "{batch}, histories of {length}."
        ),
        "faithfulness": (
            "Shapley r: correlation of token attributions with sampled Shapley values "
            "({orders} orders a patient; two halves of them correlate at {split}), "
            "median over {explained} patients, trained models; other methods on our "
            "adapter, all from one reference."
        ),
    }
)

#: All parts' rows of one model, by part.
type Rows = Mapping[str, Any]
type Results = Mapping[str, Mapping[str, Any]]


def short(results: Results) -> str:
    """Model by model, in five columns: does it add up, is it so, what does it cost.

    Args:
        results: The parts as :func:`benchmarks.results.load` gives them.
    """
    lines = [line(SHORT_HEAD), rule(SHORT_HEAD)]
    for name in MEASURED:
        rows = {part: _of_model(found, name) for part, found in results.items()}
        ours, *theirs = _errors(rows)
        agreement = [cell.replace("Captum ", "") for cell in _correlations(rows)[:2]]
        cells = [ours, theirs, agreement, _times(rows)[:2]]
        joined = [c if isinstance(c, str) else _together(c) for c in cells]
        if any(joined):
            lines.append(line([name, *joined]))
    said = [
        words.format(**results[part]["settings"])
        for part, words in SHORT_NOTES.items()
        if part in results
    ]
    said.append(f"{REFUSED}: does not take the model; raises: begins, and fails.")
    return "\n".join([*lines, "", " ".join(said)]) + "\n"


def _together(cells: Sequence[str]) -> str:
    """Several numbers in one cell; nothing where none was measured."""
    return " / ".join(cells) if any(cells) else ""


def models(results: Results) -> str:
    """Model by model: exact, fast, frugal, faithful; and what each column is.

    Args:
        results: The parts as :func:`benchmarks.results.load` gives them.
    """
    lines = [line(MODEL_HEAD), rule(MODEL_HEAD)]
    for name in MEASURED:
        rows = {part: _of_model(found, name) for part, found in results.items()}
        cells = [*_errors(rows), *_times(rows), _memory(rows), *_correlations(rows)]
        if any(cells):
            lines.append(line([name, *cells]))
    parts = [part for part in NOTES if part in results]
    said = [_note(part, results[part]) for part in parts]
    said.append(f"{REFUSED}: does not take the model; empty: not measured.")
    return "\n".join([*lines, "", " ".join(said)]) + "\n"


def methods(results: Results, training: str = "regularised") -> str:
    """Method by method: faithfulness over all models, and stability.

    Args:
        results: The parts; without faithfulness, there is nothing to say.
        training: Which of the trained models.
    """
    if "faithfulness" not in results:
        return ""
    rows = {r["model"]: r for r in of_training(results, training)}
    stable = {r["model"]: r for r in results.get("stability", {"rows": []})["rows"]}
    lines = [line(METHOD_HEAD), rule(METHOD_HEAD)]
    for name in methods_of(rows.values()):
        lines.append(line([LABELS[name], *_summary(name, rows, stable)]))
    return "\n".join([*lines, "", _legend(results, training)]) + "\n"


def of_training(results: Results, training: str) -> list[Mapping[str, Any]]:
    """The faithfulness rows of the models that were trained in one way."""
    rows = results["faithfulness"]["rows"]
    return [row for row in rows if row["training"] == training]


def methods_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """All methods that took one of the models, in the order of the labels."""
    taken = {name for row in rows for name in row["methods"]}
    return [name for name in LABELS if name in taken]


def standing(row: Mapping[str, Any], name: str) -> tuple[bool, bool]:
    """Whether a method is first in correlation, or within .01 of the first.

    Among its peers, which for one of ours are the others', for others ``ours`` too.
    """
    beside = {name} if name in OWN else {name, "ours"}
    best = max(
        method["correlation"]["median"]
        for other, method in row["methods"].items()
        if other in beside or other not in OWN
    )
    behind = best - row["methods"][name]["correlation"]["median"]
    return behind < EQUAL, round(behind, 6) <= NEAR


def _summary(name: str, rows: Rows, stable: Rows) -> list[str]:
    """A method over the models that it takes; ours over the same ones beside it."""
    taken = [row for row in rows.values() if name in row["methods"]]
    found = [row["methods"][name]["correlation"]["median"] for row in taken]
    first, near = zip(*(standing(row, name) for row in taken))
    planted = [
        _mean(row["methods"][n]["planted"] for row in taken) for n in ("ours", name)
    ]
    codes = [
        _mean(
            row["methods"][each]["trainings"]["median"]
            for row in stable.values()
            if name in row["methods"]
        )
        for each in ("ours", name)
    ]
    return [
        str(len(taken)),
        f"{np.median(found):.3f}",
        f"{min(found):.3f}",
        str(sum(first)),
        str(sum(near)),
        *planted,
        *codes,
    ]


def _mean(values: Iterable[float]) -> str:
    found = list(values)
    return f"{np.mean(found):.3f}" if found else ""


def _legend(results: Results, training: str) -> str:
    """What the columns are, and how it stands with models trained otherwise."""
    said = (
        f"Shapley r: as above, median and worst over the models (of {len(MEASURED)}) "
        "that the method takes; first: on how many its r is the highest, to three "
        "digits. Planted: average precision of the codes that the synthetic cohort's "
        "risk depends on. Trainings: rank correlation of the codes' importances "
        "between trainings; both are means over the models that the method takes, of "
        "DeepLiftEHR and of this method."
    )
    others = {row["training"] for row in results["faithfulness"]["rows"]} - {training}
    for other in sorted(others):
        rows = of_training(results, other)
        said += f" With {other} training (no weight decay, UNK never seen): "
        own = [name for name in methods_of(rows) if name in OWN]
        said += ", ".join(_stands(name, rows) for name in own) + "."
    return said


def _stands(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    taken = [row for row in rows if name in row["methods"]]
    first, near = (sum(column) for column in zip(*(standing(r, name) for r in taken)))
    return (
        f"{LABELS[name]} is first on {first} and within .01 of the first on {near} "
        f"of {len(taken)}"
    )


def _of_model(found: Mapping[str, Any], model: str) -> Any:
    """A part's row of a model; of several, the one for one thread, regularised."""
    rows = [row for row in found["rows"] if row.get("model") == model]
    rows = [r for r in rows if r.get("training", "regularised") == "regularised"]
    rows = [r for r in rows if r.get("threads", 1) == 1]
    return rows[0] if rows else None


def _errors(rows: Rows) -> list[str]:
    row = rows.get("completeness")
    if row is None:
        return [""] * 3
    trained = row["trained"]
    return [
        _error(trained["ours"], REFUSED),
        _error(trained["pyhealth_deeplift"], REFUSED),
        _error(trained["captum_deeplift"], "raises"),
    ]


def _times(rows: Rows) -> list[str]:
    row = rows.get("speed")
    if row is None:
        return [""] * 3
    over = {name: spread["median"] for name, spread in row["over_floor"].items()}
    theirs = over.get("pyhealth_deeplift")
    found, mark = over.get("pyhealth_ig_50"), ""
    if found is None:
        found, mark = over.get("captum_ig_50"), " †"
    return [
        f"{over['ours']:.2f}",
        REFUSED if theirs is None else f"{theirs:.2f}",
        REFUSED if found is None else f"{found / over['ours']:.0f} ×{mark}",
    ]


def _memory(rows: Rows) -> str:
    row = rows.get("memory")
    if row is None or not row["points"]:
        return ""
    point = _typical(row["points"])
    return f"{point['ours'] / point['forward_backward']:.2f}"


def _typical(points: list[Any]) -> Any:
    """The length that the README shows: the longest that every model reaches."""
    return points[min(1, len(points) - 1)]


def _correlations(rows: Rows) -> list[str]:
    row = rows.get("faithfulness")
    if row is None:
        return [""] * 3
    found = {n: m["correlation"]["median"] for n, m in row["methods"].items()}
    best = max((n for n in found if n not in OWN), key=lambda n: found[n])
    theirs = found.get("pyhealth_deeplift")
    return [
        f"{found['ours']:.3f}",
        f"{found[best]:.3f} {LABELS[best].partition(',')[0]}",
        REFUSED if theirs is None else f"{theirs:.3f}",
    ]


def _error(value: float | str, refused: str) -> str:
    return refused if isinstance(value, str) else number(value)


def number(value: float) -> str:
    """A relative error in as few digits as it takes."""
    if value >= 0.01:
        return f"{value:.2f}"
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def _note(part: str, found: Mapping[str, Any]) -> str:
    words = dict(found["settings"])
    if part == "faithfulness":
        halves = [row["split_half"]["median"] for row in found["rows"]]
        orders = [row["orders"] for row in found["rows"]]
        words["orders"] = f"{min(orders):.0f} to {max(orders):.0f}"
        words["split"] = f"{min(halves):.3f} to {max(halves):.3f}"
    if part == "memory":
        words["length"] = _typical(words["lengths"])
    return NOTES[part].format(**words)


def where(results: Results) -> str:
    """On what it was measured: the environments, those that are the same once."""
    parts: dict[str, list[str]] = {}
    for part, found in results.items():
        e = found["environment"]
        words = (
            f"{e['cpu']}, Python {e['python']}, torch {e['torch']}, Captum "
            f"{e['captum']}, PyHealth {e['pyhealth']}"
        )
        if part == "cuda":
            words = f"{e['card']} with {words}"
        parts.setdefault(words, []).append(part)
    if len(parts) == 1:
        return f"Measured on {next(iter(parts))}."
    said = [f"{', '.join(sorted(names))} on {words}" for words, names in parts.items()]
    return f"Measured: {'; '.join(said)}."


def rule(cells: Any) -> str:
    """The line below a head: names to the left, numbers to the right."""
    return line(["---", *["--:"] * (len(cells) - 1)])


def line(cells: Any) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"
