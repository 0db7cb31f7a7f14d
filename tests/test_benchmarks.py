"""The benchmarks run, one row at a time, and go on where they were interrupted."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import DeepLift
from typer.testing import CliRunner
from versions import PYHEALTH, before

from benchmarks import (
    cli,
    completeness,
    cuda,
    details,
    faithfulness,
    families,
    interactions,
    memory,
    peers,
    results,
    scaling,
    speed,
    stability,
)
from benchmarks import cohort as cohort_part
from benchmarks.data import batch_of, cohort, one_of
from captum_ehr import DeepLiftEHR
from captum_ehr.attr.evaluation.shapley import Sampling, pearson

TINY = families.TINY

pytestmark = pytest.mark.complete

removing = pytest.mark.skipif(
    before(PYHEALTH, "2.1"), reason="PyHealth 2.0.2's metrics make floats of token ids"
)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def case(name: str) -> peers.Case:
    family = families.named(name)[0]
    dataset = cohort(family.codes_schema, 30)
    return peers.Case(family.build(dataset, TINY), batch_of(dataset, range(4)))


def rows(module: Any, settings: Any) -> list[Any]:
    return [job() for job in module.jobs(settings).values()]


# Each part ----------------------------------------------------------------------------


def test_speed_times_each_method_that_takes_the_model() -> None:
    settings = speed.quick()
    mlp, mlp_two, rnn, _ = rows(speed, settings)
    assert (mlp.threads, mlp_two.threads) == (1, 2)
    assert {*speed.quick_methods(), *speed.slow_methods()} == set(mlp.milliseconds)
    assert set(mlp_two.milliseconds) == set(speed.quick_methods())
    assert not mlp.refused and "Interpretable" in rnn.refused["pyhealth_deeplift"]
    assert "pyhealth_ig_50" in rnn.refused and "captum_ig_50" in rnn.over_floor
    for timing in (*mlp.milliseconds.values(), *mlp.over_floor.values()):
        assert 0 < timing.lower <= timing.median <= timing.upper
    assert mlp.milliseconds["kernel_shap"].repeats == settings.slow
    assert torch.get_num_threads() >= 1


def test_pairs_are_measured_beside_the_exact_index() -> None:
    settings = interactions.quick()
    (row,) = rows(interactions, settings)
    assert row.patients == 2 and row.players <= 9 and row.cost.repeats == 1
    assert max(row.residual, row.apart, row.delta) < 1e-5
    assert abs(row.correlation.median) <= 1 and row.first <= 2
    table = details.page(
        {
            "interactions": {
                "environment": results.environment(),
                "rows": [json.loads(json.dumps(asdict(row)))],
            }
        }
    )
    assert f"| MLP (ReLU) | {row.auroc:.3f} | 2 | {row.first} |" in table


def test_a_cohort_is_measured_and_its_numbers_are_in_the_page() -> None:
    settings = cohort_part.quick()
    measured = rows(cohort_part, settings)
    assert {row.what for row in measured} == {"memory", "lengths", "rates"}
    assert all(value > 0 for row in measured for value in row.numbers.values())
    table = details.page(
        {
            "cohort": {
                "environment": results.environment(),
                "rows": [asdict(row) for row in measured],
            }
        }
    )
    for row in measured:
        cells = " | ".join(f"{value:,.4g}" for value in row.numbers.values())
        assert f"| {row.case} | {cells} |" in table


def test_times_on_a_card_are_those_of_the_cpu_with_a_card(tmp_path) -> None:
    settings = cuda.Settings()
    assert settings.device == "cuda" and settings.models == speed.Settings().models
    made = cuda.jobs(settings)
    assert len(made) == (len(settings.models) if torch.cuda.is_available() else 0)
    assert not results.collect("cuda", settings, {}, tmp_path).exists()
    small = replace(cuda.quick(), models=("MLP (ReLU)",), device="cpu")
    (row,) = rows(speed, small)
    assert {"pyhealth_ig_50", "captum_ig_50"} < row.over_floor.keys()


def test_ratios_are_taken_round_by_round() -> None:
    timed = [
        {"forward": 1.0, "forward_backward": 3.0, "ours": 8.0},
        {"forward": 2.0, "forward_backward": 2.0, "ours": 4.0, "slow": 40.0},
    ]
    assert speed.over_floor("ours", timed).median == 1.5
    assert speed.over_floor("slow", timed) == speed.Spread(10.0, 10.0, 10.0, 1)


def test_the_floor_goes_down_to_the_embeddings_only() -> None:
    subject = case("Transformer")
    gradients = speed.forward_backward(subject)
    assert sum(g is not None for g in gradients) == 2  # conditions and drugs
    assert all(p.grad is None for p in subject.model.parameters())


def test_scaling_leaves_out_what_would_take_too_long() -> None:
    settings = replace(scaling.quick(), batches=(3,), lengths=(4, 8, 4000))
    (row,) = rows(scaling, settings)
    assert [point.length for point in row.points] == [4, 8]
    assert "expected to take" in row.left_out["4000"]
    (row,) = rows(scaling, replace(settings, lengths=(4,), limit=0.0))
    assert not row.points and "a round took" in row.left_out["4"]


def test_growth_is_carried_on() -> None:
    def point(length: int, milliseconds: float) -> scaling.Point:
        half = speed.Spread(milliseconds / 2, 0.0, 0.0, 1)
        return scaling.Point(length, half, half, half)

    assert scaling.expected(20, []) == 0
    assert scaling.expected(40, [point(20, 1e3)]) == pytest.approx(2)
    square = [point(10, 1e3), point(20, 4e3)]
    assert scaling.expected(40, square) == pytest.approx(16)
    shrinking = [point(10, 4e3), point(20, 1e3)]
    assert scaling.expected(40, shrinking) == pytest.approx(2)


def test_peak_memory_of_known_allocations() -> None:
    mib = memory.MIB

    def made() -> torch.Tensor:
        one = torch.ones(mib // 4)  # 1 MiB
        two = torch.cat([one, one])  # 3 in all
        del one
        return two.sum()

    assert memory.peak(made) == pytest.approx(3 * mib, rel=1e-3)
    x = torch.ones(mib // 4, requires_grad=True)
    view = x.detach().view(2, -1)
    assert memory.peak(lambda: view.t()) == 0  # nothing is made
    # the product and its exponential; then this and the gradient
    found = memory.peak(lambda: torch.autograd.grad((x * 2).exp().sum(), x))
    assert found == pytest.approx(2 * mib, rel=1e-3)
    kept = memory.peak(lambda: torch.autograd.grad((x * 2).exp().sin().sum(), x))
    assert kept == pytest.approx(3 * mib, rel=1e-3)


def test_memory_by_length() -> None:
    mlp, rnn, bert = rows(memory, memory.quick())
    assert [point.length for point in mlp.points] == [5, 8]
    first, second = mlp.points
    assert 0 < first.forward_backward < second.forward_backward
    assert first.ratio == first.ours / first.forward_backward > 0
    assert first.pyhealth_deeplift and rnn.points[0].pyhealth_deeplift is None
    assert [point.length for point in bert.points] == [16]
    assert bert.points[0].ratio > 0


def test_completeness_is_measured_before_rescaling() -> None:
    (row,) = rows(completeness, replace(completeness.quick(), models=("MLP (ReLU)",)))
    for measured in (row.random, row.trained):
        assert measured["ours"] < 1e-5
        assert measured["pyhealth_deeplift"] > 1e-2
        assert measured["captum_deeplift"].startswith("RuntimeError")
        assert measured["captum_ig_50"] < 0.2


@removing
def test_faithfulness_of_every_method() -> None:
    settings = replace(faithfulness.quick(), models=("MLP (ReLU)",))
    (row,) = rows(faithfulness, settings)
    assert {*row.methods, *row.refused} == {n for n, _ in faithfulness.METHODS}
    assert row.methods["ours"].correlation.median > 0.5 and row.tokens > 4
    assert row.methods["ours"].ahead.mean == 0
    for scores in row.methods.values():
        assert 0 <= scores.planted <= 1 and scores.infidelity >= 0
    assert abs(row.methods["random"].correlation.mean) < 0.6
    assert 0 <= row.auroc <= 1 and row.orders == 4


@removing
@pytest.mark.parametrize("name", ["Transformer", "StageNet"])
def test_the_packages_own_evaluation_is_the_benchmarks(name: str) -> None:
    settings = replace(
        faithfulness.quick(), models=(name,), sampling=Sampling(), perturbations=100
    )
    (row,) = rows(faithfulness, settings)
    trained = faithfulness.trained(
        families.named(name)[0], settings, settings.trainings["regularised"]
    )
    subject = trained[0]
    table = (
        DeepLiftEHR(subject.model)
        .evaluate(
            subject.batch,
            players="token",
            methods=["IntegratedGradients", "InputXGradient", "random"],
            measures=["curves", "removal", "infidelity", "shapley"],
            show_progress=False,
        )
        .by_patient()
    )
    names = {
        "ours": "DeepLiftEHR",
        "ig_50": "IntegratedGradients",
        "gradient_x_input": "InputXGradient",
        "random": "random",
    }
    for ours, theirs in names.items():
        mine = table[table["method"] == theirs]
        scores = row.methods[ours]
        assert scores.correlation.median == pytest.approx(mine["shapley"].median())
        assert scores.correlation.mean == pytest.approx(mine["shapley"].mean())
        assert row.split_half.mean == pytest.approx(mine["split_half"].mean())
        for column in ("insertion", "deletion", "comprehensiveness", "sufficiency"):
            wanted = pytest.approx(mine[column].mean(), rel=1e-4, abs=1e-7)
            assert getattr(scores, column) == wanted, column
        wanted = pytest.approx(mine["infidelity"].median(), rel=1e-3, abs=1e-9)
        assert scores.infidelity == wanted


@removing
def test_each_patient_alone_where_a_model_mixes_them() -> None:
    settings = replace(faithfulness.quick(), models=("AdaCare",))
    (row,) = rows(faithfulness, settings)
    assert row.methods["ours"].correlation.median > 0.9
    assert row.methods["ig_50"].correlation.median > 0.9


def test_stability_over_trainings_and_noise() -> None:
    (row,) = rows(stability, stability.quick())
    ours, noise = row.methods["ours"], row.methods["random"]
    assert ours.trainings.repeats == 1 and -1 <= ours.trainings.median <= 1
    assert 0 < ours.noise.median < 1e-3
    assert noise.noise.median == 0  # it does not look at the model


# The methods --------------------------------------------------------------------------


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


@pytest.mark.parametrize("method", ["gradient_shap", "shap_gradient", "lime"])
def test_sampling_methods_come_near_to_ours_on_a_linear_model(method: str) -> None:
    subject = case("LogisticRegression")
    found, exact = getattr(peers, method)(subject, 400), peers.ours(subject)
    for key, mask in zip(subject.encoded.feature_keys, subject.encoded.masks):
        assert not found[key][~mask].any()
        if method != "lime":  # which shrinks small ones to 0
            torch.testing.assert_close(found[key], exact[key], rtol=1e-3, atol=1e-5)
    state = torch.get_rng_state()
    again = getattr(peers, method)(subject, 400)
    assert all(torch.equal(again[key], found[key]) for key in found)
    assert torch.equal(state, torch.get_rng_state())


def test_one_patient_of_a_batch() -> None:
    dataset = cohort("visits", 30)
    batch = batch_of(dataset, range(3))
    one = one_of(batch, 1)
    assert one["patient_id"] == batch["patient_id"][1:2]
    for whole, part in zip(batch["conditions"], one["conditions"]):
        assert torch.equal(part, whole[1:2])


class Plain(torch.nn.Module):
    """A Transformer's own function of embeddings, without our adapter."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        inputs, masks = parts[:2], parts[2:]
        pairs = zip(self.model.feature_keys, zip(inputs, masks))
        return self.model.forward_from_embedding(**dict(pairs))["logit"]


