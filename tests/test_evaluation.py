"""How far explanations can be believed: each figure against a slow count by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zoo
from captum.attr import IntegratedGradients, LayerActivation, NoiseTunnel
from captum_cases import case
from oracles_pairs import Record, shapley_values
from pyhealth.metrics.interpretability import Evaluator
from pyhealth.metrics.interpretability.utils import SampleClass
from torch import Tensor, nn
from versions import PYHEALTH, before

from captum_ehr import DeepLiftEHR, DeepLiftShapEHR, PyHealthAdapter
from captum_ehr.adapter.feature_masks import FeatureMask
from captum_ehr.attr.evaluation.contenders import Case
from captum_ehr.attr.evaluation.evaluating import evaluated
from captum_ehr.attr.evaluation.game import Game
from captum_ehr.attr.evaluation.measures import areas, curves
from captum_ehr.attr.evaluation.shapley import Sampling, pearson, sampled
from captum_ehr.attr.evaluation.work import Effort, begun
from captum_ehr.attr.inputs import Prepared
from captum_ehr.datasets import tiny_model
from captum_ehr.explanation.evaluation import SCORES
from captum_ehr.explanation.player import Player

removing = pytest.mark.skipif(
    before(PYHEALTH, "2.1"), reason="PyHealth 2.0.2's metrics make floats of token ids"
)
QUICK = Effort(Sampling(2, 4), perturbations=8, moves=1, shuffles=1)


def tiny() -> tuple[DeepLiftEHR, Any]:
    """A model in double precision, and a batch."""
    model, batch = tiny_model()
    return DeepLiftEHR(model.double()), {**batch, "labs": batch["labs"].double()}


def game(function: Callable[[Tensor], Tensor], real: list[bool], x: Any = None) -> Game:
    """One patient, each of whose real numbers is a player; the reference is 0."""
    x = torch.ones(1, len(real), dtype=torch.float64) if x is None else x
    count = sum(real)
    numbers = iter(range(count))
    mask = torch.tensor([[next(numbers) if r else count for r in real]])
    players = FeatureMask(
        (mask,), [tuple(Player("x", str(k)) for k in range(count))], ("p",)
    )
    prepared = Prepared((x,), ((torch.zeros_like(x),),), (), "tensor")
    return Game(lambda a, _: function(a), prepared, torch.zeros(1, 0), players)


def pairwise(a: Tensor) -> Tensor:
    """Twice the first, and the second times the third: known values."""
    return 2 * a[:, 0] + a[:, 1] * a[:, 2]


def tangled(a: Tensor) -> Tensor:
    """Every number with every other."""
    return torch.sin(a.cumsum(1) * a.flip(1)).sum(1)


class TestShapley:
    def test_of_a_game_that_is_known(self) -> None:
        known = game(pairwise, [True, True, True, False])
        drawn = torch.Generator().manual_seed(0)
        found = sampled(known, 0, Sampling(pairs=4, most=4), drawn)
        expected = torch.tensor([2.0, 0.5, 0.5], dtype=torch.float64)
        for estimate in (found.first, found.second, found.values):
            torch.testing.assert_close(estimate, expected)

    @pytest.mark.parametrize("players", [4, 5])
    def test_sampled_ones_come_to_the_exact_ones(self, players: int) -> None:
        drawn = torch.Generator().manual_seed(1)
        x = torch.randn(1, players + 1, generator=drawn, dtype=torch.float64)
        known = game(tangled, [True] * players + [False], x)

        def value(present: tuple[int, ...]) -> float:
            mixed = torch.zeros_like(x)
            mixed[0, [*present, players]] = x[0, [*present, players]]
            return float(tangled(mixed))

        truth = shapley_values(value, players)
        sampling = Sampling(pairs=200, most=2000, until=2.0)
        found = sampled(known, 0, sampling, drawn)
        torch.testing.assert_close(found.values, truth, rtol=0, atol=0.04)
        assert found.orders == 4000 and pearson(found.values, truth) > 0.999
        whole = value(tuple(range(players))) - value(())
        assert float(found.values.sum()) == pytest.approx(whole, abs=1e-12)

    def test_orders_are_drawn_until_two_halves_agree(self) -> None:
        drawn = torch.Generator().manual_seed(2)
        x = torch.randn(1, 5, generator=drawn, dtype=torch.float64)
        known = game(tangled, [True] * 5, x)
        for until in (0.5, 0.9, 0.999):
            found = sampled(known, 0, Sampling(2, 10_000, until), drawn)
            assert found.split_half >= until
        few = sampled(known, 0, Sampling(2, 6, until=2.0), drawn)
        assert few.orders == 12

    @pytest.mark.parametrize("output", ["logit", "probability"])
    def test_a_models_coalitions_are_its_own_answers(self, output: str) -> None:
        dl, batch = tiny()
        one = DeepLiftEHR(dl.model, output=output)
        _, mine, _ = begun(one, batch, "unk", None, "code", 10_000, 0)
        for row in range(4):
            record = Record(dl, batch, row)
            count = len(record.codes)
            every = list(product((False, True), repeat=count))
            found = mine.values(row, torch.tensor(every))
            wanted = [
                record.f([c for c, there in zip(record.codes, some) if there])
                for some in every
            ]
            known = torch.tensor(wanted, dtype=torch.float64)
            known = known.sigmoid() if output == "probability" else known
            torch.testing.assert_close(found, known, rtol=0, atol=1e-12)

    def test_correlations_of_what_does_not_vary(self) -> None:
        one = torch.tensor([0.3, 0.3 + 1e-9, 0.3], dtype=torch.float64)
        assert pearson(one, torch.tensor([1.0, 2.0, 3.0])) == 0
        assert np.isnan(
            pearson(torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 2.0]))
        )


class TestCurves:
    def test_of_a_sum_are_cumulative_sums(self) -> None:
        weights = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
        known = game(lambda a: (a * weights).sum(1), [True] * 4)
        risen = [0, 3, 4, 4.5, 2.5]  # 3, 1, .5, -2
        insertion, deletion = curves(known, 0, weights)
        assert insertion.tolist() == risen
        assert deletion.tolist() == [2.5 - gone for gone in risen]
        best = areas(insertion, deletion)
        assert best == pytest.approx([sum(risen) / 5] * 2)
        for order in product(range(4), repeat=4):
            other = areas(*curves(known, 0, torch.tensor(order).double()))
            assert max(other) <= max(best) + 1e-12

    def test_of_a_model_are_those_of_a_loop(self) -> None:
        dl, batch = tiny()
        found = dl.evaluate(batch, methods=(), measures=["curves"], show_progress=False)
        exp, areas_found = dl.explain(batch), {"insertion": [], "deletion": []}
        for row in range(4):
            record = Record(dl, batch, row)
            own = {c: 0.0 for c in record.codes}
            keys = list(exp.attributions)
            for code, places in record.places.items():
                own[code] = sum(
                    float(exp.attributions[keys[k]][(row, *p)]) for k, *p in places
                )
            order = sorted(own, key=lambda code: -own[code])
            steps = range(len(order) + 1)
            rising = np.array([record.f(order[:k]) for k in steps])
            falling = np.array([record.f(order[k:]) for k in steps])
            areas_found["insertion"].append((rising - rising[0]).mean())
            areas_found["deletion"].append((falling[0] - falling).mean())
            path = found.paths["insertion"][0, row].numpy()
            assert path[[0, -1]] == pytest.approx(rising[[0, -1]], abs=1e-12)
            middle = np.interp(0.5 * len(order), steps, rising)
            assert path[10] == pytest.approx(middle, abs=1e-12)
        for name, values in areas_found.items():
            assert found.scores[name][0].numpy() == pytest.approx(values, abs=1e-12)


class TestMeasures:
    def test_an_additive_model_is_explained_without_a_fault(self) -> None:
        c = case("LogisticRegression")
        # Two of these would take all patients' references for a distribution.
        additive = ["IntegratedGradients", "GradientShap", "DeepLiftShap"]
        found = evaluated(
            DeepLiftEHR(c.adapter),
            c.enc,
            players="token",
            methods=[*additive, "Saliency"],
            effort=QUICK,
            measures=["shapley", "infidelity", "sensitivity"],
        )
        moved = found.scores["sensitivity"]
        shapley, infidelity = found.scores["shapley"], found.scores["infidelity"]
        assert found.split_half.min() > 1 - 1e-6
        assert shapley[:4].min() > 1 - 1e-4 and shapley[4].mean() < 0.9
        assert infidelity[:4].max() < 1e-6 and infidelity[4].mean() > 1e-4
        assert found.scores["agreement"][1:4].min() > 1 - 1e-4
        torch.testing.assert_close(moved[1:4], moved[[0] * 3], rtol=0.01, atol=0)

    @pytest.mark.complete
    def test_random_numbers_do_not_correlate(self) -> None:
        dl, batch = tiny()
        drawn = torch.Generator().manual_seed(5)

        def noise(_: Any) -> dict[str, Tensor]:
            shapes = {"conditions": (4, 3), "labs": (4, 2)}
            return {k: torch.randn(s, generator=drawn) for k, s in shapes.items()}

        methods = {f"noise {k}": noise for k in range(40)}
        found = evaluated(dl, batch, methods=methods, measures=["shapley"])
        mean = float(found.scores["shapley"][1:].mean())
        assert abs(mean) < 0.15 and found.scores["shapley"][0].min() > 0.9

    @pytest.mark.complete
    def test_infidelity_is_its_expectation(self) -> None:
        dl, batch = tiny()
        many = Effort(perturbations=2000)
        found = evaluated(
            dl, batch, methods=["random"], measures=["infidelity"], effort=many
        )
        _, mine, _ = begun(dl, batch, "unk", None, "code", 10_000, 0)
        exp = dl.explain(batch)
        losses, change = [], exp.f_input - exp.f_baseline
        for row in range(4):
            record = Record(dl, batch, row)
            phi = _by_player(dl, batch, row)
            a, b = [], []
            for gone in product((0.0, 1.0), repeat=len(phi)):
                left = torch.tensor([[g == 0 for g in gone]])
                a.append(float(torch.tensor(gone).double() @ phi))
                whole = record.f(record.codes)
                b.append(whole - float(mine.values(row, left)))
            a, b = np.array(a), np.array(b)
            beta = (a * b).mean() / (a * a).mean()
            losses.append(((beta * a - b) ** 2).mean())
        wanted = np.array(losses) / float(change.double().square().mean())
        assert found.scores["infidelity"][0].numpy() == pytest.approx(wanted, rel=0.15)

    @removing
    def test_removal_is_what_pyhealths_evaluator_says(self) -> None:
        model, batch = tiny_model()
        dl = DeepLiftEHR(model)
        found = dl.evaluate(
            batch, methods=(), measures=["removal"], show_progress=False
        )

        def everybody(probability: Tensor, _: str) -> Tensor:
            classes = torch.full(probability.shape, int(SampleClass.POSITIVE))
            classes[probability < 0.5] = int(SampleClass.NEGATIVE)
            return classes

        evaluator = Evaluator(dl.model.model, sample_filter=everybody)
        told = evaluator.evaluate(batch, dict(dl.attribute(batch)))
        for name, (scores, _) in told.items():
            torch.testing.assert_close(found.scores[name][0], scores.double())

    def test_sensitivity_is_small_and_not_nothing(self) -> None:
        dl, batch = tiny()
        found = dl.evaluate(batch, measures=["sensitivity"], show_progress=False)
        moved = dict(zip(found.methods, found.scores["sensitivity"]))
        for name in ("DeepLiftEHR", "IntegratedGradients", "InputXGradient"):
            assert 0 < moved[name].min() and moved[name].max() < 0.02, name
        assert moved["random"].max() == 0  # it does not look at the record


class TestRandomised:
    def test_only_a_private_heads_weights_are_shuffled(self, monkeypatch: Any) -> None:
        dl, batch = tiny()
        model = dl.model.model
        before_it = {n: p.detach().clone() for n, p in model.named_parameters()}
        seen: list[dict[str, Tensor]] = []

        def look(case: Case) -> tuple[Tensor, ...]:
            inside = case.function.adapter.model
            seen.append({n: p.detach() for n, p in inside.named_parameters()})
            return tuple(torch.zeros(m.shape).double() for m in case.encoded.masks)

        monkeypatch.setattr("captum_ehr.attr.evaluation.contenders._ours", look)
        dl.evaluate(batch, methods=(), measures=["randomised"], show_progress=False)
        assert len(seen) == 3  # shuffles
        for name, value in model.named_parameters():
            assert torch.equal(value, before_it[name])
            other = seen[-1][name]
            if name == "fc.weight":
                assert not torch.equal(other, value)
                assert torch.equal(other.sort().values, value.detach().sort().values)
            else:
                assert other.data_ptr() == value.data_ptr()

    def test_who_does_not_look_at_the_model_is_found_out(self) -> None:
        dl, batch = tiny()
        found = dl.evaluate(batch, measures=["randomised"], show_progress=False)
        looked = dict(zip(found.methods, found.scores["randomised"]))
        assert looked["random"].min() > 1 - 1e-9
        assert looked["DeepLiftEHR"].max() < 1 - 1e-3

    def test_a_head_that_is_no_layer_is_said(self) -> None:
        dl, batch = tiny()
        model = dl.model.model
        weight = model.fc.weight.detach()

        class Product(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x @ weight.T

        model.fc = Product()
        found = dl.evaluate(batch, measures=["randomised"], show_progress=False)
        assert found.scores["randomised"].isnan().all()
        assert sum("no linear layer" in note for note in found.notes) == 1


def _by_player(dl: DeepLiftEHR, batch: Any, row: int) -> Tensor:
    """A patient's attributions, code by code, in the record's order."""
    record, exp = Record(dl, batch, row), dl.explain(batch)
    keys = list(exp.attributions)
    return torch.tensor(
        [
            sum(float(exp.attributions[keys[k]][(row, *p)]) for k, *p in places)
            for places in record.places.values()
        ],
        dtype=torch.float64,
    )


class TestBudget:
    @removing
    def test_it_is_in_force_and_nothing_is_silently_less(self) -> None:
        model, batch = tiny_model()
        dl = DeepLiftEHR(model)
        whole = evaluated(dl, batch, methods=["random", "InputXGradient"], effort=QUICK)
        assert sum(whole.spent.values()) <= whole.budget and not whole.notes
        missing = 0
        for budget in (10, 30, 100, 250, 400, 600):
            some = evaluated(
                dl,
                batch,
                methods=["random", "InputXGradient"],
                effort=QUICK,
                budget=budget,
            )
            assert sum(some.spent.values()) <= budget == some.budget
            lost = False
            for name in SCORES:
                known = ~some.scores[name].isnan()
                lost |= not bool(known.all())
                torch.testing.assert_close(
                    some.scores[name][known], whole.scores[name][known]
                )
            assert bool(some.notes) == lost
            missing += lost
        assert missing >= 4

    def test_less_than_one_explanation_is_refused(self) -> None:
        dl, batch = tiny()
        with pytest.raises(ValueError, match="budget=9 is less than the 10"):
            dl.evaluate(batch, budget=9, show_progress=False)
        for budget in (0, 2.5, -1):
            with pytest.raises(ValueError, match="a whole number of evaluations"):
                dl.evaluate(batch, budget=budget, show_progress=False)


class TestNoTrace:
    def test_the_same_each_time_and_nothing_is_left_behind(self) -> None:
        model, batch = tiny_model()
        model.train()
        dl = DeepLiftEHR(model)
        weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        torch.manual_seed(3)
        np.random.seed(3)
        state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
        methods = ["GradientShap", "random", "InputXGradient"]
        first = evaluated(dl, batch, methods=methods, effort=QUICK)
        assert torch.equal(state, torch.get_rng_state())
        assert (numpy_state == np.random.get_state()[1]).all()
        assert all(m.training for m in model.modules())
        assert not any(m._forward_hooks for m in model.modules())
        for name, p in model.named_parameters():
            assert torch.equal(p, weights[name]) and p.grad is None
        torch.manual_seed(4)
        with torch.no_grad():
            again = evaluated(dl, batch, methods=methods, effort=QUICK)
        with torch.inference_mode():
            third = dl.evaluate(
                batch, methods=methods, measures=["curves"], show_progress=False
            )
        other = evaluated(dl, batch, methods=methods, effort=QUICK, seed=1)
        pd.testing.assert_frame_equal(first.by_patient(), again.by_patient())
        assert not first.by_patient().equals(other.by_patient())
        assert third.scores["deletion"].isfinite().all()

    def test_an_instance_keeps_its_options_and_its_own_model(self) -> None:
        dl, batch = tiny()
        other = PyHealthAdapter(tiny_model()[0])
        mine = IntegratedGradients(other, multiply_by_inputs=False)
        found = dl.evaluate(
            batch,
            methods={"slopes": mine, "class": IntegratedGradients},
            measures=["curves"],
            show_progress=False,
        )
        assert mine.forward_func is other
        assert found.scores["agreement"][2].min() > 1 - 1e-4
        assert found.scores["agreement"][1].min() < 0.9


class TestFrames:
    def test_tables_are_means_of_the_patients(self) -> None:
        dl, batch = tiny()
        found = dl.evaluate(batch, show_progress=False)
        frame, each = found.to_frame(), found.by_patient()
        assert frame["method"].tolist() == list(found.methods)
        assert (frame["patients"] == 4).all() and len(each) == 16
        for name in ("shapley", "deletion", "infidelity", "randomised"):
            groups = each.groupby("method", sort=False)[name]
            assert frame[name].to_numpy() == pytest.approx(groups.mean().to_numpy())
            error = frame[f"{name}_error"].to_numpy()
            assert error == pytest.approx(groups.sem().to_numpy())
        path = found.curves()
        assert len(path) == 4 * 2 * 21
        ends = path[path["fraction"] == 1].groupby("curve")["value"].mean()
        exp = dl.explain(batch)
        assert ends["insertion"] == pytest.approx(float(exp.f_input.mean()))
        assert ends["deletion"] == pytest.approx(float(exp.f_baseline.mean()))
        square = found.agreement()
        assert np.allclose(square, square.T) and np.allclose(np.diag(square), 1)
        assert frame.attrs["spent"] == found.spent
        assert "DeepLiftEHR: shapley +0." in repr(found) and len(found) == 4

    def test_one_patient_has_figures_without_errors(self) -> None:
        dl, batch = tiny()
        one = dl.model.encode(batch)[[1]]
        frame = dl.evaluate(one, show_progress=False).to_frame()
        assert frame["shapley"].notna().all() and frame["shapley_error"].isna().all()

    def test_several_references_are_a_mean(self) -> None:
        dl, batch = tiny()
        shap = DeepLiftShapEHR(dl.model)
        _, mine, result = begun(shap, batch, 3, None, "code", 10_000, 0)
        count = mine.count(0)
        ends = mine.values(0, torch.tensor([[False] * count, [True] * count]))
        assert ends[1] == pytest.approx(float(result.f_input[0]), abs=1e-12)
        found = shap.evaluate(batch, 3, measures=["shapley"], show_progress=False)
        assert found.baseline == "3 reference patients"
        assert found.scores["shapley"][0].mean() > 0.5


class TestWhatCannotBe:
    def test_who_has_fewer_than_two_players_is_left_out(self) -> None:
        c = case("RNN")
        dl, visits = DeepLiftEHR(c.adapter), c.adapter.feature_mask(c.enc, "visit")
        several = tuple(k for k, p in enumerate(visits.players) if len(p) > 1)
        assert 0 < len(several) < len(c.enc)
        found = dl.evaluate(
            c.enc, players="visit", measures=["curves"], show_progress=False
        )
        assert found.samples == several
        alone = found.left_out["fewer than two players"]
        assert len(alone) + len(found) == len(c.enc)
        assert "left out, fewer than two players" in repr(found)
        with pytest.raises(ValueError, match="nobody to evaluate: fewer than two"):
            dl.evaluate(c.enc, players="feature", show_progress=False)

    def test_what_is_asked_wrongly_is_refused_by_name(self) -> None:
        dl, batch = tiny()
        quiet = {"show_progress": False}
        gradients, layer = IntegratedGradients(dl.model), dl.model.model.fc
        for given, said in (
            ({"methods": ["Perceiver"]}, "no method 'Perceiver'"),
            ({"methods": ["random", "random"]}, "name of several methods"),
            ({"methods": [NoiseTunnel(gradients)]}, "has its own attribution_method"),
            ({"methods": [LayerActivation(dl.model, layer)]}, "has its own layer"),
            ({"methods": [DeepLiftEHR]}, "stands for itself"),
            ({"methods": [dl]}, "stands for itself"),
            ({"measures": ["shapely"]}, "no such measure"),
            ({"target": "all"}, "one output at a time"),
            ({"players": "organ"}, "players='organ'"),
        ):
            with pytest.raises(ValueError, match=said):
                dl.evaluate(batch, **given, **quiet)
        with pytest.raises(TypeError, match="takes a batch, and a PyHealth model"):
            DeepLiftEHR(nn.Linear(2, 1)).evaluate(torch.ones(1, 2), **quiet)
        bare = DeepLiftEHR(dl.model, multiply_by_inputs=False)
        with pytest.raises(ValueError, match="multipliers have no sum"):
            bare.evaluate(batch, **quiet)

    def test_what_a_method_raises_is_its_answer(self) -> None:
        dl, batch = tiny()

        def fails(_: Any) -> Any:
            raise RuntimeError("not on a Sunday")

        methods = {"fails": fails, "short": lambda _: {"labs": torch.ones(4, 2)}}
        found = dl.evaluate(
            batch, methods=methods, measures=["curves"], show_progress=False
        )
        assert found.scores["deletion"][0].isfinite().all()
        assert found.scores["deletion"][1:].isnan().all()
        notes = " | ".join(found.notes)
        assert "fails did not take the model: RuntimeError: not on a Sunday" in notes
        assert "no tensor for the feature 'conditions'" in notes
        assert "nothing measured" in repr(found)

    @removing
    @pytest.mark.complete
    def test_contrasts_and_other_classes(self) -> None:
        config = zoo.Config("MLP", "tensor", "multiclass", zoo.HIDDEN)
        data = zoo.dataset(config.schema, config.mode)
        from pyhealth.datasets import get_dataloader

        batch = next(iter(get_dataloader(data, batch_size=4, shuffle=False)))
        dl = DeepLiftEHR(zoo.build(config)[0])
        found = dl.evaluate(
            batch, target=(0, 1), show_progress=False, methods=["random"]
        )
        assert found.scores["comprehensiveness"].isnan().all()
        assert any("nobody is explained for it" in note for note in found.notes)
        assert found.scores["shapley"][0].mean() > 0.5
        predicted = dl.evaluate(batch, measures=["removal"], show_progress=False)
        assert predicted.scores["comprehensiveness"].isfinite().all()


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
