"""How the page tells risk, compares models, folds much and sorts, in a browser."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from insights_cases import Bag, bag_arguments, samples, stagenet
from test_insights_page import BROWSER, Tab

from captum_ehr.insights import AttributionVisualizer
from captum_ehr.scene import wording
from captum_ehr.scene.performance import performance_of

pytestmark = [
    pytest.mark.complete,
    pytest.mark.skipif(BROWSER is None, reason="chromium is not on PATH"),
]


class TestRisk:
    """One outcome: risk, rank, what was observed, and a threshold that is not there."""

    @pytest.fixture(scope="class")
    def shown(self) -> AttributionVisualizer:
        model = stagenet("binary")
        return AttributionVisualizer(model, model.dataset)

    @pytest.fixture
    def risk(self, browser: Any, shown: AttributionVisualizer) -> Iterator[Tab]:
        with shown.serve() as server:
            opened = Tab(browser, server.url)
            yield opened
            assert opened.problems == []
            opened.page.close()

    def test_the_highest_risk_comes_first_and_nobody_is_judged(
        self, risk: Tab, shown: AttributionVisualizer
    ) -> None:
        said = shown.overview()["predictions"][0]
        first = max(range(12), key=lambda row: said[row]["score"])
        order = risk.page.locator(".trow").evaluate_all(
            "all => all.map(one => Number(one.dataset.row))"
        )
        assert order == sorted(range(12), key=lambda row: -said[row]["score"])
        assert risk.page.locator(".title h2").inner_text() == shown.ids[first]
        facts = risk.page.locator(".title").inner_text()
        assert f"{said[first]['words']} · highest of 12" in facts
        text = risk.page.inner_text("body")
        assert "logit of outcome" in text
        assert not {"wrong", "predicted", "logit of 1"} & set(text.split("\n"))
        assert risk.page.locator(".mark, .trow .delta").count() == 0
        seen = risk.page.locator(".trow .label .unseen").all_text_contents()
        assert seen == [shown.overview()["patients"][row]["label"] for row in order]

    def test_a_threshold_counts_as_python_does(
        self, risk: Tab, shown: AttributionVisualizer
    ) -> None:
        risk.click("[data-tab=cohort]")
        assert risk.page.locator(".confusion td").count() == 0
        said = np.array([one["score"] for one in shown.overview()["predictions"][0]])
        died = np.array([one["outcome"] == "died" for one in samples()], dtype=float)
        least = float(np.median(said))
        decision = performance_of(
            "outcome", died, said, is_probability=True, threshold=least
        ).decision
        assert decision is not None
        risk.page.locator("#threshold").fill(repr(100 * least))
        risk.page.wait_for_selector(".confusion td")
        counts = list(
            map(int, risk.page.locator(".confusion td.num").all_inner_texts())
        )
        called = said >= least
        assert counts == [
            int((called & (died == 1)).sum()),
            int((called & (died == 0)).sum()),
            int((~called & (died == 1)).sum()),
            int((~called & (died == 0)).sum()),
        ]
        facts = risk.page.locator(".confusion dd").all_inner_texts()
        assert facts == [
            wording.percent(share)
            for share in (
                decision.sensitivity,
                decision.specificity,
                decision.positive_value,
                decision.negative_value,
            )
        ]
        risk.page.get_by_label("Called at the threshold").select_option(
            label="Threshold: missed"
        )
        count = risk.page.locator("#count").inner_text()
        assert count.startswith(f"{counts[2]} of 12")

    def test_what_tells_two_stays_apart_is_seen(self, browser: Any) -> None:
        model = stagenet("binary")
        shown = AttributionVisualizer(model, model.dataset)
        shown._explanations.ids = tuple(
            f"a-very-long-identifier-of-one-hospital-{n:07d} ({n})" for n in range(12)
        )
        with shown.serve() as server:
            opened = Tab(browser, server.url)
            ends = opened.page.locator(".trow .id .end").evaluate_all(
                """all => all.map(one => [one.innerText,
                    ...[one, one.parentElement].map(
                        (box) => box.getBoundingClientRect().right)])"""
            )  # at once, for rows may be drawn anew
            assert len({text for text, *_ in ends}) == 12
            assert all(right <= cell + 0.5 for _, right, cell in ends)
            opened.page.close()


def test_many_visits_codes_and_labs_stay_usable(browser: Any) -> None:
    """What is folded opens, and the strongest of a line is labelled."""
    model = large()
    shown = AttributionVisualizer(model, model.dataset)
    with shown.serve() as server:
        tab = Tab(browser, server.url)
        weaker = tab.page.locator("details.weaker")
        assert "weaker line" in weaker.locator("summary").inner_text()
        weaker.locator("summary").click()
        assert weaker.locator("g.lab").count() == 32
        assert weaker.locator("g.lab").last.is_visible()
        for lab in tab.page.locator("g.lab").all()[:8]:
            sizes = lab.locator(".dot").evaluate_all(
                "all => all.map(one => [Math.abs(Number(one.dataset.attribution)),"
                " one.getAttribute('cx')])"
            )
            _, place = max(sizes, key=lambda pair: pair[0])
            marked = lab.locator("text.halo").evaluate_all(
                "all => all.map(one => one.getAttribute('x'))"
            )
            assert place in marked
        tab.page.locator("[data-tab=cohort]").click()
        rows = tab.page.locator(".codes tbody tr[data-code]")
        tab.wait("document.querySelectorAll('.codes tbody tr').length >= 200")
        assert rows.count() == 200
        tab.page.locator("[data-all]").click()
        tab.wait("document.querySelectorAll('.codes tbody tr').length > 200")
        assert rows.count() == len(shown.cohort()["codes"])
        assert rows.last.is_visible() and tab.problems == []
        tab.page.close()


def large() -> Any:
    """60 visits, 300 codes, 40 labs."""
    from pyhealth.datasets import create_sample_dataset
    from pyhealth.models import StageNet

    random = np.random.default_rng(0)
    times = [float(3 * k) for k in range(60)]
    own = [
        {
            "patient_id": f"p{n}",
            "conditions": (
                times,
                [[f"C{c:03d}" for c in random.permutation(300)[:6]] for _ in times],
            ),
            "labs": (times, random.normal(70, 5, size=(60, 40)).tolist()),
            "outcome": n % 2,
        }
        for n in range(3)
    ]
    schema = {"conditions": "stagenet", "labs": "stagenet_tensor"}
    dataset = create_sample_dataset(own, schema, {"outcome": "binary"})
    torch.manual_seed(0)
    return StageNet(dataset, embedding_dim=4, chunk_size=2, levels=2).eval()


def test_an_unsigned_method_is_grey(browser: Any) -> None:
    model = stagenet()
    shown = AttributionVisualizer(model, model.dataset, methods=["Saliency"])
    with shown.serve() as server:
        opened = Tab(browser, server.url)
        colors = opened.page.locator(".chip, .bridge i").evaluate_all(
            "all => all.map(one => getComputedStyle(one).backgroundColor)"
        )
        channels = [color[4:-1].split(", ") for color in colors]
        assert len(channels) > 5
        for red, green, blue in channels:
            assert abs(int(red) - int(blue)) < 20 and abs(int(red) - int(green)) < 20
        said = opened.page.inner_text("main")
        assert "raises" not in said and "not in units of the logit" in said
        assert opened.page.locator(".bridge .output").count() == 0
        opened.page.close()


class TestCompare:
    """Two models side by side: each panel, and each line of a file, is its own's."""

    @pytest.fixture(scope="class")
    def shown(self) -> AttributionVisualizer:
        one = stagenet("binary")
        other = copy.deepcopy(one)
        with torch.no_grad():
            other.fc.weight.mul_(-2)
        return AttributionVisualizer([one, other], one.dataset)

    @pytest.fixture
    def tab(self, browser: Any, shown: AttributionVisualizer) -> Iterator[Tab]:
        with shown.serve() as server:
            opened = Tab(browser, server.url)
            opened.click("[data-tab=cohort]")
            opened.click("#compare")
            opened.pick("Method", "DeepLiftEHR", side=1)
            opened.pick("Model", "StageNet 2", side=1)
            yield opened
            assert opened.problems == []
            opened.page.close()

    def test_who_is_called_is_each_models(
        self, tab: Tab, shown: AttributionVisualizer
    ) -> None:
        died = np.array([one["outcome"] == "died" for one in samples()])
        said = [
            np.array([one["score"] for one in model])
            for model in shown.overview()["predictions"]
        ]
        least = float(np.median(said[0]))
        tab.page.locator("#threshold").fill(repr(100 * least))
        found = []
        for side, scores in enumerate(said):
            called = scores >= least
            panel = tab.page.locator(f".panel[data-side='{side}']")
            panel.locator(".confusion td.num").first.wait_for()
            counts = panel.locator(".confusion td.num").all_inner_texts()
            masks = called & died, called & ~died, ~called & died, ~called & ~died
            assert counts == [str(int(mask.sum())) for mask in masks]
            panel.locator("tr[data-code=A41]").click()
            found.append(panel.locator(".having .who").all_inner_texts())
            for who in found[-1]:
                name, risk = who.removesuffix(")").split(" (")
                assert risk == wording.percent(scores[shown.ids.index(name)])
        assert found[0] != found[1]
        caption = tab.page.locator(".confusion caption").first
        assert caption.inner_text().startswith("12 patients, from a risk of ")

    def test_the_cohorts_csv_has_both_and_says_of_whom(
        self, tab: Tab, shown: AttributionVisualizer
    ) -> None:
        tab.page.locator("#search").fill("p0")
        tab.ready()
        tab.wait("document.querySelectorAll('.cohort h2').length === 2")
        _, data = tab.saved("#export-csv")
        lines = list(csv.DictReader(io.StringIO(data.decode())))
        people = [name for name in shown.ids if "p0" in name]
        count = str(len(people))
        for model, name in enumerate(shown.overview()["models"]):
            own = [line for line in lines if line["model"] == name]
            codes = shown.cohort(model=model, patients=people)["codes"]
            assert [line["code"] for line in own] == [one["code"] for one in codes]
            means = [float(line["mean"]) for line in own]
            assert means == pytest.approx([one["mean"] for one in codes], abs=1e-7)
            how = ("method", "target", "baseline", "explained", "listed")
            expected = ["DeepLiftEHR", "outcome", "unk", count, count]
            assert {tuple(line[key] for key in how) for line in own} == {
                tuple(expected)
            }


def test_observed_numbers_are_sorted_as_numbers(browser: Any) -> None:
    model = Bag()
    _, features, batches = bag_arguments(model)
    days = torch.tensor([1.5, -2.0, 12.25, -10.0, 1.25])
    batches[0].labels, batches[1].labels = days[:3], days[3:]
    shown = AttributionVisualizer(model, ["days"], features, batches)
    with shown.serve() as server:
        tab = Tab(browser, server.url)
        tab.page.locator(".thead .label").click()
        seen = tab.page.locator(".trow .label").all_inner_texts()
        assert seen == ["−10", "−2", "1.25", "1.5", "12.25"]
        assert "logit" not in tab.page.inner_text("main .title")
        tab.page.close()
