"""The benchmarks run, and the table says what their JSON says."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import DeepLift
from typer.testing import CliRunner

from benchmarks import (
    cli,
    completeness,
    faithfulness,
    families,
    peers,
    results,
    speed,
    table,
)
from benchmarks.data import batch_of, cohort
from benchmarks.shapley import Game, pearson, sampled

TINY = families.TINY


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def case(name: str) -> peers.Case:
    family = families.named(name)[0]
    dataset = cohort(family.codes_schema, 30)
    return peers.Case(family.build(dataset, TINY), batch_of(dataset, range(4)))


def test_speed_times_each_method_that_takes_the_model(tmp_path: Path) -> None:
    settings = speed.quick(captum_ig=True)
    rows = speed.measure(settings)
    assert [row.model for row in rows] == list(settings.models)
    mlp, rnn = rows
    assert set(mlp.milliseconds) == {
        "forward",
        "forward_backward",
        "ours",
        "pyhealth_deeplift",
        "pyhealth_ig_50",
        "captum_ig_50",
    }
    assert not mlp.refused and "Interpretable" in rnn.refused["pyhealth_deeplift"]
    assert set(rnn.over_floor) == {"ours", "captum_ig_50"}
    for timing in mlp.milliseconds.values():
        assert 0 < timing.lower <= timing.median <= timing.upper
    assert mlp.milliseconds["pyhealth_ig_50"].repeats == settings.slow
    results.save("speed", settings, rows, tmp_path)
    assert results.load(tmp_path)["speed"]["rows"] == [asdict(row) for row in rows]


def test_the_floor_goes_down_to_the_embeddings_only() -> None:
    subject = case("Transformer")
    gradients = speed.forward_backward(subject)
    assert sum(g is not None for g in gradients) == 2  # conditions and drugs
    assert all(p.grad is None for p in subject.model.parameters())


def test_completeness_is_measured_before_rescaling() -> None:
    (row,) = completeness.measure(replace(completeness.quick(), models=("MLP (ReLU)",)))
    for measured in (row.random, row.trained):
        assert measured["ours"] < 1e-5
        assert measured["pyhealth_deeplift"] > 1e-2
        assert measured["captum_deeplift"].startswith("RuntimeError")
        assert measured["captum_ig_50"] < 0.2


def test_raw_pyhealth_is_pyhealths_but_for_the_rescaling() -> None:
    subject = case("StageNet")
    raw = peers.raw_pyhealth_deeplift(subject)
    delivered = peers.pyhealth_deeplift(subject)
    for key, value in raw.attributions.items():
        for row in range(len(value)):
            theirs = delivered[key][row].flatten()
            assert abs(pearson(value[row].flatten(), theirs)) > 1 - 1e-5
    total = sum(a.flatten(1).sum(1) for a in delivered.values())
    torch.testing.assert_close(total, raw.change, rtol=1e-3, atol=1e-5)


def test_all_methods_start_from_one_reference() -> None:
    subject = case("StageNet")
    change = peers.change_of(subject)
    torch.testing.assert_close(peers.raw_ours(subject).change, change)
    theirs = peers.raw_pyhealth_deeplift(subject).change
    torch.testing.assert_close(theirs, change, rtol=1e-4, atol=1e-5)


class Plain(torch.nn.Module):
    """A Transformer's own function of embeddings, without our adapter."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        inputs, masks = parts[:2], parts[2:]
        pairs = zip(self.model.feature_keys, zip(inputs, masks))
        return self.model.forward_from_embedding(**dict(pairs))["logit"]


def test_training_is_the_same_each_time() -> None:
    settings = replace(completeness.quick(), models=("Transformer",))
    assert completeness.measure(settings) == completeness.measure(settings)


def test_captums_deeplift_is_not_worse_off_on_our_adapter() -> None:
    subject = case("Transformer")
    adapter = subject.adapter
    encoded = adapter.encode(subject.batch)
    plain = DeepLift(Plain(subject.model)).attribute(
        encoded.inputs,
        adapter.baseline(encoded, "unk"),
        target=0,
        additional_forward_args=tuple(mask.int() for mask in encoded.masks),
    )
    measured = peers.captum_deeplift(subject)
    for key, value in zip(encoded.feature_keys, plain):
        torch.testing.assert_close(measured[key], value.sum(-1).detach())


