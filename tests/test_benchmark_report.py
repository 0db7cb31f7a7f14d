"""Tables and figures say what the JSON says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import (
    cli,
    cohort,
    completeness,
    faithfulness,
    figures,
    memory,
    report,
    results,
    scaling,
    speed,
    stability,
    table,
)


def found(part: str, settings: Any, *rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "part": part,
        "environment": results.environment(),
        "settings": json.loads(json.dumps(asdict(settings))),
        "rows": list(rows),
    }


def spread(median: float) -> dict[str, float]:
    return {"median": median, "lower": 0.9 * median, "upper": 1.1 * median}


def correlation(median: float) -> dict[str, float]:
    return {**spread(median), "mean": median, "error": 0.01}


def scores(r: float, planted: float | None = 0.5) -> dict[str, Any]:
    return {
        "correlation": correlation(r),
        "ahead": correlation(0.01),
        "insertion": 1.0,
        "deletion": 2.0,
        "comprehensiveness": 0.3,
        "sufficiency": 0.2,
        "infidelity": 0.1,
        "planted": planted,
    }


def trained(model: str, training: str, **methods: float) -> dict[str, Any]:
    return {
        "model": model,
        "training": training,
        "auroc": 0.8,
        "tokens": 30.0,
        "orders": 96.0,
        "split_half": correlation(0.991),
        "methods": {name: scores(r) for name, r in methods.items()},
        "refused": {},
    }


def timed(model: str, threads: int, **over: float) -> dict[str, Any]:
    return {
        "model": model,
        "threads": threads,
        "milliseconds": {"forward": spread(10.0), "forward_backward": spread(30.0)},
        "over_floor": {name: spread(ratio) for name, ratio in over.items()},
        "refused": {},
    }


def known() -> dict[str, dict[str, Any]]:
    errors = {"ours": 2.4e-7, "pyhealth_deeplift": 0.72, "captum_deeplift": "E: no"}
    refused = {**errors, "pyhealth_deeplift": "ValueError: no"}
    point = {"forward_backward": 10.0, "ours": 15.0, "pyhealth_deeplift": None}
    grown = {"floor": spread(4.0), "ours": spread(5.0), "over_floor": spread(1.25)}
    stable = {"trainings": spread(0.7), "noise": spread(2e-6)}
    return {
        "completeness": found(
            "completeness",
            completeness.Settings(),
            {"model": "StageNet", "trained": errors},
            {"model": "CNN", "trained": refused},
            {"model": "MLP (tanh)", "trained": errors},
        ),
        "speed": found(
            "speed",
            speed.Settings(),
            timed("StageNet", 1, ours=1.25, pyhealth_deeplift=2.5, pyhealth_ig_50=50.0),
            timed("StageNet", 2, ours=1.5),
            timed("CNN", 1, ours=2.0, captum_ig_50=60.0),
        ),
        "cuda": found("cuda", speed.Settings(), timed("CNN", 1, ours=0.8)),
        "scaling": found(
            "scaling",
            scaling.Settings(),
            {"model": "CNN", "batch": 32, "points": [{"length": 20, **grown}]},
        ),
        "memory": found(
            "memory",
            memory.Settings(),
            {"model": "CNN", "points": [{"length": 20, **point}]},
        ),
        "faithfulness": found(
            "faithfulness",
            faithfulness.Settings(),
            trained("StageNet", "regularised", ours=0.9876, ig_200=0.99, lime=0.5),
            trained("StageNet", "plain", ours=0.9, ig_200=0.95),
            trained("CNN", "regularised", ours=0.9996, ig_200=0.9998),
        ),
        "stability": found(
            "stability",
            stability.Settings(),
            {"model": "CNN", "methods": {"ours": stable}, "refused": {}},
        ),
        "cohort": found(
            "cohort",
            cohort.Settings(),
            {"what": "memory", "case": "20 patients", "numbers": {"peak, MB": 1401.7}},
        ),
        "mimic3": found(
            "mimic3",
            faithfulness.Settings(),
            trained("RETAIN", "MIMIC-III", ours=0.97, random=0.01),
        ),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "found"
    home.mkdir()
    for part, one in known().items():
        (home / f"{part}.json").write_text(json.dumps(one))
    return home


def test_a_line_for_each_model(folder: Path) -> None:
    lines = table.models(results.load(folder)).splitlines()
    assert lines[2] == (
        "| CNN | 2e-7 | – | raises | 2.00 | – | 30 × † | 1.50 | 1.000 "
        "| 1.000 Captum IG | – |"
    )
    assert lines[3] == (
        "| StageNet | 2e-7 | 0.72 | raises | 1.25 | 2.50 | 40 × |  | 0.988 "
        "| 0.990 Captum IG | – |"
    )
    assert lines[4] == "" and "histories of 40 to 60" in lines[5]
    assert "0.991 to 0.991" in lines[5] and "96 to 96 orders" in lines[5]


def test_the_readme_has_five_columns(folder: Path) -> None:
    lines = table.short(results.load(folder)).splitlines()
    assert lines[0].count("|") == 6
    assert lines[2:4] == [
        "| CNN | 2e-7 | – / raises | 1.000 / 1.000 IG | 2.00 / – |",
        "| StageNet | 2e-7 | 0.72 / raises | 0.988 / 0.990 IG | 1.25 / 2.50 |",
    ]
    assert lines[4] == "" and "median of 32 patients" in lines[5]


def test_what_was_not_measured_is_empty(folder: Path) -> None:
    (folder / "speed.json").unlink()
    text = table.short(results.load(folder))
    assert "1.000 IG |  |" in text and "Cost: time" not in text


def test_a_line_for_each_method(folder: Path) -> None:
    text = table.methods(results.load(folder))
    lines = text.splitlines()
    assert lines[2] == (
        "| DeepLiftEHR | 2 | 0.994 | 0.988 | 1 | 2 | 0.500 | 0.500 | 0.700 | 0.700 |"
    )
    assert lines[3].startswith("| Captum IG, 200 steps | 2 | 0.995 | 0.990 | 2 | 2 |")
    assert lines[4].startswith("| Lime, 200 samples | 1 | 0.500 | 0.500 | 0 | 0 |")
    assert "With plain training" in text
    assert "first on 0 and within .01 of the first on 0 of 1" in text


def test_first_and_near() -> None:
    row = trained("A", "x", ours=0.9896, ig_200=0.99, lime=0.98, random=0.97)
    standing = {name: table.standing(row, name) for name in row["methods"]}
    assert standing == {
        "ours": (True, True),
        "ig_200": (True, True),
        "lime": (False, True),
        "random": (False, False),
    }


@pytest.mark.parametrize(
    "value, said", [(2.4e-7, "2e-7"), (0.72, "0.72"), (0, "0"), (1.2345, "1.23")]
)
def test_numbers_are_short(value: float, said: str) -> None:
    assert table.number(value) == said


def test_everything_goes_to_its_place(folder: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    peers = tmp_path / "docs" / "benchmarks-peers.md"
    peers.parent.mkdir()
    for page in (readme, peers):
        page.write_text(f"Before\n{report.BEGIN}\nold\n{report.END}\nAfter\n")
    command = ["report", "--results", str(folder), "--home", str(tmp_path)]
    for _ in range(2):
        ran = CliRunner().invoke(cli.app, command)
        assert ran.exit_code == 0 and not ran.output
    for place, file in ((readme, "table.md"), (peers, "peers.md")):
        made = (folder / file).read_text()
        between = f"Before\n{report.BEGIN}\n{made}{report.END}\nAfter\n"
        assert place.read_text() == between
    assert torch.__version__ in made
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    for title in (
        "Speed",
        "Speed on a card",
        "How cost grows",
        "Memory",
        "Stability",
        "Faithfulness",
    ):
        assert f"\n## {title}\n" in page
    assert "| CNN | 32 | 1.25 (5 ms) | … | … | … |" in page
    assert "| CNN | 1.50 (15 MiB) | … | … | … |" in page
    assert "| CNN | 0.700 (2e-06) |" in page
    assert "**RETAIN**, MIMIC-III: AUROC 0.800" in page
    for name in ("speed", "faithfulness"):
        assert (tmp_path / "docs" / f"{name}.png").stat().st_size > 10_000


def test_figures_show_each_number_once(folder: Path) -> None:
    every = results.load(folder)
    drawn = {}
    for figure in (figures.speed(every), figures.faithfulness(every)):
        (axes,) = figure.axes
        assert [label.get_text() for label in axes.get_yticklabels()] == [
            "CNN",
            "StageNet",
        ]
        drawn |= {
            (one.get_label(), float(y)): float(x)
            for one in axes.collections
            for x, y in one.get_offsets()
        }
    ours, ig = table.LABELS["ours"], table.LABELS["ig_200"]
    assert drawn[table.LABELS["pyhealth_ig_50"], 1] == 50
    assert drawn[ours, 1] == pytest.approx(1 - 0.9876)
    assert drawn[ig, 0] == pytest.approx(1 - 0.9998)
    assert figures.distance(-0.3) == 1 and figures.distance(1.0) == figures.NEAREST


def test_a_quick_report_leaves_the_readme_alone(folder: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("as it was")
    places = ["--results", str(folder), "--home", str(tmp_path)]
    assert CliRunner().invoke(cli.app, ["report", "--quick", *places]).exit_code == 0
    assert readme.read_text() == "as it was" and not (tmp_path / "docs").exists()
    assert (folder / "speed.png").exists() and (folder / "details.md").exists()


@pytest.mark.parametrize("text", [None, "No markers.", f"{report.END} {report.BEGIN}"])
def test_a_readme_without_markers_is_an_error(
    folder: Path, tmp_path: Path, text: str | None
) -> None:
    readme = tmp_path / "README.md"
    if text is not None:
        readme.write_text(text)
    command = ["report", "--results", str(folder), "--home", str(tmp_path)]
    ran = CliRunner().invoke(cli.app, command)
    assert ran.exit_code == 1 and "benchmarks: begin" in ran.output
    assert readme.exists() is (text is not None)


def test_a_report_of_nothing_is_an_error(tmp_path: Path) -> None:
    ran = CliRunner().invoke(cli.app, ["report", "--results", str(tmp_path)])
    assert ran.exit_code == 1 and "No results" in ran.output


def test_the_committed_results_make_a_report() -> None:
    every = results.load(results.HOME)
    every.pop("captum_classes", None)
    if not every:
        pytest.skip("nothing measured yet")
    made = table.short(every), table.models(every), table.methods(every)
    for text in filter(None, made):
        head, *rest = text.splitlines()
        tabular = [line for line in rest if line.startswith("|")]
        assert all(line.count("|") == head.count("|") for line in tabular)
