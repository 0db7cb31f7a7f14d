"""Targets: contrasts of two classes, every output at once, labels that are numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from pyhealth.datasets import create_sample_dataset, get_dataloader
from pyhealth.models import MLP
from torch import Tensor, nn

from captum_ehr import (
    DeepLiftEHR,
    DeepLiftShapEHR,
    Explanation,
    LayerDeepLiftEHR,
    PyHealthAdapter,
    contrast,
    explain_cohort,
    label,
    reference_patients,
)
from captum_ehr.datasets.tiny import quiet_pyhealth
from captum_ehr.explanation import Contrast
from captum_ehr.insights import AttributionVisualizer, CohortViewer
from captum_ehr.pyhealth import DeepLift
from captum_ehr.scene.wording import has_probability, target_words

CLASSES = zoo.Config("MLP", "tensor", "multiclass", zoo.HIDDEN)
LABELS = zoo.Config("MLP", "tensor", "multilabel", zoo.HIDDEN)

#: These cast a part of themselves to float32.
SINGLE_PRECISION = ("GAMENet",)

every_several = zoo.each(
    [c for c in zoo.configs() if c.mode in ("multiclass", "multilabel")],
    weights=("random", "trained"),
)


def apart(one: Any, other: Any) -> dict[str, Tensor]:
    return {key: one[key] - other[key] for key in one}


def same(found: Any, expected: Any, tolerance: float = 1e-6) -> None:
    scale = max(float(value.abs().max()) for value in expected.values())
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, rtol=tolerance, atol=tolerance * max(scale, 1e-3)
        )


def labelled(labels: list[Any], mode: str = "multiclass") -> tuple[Any, Any]:
    """A model whose classes are called so, one patient each, and its batch."""
    samples = [
        {"patient_id": f"p{n}", "labs": [float(n), 1.0 - n], "label": one}
        for n, one in enumerate(labels)
    ]
    with quiet_pyhealth(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = create_sample_dataset(
            samples, {"labs": "tensor"}, {"label": mode}, in_memory=True
        )
        model = MLP(data, embedding_dim=4, hidden_dim=4).eval()
    return model, next(iter(get_dataloader(data, len(samples))))


class TestContrast:
    @every_several
    def test_it_is_the_difference_of_two_explanations(self, config, trained) -> None:
        """Of a row of exact explanations, in float64, which no contrast is made of."""
        single = config.model in SINGLE_PRECISION
        dtype, fine = (torch.float32, 1e-5) if single else (torch.float64, 1e-9)
        model, batch = zoo.shared(config, trained, dtype=dtype)
        with zoo.default_dtype(dtype):
            dl = DeepLiftEHR(model)
            found = dl.explain(batch, target=(1, 0))
            one, other = (dl.explain(batch, target=k) for k in (1, 0))
        same(found.attributions, apart(one.attributions, other.attributions), fine)
        for end in ("f_input", "f_baseline"):
            ends = [getattr(exp, end) for exp in (one, other)]
            torch.testing.assert_close(getattr(found, end), ends[0] - ends[1])
        assert set(found.target) == {Contrast(1, 0)}

    @every_several
    def test_it_adds_up_to_the_difference(self, config, trained) -> None:
        model, batch = zoo.shared(config, trained)
        exp = DeepLiftEHR(model, completeness="raise").explain(batch, target=(1, 0))
        with torch.no_grad():
            score = zoo.score(model, batch)
        score = (
            score.logit() if PyHealthAdapter(model).scale == "probability" else score
        )
        change = score[:, 1] - score[:, 0]
        torch.testing.assert_close(exp.f_input, change, rtol=1e-4, atol=1e-5)
        gross = sum(a.flatten(1).abs().sum(1) for a in exp.attributions.values())
        digits = 64 * torch.finfo(change.dtype).eps * (gross + score.abs().sum(1))
        assert bool((exp.delta.abs() <= digits + 1e-5 * change.abs()).all())

    @pytest.mark.parametrize("output", ["logit", "probability"])
    @pytest.mark.parametrize(
        "options", [{}, {"internal_batch_size": 4}, {"segments": 3}]
    )
    def test_on_every_scale_by_plans_in_slices_and_segments(
        self, output: str, options: Any
    ) -> None:
        model, batch = zoo.shared(CLASSES)
        dl = DeepLiftEHR(model, output=output, **options)
        for _ in range(3):  # by the passes, recorded, by the plan
            parts = [dl.attribute(batch, target=k) for k in (2, 0)]
            same(dl.attribute(batch, target=contrast(2, 0)), apart(*parts), 1e-5)

    def test_one_for_each_patient(self) -> None:
        model, batch = zoo.shared(CLASSES)
        each = [(0, 1), (2, 1), (1, 0)] * 3
        exp = DeepLiftEHR(model).explain(batch, target=each)
        assert exp.target == tuple(Contrast(*pair) for pair in each)
        for row, pair in enumerate(each[:3]):
            alone = DeepLiftEHR(model).explain(batch, target=pair)[row]
            same(exp[row].attributions, alone.attributions)

    def test_the_rounding_of_large_logits_that_cancel_is_rounding(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3))
        with torch.no_grad():
            model[2].bias += 3e4
        x = torch.randn(20, 5)
        dl = DeepLiftEHR(model, completeness="raise")
        found = dl.attribute(x, target=(2, 1))
        exact = DeepLiftEHR(model.double()).attribute(x.double(), target=(2, 1))
        torch.testing.assert_close(found.double(), exact, rtol=1e-2, atol=1e-2)

    def test_of_outputs_of_more_dimensions(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Unflatten(1, (2, 3)))
        dl, x = DeepLiftEHR(model), torch.randn(4, 3)
        parts = [dl.attribute(x, target=place) for place in ((1, 2), (0, 2))]
        found = dl.attribute(x, target=contrast((1, 2), (0, 2)))
        torch.testing.assert_close(found, parts[0] - parts[1])
        with pytest.raises(ValueError, match=r"contrast\(a, b\)"):
            dl.attribute(x, target=((1, 2), (0, 2)))

    def test_by_the_other_explainers(self) -> None:
        model, batch = zoo.shared(CLASSES)
        for dl, more in (
            (
                DeepLiftShapEHR(model),
                {"baselines": reference_patients(model.dataset, 5)},
            ),
            (DeepLiftEHR(PyHealthAdapter(model)), {"baselines": "typical"}),
        ):
            parts = [dl.attribute(batch, target=k, **more) for k in (2, 1)]
            same(dl.attribute(batch, target=(2, 1), **more), apart(*parts), 1e-5)
        theirs = DeepLift(model)
        parts = [theirs.attribute(target_class_idx=k, **batch) for k in (2, 1)]
        same(theirs.attribute(target_class_idx=(2, 1), **batch), apart(*parts), 5e-5)
        layer = LayerDeepLiftEHR(model, "fc", completeness="raise")
        one, two, both = (layer.attribute(batch, target=t) for t in (2, 1, (2, 1)))
        torch.testing.assert_close(both, one - two, rtol=1e-5, atol=5e-6)
        account = DeepLiftEHR(model).audit(batch, target=(2, 1))
        assert account["residual"].max() < 1e-5

    def test_interactions_are_differences_too(self) -> None:
        model, batch = zoo.shared(CLASSES)
        dl = DeepLiftEHR(model)
        both, one, two = (
            dl.interactions(batch, target=t) for t in ((2, 0), (2,), (0,))
        )
        torch.testing.assert_close(
            both.one_way, one.one_way - two.one_way, rtol=0, atol=1e-5
        )
        assert both.target_label(0) == "2 rather than 0"

    def test_in_words_files_and_tables(self, tmp_path: Path) -> None:
        model, batch = zoo.shared(LABELS)
        dl = DeepLiftEHR(model)
        exp = dl.explain(batch, target=("l2", "l0"))
        words = "l2 rather than l0"
        assert exp.target_label(0) == target_words(exp) == words and words in repr(exp)
        exp.save(tmp_path / "one.parquet")
        loaded = Explanation.load(tmp_path / "one.parquet")
        assert loaded.target == exp.target == (Contrast(2, 0),) * 9
        whole = Explanation.concat([exp, dl.explain(batch, target="l2")])
        assert set(whole.top(100)["target"]) == {words, "l2"}
        # A difference of logits has no probability of its own.
        assert not has_probability(exp)
        with pytest.raises(ValueError, match="contrast"):
            exp.in_probability()

    def test_of_a_cohort_and_its_page(self, tmp_path: Path) -> None:
        model, batch = zoo.shared(LABELS)
        given: dict[str, Any] = {"target": contrast("l2", "l0"), "baselines": "typical"}
        cohort = explain_cohort(model, model.dataset, tmp_path / "c", **given)
        expected = DeepLiftEHR(model).explain(batch, "typical", ("l2", "l0"))
        mine = cohort[list(expected.patient_ids)]
        assert mine.target == expected.target
        same(mine.attributions, expected.attributions)
        assert "l2 rather than l0" in repr(cohort)
        again = explain_cohort(model, model.dataset, tmp_path / "c", **given)
        assert again.codes().equals(cohort.codes())
        page = CohortViewer(tmp_path / "c")
        assert page.overview()["targets"] == [("l2 rather than l0",)]
        assert page.view(expected.patient_ids[0])["probability"] is None
        cohort.report(tmp_path / "report.html")
        assert "l2 rather than l0" in (tmp_path / "report.html").read_text()

    @pytest.mark.parametrize(
        ("target", "error", "words"),
        [
            ((1, 1), ValueError, r"target \(1, 1\) is a contrast of an output with it"),
            (contrast(1, -2), ValueError, "with itself"),
            ((0, 7), IndexError, "between 0 and 2"),
            ((0, "sepsis"), KeyError, "no label of the dataset, whose labels are 0, 1"),
            ((0, 1.5), ValueError, r"1.5 is neither an index"),
            ((0, None), TypeError, "expected two classes"),
            ((0, "all"), TypeError, "expected two classes"),
            ((0, 1, 2), ValueError, "expected 1 integer"),
            ([(0, 1)] * 8 + [1], ValueError, "contrasts for some patients"),
            ([[0, 1]] * 9, ValueError, "expected 1 integer"),
        ],
    )
    def test_bad_ones(self, target: Any, error: Any, words: str) -> None:
        model, batch = zoo.shared(CLASSES)
        for ask in (DeepLiftEHR(model).attribute, DeepLiftEHR(model).interactions):
            with pytest.raises(error, match=words):
                ask(batch, target=target)

    def test_one_output_has_nothing_to_be_compared_with(self) -> None:
        model, batch = labelled(["no", "yes"] * 2, "binary")
        words = "whose logit is that of 'yes' rather than 'no' already"
        for target in ((1, 0), contrast("yes", "no"), ("yes", "yes")):
            with pytest.raises(ValueError, match=words):
                DeepLiftEHR(model).attribute(batch, target=target)
        with pytest.raises(ValueError, match="nothing to compare it with"):
            DeepLiftEHR(nn.Linear(2, 1)).attribute(torch.ones(1, 2), target=(1, 0))


class TestEveryOutput:
    @every_several
    def test_each_is_as_if_it_was_asked_for(self, config, trained) -> None:
        model, batch = zoo.shared(config, trained)
        dl = DeepLiftEHR(model)
        every = dl.explain(batch, target="all")
        names = PyHealthAdapter(model).target_names
        assert names is not None and tuple(every) == names
        for place, name in list(enumerate(every))[:3]:
            alone = dl.explain(batch, target=(place,))
            same(every[name].attributions, alone.attributions, 1e-5)
            assert every[name].target == alone.target
            torch.testing.assert_close(every[name].f_baseline, alone.f_baseline)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"internal_batch_size": 4},
            {"segments": 2},
            {"multiply_by_inputs": False},
        ],
    )
    def test_by_plans_in_slices_and_segments(self, options: Any) -> None:
        model, batch = zoo.shared(CLASSES)
        dl = DeepLiftEHR(model, **options)
        for _ in range(3):
            every, deltas = dl.attribute(
                batch, target="all", return_convergence_delta=True
            )
            assert isinstance(every, tuple) and len(every) == len(deltas) == 3
            for place, (found, delta) in enumerate(zip(every, deltas)):
                same(found, dl.attribute(batch, target=place), 1e-5)
                assert delta.shape == (9,)

    def test_from_one_pass_of_the_model_for_each_reference(self) -> None:
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))
        passes = []

        class Counted(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Tensor) -> Tensor:
                passes.append(len(x))
                return self.inner(x)  # type: ignore[no-any-return]

        x = torch.randn(5, 3)
        every = DeepLiftEHR(Counted()).attribute(x, target="all")
        assert passes == [5, 5]
        passes.clear()
        several = DeepLiftShapEHR(Counted()).attribute(x, x[:3] + 1, target="all")
        assert passes == [5] * 4
        for place in range(4):
            alone = DeepLiftEHR(inner).attribute(x, target=place)
            torch.testing.assert_close(every[place], alone)
            alone = DeepLiftShapEHR(inner).attribute(x, x[:3] + 1, target=place)
            torch.testing.assert_close(several[place], alone)

    def test_of_layers_of_more_dimensions_and_of_one_output(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Unflatten(1, (2, 3)))
        x = torch.randn(4, 3)
        every = DeepLiftEHR(model).attribute(x, target="all")
        assert len(every) == 6
        alone = DeepLiftEHR(model).attribute(x, target=(1, 0))
        torch.testing.assert_close(every[3], alone)
        layer = LayerDeepLiftEHR(model, model[1])
        found, deltas = layer.attribute(x, target="all", return_convergence_delta=True)
        torch.testing.assert_close(found[3], layer.attribute(x, target=(1, 0)))
        assert len(found) == len(deltas) == 6
        one = nn.Linear(3, 1)
        (only,) = DeepLiftEHR(one).attribute(x, target="all")
        torch.testing.assert_close(only, DeepLiftEHR(one).attribute(x))

    def test_where_patients_are_mixed_each_is_explained_apart(self) -> None:
        class Mixing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a = nn.Linear(3, 4)

            def forward(self, x: Tensor) -> Tensor:
                return torch.tanh(self.a(x)) * torch.tanh(x.mean(0)).sum()

        torch.manual_seed(0)
        model, x = Mixing(), torch.randn(5, 3)
        with pytest.warns(UserWarning, match="mixes the patients"):
            every = DeepLiftEHR(model).attribute(x, target="all")
        with pytest.warns(UserWarning, match="mixes the patients"):
            alone = DeepLiftEHR(model).attribute(x, target=2)
        torch.testing.assert_close(every[2], alone)

    def test_one_explanation_of_all_has_rows_for_each(self) -> None:
        model, batch = zoo.shared(LABELS)
        every = DeepLiftEHR(model).explain(batch, target="all")
        table = Explanation.concat(every.values()).top(100)
        assert set(table["target"]) == {"l0", "l1", "l2", "l3"}

    def test_what_explains_one_at_a_time_says_so(self, tmp_path: Path) -> None:
        model, batch = zoo.shared(CLASSES)
        dl = DeepLiftEHR(model)
        for ask in (dl.interactions, dl.audit):
            with pytest.raises(ValueError, match="one output at a time"):
                ask(batch, target="all")
        with pytest.raises(ValueError, match="one output at a time"):
            dl.attribute(batch, target=["all"] * 9)
        with pytest.raises(TypeError, match="one target for all"):
            explain_cohort(model, model.dataset, tmp_path / "c", target="all")

    def test_a_label_of_that_name_is_no_guess(self) -> None:
        model, batch = labelled(["all", "none", "some"])
        with pytest.raises(ValueError, match=r"label\('all'\)"):
            DeepLiftEHR(model).attribute(batch, target="all")
        exp = DeepLiftEHR(model).explain(batch, target=label("all"))
        assert exp.target_label(0) == "all"


class TestNumbers:
    @pytest.mark.parametrize(
        "kind", "int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()
    )
    def test_numpys_integers(self, kind: str, tmp_path: Path) -> None:
        model, batch = zoo.shared(CLASSES)
        one = np.dtype(kind).type(1)
        dl = DeepLiftEHR(model)
        expected = dl.attribute(batch, target=1)
        for target in (one, [one] * 9, np.full(9, one), np.array(one), label(one)):
            same(dl.attribute(batch, target=target), expected)
        found = dl.explain(batch, target=(one, np.dtype(kind).type(0)))
        assert found.target[0] == Contrast(1, 0)

    def test_of_cohorts_pages_and_baselines(self, tmp_path: Path) -> None:
        model, batch = zoo.shared(CLASSES)
        data = model.dataset
        cohort = explain_cohort(model, data, tmp_path / "c", target=np.int64(1))
        assert set(cohort.patients.collect()["target"]) == {1}
        explain_cohort(model, data, tmp_path / "c", target=1)  # the same one
        page = AttributionVisualizer(model, data)
        assert page.setting(target=np.int64(1)) == page.setting(target=1)
        dl = DeepLiftEHR(model)
        for number in (np.float32(0.5), np.float64(0.5), np.float16(0.5)):
            given = dl.attribute(batch, {"labs": number})
            same(given, dl.attribute(batch, {"labs": 0.5}))
        x = torch.randn(3, 2)
        net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        torch.testing.assert_close(
            DeepLiftEHR(net).attribute(x, np.int32(1)), DeepLiftEHR(net).attribute(x, 1)
        )
        few = DeepLiftShapEHR(model).attribute(batch, np.int64(3), target=0)
        same(few, DeepLiftShapEHR(model).attribute(batch, 3, target=0))

    @pytest.mark.parametrize(
        "target",
        [1.5, np.float32(0.5), float("nan"), [1.5] * 9, True, np.True_],
        ids=repr,
    )
    def test_what_is_no_index_is_refused(self, target: Any) -> None:
        model, batch = zoo.shared(CLASSES)  # of the classes 0, 1 and 2
        with pytest.raises(ValueError, match="neither an index"):
            DeepLiftEHR(model).attribute(batch, target=target)

    @pytest.mark.parametrize("target", [1.0, np.float32(1), torch.ones(9)], ids=repr)
    def test_whole_floats_are_indices_in_no_doubt(self, target: Any) -> None:
        model, batch = zoo.shared(CLASSES)
        expected = DeepLiftEHR(model).attribute(batch, target=1)
        same(DeepLiftEHR(model).attribute(batch, target=target), expected)
        model, batch = labelled([3, 2, 1])
        with pytest.raises(ValueError, match=r"label\(2\)"):
            DeepLiftEHR(model).attribute(batch, target=2.0)

    def test_no_targets_at_all(self) -> None:
        model, batch = zoo.shared(CLASSES)
        for empty in ([], np.array([]), torch.tensor([])):
            with pytest.raises(ValueError, match="0 entries for 9 patients"):
                DeepLiftEHR(model).attribute(batch, target=empty)

    def test_a_truth_value_is_the_label_of_a_binary_model(self) -> None:
        for labels in ([0, 1] * 2, ["no", "yes"] * 2, [False, True] * 2):
            model, batch = labelled(labels, "binary")
            dl = DeepLiftEHR(model)
            expected = dl.attribute(batch)
            ones = torch.ones(4, 1)  # as a batch has its labels
            for target in (True, np.True_, 0, 1, 1.0, ones, label(labels[1])):
                same(dl.attribute(batch, target=target), expected)
            for target in (False, 0.0, torch.zeros(4, 1), label(labels[0])):
                with pytest.raises(ValueError, match="has one logit"):
                    dl.attribute(batch, target=target)

    def test_two_classes_of_numbers_are_told_apart(self) -> None:
        model, batch = labelled([0, 1, 0, 1])
        assert DeepLiftEHR(model).explain(batch, target=True).target == (1,) * 4

    @pytest.mark.parametrize(
        ("labels", "number", "place"),
        [
            ([3, 5, 7], 5, 1),
            ([1, 2, 3], 2, 1),
            (["1", "2", "3"], 2, 1),
            ([-1, 0, 1], -1, 0),
        ],
        ids=str,
    )
    def test_a_label_that_is_a_number(
        self, labels: list[Any], number: int, place: int, tmp_path: Path
    ) -> None:
        model, batch = labelled(labels)
        dl = DeepLiftEHR(model)
        for target in (number, np.int64(number), [number] * 3, (number, labels[0])):
            with pytest.raises((ValueError, IndexError), match=rf"label\({number}\)"):
                dl.attribute(batch, target=target)
        with pytest.raises((ValueError, IndexError), match=rf"label\({number}\)"):
            explain_cohort(model, model.dataset, tmp_path / "c", target=number)
        for target in (label(number), (place,), str(number), label(str(number))):
            exp = dl.explain(batch, target=target)
            assert exp.target == (place,) * 3 and exp.target_label(0) == str(number)
        exp = dl.explain(batch, target=(label(number), label(labels[2])))
        assert exp.target == (Contrast(place, 2),) * 3
        page = AttributionVisualizer(model, model.dataset, methods=["DeepLiftEHR"])
        assert page.view("p1", target=str(number))["target"] == str(number)

    def test_a_number_that_is_its_own_label_is_in_no_doubt(self) -> None:
        model, batch = labelled([0, 1, 2])
        for target in (2, label(2), (2,), "2"):
            assert DeepLiftEHR(model).explain(batch, target=target).target == (2,) * 3

    def test_true_and_1_are_not_one_plan(self) -> None:
        model, batch = labelled([2, 1, 0])
        dl = DeepLiftEHR(model)
        for _ in range(4):
            dl.attribute(batch, target=1)
        with pytest.raises(ValueError, match="neither an index"):
            dl.attribute(batch, target=True)

    @pytest.mark.parametrize("value", [None, [1], {}])
    def test_what_can_be_no_label(self, value: Any) -> None:
        with pytest.raises(TypeError, match="a label is a word, a number"):
            label(value)
