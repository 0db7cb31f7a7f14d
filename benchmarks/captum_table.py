"""The table of Captum's classes by models, and its place in the documentation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import table
from .captum_trials import Found

BEGIN = "<!-- captum classes: begin -->"
END = "<!-- captum classes: end -->"

NOTE = (
    "Captum's classes on `PyHealthAdapter`. A number: the class promises to add up, "
    "and its attributions miss f(x) − f(x0) by this part of it (median of {explained} "
    "patients, small models, {path} steps of paths). ✓: works, promises no sum. A "
    "letter: cannot, or not as meant:"
)


def markdown(found: Mapping[str, Any]) -> str:
    """Classes by models, reasons as letters and spelt out below.

    Args:
        found: The JSON of this part.
    """
    rows = found["rows"]
    reasons: dict[str, str] = {}
    lines = [
        table.line(["", *(row["model"] for row in rows)]),
        table.line(["---", *["--:"] * len(rows)]),
    ]
    for name in rows[0]["classes"]:
        cells = [_cell(row["classes"][name], reasons) for row in rows]
        lines.append(table.line([name, *cells]))
    note = NOTE.format(**found["settings"])
    said = [f"- {letter}: {reason}" for reason, letter in reasons.items()]
    where = table.where({found["part"]: found})
    return "\n".join([*lines, "", note, "", *said, "", where]) + "\n"


def _cell(value: Found, reasons: dict[str, str]) -> str:
    if isinstance(value, str):
        return reasons.setdefault(_short(value), chr(ord("a") + len(reasons)))
    return "✓" if value is True else table.number(value)


def _short(reason: str) -> str:
    """Its first sentence, without the module that it stumbled over."""
    words = re.sub(r"A Module \w+\(.*?\) was", "A module was", reason)
    words = words.split(". ")[0].rstrip(".").replace("nodefault", "no default")
    return words if len(words) <= 150 else f"{words[:149]}…"
