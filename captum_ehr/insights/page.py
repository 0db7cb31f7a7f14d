"""The page: its markup, and the whole of it as one file."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..explanation.writing import write_text
from ..scene import TABLE, PopulationScene, top_codes
from ..scene.palette import LOWERS, OUTPUT, RAISES, ColorScale
from ..scene.verdict import ADDED_UP
from ..scene.wording import percent, several
from ..visualization.html import patient_html, population_html, stylesheet, templates
from .explainer import Setting
from .overview import performance
from .viewer import Viewer
from .views import remarks_of, rows_of, sums_of

#: One file after the other makes the page's script.
SCRIPTS = (
    "dom.js",
    "state.js",
    "transport.js",
    "said.js",
    "marks.js",
    "sidebar.js",
    "what_if.js",
    "address.js",
    "patients.js",
    "cohort.js",
    "exports.js",
    "app.js",
)

#: The most codes of the cohort's table.
TOP = 200

#: The colours of bars that lower and raise, and of those that do not say.
BARS = (LOWERS, RAISES, OUTPUT)

#: The most patients whose data a file holds unless more are asked for.
LIMIT = 20


class ExportLimitError(ValueError):
    """A page would hold the data of more patients than it was told to."""


def save(
    visualizer: Viewer,
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
    return write_text(
        path, saved(visualizer, visualizer.rows(patients), settings, limit)
    )


def saved(
    visualizer: Viewer,
    rows: Sequence[int],
    settings: Iterable[Setting],
    limit: int = LIMIT,
) -> str:
    """The page of some patients, explained in some ways, as text."""
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
    views, cohorts, parts = {}, {}, {}
    for way in ways:
        # As the page's settingKey.
        key = json.dumps(list(way), separators=(",", ":"), ensure_ascii=False)
        views[key] = [patient_piece(visualizer, row, way) for row in rows]
        known = visualizer.contributions(rows, way)
        cohorts[key] = cohort_piece(visualizer, rows, known.values(), way, most=None)
        parts[key] = [_placed(known[row], codes) for row in rows]
    of = f", of {len(visualizer)}" if len(rows) < len(visualizer) else ""
    ids = "under replaced identifiers" if visualizer.deidentified else "with their ids"
    note = (
        f"This file holds the data of {several(len(rows), 'patient')}{of}, {ids}. "
        "Treat it like the records."
    )
    data = {"views": views, "cohorts": cohorts, "parts": parts, "note": note}
    return _page(visualizer, overview, data)


def live_page(visualizer: Viewer) -> str:
    """The page that asks its server for what it shows."""
    return _page(visualizer, visualizer.overview(), {}, "'self'")


def patient_piece(visualizer: Viewer, row: int, setting: Setting) -> dict[str, Any]:
    """What the page shows of one patient, drawn, and the same as rows of a table."""
    scene = visualizer.scene(row, setting)
    return {
        "html": patient_html(scene),
        "target": scene.target,
        "rows": rows_of(scene),
    }


def cohort_piece(
    visualizer: Viewer,
    rows: Sequence[int],
    parts: Collection[Mapping[str, Any]],
    setting: Setting,
    most: int | None = TOP,
) -> str:
    """What the page shows of the cohort, drawn."""
    overview, offer = visualizer.overview(), visualizer.methods[setting.method]
    sums = sums_of(parts, overview["codes"])
    scale = ColorScale(0.0, offer.signed)
    codes = top_codes(sums[:most], len(parts))
    table = PopulationScene(len(parts), codes, len(sums), scale=scale)
    predictions = overview["predictions"][setting.model]
    judged = [predictions[row]["correct"] for row in rows]
    targets = overview["targets"][setting.model]
    target = "predicted class" if setting.target is None else targets[setting.target]
    statuses = [part["status"] for part in parts]
    return _rendered(
        "cohort.html.jinja",
        count=len(parts),
        wanted=len(rows),
        target=target,
        model=overview["models"][setting.model],
        judged=len(judged) - judged.count(None),
        right=judged.count(True),
        adds_up=offer.adds_up,
        sums=sum(status in ADDED_UP for status in statuses),
        cautions=statuses.count("caution"),
        remarks=remarks_of(parts),
        performance=performance(overview, rows, setting.model),
        more=len(sums) if len(sums) > min(TOP, len(codes)) else 0,
        table=Markup(population_html(table)),
    )


def embedded(data: Any) -> Markup:
    """Data as JSON that no HTML parser takes for anything else."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _page(
    visualizer: Viewer,
    overview: Mapping[str, Any],
    data: Mapping[str, Any],
    connect: str = "'none'",
) -> str:
    """The page, which may run its own script and reach nothing but its server."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; "
        f"img-src data: blob:; connect-src {connect}; base-uri 'none'; "
        "form-action 'none'"
    )
    files = resources.files("captum_ehr.insights") / "page_files"
    texts = [(files / name).read_text(encoding="utf-8") for name in SCRIPTS]
    css = (files / "page.css").read_text(encoding="utf-8")
    predictions = overview["predictions"][0]
    return _rendered(
        "page.html.jinja",
        nonce=nonce,
        policy=policy,
        overview=overview,
        is_live=not data,
        is_judged=any(said["correct"] is not None for said in predictions),
        is_observed=any(one["actual"] is not None for one in overview["patients"]),
        data=embedded(
            {
                **data,
                "overview": overview,
                "colors": TABLE,
                "bars": BARS,
                "limit": LIMIT,
            }
        ),
        css=Markup(stylesheet() + css),
        script=Markup("\n".join(texts)),
    )


def _rendered(template: str, **content: Any) -> str:
    environment = templates("captum_ehr.insights", "page_files")
    environment.filters["percent"] = percent
    environment.globals |= {"several": several, "zip": zip}
    return environment.get_template(template).render(**content)


def _cut(
    overview: Mapping[str, Any], rows: Sequence[int], ways: Sequence[Setting]
) -> tuple[dict[int, int], dict[str, Any]]:
    """Of an overview what concerns some patients, and nothing of the others.

    Returns:
        The new place of each code, and the overview.
    """
    kept = sorted({code for row in rows for code in overview["patients"][row]["codes"]})
    codes = {old: new for new, old in enumerate(kept)}
    names = {way.method for way in ways}
    return codes, {
        **overview,
        "codes": [overview["codes"][old] for old in kept],
        "methods": [way for way in overview["methods"] if way["name"] in names],
        "patients": [
            {**patient, "codes": [codes[old] for old in patient["codes"]]}
            for patient in (overview["patients"][row] for row in rows)
        ],
        "predictions": [
            [predictions[row] for row in rows]
            for predictions in overview["predictions"]
        ],
    }


def _placed(part: Mapping[str, Any], codes: Mapping[int, int]) -> dict[str, Any]:
    """A patient's part with the new places of the codes."""
    return {**part, "codes": [[codes[old], total] for old, total in part["codes"]]}