class Pairwise(torch.nn.Module):
    """Twice the first token, and the second times the third: known values."""

    def forward(self, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        a = x[..., 0]
        return (2 * a[:, 0] + a[:, 1] * a[:, 2]).unsqueeze(1)


def test_sampled_shapley_values_of_a_game_that_is_known() -> None:
    x, mask = torch.ones(1, 4, 1), torch.tensor([[True, True, True, False]])
    game = Game(Pairwise(), (x,), (torch.zeros(1, 4, 1),), (mask,), (x[..., 0],))
    first, second = sampled(game, 0, 4, torch.Generator().manual_seed(0))
    expected = torch.tensor([2.0, 0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, expected)


def test_faithfulness_of_every_method() -> None:
    (row,) = faithfulness.measure(
        replace(faithfulness.quick(), models=("MLP (ReLU)",), pairs=12)
    )
    assert {*row.correlations, *row.refused} == {n for n, _ in faithfulness.METHODS}
    assert set(row.ahead) == set(row.correlations) - {"ours"}
    assert row.split_half.mean > 0.5 and row.correlations["ours"].mean > 0.5
    assert 0 <= row.auroc <= 1 and row.tokens > 4


def result(part: str, settings: Any, *rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "part": part,
        "environment": results.environment(),
        "settings": asdict(settings),
        "rows": list(rows),
    }


def known() -> dict[str, dict[str, Any]]:
    trained = {"ours": 2.4e-7, "pyhealth_deeplift": 0.72, "captum_deeplift": "E: no"}
    refused = {**trained, "pyhealth_deeplift": "ValueError: no"}
    correlations = {
        "ours": {"mean": 0.9876, "error": 0.01},
        "ig_200": {"mean": 0.9, "error": 0.01},
    }
    over = {"ours": 1.25, "pyhealth_deeplift": 2.5, "pyhealth_ig_50": 50.0}
    return {
        "speed": result(
            "speed", speed.Settings(), {"model": "StageNet", "over_floor": over}
        ),
        "completeness": result(
            "completeness",
            completeness.Settings(),
            {"model": "StageNet", "trained": trained},
            {"model": "CNN", "trained": refused},
        ),
        "faithfulness": result(
            "faithfulness",
            faithfulness.Settings(),
            {
                "model": "StageNet",
                "correlations": correlations,
                "split_half": {"mean": 0.991, "error": 0.0},
            },
        ),
    }


def test_the_table_is_made_of_the_json(tmp_path: Path) -> None:
    for part, found in known().items():
        (tmp_path / f"{part}.json").write_text(json.dumps(found))
    lines = table.markdown(results.load(tmp_path)).splitlines()
    assert lines[2] == "| CNN | 2e-7 | – | raises |  |  |  |  |  |  |"
    assert lines[3] == (
        "| StageNet | 2e-7 | 0.72 | raises | 1.25 | 2.50 | 40 × | 0.988 | 0.900 | – |"
    )
    assert "0.991" in lines[5] and "histories of 40 to 60" in lines[5]
    assert torch.__version__ in lines[7]


def test_the_table_goes_between_the_markers(tmp_path: Path) -> None:
    for part, found in known().items():
        (tmp_path / f"{part}.json").write_text(json.dumps(found))
    readme = tmp_path / "README.md"
    readme.write_text(f"Before\n{table.BEGIN}\nold\n{table.END}\nAfter\n")
    command = ["table", "--results", str(tmp_path), "--readme", str(readme)]
    for _ in range(2):
        assert CliRunner().invoke(cli.app, command).exit_code == 0
    made = (tmp_path / "table.md").read_text()
    between = f"Before\n{table.BEGIN}\n{made}{table.END}\nAfter\n"
    assert readme.read_text() == between


@pytest.mark.parametrize("text", [None, "No markers.", f"{table.END} {table.BEGIN}"])
def test_a_readme_without_markers_is_an_error(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "speed.json").write_text(json.dumps(known()["speed"]))
    readme = tmp_path / "README.md"
    if text is not None:
        readme.write_text(text)
    command = ["table", "--results", str(tmp_path), "--readme", str(readme)]
    found = CliRunner().invoke(cli.app, command)
    assert found.exit_code == 1 and "benchmarks: begin" in found.output
    assert (tmp_path / "table.md").exists()
    assert readme.exists() is (text is not None)


def test_a_table_of_nothing_is_an_error(tmp_path: Path) -> None:
    found = CliRunner().invoke(cli.app, ["table", "--results", str(tmp_path)])
    assert found.exit_code == 1 and "No results" in found.output


def test_one_part_alone_writes_its_json(tmp_path: Path, monkeypatch: Any) -> None:
    settings = replace(completeness.quick(), models=("MLP (tanh)",))
    monkeypatch.setattr(completeness, "quick", lambda: settings)
    command = ["completeness", "--quick", "--results", str(tmp_path)]
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    assert set(results.load(tmp_path)) == {"completeness"}


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ValueError, match="Perceiver"):
        families.named("Perceiver")


def test_the_committed_results_fit_the_table() -> None:
    if not any(results.HOME.glob("*.json")):
        pytest.skip("nothing measured yet")
    made = table.markdown(results.load(results.HOME))
    assert all(
        line.count("|") == len(table.HEAD) + 1
        for line in made.splitlines()
        if line.startswith("|")
    )
