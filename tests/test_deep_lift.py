"""DeepLiftEHR: forms of input, targets, options, and what it does with bad input."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import zoo
from captum.attr import DeepLift, IntegratedGradients, NoiseTunnel
from torch import Tensor, nn

from captum_ehr import AttributionWarning as Warned
from captum_ehr import CompletenessError, DeepLiftEHR, PyHealthAdapter

STAGENET = zoo.Config("StageNet", "stagenet", "binary", zoo.STAGES)
MLP = zoo.Config("MLP", "tensor", "binary", zoo.HIDDEN)
CLASSES = zoo.Config("MLP", "tensor", "multiclass", zoo.HIDDEN)
LABELS = zoo.Config("MLP", "tensor", "multilabel", zoo.HIDDEN)


@pytest.fixture(scope="module")
def stagenet() -> Any:
    return zoo.build(STAGENET)


@pytest.fixture(scope="module")
def mlp() -> Any:
    return zoo.build(MLP)


@pytest.fixture(scope="module")
def classes() -> Any:
    return zoo.build(CLASSES)


class TestForms:
    def test_every_form_gives_the_same_attributions(self, stagenet: Any) -> None:
        model, batch = stagenet
        adapter = PyHealthAdapter(model)
        enc, ref = adapter.encode(batch), adapter.baseline(batch, "unk")
        dl = DeepLiftEHR(adapter)
        expected = dl.attribute(batch)
        assert {k: v.shape for k, v in expected.items()} == {
            "timed": batch["timed"][1].shape,
            "timed_labs": batch["timed_labs"][1].shape,
        }
        for found in (
            dl.attribute(enc),
            dict(zip(enc.feature_keys, dl.attribute(enc.pairs))),
            dict(zip(enc.feature_keys, dl.attribute(enc.pairs, ref))),
            dl.explain(batch).attributions,
            DeepLiftEHR(model, internal_batch_size=2).attribute(batch),
        ):
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)

    def test_tensors_keep_their_shapes_as_in_captum(self, stagenet: Any) -> None:
        adapter = PyHealthAdapter(stagenet[0])
        enc, ref = adapter.encode(stagenet[1]), adapter.baseline(stagenet[1])
        found, delta = DeepLiftEHR(adapter).attribute(
            enc.inputs,
            ref,
            target=0,
            additional_forward_args=enc.additional_forward_args,
            return_convergence_delta=True,
        )
        assert [f.shape for f in found] == [x.shape for x in enc.inputs]
        assert delta.shape == (9,)
        summed = DeepLiftEHR(adapter).attribute(enc)["timed"]
        torch.testing.assert_close(found[0].sum(-1), summed)

    def test_sum_tokens_off_keeps_the_embedding_dimension(self, mlp: Any) -> None:
        found = DeepLiftEHR(mlp[0], sum_tokens=False).attribute(mlp[1])
        assert found["conditions"].shape == (*mlp[1]["conditions"].shape, 8)
        assert found["labs"].shape == mlp[1]["labs"].shape

    def test_bare_pairs_need_no_batch_where_there_are_no_times(self, mlp: Any) -> None:
        adapter = PyHealthAdapter(mlp[0])
        pairs = tuple(adapter.encode(mlp[1]).pairs)
        found = DeepLiftEHR(adapter).attribute(pairs)
        expected = DeepLiftEHR(adapter).attribute(mlp[1])
        torch.testing.assert_close(found[0], expected["conditions"])

    def test_masked_positions_of_a_pair_get_nothing(self) -> None:
        model = nn.Sequential(
            nn.Linear(4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(15, 1)
        )
        x, mask = torch.randn(2, 5, 4), torch.tensor([[True] * 3 + [False] * 2] * 2)
        found = DeepLiftEHR(model).attribute((x, mask), torch.randn(2, 5, 4))[0]
        assert torch.equal(found[~mask], torch.zeros(4, 4))
        assert bool((found[mask] != 0).any())

    def test_labels_and_other_entries_are_not_needed(self, mlp: Any) -> None:
        model, batch = mlp
        bare = {k: batch[k] for k in ("conditions", "labs")}
        assert torch.equal(
            DeepLiftEHR(model).attribute(bare)["labs"],
            DeepLiftEHR(model).attribute({**batch, "ward": ["a"] * 9})["labs"],
        )

    def test_rows_add_up_where_a_reference_changes_padding(self, mlp: Any) -> None:
        exp = DeepLiftEHR(mlp[0]).explain(mlp[1], "pyhealth")
        frame = exp.to_frame()
        assert "<pad>" in set(frame["code"])
        rows = frame.groupby("patient_id", sort=False)["attribution"].sum()
        total = torch.from_numpy(rows.to_numpy())
        torch.testing.assert_close(total, exp.total, rtol=1e-6, atol=1e-7)


class TestTargets:
    def test_the_predicted_class_is_the_default(self, classes: Any) -> None:
        model, batch = classes
        exp = DeepLiftEHR(model).explain(batch)
        with torch.no_grad():
            logit = model(**batch)["logit"]
        assert exp.target == tuple(logit.argmax(1).tolist())
        torch.testing.assert_close(exp.f_input, logit.max(1).values)

    @pytest.mark.parametrize("kind", ["int", "list", "tensor", "negative"])
    def test_indices(self, classes: Any, kind: str) -> None:
        each = [0, 1, 2] * 3
        target: Any = {
            "int": 1,
            "list": each,
            "tensor": torch.tensor(each),
            "negative": -1,
        }[kind]
        exp = DeepLiftEHR(classes[0]).explain(classes[1], target=target)
        wanted = {"int": [1] * 9, "negative": [2] * 9}.get(kind, each)
        assert list(exp.target) == wanted
        with torch.no_grad():
            logit = classes[0](**classes[1])["logit"]
        torch.testing.assert_close(exp.f_input, logit[range(9), wanted])

    def test_a_label_of_the_vocabulary(self) -> None:
        model, batch = zoo.build(LABELS)
        exp = DeepLiftEHR(model).explain(batch, target="l2")
        assert set(exp.target) == {2} and exp.target_label(0) == "l2"

    def test_the_sum_over_labels_is_each_ones_own(self) -> None:
        model, batch = zoo.build(LABELS)
        dl = DeepLiftEHR(model)
        a, b = (dl.attribute(batch, target=t)["conditions"] for t in (0, 1))
        assert not torch.allclose(a, b)

    def test_a_one_logit_model_has_one_target(self, mlp: Any) -> None:
        dl = DeepLiftEHR(mlp[0])
        for target in (None, 0, 1, [0] * 9):  # 1: the positive label
            assert set(dl.explain(mlp[1], target=target).target) == {0}

    def test_outputs_of_more_dimensions(self) -> None:
        model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Unflatten(1, (2, 3)))
        x = torch.randn(4, 3)
        found, delta = DeepLiftEHR(model).attribute(
            x, target=(1, 2), return_convergence_delta=True
        )
        change = model(x)[:, 1, 2] - model(torch.zeros_like(x))[:, 1, 2]
        torch.testing.assert_close(found.sum(1), change)
        assert bool(delta.abs().max() < 1e-6)

    @pytest.mark.parametrize(
        ("target", "error", "words"),
        [
            (7, IndexError, "between 0 and 2"),
            (-4, IndexError, "between 0 and 2"),
            ([0, 1], ValueError, "2 entries for 9 patients"),
            ("sepsis", KeyError, "no label of the dataset"),
            ((1, 1, 1), ValueError, "expected 1 integer"),
            (1.5, ValueError, "expected 1 integer"),
        ],
    )
    def test_bad_targets(
        self, classes: Any, target: Any, error: Any, words: str
    ) -> None:
        with pytest.raises(error, match=words):
            DeepLiftEHR(classes[0]).attribute(classes[1], target=target)

    def test_a_one_logit_model_refuses_index_seven(self, mlp: Any) -> None:
        with pytest.raises(IndexError, match=r"1 output\(s\)"):
            DeepLiftEHR(mlp[0]).attribute(mlp[1], target=7)


class TestCompleteness:
    """On a module whose rule is deliberately wrong, and on one that is right."""

    @staticmethod
    def wrong() -> dict[Any, Any]:
        return {nn.GELU: lambda module, y, x: lambda m: ((x, m * 0.5),)}

    @pytest.fixture
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 1))

    @pytest.mark.parametrize("completeness", ["rescale", "check"])
    def test_what_does_not_add_up_is_said_and_not_hidden(
        self, model: nn.Module, completeness: Any
    ) -> None:
        x = torch.randn(3, 4)
        dl = DeepLiftEHR(model, rules=self.wrong(), completeness=completeness)
        with pytest.warns(Warned, match="do not add up"):
            found, delta = dl.attribute(x, return_convergence_delta=True)
        change = (model(x) - model(torch.zeros_like(x))).squeeze(1)
        torch.testing.assert_close(found.sum(1) - change, delta)
        assert bool((delta.abs() > 1e-3).any())

    def test_raise(self, model: nn.Module) -> None:
        dl = DeepLiftEHR(model, rules=self.wrong(), completeness="raise")
        with pytest.raises(CompletenessError, match="do not add up"):
            dl.attribute(torch.randn(3, 4))

    def test_off_measures_all_the_same(self, model: nn.Module) -> None:
        dl = DeepLiftEHR(model, rules=self.wrong(), completeness="off")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Warned)
            _, delta = dl.attribute(torch.randn(3, 4), return_convergence_delta=True)
        assert bool((delta.abs() > 1e-3).any())

    def test_rescaling_is_polish(self, stagenet: Any) -> None:
        exp = DeepLiftEHR(stagenet[0]).explain(stagenet[1])
        raw = DeepLiftEHR(stagenet[0], completeness="check").explain(stagenet[1])
        assert bool((exp.rescale_factor - 1).abs().max() < 1e-3)
        torch.testing.assert_close(exp.delta, raw.delta)
        residual = (exp.total - (exp.f_input - exp.f_baseline).double()).abs()
        assert bool((residual <= raw.delta.abs().double() + 1e-7).all())


class TestOptions:
    def test_probability(self, classes: Any) -> None:
        model, batch = classes
        exp = DeepLiftEHR(model, output="probability").explain(batch, target=1)
        with torch.no_grad():
            expected = model(**batch)["y_prob"][:, 1]
        torch.testing.assert_close(exp.f_input, expected)
        assert exp.diagnostics.exact
        total = exp.total.float()
        torch.testing.assert_close(
            total, exp.f_input - exp.f_baseline, atol=1e-6, rtol=0
        )

    def test_multipliers(self, mlp: Any) -> None:
        adapter = PyHealthAdapter(mlp[0])
        enc, ref = adapter.encode(mlp[1]), adapter.baseline(mlp[1])
        rest = {"additional_forward_args": enc.additional_forward_args}
        m = DeepLiftEHR(adapter, multiply_by_inputs=False).attribute(
            enc.inputs, ref, **rest
        )
        full = DeepLiftEHR(adapter, completeness="off").attribute(
            enc.inputs, ref, **rest
        )
        for k in range(2):
            torch.testing.assert_close(m[k] * (enc.inputs[k] - ref[k]), full[k])

    def test_custom_attribution_func(self) -> None:
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        x = torch.randn(2, 3)

        def only_multipliers(multipliers: Any, inputs: Any, baselines: Any) -> Any:
            assert inputs[0].shape == baselines[0].shape
            return tuple(2 * m for m in multipliers)

        ours = DeepLiftEHR(model).attribute(x, custom_attribution_func=only_multipliers)
        theirs = DeepLift(model).attribute(x, custom_attribution_func=only_multipliers)
        torch.testing.assert_close(ours, theirs)

    def test_noise_tunnel_around_it(self) -> None:
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        x = torch.randn(2, 3)
        found = NoiseTunnel(DeepLiftEHR(model)).attribute(x, nt_samples=3, target=1)
        assert found.shape == x.shape

    def test_integrated_gradients_on_the_adapter(self, stagenet: Any) -> None:
        adapter = PyHealthAdapter(stagenet[0])
        enc, ref = adapter.encode(stagenet[1]), adapter.baseline(stagenet[1])
        _, delta = IntegratedGradients(adapter).attribute(
            enc.inputs,
            ref,
            target=0,
            additional_forward_args=enc.additional_forward_args,
            n_steps=64,
            return_convergence_delta=True,
        )
        assert bool(delta.abs().max() < 1e-5)

    def test_under_no_grad_and_inference_mode(self, stagenet: Any) -> None:
        model, batch = stagenet
        expected = DeepLiftEHR(model).attribute(batch)
        for context in (torch.no_grad, torch.inference_mode):
            with context():
                clones = {
                    k: tuple(t.clone() for t in v) if isinstance(v, tuple) else v
                    for k, v in batch.items()
                }
                found = DeepLiftEHR(model).attribute(clones)
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value)

    def test_in_train_mode_the_same_as_in_eval_mode(self, stagenet: Any) -> None:
        model, batch = stagenet
        expected = DeepLiftEHR(model).attribute(batch)
        model.train()
        try:
            found = DeepLiftEHR(model).attribute(batch)
        finally:
            model.eval()
        assert all(torch.allclose(found[k], expected[k], atol=1e-6) for k in expected)

    def test_threads_share_a_model(self, stagenet: Any) -> None:
        model, batch = stagenet
        dl = DeepLiftEHR(model)
        expected = dl.attribute(batch)
        with torch.no_grad():
            logit = model(**batch)["logit"]
        wrong: list[Any] = []

        def explain() -> None:
            for _ in range(3):
                found = dl.attribute(batch)
                if not all(
                    torch.allclose(found[k], expected[k], atol=1e-6) for k in expected
                ):
                    wrong.append(found)

        def infer() -> None:
            for _ in range(12):
                with torch.no_grad():
                    if not torch.allclose(model(**batch)["logit"], logit, atol=1e-6):
                        wrong.append("inference")

        threads = [
            threading.Thread(target=t) for t in (explain, explain, explain, infer)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


class TestBadInput:
    @pytest.mark.parametrize("model", [None, "MLP", 3, lambda x: x])
    def test_no_module(self, model: Any) -> None:
        with pytest.raises(TypeError, match="Expected a PyHealth model"):
            DeepLiftEHR(model)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"completeness": "maybe"}, "it is one of"),
            ({"output": "odds"}, "'logit' or 'probability'"),
            ({"internal_batch_size": 0}, "at least 1"),
            ({"output": "probability"}, "needs a PyHealth model"),
        ],
    )
    def test_options(self, options: Any, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            DeepLiftEHR(nn.Linear(2, 1), **options)

    def test_a_batch_needs_a_pyhealth_model(self) -> None:
        with pytest.raises(TypeError, match="no PyHealth model"):
            DeepLiftEHR(nn.Linear(2, 1)).attribute({"x": torch.ones(1, 2)})

    def test_a_named_baseline_needs_a_batch(self) -> None:
        with pytest.raises(TypeError, match="needs a batch"):
            DeepLiftEHR(nn.Linear(2, 1)).attribute(torch.ones(1, 2), "unk")

    @pytest.mark.parametrize(
        "x", [torch.ones(2, 2).long(), [1.0, 2.0], torch.ones(0, 2)]
    )
    def test_inputs(self, x: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="Input 0"):
            DeepLiftEHR(nn.Linear(2, 1)).attribute(x)

    def test_baseline_shape(self) -> None:
        with pytest.raises(ValueError, match=r"Baseline 0 has shape \(2, 3\)"):
            DeepLiftEHR(nn.Linear(2, 1)).attribute(torch.ones(2, 2), torch.ones(2, 3))

    def test_an_exception_leaves_the_model_untouched(self, mlp: Any) -> None:
        model, batch = mlp
        before = {name: vars(m).copy() for name, m in model.named_modules()}
        with pytest.raises(IndexError):
            DeepLiftEHR(model).attribute(batch, target=7)
        assert before == {name: vars(m) for name, m in model.named_modules()}
        assert not torch.overrides._get_current_function_mode_stack()

    def test_a_patient_without_any_code_is_stated(self, mlp: Any) -> None:
        model, batch = mlp
        empty = {**batch, "conditions": batch["conditions"].clone()}
        empty["conditions"][2] = 0  # MLP divides by the number of its tokens
        with pytest.warns(Warned, match=r"not finite.*\[2\]"):
            exp = DeepLiftEHR(model).explain(empty)
        others = [i for i in range(9) if i != 2]
        for key, value in DeepLiftEHR(model).explain(batch).attributions.items():
            torch.testing.assert_close(exp.attributions[key][others], value[others])
        assert bool(exp.f_input[2].isnan())

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_attributions_that_are_no_numbers_are_stated(self, value: float) -> None:
        def broken(y: Any, x: Any, **_: Any) -> Any:
            def multiplier(upstream: Tensor) -> Any:
                share = upstream.clone()
                share[1] = value
                return [(x, share)]

            return multiplier

        model = nn.Sequential(nn.ReLU(), nn.Linear(2, 1))
        x, rules = torch.ones(3, 2), {F.relu: broken}
        with pytest.warns(Warned, match=r"patient\(s\) \[1\] do not add up"):
            DeepLiftEHR(model, rules=rules).attribute(x)
        with pytest.raises(CompletenessError):
            DeepLiftEHR(model, rules=rules, completeness="raise").attribute(x)
