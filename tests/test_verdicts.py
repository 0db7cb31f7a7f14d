"""What is said beside the numbers: cautions, contributions, signs, ranks, outcomes."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from explanations import explain, tokens, values
from insights_cases import samples, stagenet

from captum_ehr import DeepLiftEHR
from captum_ehr.datasets import tiny_model
from captum_ehr.insights import AttributionVisualizer
from captum_ehr.insights.methods import methods_of
from captum_ehr.insights.output_head import Head
from captum_ehr.insights.overview import performance, ranked
from captum_ehr.insights.page import cohort_piece
from captum_ehr.propagation.diagnostics import Diagnostics, Structure
from captum_ehr.scene import patient_scene, verdict_of
from captum_ehr.scene.account import STRONGEST
from captum_ehr.scene.glossary import BASELINES, explained
from captum_ehr.scene.palette import ColorScale
from captum_ehr.scene.performance import performance_of
from captum_ehr.scene.population import population_scene
from captum_ehr.scene.tables import waterfall_bars
from captum_ehr.visualization.html import patient_html, population_html
from captum_ehr.visualization.report import notebook_html


def one(parts: list[float], report: Diagnostics | None = None) -> Any:
    """A patient with labs of these attributions, which add up."""
    return explain(
        {"labs": values([[1.0] * len(parts)])},
        {"labs": torch.tensor([parts])},
        f_input=torch.tensor([math.fsum(parts)]),
        diagnostics=report or Diagnostics(),
    )


KEPT = Structure("ne", 3, 0.25)
SAME = Structure("ne", 3)


class TestCaution:
    @pytest.mark.parametrize(
        ("made", "words"),
        [
            (one([20.0, -19.0]), "39 times the change cancel"),
            (one([20.0, -20.0]), "the output does not change"),
            (one([1.0], Diagnostics(structure=(KEPT,))), "structure"),
        ],
    )
    def test_it_is_never_plain_green(self, made: Any, words: str) -> None:
        verdict = verdict_of(made)
        assert verdict.status == "caution" and words in verdict.text
        assert "right" not in verdict.text and "not that the model" in verdict.meaning
        for page in (patient_html(patient_scene(made)), notebook_html(made)):
            assert 'class="badge caution"' in page and words in page
            assert 'class="badge exact"' not in page

    def test_structure_that_changes_nothing_is_a_remark(self) -> None:
        verdict = verdict_of(one([1.0], Diagnostics(structure=(SAME,))))
        assert verdict.status == "noted" and "ne" in verdict.messages[0]
        assert "of the patient(s) explained together" in verdict.messages[0]

    def test_a_reference_that_nobody_has(self) -> None:
        model, batch = tiny_model()
        made = DeepLiftEHR(model).explain(batch)
        assert verdict_of(made["p1"]).status == "caution"
        assert "outside of what the dataset holds" in repr(made)
        usual = DeepLiftEHR(model).explain(batch, baselines="mean")
        assert verdict_of(usual["p1"]).status == "exact"

    def test_what_does_not_add_up_stays_that(self) -> None:
        off = replace(one([20.0, -19.0]), delta=torch.tensor([0.5]))
        assert verdict_of(off).status == "off" and not verdict_of(off).meaning

    @pytest.mark.parametrize(
        ("output", "change", "delta", "status"),
        [
            (4e-5, 4e-5, 8e-7, "off"),  # 2 % of the change of a rare outcome
            (4.0, 1e-6, 4e-7, "exact"),  # the outputs' last digits
            (4.0, 1.0, 9e-4, "exact"),
        ],
    )
    def test_one_judgement_for_words_and_pictures(
        self, output: float, change: float, delta: float, status: str
    ) -> None:
        made = replace(
            one([change + delta]),
            f_baseline=torch.tensor([output - change]),
            f_input=torch.tensor([output]),
            delta=torch.tensor([delta]),
        )
        is_off = status == "off"
        assert verdict_of(made).status == status
        assert ("2% of f(x)" in verdict_of(made).text) == is_off
        steps = patient_scene(made).strongest
        assert ("missing" in [step.kind for step in steps]) == is_off
        bars = waterfall_bars(made, "code", None, 5)
        assert ("missing" in [bar.kind for bar in bars]) == is_off

    def test_ten_times_is_not_yet_many(self) -> None:
        assert verdict_of(one([5.5, -4.5])).status == "exact"


class TestStrongest:
    def made(self) -> Any:
        random = np.random.default_rng(0)
        ids = torch.tensor(random.integers(1, 4, size=(1, 30)))
        labs = values(random.normal(size=(1, 20)).tolist())
        parts = {
            "c": torch.tensor(random.normal(size=(1, 30))),
            "labs": torch.tensor(random.normal(size=(1, 20))),
        }
        total = sum(float(part.sum()) for part in parts.values())
        return explain(
            {"c": tokens(ids.tolist()), "labs": labs},
            parts,
            f_input=torch.tensor([total - 1], dtype=torch.float64),
            f_baseline=torch.tensor([-1.0], dtype=torch.float64),
        )

    def test_they_are_the_sums_by_code_and_end_at_the_output(self) -> None:
        made = self.made()
        steps = patient_scene(made).strongest
        sums: dict[tuple[str, str], float] = defaultdict(float)
        for row in made.to_frame().itertuples():
            sums[row.feature, row.code] += row.attribution
        expected = sorted(sums.items(), key=lambda pair: -abs(pair[1]))
        shown = [step for step in steps if step.kind == "item"]
        assert len(shown) == STRONGEST
        for step, (key, size) in zip(shown, expected):
            assert (step.item.feature, step.item.code) == key
            assert step.size == pytest.approx(size)
        assert [step.kind for step in steps[-2:]] == ["rest", "output"]
        assert steps[0].end == -1.0 and steps[-2].end == pytest.approx(steps[-1].end)
        others = patient_scene(made).others
        assert [step.item.code for step in others] == [k[1] for k, _ in expected[10:]]
        assert sum(s.size for s in others) == pytest.approx(steps[-2].size)
        for before, after in zip(steps, steps[1:-1]):
            assert after.start == pytest.approx(before.end)

    @pytest.mark.parametrize(
        ("seen", "words"),
        [
            ([True, True, True], "= 3 to 5"),
            ([True, False, True], "= 3 to 4"),
            ([False, False, True], "= 4"),
            ([False, False, False], "not measured"),
        ],
    )
    def test_only_what_was_measured_is_a_value(
        self, seen: list[bool], words: str
    ) -> None:
        labs = values([[[3.0], [5.0], [4.0]]])
        made = explain(
            {"labs": replace(labs, measured=torch.tensor(seen)[None, :, None])}
        )
        (step,) = [s for s in patient_scene(made).strongest if s.kind == "item"]
        assert step.detail == words

    def test_what_is_missing_has_a_step(self) -> None:
        off = replace(one([2.0]), f_input=torch.tensor([3.0]))
        last = patient_scene(off).strongest[-2]
        assert last.kind == "missing" and last.size == pytest.approx(1.0)

    def test_to_html_has_them_before_time(self) -> None:
        page = patient_html(patient_scene(self.made()))
        assert page.index('class="bridge items"') < page.index('class="visits"')
        assert "other codes and values" in page


class TestUnsigned:
    def test_methods_know_it(self) -> None:
        names = ["DeepLiftEHR", "Saliency", "InputXGradient"]
        assert [m.signed for m in methods_of(names, True).values()] == [
            True, False, True
        ]  # fmt: skip

        class Own(captum.attr.Saliency):
            """Somebody's."""

        assert not methods_of([Own], True)["Own"].signed

    def test_they_are_grey_and_lead_nowhere(self) -> None:
        scene = patient_scene(one([3.0, 1.0]), adds_up=False, signed=False)
        page = patient_html(scene)
        assert "raises" not in page and "+3" not in page
        assert {step.kind for step in scene.strongest} == {"item"}
        assert {step.start for step in scene.strongest} == {0.0}
        assert "not in units of the logit" in page
        colors = {scene.scale.color(size) for size in (0.0, 1.5, 3.0)}
        assert len(colors) == 3
        assert all(color[1:3] == color[3:5] == color[5:7] for color in colors)

    def test_a_signed_method_without_a_sum_begins_at_0(self) -> None:
        scene = patient_scene(one([3.0, -1.0]), adds_up=False)
        assert [(s.start, s.end) for s in scene.strongest] == [(0, 3), (0, -1)]
        assert scene.scale == ColorScale(3.0)


