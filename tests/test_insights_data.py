"""What the page shows, as plain data: no browser, no server."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import resources
from itertools import accumulate
from typing import Any

import pytest
import torch
from explanations import explain, values
from insights_cases import (
    CODES,
    NAMES,
    SCRIPT,
    Bag,
    bag_arguments,
    pairs,
    samples,
    stagenet,
)

from captum_ehr import DeepLiftEHR
from captum_ehr.insights import (
    AttributionVisualizer,
)
from captum_ehr.insights.api import answer, as_json, progress
from captum_ehr.insights.page import ExportLimitError, embedded
from captum_ehr.propagation import Diagnostics
from captum_ehr.scene import verdict_of, wording


@pytest.fixture(scope="module")
def visualizer() -> AttributionVisualizer:
    model = stagenet()
    return AttributionVisualizer(model, model.dataset, names=NAMES)


@pytest.fixture(scope="module")
def shown() -> AttributionVisualizer:
    """The second of five patients has no answer."""
    model = Bag(2)
    classes, features, batches = bag_arguments(model)
    batches[0].inputs[1][1, 0] = math.nan
    return AttributionVisualizer(model, classes, features, batches)


def explained(model: Any, **options: Any) -> Any:
    """All patients at once, by the explainer itself."""
    from pyhealth.datasets import get_dataloader

    (batch,) = get_dataloader(model.dataset, len(model.dataset))
    return DeepLiftEHR(model).explain(batch, names=NAMES, **options)


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

    def test_values_and_times_are_the_records(self) -> None:
        model = stagenet()
        said = AttributionVisualizer(model, model.dataset, times="gaps")
        times, values = samples()[4]["labs"]
        lines = {
            line["code"]: line["points"] for line in said.view(4)["series"][0]["lines"]
        }
        second = sorted((p["time"], round(p["value"], 4)) for p in lines["labs[1]"])
        assert second == sorted(
            (t, round(v[1], 4)) for t, v in zip(accumulate(times), values)
        )

    def test_asking_for_what_there_is_not(
        self, visualizer: AttributionVisualizer
    ) -> None:
        with pytest.raises(ValueError, match="no method 'Magic'.*DeepLiftEHR"):
            visualizer.view(0, "Magic")
        with pytest.raises(ValueError, match="no baseline 'zero'; there are unk"):
            visualizer.view(0, baseline="zero")
        with pytest.raises(ValueError, match="no baseline 'zero'; there are drawn"):
            visualizer.view(0, "DeepLiftShapEHR", baseline="zero")
        left = visualizer.setting("DeepLiftShapEHR", baseline="unk").baseline
        assert left == "drawn patients"
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
        said = answer(visualizer, {"kind": "view", "row": 0, "method": "DeepLift"})
        assert "Module" in said["error"]

    def test_every_method_on_offer_works_and_leaves_no_trace(
        self, visualizer: AttributionVisualizer
    ) -> None:
        before = torch.get_rng_state()
        for name in visualizer.methods:
            if name == "DeepLift":  # raises on StageNet: a module used twice
                continue
            view = visualizer.view(0, name)
            status = view["complete"]["status"]
            known = ("exact", "noted", "caution", "off")
            assert status in known or not visualizer.methods[name].adds_up
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

    def test_what_is_to_be_known_makes_the_badge_another(self) -> None:
        model = Bag()
        shown = AttributionVisualizer(model, *bag_arguments(model))
        one = shown.explanation(0, shown.setting())
        assert verdict_of(one).status == "exact"
        for report in (Diagnostics(notes=("mind it",)), Diagnostics((), ("mind it",))):
            verdict = verdict_of(replace(one, diagnostics=report))
            assert (verdict.status, verdict.messages) == ("noted", ("mind it",))

    def test_cancellation_is_the_patients_own(self) -> None:
        """Not that of those who were explained together with it."""
        record = values([[1.0, 2.0], [1.0, 2.0]])
        two = explain(
            {"labs": record},
            {"labs": torch.tensor([[20.0, -19.0], [2.0, -1.0]])},
            f_input=torch.ones(2),
            diagnostics=Diagnostics(cancellation=39.0),
        )
        first, second = (verdict_of(two[row]) for row in (0, 1))
        assert first.status == "caution" and "39 times" in first.messages[0]
        assert "39 times the change" in first.text
        assert (second.status, second.messages) == ("exact", ())
        assert verdict_of(two[0], adds_up=False).messages == ()

    def test_kept_structure_is_the_patients_own(self) -> None:
        model = stagenet()
        shown = AttributionVisualizer(model, model.dataset)
        setting = shown.setting(baseline="pad")
        shown.contributions(range(12), setting)
        kept = [shown.explanation(k, setting).diagnostics.structure for k in range(12)]
        batch = explained(model, baselines="pad").diagnostics.structure
        assert sum(one.places for (one,) in kept) == batch[0].places
        assert max(one.shift for (one,) in kept) == pytest.approx(batch[0].shift)
        assert min(one.shift for (one,) in kept) == 0

    def test_a_reference_outside_of_the_dataset_is_told(self) -> None:
        model = stagenet()
        shown = AttributionVisualizer(
            model, model.dataset, baselines={"far": {"labs": 900.0}}
        )
        for method in ("DeepLiftEHR", "IntegratedGradients"):
            said = shown.view(0, method)["complete"]
            assert any("outside of what the dataset" in m for m in said["messages"])
            if said["status"] != "off":  # that the sum is not complete comes first
                assert said["status"] == "caution"
                assert "outside of what the dataset holds" in said["text"]
            assert method != "DeepLiftEHR" or said["status"] == "caution"


class TestNoAnswer:
    """A model that answers NaN: nothing of it becomes 0, and JSON has null."""

    @pytest.mark.parametrize("method", ["DeepLiftEHR", "IntegratedGradients"])
    def test_a_view_says_so(self, shown: AttributionVisualizer, method: str) -> None:
        view = shown.view(1, method)
        json.dumps(view, allow_nan=False)
        assert view["complete"]["status"] == "unanswered"
        assert "no answer" in view["complete"]["text"]
        assert view["f_input"] is None and view["total"] is None
        assert view["prediction"]["text"] == "no answer"
        assert view["prediction"]["correct"] is None
        assert {one["total"] for one in view["features"]} == {None}
        assert {a for _, a in pairs_or_none(view)} == {None}
        assert shown.view(0, method)["complete"]["status"] == "exact"

    @pytest.mark.parametrize("method", ["DeepLiftEHR", "IntegratedGradients"])
    def test_no_padding_is_shown(self, method: str) -> None:
        model = Bag()
        classes, features, batches = bag_arguments(model)
        batches[0].inputs[0][:, 2] = 0
        batches[0].inputs[1][1, 0] = math.nan
        shown = AttributionVisualizer(model, classes, features, batches)
        codes = [code for code, a in pairs_or_none(shown.view(1, method)) if a is None]
        assert len(codes) == 4 and "<pad>" not in codes

    def test_a_cohort_counts_it_and_has_no_mean(
        self, shown: AttributionVisualizer
    ) -> None:
        whole = shown.cohort(target=0)
        json.dumps(whole, allow_nan=False)
        assert "1 of 5 patient(s)" in whole["note"]
        held = {code for code, _ in pairs_or_none(shown.view(1))}
        for one in whole["codes"]:
            assert (one["mean"] is None) == (one["code"] in held)
        lost = [one["mean_abs"] is None for one in whole["codes"]]
        assert lost == sorted(lost) and any(lost)
        assert shown.cohort(target=0, patients=[0, 2, 3])["note"] == ""

    def test_parts_and_files_have_null(
        self, shown: AttributionVisualizer, tmp_path: Any
    ) -> None:
        parts = shown.contributions([0, 1], shown.setting(target=0))
        assert {s for _, s in parts[1]["codes"]} == {None}
        assert None not in {s for _, s in parts[0]["codes"]}
        (piece,) = progress(shown, {"rows": [0, 1], "target": 0, "drawn": True})
        assert (
            piece["deltas"][1] == [None, "no answer", "unanswered"]
            and "no answer" in piece["html"]
        )
        json.dumps(piece, allow_nan=False)
        shown.save(tmp_path / "x.html", targets=[0])

    def test_an_answer_that_is_no_json_is_an_error(self) -> None:
        assert "NaN" in json.loads(as_json({"result": math.nan}))["error"]

    def test_patients_of_different_targets_are_told(
        self, visualizer: AttributionVisualizer
    ) -> None:
        predicted = {visualizer.view(row)["target"] for row in range(12)}
        assert len(predicted) > 1
        note = visualizer.cohort()["note"]
        assert f"explained for {len(predicted)} different targets" in note
        assert visualizer.cohort(target=1)["note"] == ""

    @pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")
    def test_the_pages_sums_are_the_same(self, shown: AttributionVisualizer) -> None:
        """The script's own table of the cohort, run without a browser."""
        parts = shown.contributions(range(5), shown.setting(target=0))
        files = resources.files("captum_ehr.insights") / "page_files"
        script = "\n".join(
            [
                f"const overview = {json.dumps(shown.overview())};",
                f"const known = {json.dumps(parts)};",
                "const partOf = (row) => known[row];",
                (files / "cohort.js").read_text(),
                "const sums = sumsOf([0, 1, 2, 3, 4], {});",
                "console.log(JSON.stringify(sums));",
            ]
        )
        done = subprocess.run(
            ["node", "-"], input=script, capture_output=True, text=True, check=True
        )
        sums = json.loads(done.stdout)
        expected = shown.cohort(target=0)["codes"]
        assert len(sums) == len(expected)
        by_code = {one["code"]: one for one in sums}
        for one in expected:
            assert by_code[one["code"]] == pytest.approx(one)

    @pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")
    def test_a_files_numbers_are_written_as_all_others(self) -> None:
        values = [0.0, 0.12345, -0.004, 1e-5, -3.2e-7, 12.5]
        shares = [0.0, 1 / 12, 0.25, 0.5, 0.95, 1.0]
        files = resources.files("captum_ehr.insights") / "page_files"
        script = "\n".join(
            [
                (files / "cohort.js").read_text(),
                f"const said = [{values}.map(signed), {shares}.map(percent)];",
                "console.log(JSON.stringify([...said, signed(null)]));",
            ]
        )
        done = subprocess.run(
            ["node", "-"], input=script, capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout) == [
            [wording.signed(value, 3) for value in values],
            [wording.percent(share) for share in shares],
            wording.NO_ANSWER,
        ]


def pairs_or_none(view: dict[str, Any]) -> list[tuple[str, float | None]]:
    """As :func:`pairs`, in the page's order."""
    chips = [
        *(group for visit in view["visits"] for group in visit["groups"]),
        *view["columns"],
    ]
    return [(i["code"], i["attribution"]) for one in chips for i in one["items"]]


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
        assert (said["text"], said["correct"]) == ("", None)  # nobody said from when on
        scores = [one["score"] for one in overview["predictions"][0]]
        assert said["rank"] == 1 + sum(score > said["score"] for score in scores)
        assert said["rank_words"].endswith("of 12")
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
        (said,) = progress(visualizer, question)
        assert isinstance(said["error"], str)


def test_importing_it_imports_nothing_heavy() -> None:
    program = (
        "import sys, captum_ehr.insights\n"
        "heavy = {'torch', 'captum', 'pandas', 'jinja2', 'starlette', 'uvicorn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
