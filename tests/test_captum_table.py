"""The table of Captum's classes says what came of trying them."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from benchmarks import captum_classes, captum_table, captum_trials, cli, results

pytestmark = pytest.mark.complete


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_what_adds_up_is_measured_and_what_cannot_is_named(tmp_path: Path) -> None:
    settings = captum_classes.quick()
    jobs = captum_classes.jobs(settings)
    results.collect("captum_classes", settings, jobs, tmp_path)
    found = results.load_part("captum_classes", tmp_path)
    rows = found["rows"]
    assert [row["model"] for row in rows] == list(settings.models)
    for row in rows:
        assert set(row["classes"]) == {name for name, _ in captum_trials.TRIALS}
        for exact in ("DeepLiftEHR", "ShapleyValues", "LayerIntegratedGradients"):
            assert row["classes"][exact] < 1e-5
        assert row["classes"]["Saliency"] is True
        assert "Embedding" in row["classes"]["LRP"]
    mlp, rnn = (row["classes"] for row in rows)
    assert mlp["GuidedBackprop"] is True
    assert rnn["GuidedBackprop"] == captum_trials.PLAIN
    assert mlp["DeepLift"].startswith("RuntimeError: A Module ReLU()")
    assert rnn["DeepLift"] > 1e-2
    made = captum_table.markdown(found)
    assert "| Saliency | ✓ | ✓ |" in made
    assert "a module was" not in made and "- a: RuntimeError: A module was" in made


def test_the_committed_table_is_that_of_the_committed_numbers() -> None:
    found = results.load_part("captum_classes", results.HOME)
    made = captum_table.markdown(found)
    assert (results.HOME / "captum_classes.md").read_text() == made
    for row in found["rows"]:
        assert row["classes"]["DeepLiftEHR"] < 1e-5, row["model"]


@pytest.mark.parametrize("marked", [True, False])
def test_the_command_fills_its_place_in_the_readme(
    tmp_path: Path, monkeypatch, marked: bool
) -> None:
    row = captum_classes.Row("A", {"One": 0.5, "Two": True, "Three": "E: no"})
    monkeypatch.setattr(captum_classes, "_row", lambda *_: row)
    settings = captum_classes.Settings(("MLP (ReLU)",))
    part = cli.PARTS["captum-classes"]._replace(full=lambda: settings)
    monkeypatch.setattr(cli, "PARTS", {"captum-classes": part})
    page = tmp_path / "docs" / "captum.md"
    page.parent.mkdir()
    begin, end = captum_table.BEGIN, captum_table.END
    page.write_text(f"Before\n{begin}\nold\n{end}\nAfter\n" if marked else "Bare\n")
    places = ["--results", str(tmp_path / "found"), "--home", str(tmp_path)]
    found = CliRunner().invoke(cli.app, ["captum-classes", "report", *places])
    assert found.exit_code == (0 if marked else 1), found.output
    text = page.read_text()
    if not marked:
        assert text == "Bare\n" and begin in found.output
        return
    assert text.startswith(f"Before\n{begin}\n") and text.endswith(f"{end}\nAfter\n")
    assert "| One | 0.50 |\n| Two | ✓ |\n| Three | a |" in text and "old" not in text
    kept = json.loads((tmp_path / "found" / "captum_classes.json").read_text())
    assert kept["rows"] == [{"row": "MLP (ReLU)", **asdict(row)}]


def test_a_class_that_gives_no_numbers_is_said_to_give_none() -> None:
    class Broken(captum_trials.Trial):
        def run(self, name: str, *where: Any, **options: Any) -> Any:
            return (torch.tensor([[float("nan")]]),)

    trial = Broken(nn.Linear(1, 1), {}, 1)
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        dict(captum_trials.TRIALS)["InputXGradient"](trial)