def test_captums_deeplift_is_not_worse_off_on_our_adapter() -> None:
    subject = case("Transformer")
    encoded = subject.encoded
    plain = DeepLift(Plain(subject.model)).attribute(
        encoded.inputs,
        subject.reference,
        target=0,
        additional_forward_args=tuple(mask.int() for mask in encoded.masks),
    )
    measured = peers.captum_deeplift(subject)
    for key, value in zip(encoded.feature_keys, plain):
        torch.testing.assert_close(measured[key], value.sum(-1).detach())


def test_training_is_the_same_each_time() -> None:
    settings = replace(completeness.quick(), models=("Transformer",))
    assert rows(completeness, settings) == rows(completeness, settings)


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ValueError, match="Perceiver"):
        families.named("Perceiver")


# Saving and going on ------------------------------------------------------------------


@dataclass(frozen=True)
class Counted:
    """Settings, and a row."""

    number: int


def counting(done: list[str], stop: str = "") -> dict[str, Any]:
    def job(name: str) -> Any:
        def run() -> Counted:
            if name == stop:
                raise KeyboardInterrupt
            done.append(name)
            return Counted(len(done))

        return run

    return {name: job(name) for name in "abc"}


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        results.collect("part", Counted(0), counting(done, stop="b"), tmp_path)
    assert [r["row"] for r in results.load_part("part", tmp_path)["rows"]] == ["a"]
    results.collect("part", Counted(0), counting(done), tmp_path)
    assert done == ["a", "b", "c"]
    found = results.load_part("part", tmp_path)
    assert found["rows"] == [{"row": n, "number": k + 1} for k, n in enumerate("abc")]
    assert found["environment"]["threads"] == torch.get_num_threads()
    results.collect("part", Counted(0), counting(done), tmp_path, fresh=True)
    assert done == list("abcabc")


