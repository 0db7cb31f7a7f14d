"""One table of all results, and its place in the README."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .families import families

BEGIN = "<!-- benchmarks: begin -->"
END = "<!-- benchmarks: end -->"

REFUSED = "–"

HEAD = (
    "Model",
    "Error: ours",
    "PyHealth",
    "Captum",
    "Time / floor: ours",
    "PyHealth",
    "Faster than IG-50",
    "Shapley r: ours",
    "IG-200",
    "PyHealth",
)

NOTES = {
    "completeness": (
        "Error: |Σ attributions − (f(x) − f(x0))| / |f(x) − f(x0)| before any "
        "rescaling, of DeepLiftEHR, PyHealth's DeepLift and Captum's DeepLift on our "
        "adapter; median over {explained} patients, after {steps} training steps."
    ),
    "speed": (
        "Time of one attribution over one plain forward and one plain "
        "forward-and-backward; batch of {batch}, histories of {lengths[0]} to "
        "{lengths[1]}, medians. IG-50: PyHealth's Integrated Gradients, or † "
        "Captum's on our adapter."
    ),
    "faithfulness": (
        "Shapley r: correlation of token attributions with sampled Shapley values "
        "({orders} orders per patient; two halves of them correlate at {split}), mean "
        "over {explained} patients, models trained on the synthetic cohort; IG-200 is "
        "Captum's on our adapter."
    ),
}

#: All parts' rows of one model, by part.
type Rows = Mapping[str, Mapping[str, Any]]


class MarkerError(ValueError):
    """The README has no place for the table."""


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of what was measured, and what it was measured on.

    Args:
        results: The parts as :func:`benchmarks.results.load` gives them.
    """
    by_part = {
        part: {row["model"]: row for row in found["rows"]}
        for part, found in results.items()
    }
    lines = [line(HEAD), line(["---", *["--:"] * (len(HEAD) - 1)])]
    for family in families():
        rows = {
            part: found[family.name]
            for part, found in by_part.items()
            if family.name in found
        }
        if rows:
            lines.append(line([family.name, *_cells(rows)]))
    notes = [_note(part, found) for part, found in results.items()]
    dash = f"{REFUSED}: does not take the model; empty: not measured."
    return "\n".join([*lines, "", " ".join([*notes, dash]), "", where(results)]) + "\n"


def write(readme: Path, table: str, begin: str = BEGIN, end: str = END) -> None:
    """Put a table between its markers.

    Raises:
        MarkerError: If the file or its markers are not there.
    """
    text = readme.read_text() if readme.exists() else ""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise MarkerError(
            f"{readme} has no lines {begin} and {end}; the table goes between them."
        )
    readme.write_text(f"{before}{begin}\n{table}{end}{after}")


def _cells(rows: Rows) -> list[str]:
    return [*_errors(rows), *_times(rows), *_correlations(rows)]


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
    over = row["over_floor"]
    theirs = over.get("pyhealth_deeplift")
    found, mark = over.get("pyhealth_ig_50"), ""
    if found is None:
        found, mark = over.get("captum_ig_50"), " †"
    return [
        f"{over['ours']:.2f}",
        REFUSED if theirs is None else f"{theirs:.2f}",
        REFUSED if found is None else f"{found / over['ours']:.0f} ×{mark}",
    ]


def _correlations(rows: Rows) -> list[str]:
    row = rows.get("faithfulness")
    if row is None:
        return [""] * 3
    found = [
        row["correlations"].get(name)
        for name in ("ours", "ig_200", "pyhealth_deeplift")
    ]
    return [REFUSED if each is None else f"{each['mean']:.3f}" for each in found]


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
        halves = [row["split_half"]["mean"] for row in found["rows"]]
        words["orders"] = 2 * words["pairs"]
        words["split"] = f"{min(halves):.3f} to {max(halves):.3f}"
    return NOTES[part].format(**words)


def where(results: Mapping[str, Mapping[str, Any]]) -> str:
    """On what it was measured: the environments, those that are the same once."""
    parts: dict[str, list[str]] = {}
    for part, found in results.items():
        e = found["environment"]
        threads = "1 thread" if e["threads"] == 1 else f"{e['threads']} threads"
        words = (
            f"{e['date']}, {e['cpu']}, {threads}, Python {e['python']}, torch "
            f"{e['torch']}, Captum {e['captum']}, PyHealth {e['pyhealth']}"
        )
        parts.setdefault(words, []).append(part)
    if len(parts) == 1:
        return f"Measured {next(iter(parts))}."
    said = [f"{', '.join(names)}: {words}." for words, names in parts.items()]
    return "Measured " + " ".join(said)


def line(cells: Any) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"
