"""What the page shows, as plain data: no browser, no server."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from insights_cases import CODES, NAMES, SCRIPT, Bag, bag_arguments, samples, stagenet

from captum_ehr import DeepLiftEHR
from captum_ehr.insights import (
    AttributionVisualizer,
    Batch,
    CodeFeature,
    FeatureOutput,
    LabFeature,
    VisitFeature,
)
from captum_ehr.insights.answers import answer
from captum_ehr.insights.page import ExportLimitError, embedded
from captum_ehr.insights.store import Recent


@pytest.fixture(scope="module")
def visualizer() -> AttributionVisualizer:
    model = stagenet()
    return AttributionVisualizer(model, model.dataset, names=NAMES)


def explained(model: Any, **options: Any) -> Any:
    """All patients at once, by the explainer itself."""
    from pyhealth.datasets import get_dataloader

    (batch,) = get_dataloader(model.dataset, len(model.dataset))
    return DeepLiftEHR(model).explain(batch, names=NAMES, **options)


def pairs(view: dict[str, Any]) -> list[tuple[str, float]]:
    """Code and attribution of everything that a view shows."""
    made = [
        (item["code"], item["attribution"])
        for visit in view["visits"]
        for group in visit["groups"]
        for item in group["items"]
    ]
    for series in view["series"]:
        for line in series["lines"]:
            made += [(line["code"], p["attribution"]) for p in line["points"]]
    for one in view["columns"]:
        made += [(item["code"], item["attribution"]) for item in one["items"]]
    return sorted(made)


class TestView:
    @pytest.mark.parametrize("target", [None, 1, "died"])
    @pytest.mark.parametrize("baseline", ["unk", "pad"])
    def test_numbers_are_those_of_explain(
        self, visualizer: AttributionVisualizer, target: Any, baseline: str
    ) -> None:
        whole = explained(stagenet(), baselines=baseline, target=target)
        for row in (0, 3, 9):
            view = visualizer.view(row, target=target, baseline=baseline)
            one = whole[row]
            frame = one.to_frame()
            rows = sorted(zip(frame["code"], frame["attribution"]))
            assert [c for c, _ in pairs(view)] == [c for c, _ in rows]
            found = torch.tensor(sorted(a for _, a in pairs(view)))
            expected = torch.tensor(sorted(a for _, a in rows), dtype=found.dtype)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
            assert view["f_input"] == pytest.approx(float(one.f_input[0]), abs=1e-5)
            assert view["target"] == one.target_label(0)

    def test_it_is_json_and_has_no_padding(
        self, visualizer: AttributionVisualizer
    ) -> None:
        for row, sample in enumerate(samples()):
            view = visualizer.view(row)
            json.dumps(view, allow_nan=False)
            _, visits = sample["conditions"]
            shown = [
                sorted(i["code"] for g in visit["groups"] for i in g["items"])
                for visit in view["visits"]
            ]
            assert sorted(shown) == sorted(sorted(one) for one in visits)
            assert "<pad>" not in json.dumps(view)

    def test_probabilities_are_the_models(
        self, visualizer: AttributionVisualizer
    ) -> None:
        view = visualizer.view(2, target="ward")
        from pyhealth.datasets import get_dataloader

        model = stagenet()
        (batch,) = get_dataloader(model.dataset, len(model.dataset))
        with torch.no_grad():
            probability = model(**batch)["y_prob"][2]
        names = visualizer.overview()["targets"][0]
        assert view["probability"][1] == pytest.approx(
            float(probability[names.index("ward")]), abs=1e-5
        )

    def test_values_and_times_are_the_records(
        self, visualizer: AttributionVisualizer
    ) -> None:
        view = visualizer.view(4)
        times, values = samples()[4]["labs"]
        lines = {line["code"]: line["points"] for line in view["series"][0]["lines"]}
        second = sorted((p["time"], round(p["value"], 4)) for p in lines["labs[1]"])
        assert second == sorted((t, round(v[1], 4)) for t, v in zip(times, values))

    def test_asking_for_what_there_is_not(
        self, visualizer: AttributionVisualizer
    ) -> None:
        with pytest.raises(ValueError, match="no method 'Magic'.*DeepLiftEHR"):
            visualizer.view(0, "Magic")
        with pytest.raises(ValueError, match="no baseline 'zero'; there are unk"):
            visualizer.view(0, baseline="zero")
        with pytest.raises(ValueError, match="no target 'alive'; there are"):
            visualizer.view(0, target="alive")
        with pytest.raises(ValueError, match="no target 3"):
            visualizer.view(0, target=3)
        with pytest.raises(KeyError, match="no patient 'p99'"):
            visualizer.view("p99")
        with pytest.raises(IndexError, match="12, 0 to 11"):
            visualizer.view(12)


class TestMethods:
    @pytest.mark.parametrize(
        "name",
        ["IntegratedGradients", "ShapleyValueSampling", "KernelShap"],
    )
    def test_captums_sums_are_measured(
        self, visualizer: AttributionVisualizer, name: str
    ) -> None:
        view = visualizer.view(1, name, target=0)
        change = view["f_input"] - view["f_baseline"]
        total = math.fsum(a for _, a in pairs(view))
        assert total == pytest.approx(view["total"], abs=1e-5)
        assert view["delta"] == pytest.approx(total - change, abs=1e-5)
        assert view["delta"] == pytest.approx(0, abs=0.05 * max(abs(change), 0.1))

    def test_ablation_is_the_change_without_the_code(
        self, visualizer: AttributionVisualizer
    ) -> None:
        view = visualizer.view(0, "FeatureAblation", target=0, baseline="pad")
        assert "at all of their places" in view["complete"]["messages"][0]
        sums: dict[str, float] = {}
        for code, one in pairs(view):
            sums[code] = sums.get(code, 0.0) + one
        source = visualizer._source
        encoded = source.encode([0])
        record = encoded.features["conditions"]
        for code in {CODES[0], CODES[2]}:
            place = record.values == record.vocabulary.index(code)
            without = encoded.inputs[0].clone()
            without[place] = 0
            changed = source.models[0](
                without, *encoded.inputs[1:], *encoded.additional_forward_args
            )
            expected = float(source.score(encoded)[0, 0] - changed[0, 0])
            assert sums[code] == pytest.approx(expected, abs=1e-5)

    def test_what_a_method_cannot_do_is_said(
        self, visualizer: AttributionVisualizer
    ) -> None:
        said = answer(
            visualizer, {"id": 7, "kind": "view", "row": 0, "method": "DeepLift"}
        )
        assert said["id"] == 7 and "Module" in said["error"]

    def test_every_method_on_offer_works_and_leaves_no_trace(
        self, visualizer: AttributionVisualizer
    ) -> None:
        before = torch.get_rng_state()
        for name in visualizer.methods:
            if name == "DeepLift":  # raises on StageNet: a module used twice
                continue
            view = visualizer.view(0, name)
            status = view["complete"]["status"]
            assert status in ("exact", "off") or not visualizer.methods[name].adds_up
        assert torch.equal(torch.get_rng_state(), before)
        assert all(p.grad is None for p in stagenet().parameters())

    def test_methods_are_checked(self) -> None:
        model = stagenet()
        with pytest.raises(ValueError, match="no method 'Nothing'"):
            AttributionVisualizer(model, model.dataset, methods=["Nothing"])
        with pytest.raises(ValueError, match="LayerGradCam needs"):
            AttributionVisualizer(model, model.dataset, methods=["LayerGradCam"])
        with pytest.raises(TypeError, match="got int"):
            AttributionVisualizer(model, model.dataset, methods=[3])


class TestAccount:
    def test_what_does_not_add_up_is_named(self) -> None:
        import captum.attr

        class Lossy(captum.attr.IntegratedGradients):
            """Loses half of the change."""

            def attribute(
                self,
                inputs: Any,
                baselines: Any = None,
                target: Any = None,
                additional_forward_args: Any = None,
            ) -> Any:
                found = super().attribute(
                    inputs, baselines, target, additional_forward_args
                )
                return tuple(one / 2 for one in found)

        Lossy.__name__ = "IntegratedGradients"
        model = stagenet()
        shown = AttributionVisualizer(model, model.dataset, methods=[Lossy]).view(0)
        assert shown["complete"]["status"] == "off"
        assert "50%" in shown["complete"]["text"]
        assert "IntegratedGradients" in shown["complete"]["messages"][0]

    def test_an_operation_without_a_rule_is_named(self) -> None:
        class Odd(Bag):
            def forward(self, embedded: Any, labs: Any, scale: float = 1.0) -> Any:
                found = super().forward(embedded, labs, scale)
                return torch.special.i0(found)

        model = Odd()
        shown = AttributionVisualizer(model, *bag_arguments(model)).view(0)
        assert shown["complete"]["status"] == "approximate"
        assert "i0" in shown["complete"]["text"]


class TestCohort:
    def test_it_is_the_explanations_own_table(
        self, visualizer: AttributionVisualizer
    ) -> None:
        found = visualizer.cohort(target="died")
        expected = explained(stagenet(), target="died").top(None)
        assert found["count"] == 12
        rows = {(one["feature"], one["code"]): one for one in found["codes"]}
        assert len(rows) == len(expected)
        for row in expected.to_dict("records"):
            one = rows[row["feature"], row["code"]]
            assert one["mean"] == pytest.approx(row["mean"], abs=1e-6)
            assert one["mean_abs"] == pytest.approx(row["mean_abs"], abs=1e-6)
            assert one["patients"] == row["patients"]
            assert one["prevalence"] == pytest.approx(row["patients"] / 12)
        sizes = [one["mean_abs"] for one in found["codes"]]
        assert sizes == sorted(sizes, reverse=True)

    def test_some_patients(self, visualizer: AttributionVisualizer) -> None:
        found = visualizer.cohort(patients=["p00", 5])
        assert found["count"] == 2


class TestOverview:
    def test_who_what_and_whether_right(
        self, visualizer: AttributionVisualizer
    ) -> None:
        overview = visualizer.overview()
        json.dumps(overview, allow_nan=False)
        own = samples()
        assert [one["label"] for one in overview["patients"]] == [
            one["outcome"] for one in own
        ]
        assert overview["groups"] == ["sex"]
        assert overview["patients"][1]["groups"] == ["female"]
        for patient, said in zip(overview["patients"], overview["predictions"][0]):
            assert said["correct"] == (said["text"] == patient["label"])
        codes = overview["codes"]
        for patient, sample in zip(overview["patients"], own):
            held = {codes[i]["code"] for i in patient["codes"]}
            visits = sample["conditions"][1]
            assert held - {"labs[0]", "labs[1]"} == {c for v in visits for c in v}

    def test_one_logit(self) -> None:
        model = stagenet("binary")
        shown = AttributionVisualizer(model, ["alive", "dead"], dataset=model.dataset)
        overview = shown.overview()
        assert overview["targets"] == [("dead",)]
        said = overview["predictions"][0][0]
        assert said["text"] == ("dead" if said["score"] >= 0.5 else "alive")
        assert shown.view(0)["target"] == "dead"
        with pytest.raises(ValueError, match=r"classes has 1 name\(s\), expected 2"):
            AttributionVisualizer(model, ["dead"], dataset=model.dataset)

    def test_deidentified_ids_are_nowhere(self) -> None:
        model = stagenet()
        shown = AttributionVisualizer(model, model.dataset, deidentify=True)
        text = json.dumps([shown.overview(), *map(shown.view, range(12))])
        assert "p00" not in text and "p11" not in text and "onerror" not in text
        assert len(set(shown.ids)) == 12
        assert shown.view(shown.ids[4])["row"] == 4

    def test_a_patients_second_record_has_a_name_of_its_own(self) -> None:
        model = Bag()
        classes, features, batches = bag_arguments(model)
        batches[1].patient_ids = ["q0", "q0"]
        shown = AttributionVisualizer(model, classes, features, batches)
        assert shown.ids == ("q0", "q1", "q2", "q0 (2)", "q0 (3)")


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
        assert shown.overview()["predictions"][0][0]["classes"] in ((0,), (1,))

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


class TestCache:
    def test_the_oldest_goes_first(self) -> None:
        kept = Recent[int, int](2)
        for n in range(2):
            kept.put(n, n)
        assert kept.get(0) == 0
        kept.put(2, 2)
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


class TestFile:
    def test_it_refuses_many_patients_unless_told(
        self, visualizer: AttributionVisualizer, tmp_path: Any
    ) -> None:
        with pytest.raises(ExportLimitError, match="12 patients, more than limit=5"):
            visualizer.save(tmp_path / "x.html", limit=5)
        assert not (tmp_path / "x.html").exists()
        page = visualizer.save(tmp_path / "x.html", limit=12).read_text()
        assert "This file holds the data of 12 patients" in page

    def test_it_holds_nothing_of_the_others(
        self, visualizer: AttributionVisualizer, tmp_path: Any
    ) -> None:
        page = visualizer.save(tmp_path / "x.html", patients=["p00"]).read_text()
        assert "1 patient, of 12" in page and "p00" in page
        data = page[page.index('id="data"') :]
        held = {code for visit in samples()[0]["conditions"][1] for code in visit}
        for n in range(1, 12):
            assert f'"p{n:02d}"' not in data
        for code in set(CODES) - held:
            assert f'"{code}"' not in data

    def test_data_end_no_script(self) -> None:
        text = str(embedded({"a": "</script><!--\u2028&"}))
        assert not set("<>&\u2028") & set(text)
        assert json.loads(text) == {"a": "</script><!--\u2028&"}


class TestQuestions:
    @pytest.mark.parametrize(
        "question",
        [
            None,
            3,
            {},
            {"kind": "view"},
            {"kind": "view", "row": True},
            {"kind": "view", "row": "../x"},
            {"kind": "view", "row": 10**9},
            {"kind": "parts"},
            {"kind": "view", "row": 0, "model": 9},
            {"kind": "view", "row": 0, "target": [0]},
            {"kind": SCRIPT},
        ],
    )
    def test_nonsense_is_answered_in_words(
        self, visualizer: AttributionVisualizer, question: Any
    ) -> None:
        assert isinstance(answer(visualizer, question)["error"], str)


def test_importing_it_imports_nothing_heavy() -> None:
    program = (
        "import sys, captum_ehr.insights\n"
        "heavy = {'torch', 'bokeh', 'captum', 'pandas', 'jinja2', 'tornado'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
