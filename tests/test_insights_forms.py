"""The page's long form, its features and its store: no browser, no server."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch
from insights_cases import (
    NAMES,
    Bag,
    bag_arguments,
    pairs,
    stagenet,
)

from captum_ehr import DeepLiftEHR
from captum_ehr.insights import (
    AttributionVisualizer,
    Batch,
    CodeFeature,
    FeatureOutput,
    LabFeature,
    VisitFeature,
)
from captum_ehr.insights.batches import BatchSource
from captum_ehr.insights.sources import BLOCK, Cache, PyHealthSource


@pytest.fixture(scope="module")
def visualizer() -> AttributionVisualizer:
    model = stagenet()
    return AttributionVisualizer(model, model.dataset, names=NAMES)


class TestLongForm:
    def test_any_module_with_captums_arguments(self) -> None:
        model = Bag()
        shown = AttributionVisualizer(model, *bag_arguments(model))
        view = shown.view("q3")
        assert view["complete"]["status"] == "exact"
        assert view["target"] == "dead"
        assert {f["feature"] for f in view["features"]} == {"codes", "labs"}
        assert view["total"] == pytest.approx(
            view["f_input"] - view["f_baseline"], abs=1e-5
        )
        said = shown.overview()["predictions"][0][0]
        assert said["classes"] == () and 0 <= said["score"] <= 1  # a risk, no class

    def test_the_numbers_are_deeplifts(self) -> None:
        model = Bag()
        classes, features, batches = bag_arguments(model)
        shown = AttributionVisualizer(model, classes, features, batches)
        ids, labs = batches[0].inputs
        embedded_ids = model.table(ids).detach()
        found = DeepLiftEHR(model).attribute(
            (embedded_ids, labs), additional_forward_args=(1.0,)
        )
        view = shown.view(1)
        sums = {one["feature"]: one["total"] for one in view["features"]}
        assert sums["codes"] == pytest.approx(float(found[0][1].sum()), abs=1e-6)
        assert sums["labs"] == pytest.approx(float(found[1][1].sum()), abs=1e-6)

    def test_padding_stays_padding_against_any_baseline(self) -> None:
        model = Bag()
        classes, features, _ = bag_arguments(model)
        ids = torch.tensor([[2, 0, 0], [3, 4, 2]])
        batch = Batch((ids, torch.randn(2, 2)), None, 1.0)
        features[0].baseline_transforms = [lambda x: torch.ones_like(x)]
        shown = AttributionVisualizer(model, classes, features, [batch])
        view = shown.view(0)
        assert [code for code, _ in pairs(view)] == ["I50", "lactate", "sodium"]
        assert view["complete"]["status"] == "exact"

    def test_visualize_gives_what_captums_does(self) -> None:
        model = Bag()
        shown = AttributionVisualizer(model, *bag_arguments(model))
        outputs = shown.visualize()
        assert len(outputs) == 4
        (one,) = outputs[0]
        names = [out.name for out in one.feature_outputs]
        assert names == ["codes", "labs"] and one.model_index == 0
        assert isinstance(one.feature_outputs[0], FeatureOutput)
        assert math.fsum(abs(o.contribution) for o in one.feature_outputs) <= 1.0001
        assert one.actual is not None and one.actual.label == "alive"

    def test_two_outputs_and_a_score_function(self) -> None:
        model = Bag(2)
        shown = AttributionVisualizer(
            model, *bag_arguments(model), lambda scores: scores.softmax(-1)
        )
        view = shown.view(0, target="dead")
        assert view["probability"][1] == pytest.approx(
            float(shown._explanations.scores(0)[0, 1])
        )
        assert view["output"] == "logit"

    def test_a_regression_has_no_logit(self) -> None:
        model = Bag()
        _, features, batches = bag_arguments(model)
        days = torch.tensor([1.5, -2.0, 12345.6])
        batches[0].labels, batches[1].labels = days, days[:2] / 8
        shown = AttributionVisualizer(model, ["days"], features, batches)
        view = shown.view(0)
        assert view["output"] == "output" and view["probability"] is None
        patients = shown.overview()["patients"]
        assert [one["label"] for one in patients[:3]] == ["1.5", "−2", "12346"]
        assert [one["observed"] for one in patients[3:]] == [0.1875, -0.25]

    def test_what_does_not_fit_is_said(self) -> None:
        model = Bag()
        classes, features, batches = bag_arguments(model)
        with pytest.raises(ValueError, match="2 input.s. for 1 features: codes"):
            AttributionVisualizer(model, classes, features[:1], batches)
        with pytest.raises(ValueError, match="no batch"):
            AttributionVisualizer(model, classes, features, [])
        with pytest.raises(ValueError, match="1 output.s. for 3 classes"):
            AttributionVisualizer(model, ["a", "b", "c"], features, batches)
        with pytest.raises(TypeError, match="sample dataset"):
            AttributionVisualizer(model, batches)
        with pytest.raises(ValueError, match="dtype torch.int64"):
            bare = [CodeFeature("codes", ["a"] * 5), features[1]]
            AttributionVisualizer(model, classes, bare, batches)
        with pytest.raises(ValueError, match="number of patients"):
            Batch(torch.zeros(2, 1), torch.zeros(3))


class TestSource:
    def test_a_block_is_encoded_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = stagenet()
        source = PyHealthSource([model], model.dataset, {"unk": "unk"}, block=5)
        encode, blocks = source.encode_block, []

        def counted(block: range, model: int) -> Any:
            blocks.append(block)
            return encode(block, model)

        monkeypatch.setattr(source, "encode_block", counted)
        for row in range(12):
            one = source.encode([row])
            whole = encode(range(row // 5 * 5, min(row // 5 * 5 + 5, 12)), 0)
            assert one.patient_ids == (source.ids[row],)
            for x, all_of_them in zip(one.inputs, whole.inputs):
                assert torch.equal(x[0], all_of_them[row % 5])
            for key, record in one.features.items():
                assert torch.equal(
                    record.values[0], whole.features[key].values[row % 5]
                )
        assert blocks == [range(5), range(5, 10), range(10, 12)]
        chunks = list(source.chunks([1, 4, 5, 11, 2], 2))
        assert chunks == [[1, 4], [5], [11], [2]]

    def test_batches_are_read_in_blocks_and_may_come_twice(self) -> None:
        model = Bag()
        classes, features, _ = bag_arguments(model)
        count = BLOCK + 3
        ids, labs = torch.randint(1, 5, (count, 3)), torch.randn(count, 2)
        batch = Batch((ids, labs), None, (1.0,))
        source = BatchSource(
            [model], classes, features, [batch, batch], None, 2 * count - 1
        )
        assert len(source.ids) == 2 * count - 1
        for row in (0, BLOCK - 1, BLOCK, count - 1, count, 2 * count - 2):
            encoded = source.encode([row])
            assert torch.equal(encoded.inputs[1][0], labs[row % count])
            assert torch.equal(encoded.inputs[0][0], model.table(ids[row % count]))
            assert encoded.additional_forward_args == (1.0,)

    def test_times_and_tensors_are_the_patients_own(self) -> None:
        model = Bag()
        classes, features, batches = bag_arguments(model)
        batches[0].times["codes"] = torch.arange(9.0).view(3, 3)
        batches[0].additional_args = (torch.tensor([[1.0], [2.0], [3.0]]),)
        source = BatchSource([model], classes, features, batches[:1], None, 9)
        encoded = source.encode([2, 0])
        assert encoded.features["codes"].time.tolist() == [[6, 7, 8], [0, 1, 2]]
        assert encoded.additional_forward_args[0].tolist() == [[3.0], [1.0]]

    def test_nobody_is_refused(self) -> None:
        with pytest.raises(ValueError, match="has no patients: there is nobody"):
            PyHealthSource([stagenet()], [], {"unk": "unk"})


class TestFeatures:
    def test_padding_is_left_out(self) -> None:
        feature = VisitFeature("c", ("<pad>", "a", "b"))
        ids = torch.tensor([[[1, 2], [2, 0], [0, 0]]])
        shown = feature.visualize(torch.ones(1, 3, 2, 4), ids, 0.5)
        assert shown == ("c", [["a", "b"], ["b"]], [[100, 100], [100]], "visits", 0.5)

    def test_labs_over_time_drop_trailing_steps_of_zeros(self) -> None:
        feature = LabFeature("labs", ["x", "y"])
        values = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 2.0], [0.0, 0.0]]])
        assert len(feature.visualize(values, values, 1.0).base) == 3

    def test_codes_by_transform(self) -> None:
        feature = CodeFeature(
            "c", visualization_transform=lambda ids: [f"<{i}>" for i in ids.tolist()]
        )
        shown = feature.visualize(
            torch.tensor([[1.0, -0.5]]), torch.tensor([[3, 4]]), 1.0
        )
        assert shown.base == ["<3>", "<4>"] and shown.modified == [100.0, -50.0]
        with pytest.raises(ValueError, match="give vocabulary="):
            CodeFeature("c")

    def test_each_patient_has_words_of_its_own(self) -> None:
        feature = CodeFeature(
            "c", visualization_transform=lambda ids: [f"<{i}>" for i in ids.tolist()]
        )
        record = feature.record(torch.tensor([[3, 4], [4, 0]]))
        words = [record.vocabulary[i] for i in record.values.flatten().tolist()]
        assert words == ["<3>", "<4>", "<4>", "<0>"]
        assert record.mask.tolist() == [[True, True], [True, False]]

    def test_inputs_of_several_shapes_are_refused(self) -> None:
        feature = LabFeature("labs", ["x"], input_transforms=lambda x: x[: int(x[0])])
        with pytest.raises(ValueError, match="differ in shape"):
            feature.transform(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))


class TestCache:
    def test_the_oldest_goes_first(self) -> None:
        kept = Cache[int, int](2)
        for n in range(2):
            kept[n] = n
        assert kept.get(0) == 0
        kept[2] = 2
        assert (kept.get(0), kept.get(1), kept.get(2), len(kept)) == (0, None, 2, 2)

    def test_nothing_is_computed_twice_and_the_bound_holds(self) -> None:
        model = Bag()
        shown = AttributionVisualizer(model, *bag_arguments(model), cache_size=3)
        way = shown.setting()
        first = shown.explanation(0, way)
        assert shown.explanation(0, way) is first
        shown.cohort()
        assert len(shown._explanations._kept) == 3

    def test_several_threads_ask_at_once(self) -> None:
        model = Bag()
        shown = AttributionVisualizer(model, *bag_arguments(model))
        found: list[Any] = []

        def ask() -> None:
            found.append([shown.view(row) for row in range(5)])

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert len(found) == 6 and all(one == found[0] for one in found)
