"""The page: its markup, and the whole of it as one file."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from ..explanation.writing import write_text
from ..scene.palette import STOPS
from .store import Setting

if TYPE_CHECKING:
    from .visualizer import AttributionVisualizer

#: One file after the other makes the page's script.
SCRIPTS = (
    "head.js",
    "dom.js",
    "state.js",
    "transport.js",
    "sidebar.js",
    "timeline.js",
    "patient.js",
    "cohort.js",
    "exports.js",
    "app.js",
)

#: The most patients whose data a file holds unless more are asked for.
LIMIT = 20


class ExportLimitError(ValueError):
    """A page would hold the data of more patients than it was told to."""


def save(
    visualizer: AttributionVisualizer,
    path: str | Path,
    *,
    patients: Iterable[int | str] | None = None,
    methods: Sequence[str] | None = None,
    targets: Sequence[int | str | None] = (None,),
    baselines: Sequence[str] | None = None,
    limit: int = LIMIT,
) -> Path:
    """Write one self-contained HTML page; whoever has the file has the data.

    The page asks for nothing over the network, says how many patients' data it holds,
    and shows the same numbers as the live one, for the combinations that it was made
    with.

    Args:
        visualizer: What to show.
        path: Where to, readable by its owner alone; an existing file is replaced.
        patients: Places or identifiers; all by default.
        methods: Names of methods; the first on offer by default.
        targets: Indices or names of outputs; None is the predicted one.
        baselines: Names of baselines; each method's first by default.
        limit: The most patients that the file may hold.

    Returns:
        The path that was written.

    Raises:
        ExportLimitError: If it would hold more patients than ``limit``.
        ValueError: If something is not on offer.

    Example:
        >>> save(visualizer, "page.html", patients=["p1"])  # doctest: +SKIP
        PosixPath('page.html')
    """
    settings = [
        visualizer.setting(method, target, baseline, model)
        for model in range(len(visualizer.overview()["models"]))
        for method in methods or list(visualizer.methods)[:1]
        for target in targets
        for baseline in baselines or (None,)
    ]
    chosen = range(len(visualizer)) if patients is None else patients
    rows = list(dict.fromkeys(map(visualizer.row, chosen)))
    return write_text(path, saved(visualizer, rows, settings, limit))


def saved(
    visualizer: AttributionVisualizer,
    rows: Sequence[int],
    settings: Iterable[Setting],
    limit: int = LIMIT,
) -> str:
    """The page of some patients, explained in some ways, as text.

    Args:
        visualizer: What to show.
        rows: The patients' places.
        settings: How they are explained.
        limit: The most patients that it may hold.

    Raises:
        ExportLimitError: If it would hold more patients than ``limit``.
        ValueError: If there are none.
    """
    if not rows:
        raise ValueError("There is no patient to write.")
    if len(rows) > limit:
        raise ExportLimitError(
            f"The page would hold the data of {len(rows)} patients, more than "
            f"limit={limit}. Choose some with patients=[...], or say "
            f"limit={len(rows)} if they all may be in one file."
        )
    ways = list(dict.fromkeys(settings))
    codes, overview = _cut(visualizer.overview(), rows, ways)
    views, parts = {}, {}
    for way in ways:
        views[_key(way)] = [
            {**visualizer.view(row, *_asked(way)), "row": place}
            for place, row in enumerate(rows)
        ]
        found = visualizer.contributions(rows, way)
        parts[_key(way)] = [placed(found[row], codes) for row in rows]
    count = "1 patient" if len(rows) == 1 else f"{len(rows)} patients"
    of = f", of {len(visualizer)}" if len(rows) < len(visualizer) else ""
    named = (
        "under replaced identifiers" if visualizer.deidentified else "with their ids"
    )
    note = (
        f"This file holds the data of {count}{of}, {named}. Treat it like the records."
    )
    data = {"overview": overview, "views": views, "parts": parts, "note": note}
    nonce = secrets.token_urlsafe(16)
    return page_template().render(
        nonce=nonce,
        policy=policy(nonce),
        page_title=visualizer.title,
        data=embedded(data),
    )


def placed(part: dict[str, Any], codes: dict[tuple[str, str], int]) -> dict[str, Any]:
    """A patient's contributions with places in a list in place of the codes.

    A sum stays None where it is no number: it is not 0.
    """
    sums = [[codes[f, c], s] for f, c, s in part["codes"] if (f, c) in codes]
    return {**part, "codes": sums}


def places(overview: dict[str, Any]) -> dict[tuple[str, str], int]:
    """The place of each code in an overview's list."""
    return {(one["feature"], one["code"]): i for i, one in enumerate(overview["codes"])}


def embedded(data: Any) -> Markup:
    """Data as JSON that no HTML parser takes for anything else."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def policy(nonce: str, connect: str = "'none'") -> str:
    """What the page may do: run its own script, and reach nothing but its server."""
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; "
        f"img-src data: blob:; connect-src {connect}; base-uri 'none'; "
        "form-action 'none'"
    )


@cache
def page_template() -> Template:
    """The page without data, with its own script and looks."""
    environment = Environment(
        loader=PackageLoader("captum_ehr.insights", "page_files"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    files = resources.files("captum_ehr.insights") / "page_files"
    texts = [(files / name).read_text(encoding="utf-8") for name in SCRIPTS]
    css = (files / "page.css").read_text(encoding="utf-8")
    shared = {"css": Markup(css), "script": Markup("\n".join(texts))}
    return environment.get_template("page.html.jinja", globals=shared)


def shown(overview: dict[str, Any]) -> dict[str, Any]:
    """An overview with the colours that the page draws with."""
    return {**overview, "stops": STOPS}


def _cut(
    overview: dict[str, Any], rows: Sequence[int], ways: Sequence[Setting]
) -> tuple[dict[tuple[str, str], int], dict[str, Any]]:
    """Of an overview what concerns some patients, and nothing of the others."""
    kept = sorted({code for row in rows for code in overview["patients"][row]["codes"]})
    new = {old: place for place, old in enumerate(kept)}
    names = {way.method for way in ways}
    part = {
        **overview,
        "codes": [overview["codes"][old] for old in kept],
        "methods": [one for one in overview["methods"] if one["name"] in names],
        "patients": [
            {**one, "codes": [new[old] for old in one["codes"]]}
            for one in (overview["patients"][row] for row in rows)
        ],
        "predictions": [
            [said[row] for row in rows] for said in overview["predictions"]
        ],
    }
    return places(part), shown(part)


def _asked(way: Setting) -> tuple[str, int | None, str, int]:
    return way.method, way.target, way.baseline, way.model


def _key(way: Setting) -> str:
    """As the page's settingKey."""
    return json.dumps(list(way), separators=(",", ":"), ensure_ascii=False)