class TestWords:
    def test_every_word_of_ours_is_explained(self) -> None:
        model, batch = tiny_model()
        for baseline in ("unk", "pad", "mean", "median", "pyhealth"):
            made = DeepLiftEHR(model).explain(batch, baselines=baseline)
            scene = patient_scene(made, "p1")
            words = explained(scene)
            assert words[f"baseline {baseline}"] == BASELINES[baseline]
            page = patient_html(scene)
            for word in ("logit", "f(x)", "f(x0)", "delta", "attribution"):
                assert f"<dt>{word}</dt>" in page

    def test_a_flag_is_called_by_its_key(self) -> None:
        model = stagenet("binary")
        shown = AttributionVisualizer(model, model.dataset)
        overview = shown.overview()
        assert overview["classes"] == ("no outcome", "outcome")
        assert shown.view(0)["target"] == "outcome"
        explanation = shown.explanation(0, shown.setting())
        assert "logit of target outcome" in repr(explanation)


class TestStanding:
    def test_ranks_share_and_skip_what_is_unknown(self) -> None:
        scores = [0.2, 0.5, None, 0.5, 0.1]
        said = ranked(Head("binary", ("no", "yes")), [{"score": s} for s in scores])
        assert [each["rank"] for each in said] == [3, 1, None, 1, 4]
        assert [each["rank_words"] for each in said] == [
            "3rd highest of 4", "highest of 4", "", "highest of 4", "4th highest of 4"
        ]  # fmt: skip
        classes = ranked(Head("multiclass", ("a", "b", "c")), [{"score": 0.5}])
        assert classes[0]["rank"] is None

    def test_the_cohorts_numbers_are_those_of_the_model(self) -> None:
        model = stagenet("binary")
        shown = AttributionVisualizer(model, model.dataset)
        died = np.array([float(each["outcome"] == "died") for each in samples()])
        said = np.array(
            [one["score"] for one in shown.overview()["predictions"][0]], dtype=float
        )
        expected = performance_of("outcome", died, said, is_probability=True)
        judged = performance(shown.overview(), range(12), 0)
        assert judged is not None
        for name in ("samples", "positives", "auroc", "auprc", "slope", "intercept"):
            assert getattr(judged, name) == getattr(expected, name)
        page = cohort_piece(shown, range(12), [], shown.setting())
        assert f'data-auroc="{expected.auroc}"' in page and "Calibration" in page

    @pytest.mark.parametrize(
        ("target", "words"),
        [
            ((0, 0), "over all 2;"),
            ((0, 1), "over the samples explained for its target;"),
        ],
    )
    def test_a_mean_says_of_whom(self, target: tuple[int, ...], words: str) -> None:
        made = explain({"c": tokens([[2], [3]])}, target=target)
        assert words in population_html(population_scene(made))

    def test_several_classes_have_none(self) -> None:
        model = stagenet()
        shown = AttributionVisualizer(model, model.dataset)
        assert performance(shown.overview(), range(12), 0) is None
