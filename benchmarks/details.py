"""The page of all numbers: docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .table import LABELS, Results, line, methods_of, rule, where

HEAD = """# Benchmarks: all numbers

Made by `make bench` from the JSON files in `benchmarks/results/`, which also hold the
settings, quartiles and reasons of refusals. In short: [beside its
peers](benchmarks-peers.md).

![Time over the floor](speed.png)

![Correlation with Shapley values](faithfulness.png)
"""

FAITHFUL = (
    "Method",
    "r, median",
    "r, mean",
    "ours ahead by",
    "insertion",
    "deletion",
    "compreh.",
    "suffic.",
    "infidelity",
    "planted",
)


def page(results: Results) -> str:
    """The page, of the parts that were measured."""
    makers = {
        "speed": _speed,
        "cuda": _cuda,
        "scaling": _scaling,
        "memory": _memory,
        "stability": _stability,
        "faithfulness": _faithfulness,
        "mimic3": _mimic3,
        "interactions": _interactions,
        "cohort": _cohort,
    }
    said = [make(results[part]) for part, make in makers.items() if part in results]
    return "\n".join([HEAD, *said, where(results)]) + "\n"


def _speed(found: Mapping[str, Any]) -> str:
    return _section(
        "Speed",
        "Time over the floor: one plain forward and one plain forward-and-backward. "
        "Medians over rounds in which all methods alternate; in brackets the "
        "quartiles. Empty: does not take the model, or not timed on so many threads. "
        "AdaCare mixes the patients of a batch; DeepLiftEHR explains them one by one.",
        _times(found),
    )


def _cuda(found: Mapping[str, Any]) -> str:
    return _section(
        "Speed on a card",
        f"The same on an {found['environment']['card']}, and one thread of the CPU.",
        _times(found),
    )


def _times(found: Mapping[str, Any]) -> list[str]:
    names = [n for n in LABELS if any(n in r["over_floor"] for r in found["rows"])]
    head = ["Model", "threads", "floor, ms", *(LABELS[name] for name in names)]
    lines = [line(head), rule(head)]
    for row in found["rows"]:
        floor = sum(
            row["milliseconds"][n]["median"] for n in ("forward", "forward_backward")
        )
        over = row["over_floor"]
        cells = [_ratio(over[name]) if name in over else "" for name in names]
        lines.append(line([row["model"], str(row["threads"]), f"{floor:.1f}", *cells]))
    return [*lines, *(_compiling(row) for row in found["rows"] if _compiled(row))]


def _compiled(row: Mapping[str, Any]) -> bool:
    return row.get("compile_seconds") is not None


def _compiling(row: Mapping[str, Any]) -> str:
    after = row["pays_after"]
    paid = "never pays" if after is None else f"pays after {after:,.0f} batches"
    taken = f"{row['compile_seconds']:.0f} s"
    return f"\n{row['model']}: compiling takes {taken} and {paid}."


def _ratio(spread: Mapping[str, float]) -> str:
    low, mid, high = (spread[key] for key in ("lower", "median", "upper"))
    if mid >= 10:
        return f"{mid:.0f}"
    return f"{mid:.2f} ({low:.2f}–{high:.2f})"


def _scaling(found: Mapping[str, Any]) -> str:
    lengths = found["settings"]["lengths"]
    head = ["Model", "batch", *map(str, lengths)]
    lines = [line(head), rule(head)]
    for row in found["rows"]:
        points = {point["length"]: point for point in row["points"]}
        cells = [_grown(points.get(length)) for length in lengths]
        lines.append(line([row["model"], str(row["batch"]), *cells]))
    limit = found["settings"]["limit"]
    return _section(
        "How cost grows",
        "Time over the floor by length of the histories, and DeepLiftEHR's "
        "milliseconds. Left out (…): one round takes, or is expected to, more than "
        f"{limit:g} s, or the model does not take it; the JSON says which. All "
        "histories are of one length here; of such, torch runs a fused LSTM (oneDNN) "
        "forward and backward, which rules have to take apart.",
        lines,
    )


def _grown(point: Any) -> str:
    if point is None:
        return "…"
    taken = point["ours"]["median"]
    digits = f"{taken:.3g}" if taken < 1000 else f"{taken:.0f}"
    return f"{point['over_floor']['median']:.2f} ({digits} ms)"


def _memory(found: Mapping[str, Any]) -> str:
    rows = found["rows"]
    found_at = {point["length"] for row in rows for point in row["points"]}
    lengths = sorted(found_at.union(found["settings"]["lengths"]))
    head = ["Model", *map(str, lengths)]
    lines = [line(head), rule(head)]
    for row in rows:
        points = {point["length"]: point for point in row["points"]}
        lines.append(line([row["model"], *(_peaks(points.get(n)) for n in lengths)]))
    return _section(
        "Memory",
        "Peak of what tensors hold during one attribution, over that of the plain "
        f"forward-and-backward, batch of {found['settings']['batch']}, by length of "
        "the histories; in brackets DeepLiftEHR's MiB. Left out (…): too slow, "
        "or not asked for. BERT: of the base model's width, with fused attention.",
        lines,
    )


def _peaks(point: Any) -> str:
    if point is None:
        return "…"
    return f"{point['ours'] / point['forward_backward']:.2f} ({point['ours']:.0f} MiB)"


def _stability(found: Mapping[str, Any]) -> str:
    names = methods_of(found["rows"])
    head = ["Model", *(LABELS[name] for name in names)]
    lines = [line(head), rule(head)]
    for row in found["rows"]:
        cells = [_stable(row["methods"].get(name)) for name in names]
        lines.append(line([row["model"], *cells]))
    settings = found["settings"]
    return _section(
        "Stability",
        "Rank correlation of the codes' importances between two of "
        f"{settings['trainings']} trainings (median of pairs); in brackets how far "
        "attributions move, as a part of their norm, if each number of the embeddings "
        f"is off by {settings['noise']:.0e} of itself (median of patients).",
        lines,
    )


def _stable(one: Any) -> str:
    if one is None:
        return ""
    return f"{one['trainings']['median']:.3f} ({one['noise']['median']:.0e})"


def _faithfulness(found: Mapping[str, Any]) -> str:
    return _section(
        "Faithfulness",
        "Of models that are regularised as in the demo, and of plain ones (no weight "
        "decay, UNK never seen). r: correlation with sampled Shapley values, patient "
        "by patient. Ours ahead by: mean of the difference, ± its standard error. "
        "Insertion, deletion: areas of the curves in units of the logit, the higher "
        "the better. Comprehensiveness (the higher the better) and sufficiency (the "
        "lower): PyHealth's. Infidelity: Captum's, normalised, over the mean "
        "(f(x) − f(x0))², the lower the better. Planted: average precision of the "
        "codes that the cohort's risk depends on.",
        _rows(found["rows"]),
    )


def _mimic3(found: Mapping[str, Any]) -> str:
    return _section(
        "Faithfulness on real records",
        "The same on the public demo of MIMIC-III (PyHealth's mortality task), "
        f"{found['settings']['explained']} admissions. It has too few patients to "
        "learn medicine from; what is measured is the explanation of the model.",
        _rows(found["rows"]),
    )


def _interactions(found: Mapping[str, Any]) -> str:
    head = (
        "Model",
        "AUROC",
        "patients",
        "first",
        "exact: first",
        "effect",
        "exact: effect",
        "r",
        "slope",
        "asymmetry",
        "residual",
        "cost",
    )
    lines = [line(head), rule(head)]
    for row in found["rows"]:
        medians = [
            row[name]["median"] for name in ("correlation", "slope", "asymmetry")
        ]
        cells = [f"{row['auroc']:.3f}", *(str(row[name]) for name in _COUNTS)]
        cells += [f"{row['effect']:+.2f}", f"{row['exact_effect']:+.2f}"]
        cells += [f"{value:.4f}" for value in medians]
        cells += [f"{row['residual']:.0e}", f"{row['cost']['median']:.2f}"]
        lines.append(line([row["model"], *cells]))
    return _section(
        "Pairs of codes",
        "Of models trained until they have learnt the cohort's planted pair, on "
        "patients held out who have both codes, beside the exact Shapley interaction "
        "index of all coalitions of their codes. First: in how many the planted pair "
        "is the strongest. Effect: the pair's, in the median (in truth 3.4). r and "
        "slope: of all pairs of a patient, on the exact index. Asymmetry: a patient's "
        "largest over its largest effect. Residual: the most by which a row misses "
        "its attribution, or all of it f(x) − f(x0). Cost: all pairs of a patient over "
        "one explanation of as many rows.",
        lines,
    )


_COUNTS = ("patients", "first", "exact_first")


def _cohort(found: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for what, title in _COHORT.items():
        rows = [row for row in found["rows"] if row["what"] == what]
        if rows:
            head = [title, *rows[0]["numbers"]]
            lines += [line(head), rule(head)]
        for row in rows:
            numbers = row["numbers"].values()
            lines.append(line([row["case"], *(f"{value:,.4g}" for value in numbers)]))
        lines.append("")
    return _section(
        "Cohorts",
        "What `explain_cohort` takes, on one thread. Memory is a process's own, before "
        "it begins and at its peak. Batches by length are compared with batches in the "
        "dataset's order, of histories whose lengths are skewed; patients a second of "
        "processor time, which for the cohort includes tables and files. Rates include "
        "everything. Workers of one thread each share the cores with who asks them.",
        lines,
    )


_COHORT = {
    "memory": "Memory",
    "lengths": "Batches by length",
    "rates": "Rates",
    "workers": "Workers, warm",
}


def _rows(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        lines += [
            f"**{row['model']}**, {row['training']}: AUROC {row['auroc']:.3f}, "
            f"{row['tokens']:.0f} tokens and {row['orders']:.0f} orders a patient, "
            f"whose halves correlate at {row['split_half']['median']:.4f}.",
            "",
            line(FAITHFUL),
            rule(FAITHFUL),
        ]
        for name in methods_of([row]):
            lines.append(line([LABELS[name], *_scores(row["methods"][name])]))
        lines.append("")
    return lines


def _scores(one: Mapping[str, Any]) -> list[str]:
    r, ahead, planted = one["correlation"], one["ahead"], one["planted"]
    return [
        f"{r['median']:.4f}",
        f"{r['mean']:.4f}",
        f"{ahead['mean']:+.4f} ± {ahead['error']:.4f}",
        f"{one['insertion']:.3f}",
        f"{one['deletion']:.3f}",
        f"{one['comprehensiveness']:.3f}",
        f"{one['sufficiency']:.3f}",
        f"{one['infidelity']:.4f}",
        "" if planted is None else f"{planted:.3f}",
    ]


def _section(title: str, words: str, lines: Iterable[str]) -> str:
    return "\n".join([f"## {title}", "", words, "", *lines, ""])
