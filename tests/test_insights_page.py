"""The page in a browser: live, and as a file."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from insights_browser import BROWSER, Tab
from insights_cases import NAMES, SCRIPT, stagenet

from captum_ehr.insights import AttributionVisualizer, Server
from captum_ehr.insights import page as page_module
from captum_ehr.scene import ColorScale, wording

pytestmark = [
    pytest.mark.complete,
    pytest.mark.skipif(BROWSER is None, reason="chromium is not on PATH"),
]


@pytest.fixture(scope="module")
def visualizer() -> AttributionVisualizer:
    model = stagenet()
    return AttributionVisualizer(
        model,
        model.dataset,
        names=NAMES,
        methods=["DeepLiftEHR", "IntegratedGradients", "DeepLift"],
        title=f"Insights {SCRIPT}",
    )


@pytest.fixture(scope="module")
def server(visualizer: AttributionVisualizer) -> Iterator[Server]:
    with visualizer.serve() as running:
        yield running


@pytest.fixture
def tab(browser: Any, server: Server) -> Iterator[Tab]:
    opened = Tab(browser, server.url)
    yield opened
    try:
        assert opened.problems == []
        local = (f"http://127.0.0.1:{server.port}/", "blob:", "data:")
        assert all(url.startswith(local) for url in opened.requests)
        assert opened.page.title() == f"Insights {SCRIPT}"
        assert opened.page.locator("img[src=x]").count() == 0
    finally:
        opened.page.close()


def rgb(color: str) -> str:
    """As a browser says it."""
    return f"rgb({', '.join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))})"


def chips_of(view: dict[str, Any]) -> list[tuple[str, float]]:
    """What the chips of a view must be."""
    return sorted(
        (item["code"], item["attribution"])
        for visit in view["visits"]
        for group in visit["groups"]
        for item in group["items"]
    )


def explained(row: int, **options: Any) -> list[tuple[str, float]]:
    """The same by DeepLiftEHR itself, without anything of the page."""
    from pyhealth.datasets import get_dataloader

    from captum_ehr import DeepLiftEHR

    model = stagenet()
    (batch,) = get_dataloader(model.dataset, len(model.dataset))
    frame = DeepLiftEHR(model).explain(batch, **options)[row].to_frame()
    frame = frame[frame["feature"] == "conditions"]
    return sorted(zip(frame["code"], frame["attribution"]))


def same(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [code for code, _ in found] == [code for code, _ in expected]
    numbers = [one for _, one in expected]
    assert [one for _, one in found] == pytest.approx(numbers, rel=1e-3, abs=1e-6)


class TestLive:
    def test_it_opens_with_the_numbers_of_explain(
        self, tab: Tab, visualizer: AttributionVisualizer
    ) -> None:
        same(tab.chips(), explained(0))
        view = visualizer.view(0)
        assert view["complete"]["messages"]
        badge = tab.page.locator(".badge").inner_text()
        assert badge.startswith("⚠ the sum is complete, but ")
        assert "the reference is outside of what the dataset holds" in badge
        meaning = tab.page.locator(".meaning").inner_text()
        assert "not that the model" in meaning and "right" in meaning
        assert "p00" in tab.page.locator(".title h2").inner_text()
        assert "<pad>" not in tab.page.content()

    def test_another_method_target_and_baseline(
        self, tab: Tab, visualizer: AttributionVisualizer
    ) -> None:
        tab.pick("Target", "ward")
        same(tab.chips(), explained(0, target="ward"))
        tab.pick("Baseline", "pad")
        same(tab.chips(), explained(0, target="ward", baselines="pad"))
        tab.pick("Method", "IntegratedGradients")
        expected = visualizer.view(0, "IntegratedGradients", "ward", "pad")
        same(tab.chips(), chips_of(expected))

    def test_a_method_that_fails_says_why(self, tab: Tab) -> None:
        tab.pick("Method", "DeepLift")
        said = tab.page.locator(".problem").inner_text()
        assert "DeepLift could not explain this patient" in said and "Module" in said
        tab.pick("Method", "DeepLiftEHR")
        assert tab.page.locator(".problem").count() == 0

    def test_search_keys_and_sorting(self, tab: Tab) -> None:
        page = tab.page
        page.keyboard.press("/")
        page.keyboard.type("p1")
        assert page.locator("#count").inner_text() == "2 of 12 patients"
        page.keyboard.press("ArrowDown")
        page.evaluate("delete document.body.dataset.ready")
        page.keyboard.press("Enter")
        tab.ready()
        assert page.locator(".title h2").inner_text() == "p11"
        same(tab.chips(), explained(11))
        page.keyboard.press("Escape")
        page.locator("#reset").click()
        page.locator(".thead .id").click()
        page.locator(".thead .id").click()
        assert page.locator(".trow .id").first.inner_text() == "p11"
        page.locator("#search").fill("nobody")
        assert "Nobody matches" in page.locator("#patients").inner_text()

    def test_filters(self, tab: Tab, visualizer: AttributionVisualizer) -> None:
        page, overview = tab.page, visualizer.overview()
        said = overview["predictions"][0]
        wrong = [i for i, one in enumerate(said) if not one["correct"]]
        page.get_by_label("Prediction").select_option(label="Prediction: wrong")
        assert page.locator(".trow").count() == len(wrong)
        page.get_by_label("sex").select_option(label="sex: male")
        male = [i for i in wrong if overview["patients"][i]["groups"] == ["male"]]
        assert page.locator(".trow").count() == len(male)
        page.locator("#reset").click()
        page.locator("#code").fill("A41")
        place = [one["code"] for one in overview["codes"]].index("A41")
        have = [
            i for i, one in enumerate(overview["patients"]) if place in one["codes"]
        ]
        assert 0 < len(have) < 12 and page.locator(".trow").count() == len(have)

    def test_the_strongest_come_first_and_their_words_are_explained(
        self, tab: Tab, visualizer: AttributionVisualizer
    ) -> None:
        steps = visualizer.scene(0, visualizer.setting()).strongest
        rows = tab.page.locator(".bridge.items .item").evaluate_all(
            "all => all.map(one => [one.dataset.code, Number(one.dataset.attribution)])"
        )
        items = [(step.item.code, step.size) for step in steps if step.item]
        assert [tuple(row) for row in rows] == items
        top = tab.page.locator(".bridge.items").bounding_box()
        assert top["y"] < tab.page.locator(".timeline").first.bounding_box()["y"]
        words = tab.page.locator("details.words")
        words.locator("summary").focus()
        tab.page.keyboard.press("Enter")
        assert "baseline unk" in words.inner_text() and "logit" in words.inner_text()

    def test_two_methods_then_two_patients(
        self, tab: Tab, visualizer: AttributionVisualizer
    ) -> None:
        tab.click("#compare")
        tab.page.wait_for_selector(".agreement")
        same(tab.chips(0), explained(0))
        same(tab.chips(1), chips_of(visualizer.view(0, "IntegratedGradients")))
        legends = tab.page.locator(".legend .num").all_inner_texts()
        assert legends[:2] == legends[2:]
        tab.pick("Method", "DeepLiftEHR", side=1)
        tab.pick("Baseline", "pad", side=1)
        same(tab.chips(1), explained(0, baselines="pad"))
        tab.page.locator("#linked").uncheck()
        tab.ready()
        tab.click(".trow[data-row='5']")
        heads = tab.page.locator(".title h2").all_inner_texts()
        assert heads == ["p00", "p05"]
        same(tab.chips(0), explained(0))
        same(tab.chips(1), explained(5, baselines="pad"))
        assert tab.page.locator(".agreement").count() == 0

    def test_a_comparison_shares_its_colours(
        self, tab: Tab, visualizer: AttributionVisualizer
    ) -> None:
        tab.click("#compare")
        tab.page.locator("#linked").uncheck()
        tab.ready()
        tab.click(".trow[data-row='4']")
        limits = [
            visualizer.scene(row, visualizer.setting()).scale.limit for row in (0, 4)
        ]
        tab.pick("Method", "DeepLiftEHR", side=1)
        scale = ColorScale(max(limits))
        chips = tab.page.locator(".chip, .values td[data-attribution]").evaluate_all(
            "all => all.map(one => [Number(one.dataset.attribution),"
            " one.style.background, one.style.color])"
        )
        assert len(chips) > 10 and limits[0] != limits[1]
        for attribution, *colors in chips:
            assert colors == [rgb(color) for color in scale.pair(attribution)]
        dots = tab.page.locator(".dot").evaluate_all(
            "all => all.map(one => [Number(one.dataset.attribution),"
            " one.getAttribute('fill')])"
        )
        assert dots
        for attribution, color in dots:
            assert color == scale.color(attribution)

    def test_the_cohort_and_who_has_a_code(
        self, tab: Tab, visualizer: AttributionVisualizer
    ) -> None:
        page = tab.page
        page.locator("[data-tab=cohort]").click()
        tab.wait("document.querySelector('.cohort h2')?.textContent === '12 patients'")
        _, data = tab.saved("#export-csv")
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        expected = visualizer.cohort()["codes"]
        assert [row["code"] for row in rows] == [one["code"] for one in expected]
        for row, one in zip(rows, expected):
            for key in ("mean", "mean_abs", "prevalence"):
                assert float(row[key]) == pytest.approx(one[key], rel=1e-6, abs=1e-9)
        page.locator(".codes th[data-key=code]").click()
        codes = page.locator(".codes td.code b").all_inner_texts()
        assert codes == sorted(codes, key=str.lower) and len(codes) == len(expected)
        page.locator("tr[data-code=A41]").click()
        held = {one["code"]: one["patients"] for one in expected}["A41"]
        # The table that is read stays; who has the code stands in it.
        assert page.locator("#count").inner_text() == "12 patients"
        assert page.locator(".codes td.code b").all_inner_texts() == codes
        assert page.locator(".having .who").count() == held
        page.get_by_role("button", name=f"Show only the {held} patients").click()
        assert page.locator("#count").inner_text() == f"{held} of 12 patients"
        words = f"{held} patients"
        tab.wait(f"document.querySelector('.cohort h2')?.textContent === '{words}'")

    def test_markup_of_the_data_is_text(self, tab: Tab) -> None:
        tab.click(".trow[data-row='3']")
        assert tab.page.locator(".title h2").inner_text() == SCRIPT
        assert SCRIPT in tab.page.locator(".chip[data-code=I50]").first.inner_text()
        tab.page.locator("[data-tab=cohort]").click()
        name = tab.page.locator("tr[data-code=I50] .name")
        name.wait_for()
        assert SCRIPT in name.inner_text()

    def test_exports_are_what_is_seen(self, tab: Tab, tmp_path: Path) -> None:
        name, data = tab.saved("#export-csv")
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        assert name == "patient.csv"
        own = [r for r in rows if r["feature"] == "conditions"]
        same(sorted((r["code"], float(r["attribution"])) for r in own), explained(0))
        # No spreadsheet takes a name for a formula.
        assert {r["name"] for r in own if r["code"] == "N17"} == {"'=1+1"}
        name, data = tab.saved("#export-png")
        assert name == "patient.png" and data.startswith(b"\x89PNG")
        assert len(data) > 20_000
        name, data = tab.saved("#export-html")
        text = data.decode()
        assert name == "insights.html" and "1 patient, of 12" in text
        assert '"p01"' not in text

    @pytest.mark.parametrize("width", [1280, 2560])
    def test_nothing_is_cut_off(self, tab: Tab, width: int) -> None:
        tab.page.set_viewport_size({"width": width, "height": 900})
        for click in ("[data-tab=patient]", "#compare", "[data-tab=cohort]"):
            tab.page.locator(click).click()
            tab.page.wait_for_timeout(100)
            for part in ("html", "main", "#sidebar"):
                overflow = tab.page.evaluate(
                    f"(one => one.scrollWidth - one.clientWidth)"
                    f"(document.querySelector('{part}'))"
                )
                assert overflow <= 0, part


def test_slow_methods_wait_until_they_are_told(browser: Any) -> None:
    """And stop when another is chosen."""
    model = stagenet()
    shown = AttributionVisualizer(
        model, model.dataset, methods=["DeepLiftEHR", "IntegratedGradients"]
    )
    method = shown.methods["IntegratedGradients"]
    shown.methods["IntegratedGradients"] = replace(method, together=1)
    begun = []
    contributions = shown.contributions

    def slow(patients: Any, setting: Any) -> Any:
        if setting.method == "IntegratedGradients" and list(patients):
            begun.append(patients)
            time.sleep(0.5)
        return contributions(patients, setting)

    shown.contributions = slow  # type: ignore[method-assign]
    with shown.serve() as server:
        tab = Tab(browser, server.url)
        tab.click("[data-tab=cohort]")
        tab.pick("Method", "IntegratedGradients")
        # The title does not count up.
        assert tab.page.locator(".cohort h2").inner_text() == "12 patients"
        assert not begun
        tab.page.get_by_role("button", name="Explain all 12 patients").click()
        assert not tab.page.evaluate(
            "[...document.querySelectorAll('button:not(:disabled)')]"
            ".some(one => one.textContent.startsWith('Explain all'))"
        )
        tab.wait("document.querySelector('.so-far')?.textContent[0] === '2'")
        assert "2 of 12 explained" in tab.page.inner_text(".cohort")
        assert tab.page.locator(".cohort h2").inner_text() == "12 patients"
        order = "all => all.map(one => one.dataset.code)"
        rows = tab.page.locator(".codes tbody tr")
        before = rows.evaluate_all(order)
        tab.wait("document.querySelector('.so-far')?.textContent[0] === '4'")
        assert rows.evaluate_all(order)[: len(before)] == before
        tab.pick("Method", "DeepLiftEHR")
        assert tab.page.locator(".cohort h2").inner_text() == "12 patients"
        while server.is_computing:
            time.sleep(0.05)
        count = len(begun)
        time.sleep(1.2)
        assert len(begun) == count < 7
        assert tab.problems == []
        tab.page.close()


def test_a_lost_server_is_said(browser: Any, visualizer: AttributionVisualizer) -> None:
    with visualizer.serve() as short:
        tab = Tab(browser, short.url)
        tab.page.route("**/alive*", lambda route: route.abort())
        tab.page.wait_for_selector("#banner.error", timeout=10_000)
        tab.page.unroute("**/alive*")
        tab.page.wait_for_selector("#banner", state="hidden", timeout=10_000)
    tab.page.wait_for_selector("#banner.error", timeout=10_000)
    assert "connection to the server is lost" in tab.page.inner_text("#banner")
    tab.page.close()


@pytest.fixture(scope="module")
def file(visualizer: AttributionVisualizer, tmp_path_factory: Any) -> Path:
    return visualizer.save(
        tmp_path_factory.mktemp("page") / "page.html",
        patients=["p00", SCRIPT, "p04"],
        methods=["DeepLiftEHR", "IntegratedGradients"],
        baselines=["unk", "pad"],
        targets=[None, "died"],
    )


class TestFile:
    def test_it_shows_the_live_pages_numbers_and_asks_for_nothing(
        self, browser: Any, file: Path, visualizer: AttributionVisualizer
    ) -> None:
        tab = Tab(browser, file.as_uri())
        assert "3 patients, of 12" in tab.page.inner_text("#banner")
        tab.click(".trow[data-row='2']")
        assert tab.page.locator(".title h2").inner_text() == "p04"
        same(tab.chips(), chips_of(visualizer.view("p04")))
        tab.pick("Target", "died")
        tab.pick("Method", "IntegratedGradients")
        tab.pick("Baseline", "pad")
        found = visualizer.view("p04", "IntegratedGradients", "died", "pad")
        same(tab.chips(), chips_of(found))
        options = tab.page.locator(".controls select").nth(0).locator("option")
        assert options.all_inner_texts() == ["DeepLiftEHR", "IntegratedGradients"]
        tab.click("[data-tab=cohort]")
        assert tab.page.locator(".cohort h2").inner_text() == "3 patients"
        assert tab.requests == [file.as_uri()] and tab.problems == []
        assert tab.page.locator("#export-html").count() == 0
        tab.page.close()

    def test_what_is_embedded_is_what_view_gives(
        self, file: Path, visualizer: AttributionVisualizer
    ) -> None:
        text = file.read_text()
        start = text.index(">", text.index('id="data"')) + 1
        data = json.loads(text[start : text.index("</script>", start)])
        key = json.dumps([0, "DeepLiftEHR", None, "unk"], separators=(",", ":"))
        expected = json.loads(json.dumps(visualizer.view("p04")))
        found = data["views"][key][2]
        assert f'data-f-input="{expected["f_input"]}"' in found["html"]
        assert found["target"] == expected["target"]
        codes = [row for row in found["rows"] if row[0] == "conditions"]
        assert sorted((row[3], row[-1]) for row in codes) == chips_of(expected)

    def test_filters_leave_a_cohort_of_their_own(
        self, browser: Any, file: Path, visualizer: AttributionVisualizer
    ) -> None:
        """Its sums are made in the page: a file has no server to ask."""
        tab = Tab(browser, file.as_uri())
        tab.click("[data-tab=cohort]")
        whole = tab.page.locator(".codes tbody tr").count()
        tab.page.get_by_label("sex").select_option(label="sex: male")
        assert tab.page.locator(".cohort h2").inner_text() == "2 patients"
        codes = visualizer.cohort(patients=["p00", "p04"])["codes"]
        rows = tab.page.locator(".codes tbody tr").evaluate_all(
            "all => all.map(one => [one.dataset.code, one.dataset.mean,"
            " one.querySelector('.mean .num').textContent,"
            " one.querySelector('.prevalence .num').textContent])"
        )
        assert len(rows) == len(codes) <= whole
        for (code, mean, words, having), one in zip(rows, codes):
            assert code == one["code"]
            assert float(mean) == pytest.approx(one["mean"], rel=1e-6, abs=1e-9)
            assert words == wording.signed(one["mean"], 3)
            assert having.startswith(f"{one['patients']} · ")
        _, text = tab.saved("#export-csv")
        table = list(csv.DictReader(io.StringIO(text.decode())))
        assert [row["code"] for row in table] == [one["code"] for one in codes]
        tab.page.locator("#reset").click()
        assert tab.page.locator(".codes tbody tr").count() == whole
        assert tab.problems == []
        tab.page.close()

    def test_what_it_sums_it_writes_as_python_does(self, browser: Any) -> None:
        script = Path(page_module.__file__).parent / "page_files" / "cohort.js"
        functions = script.read_text().split("captum_ehr.scene.wording has them.")[1]
        sizes = [0.25, -1.5, 0.0021, -0.0004, 0.00004, 3e-12, -2e-100, 0.0]
        shares = [0.0, 0.0012, 0.0123, 0.095, 0.234, 0.9, 0.9996, 1.0]
        page = browser.new_page()
        words = page.evaluate(
            f"([sizes, shares]) => {{ {functions}\n"
            "return [sizes.map(signed), shares.map(percent)]; }",
            [sizes, shares],
        )
        page.close()
        assert words[0] == [wording.signed(size, 3) for size in sizes]
        assert words[1] == [wording.percent(share) for share in shares]


def nested() -> Any:
    """An RNN over visits that have no times."""
    from pyhealth.datasets import create_sample_dataset
    from pyhealth.models import RNN

    visits = [["I50", "E11"], ["J18"], ["A41", "I50"]]
    own = [
        {"patient_id": f"p{n}", "conditions": visits[: 3 - n], "outcome": n % 2}
        for n in range(2)
    ]
    schema = {"conditions": "nested_sequence"}
    dataset = create_sample_dataset(own, schema, {"outcome": "binary"})
    torch.manual_seed(0)
    return RNN(dataset, embedding_dim=4, hidden_dim=4).eval()


class TestVisitsWithoutTimes:
    """They count from 1, on the page and in what it saves."""

    @pytest.fixture
    def untimed(self, browser: Any) -> Iterator[Tab]:
        model = nested()
        with AttributionVisualizer(model, model.dataset).serve() as server:
            opened = Tab(browser, server.url)
            yield opened
            assert opened.problems == []
            opened.page.close()

    def test_they_count_from_1(self, untimed: Tab) -> None:
        untimed.click(".trow[data-row='0']")
        labels = untimed.page.locator(".visit .when").all_inner_texts()
        assert labels == [f"visit {n}" for n in range(1, len(labels) + 1)]
        assert "visit 0" not in untimed.page.inner_text("main")
        _, text = untimed.saved("#export-csv")
        table = list(csv.DictReader(io.StringIO(text.decode())))
        visits = {r["visit"] for r in table if r["feature"] == "conditions"}
        assert visits == {str(n) for n in range(1, len(labels) + 1)}
        assert len(labels) == 3
        assert {r["time"] for r in table} == {""}