def test_other_settings_or_code_start_over(tmp_path: Path, monkeypatch: Any) -> None:
    done: list[str] = []
    results.collect("part", Counted(0), counting(done), tmp_path)
    results.collect("part", Counted(1), counting(done), tmp_path)
    assert done == list("abcabc")
    monkeypatch.setattr(results, "source", lambda: "other")
    results.collect("part", Counted(1), counting(done), tmp_path)
    assert done == list("abcabcabc")


def test_one_part_alone_writes_its_json(tmp_path: Path, monkeypatch: Any) -> None:
    settings = replace(completeness.quick(), models=("MLP (tanh)",))
    part = cli.PARTS["completeness"]._replace(quick=lambda: settings)
    monkeypatch.setattr(cli, "PARTS", {"completeness": part})
    command = ["completeness", "--quick", "--results", str(tmp_path)]
    threads = torch.get_num_threads()
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    assert torch.get_num_threads() == threads
    found = json.loads((tmp_path / "completeness.json").read_text())
    assert found["settings"] == json.loads(json.dumps(asdict(settings)))
    assert set(results.load(tmp_path)) == {"completeness"}


@pytest.mark.parametrize(
    "command, said", [(["sped"], "No part sped"), (["mimic3"], "--mimic3 FOLDER")]
)
def test_what_cannot_run_is_said(command: list[str], said: str) -> None:
    found = CliRunner().invoke(cli.app, command)
    assert found.exit_code == 1 and said in found.output


def test_all_parts_but_mimic3_run_by_default() -> None:
    everything = [*cli.PARTS, cli.REPORT]
    assert cli._chosen([], Path()) == everything
    assert cli._chosen([], None) == [p for p in everything if p != "mimic3"]
    assert cli._chosen(["report", "speed"], None) == ["speed", "report"]
