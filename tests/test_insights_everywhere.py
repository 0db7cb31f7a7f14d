"""The page on phones, in the dark, on paper, by keyboard and read aloud."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from insights_browser import BROWSER, Tab
from insights_cases import SCRIPT, stagenet

from captum_ehr import Explanation
from captum_ehr.insights import AttributionVisualizer, Server, api
from captum_ehr.insights import page as page_module

pytestmark = [
    pytest.mark.complete,
    pytest.mark.skipif(BROWSER is None, reason="chromium is not on PATH"),
]

CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")
SIZES = [(390, 844), (720, 450), (1280, 900), (1440, 900)]


def viewport(size: tuple[int, int]) -> dict[str, int]:
    return {"width": size[0], "height": size[1]}


@pytest.fixture(scope="module")
def visualizer() -> AttributionVisualizer:
    model = stagenet()
    return AttributionVisualizer(
        model,
        model.dataset,
        methods=["DeepLiftEHR", "IntegratedGradients", "FeatureAblation"],
    )


@pytest.fixture(scope="module")
def server(visualizer: AttributionVisualizer) -> Iterator[Server]:
    with visualizer.serve() as running:
        yield running


@pytest.fixture
def opened(browser: Any, server: Server) -> Iterator[Any]:
    """Opens pages, and looks at the end whether they complained."""
    tabs: list[Tab] = []

    def open_page(url: str = "", **options: Any) -> Tab:
        tabs.append(Tab(browser, url or server.url, **options))
        return tabs[-1]

    yield open_page
    for tab in tabs:
        assert tab.problems == []
        tab.page.close()


def reload(tab: Tab) -> None:
    """Load it again; the address alone is refused, and the tab has the token."""
    tab.page.reload()
    tab.ready()
    refused = [one for one in tab.problems if "403 (Forbidden)" in one]
    assert len(refused) == 1
    tab.problems.remove(refused[0])


def overflow(tab: Tab) -> int:
    return int(
        tab.page.evaluate(
            "Math.max(...[document.documentElement, document.body].map("
            "one => one.scrollWidth - document.documentElement.clientWidth))"
        )
    )


class TestWidths:
    @pytest.mark.parametrize("size", SIZES)
    def test_the_document_never_scrolls_sideways(
        self, opened: Any, size: tuple[int, int]
    ) -> None:
        tab = opened(viewport=viewport(size))
        drawings = "[...document.querySelectorAll('.over-time')]"
        for click in ("#tab-patient", "#compare", "#tab-cohort"):
            tab.click(click)
            assert overflow(tab) <= 0, click
            wide = f"{drawings}.map(one => one.scrollWidth - one.clientWidth)"
            assert all(beyond <= 0 for beyond in tab.page.evaluate(wide))

    @pytest.mark.parametrize("size", SIZES[:2])
    def test_one_column_with_a_drawer(self, opened: Any, size: tuple[int, int]) -> None:
        tab = opened(viewport=viewport(size))
        page = tab.page
        assert not page.locator("#sidebar").is_visible()
        drawer = page.get_by_role("button", name="Patients")
        assert drawer.get_attribute("aria-expanded") == "false"
        drawer.click()
        assert page.locator("#sidebar").is_visible() and overflow(tab) <= 0
        assert page.locator("#sidebar").bounding_box()["width"] == size[0]
        tab.click(".trow[data-row='2']")
        assert page.locator(".title h2").inner_text() == "p02"
        assert not page.locator("#sidebar").is_visible()

    def test_letters_keep_their_size(self, opened: Any) -> None:
        """A drawing becomes narrower, not smaller; what has no room is left out."""
        sizes = []
        for size in (SIZES[0], SIZES[-1]):
            tab = opened(viewport=viewport(size))
            tab.page.goto(re.sub(r"patient=\d+", "patient=5", tab.page.url))
            tab.wait("document.querySelector('.title h2')?.textContent === 'p04'")
            boxes = tab.page.locator(".timeline .rowname").evaluate_all(
                "all => all.map(one => one.getBoundingClientRect().height)"
            )
            sizes.append(boxes)
            values = tab.page.locator(".timeline .lab .value:visible").evaluate_all(
                "all => all.map(one => one.getBoundingClientRect())"
                ".map(one => [one.left, one.right, one.top, one.bottom])"
            )
            for i, (left, right, top, bottom) in enumerate(values):
                for other in values[:i]:
                    beside = right <= other[0] or other[1] <= left
                    assert beside or bottom <= other[2] or other[3] <= top
        assert sizes[0] == sizes[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
class TestContrast:
    def test_of_the_page(self, opened: Any, scheme: str) -> None:
        tab = opened(color_scheme=scheme)
        dark = tab.page.evaluate(
            "getComputedStyle(document.documentElement).backgroundColor"
        )
        assert (dark == "rgb(255, 255, 255)") == (scheme == "light")
        for click in (".trow[data-row='4']", "#compare", "#tab-cohort"):
            tab.click(click)
            said = tab.page.evaluate(CONTRAST)
            assert said["seen"] > 60 and said["found"] == []

    def test_of_what_is_written(
        self,
        browser: Any,
        visualizer: AttributionVisualizer,
        tmp_path: Path,
        scheme: str,
    ) -> None:
        setting = visualizer.setting()
        made = Explanation.concat(
            [visualizer.explanation(row, setting) for row in (4, 9)]
        )
        pieces = {"page": made.to_html(), "notebook": made._repr_html_()}
        page = browser.new_page(color_scheme=scheme, viewport=viewport(SIZES[0]))
        for name, text in pieces.items():
            (tmp_path / f"{name}.html").write_text(text)
            page.goto((tmp_path / f"{name}.html").as_uri())
            said = page.evaluate(CONTRAST)
            assert said["seen"] > 30 and said["found"] == [], name
            wide = "document.documentElement.scrollWidth"
            assert page.evaluate(wide) <= 390, name
        page.close()


def test_forced_colours_leave_names_and_bars(opened: Any) -> None:
    tab = opened(forced_colors="active", color_scheme="dark")
    tab.click(".trow[data-row='4']")
    looks = tab.page.evaluate(
        "() => { const probe = document.createElement('i');"
        "document.body.append(probe);"
        "const system = ['Canvas', 'CanvasText'].map(name => {"
        "  probe.style.color = name; return getComputedStyle(probe).color; });"
        "const all = (query, key) => [...document.querySelectorAll(query)]"
        "  .map(one => getComputedStyle(one)[key]);"
        "return { system, names: all('.rowname', 'fill'),"
        "  bars: all('.bridge .track i', 'backgroundColor'),"
        "  edges: all('.bridge .track i', 'outlineColor'),"
        "  strokes: all('.dot', 'stroke') }; }"
    )
    canvas, text = looks["system"]
    assert canvas != text and looks["names"] and looks["bars"] and looks["strokes"]
    assert set(looks["names"]) == set(looks["strokes"]) == set(looks["edges"]) == {text}
    assert canvas not in looks["bars"]


def test_on_paper(opened: Any) -> None:
    tab = opened(color_scheme="dark")
    tab.click("#compare")
    page = tab.page
    closed = page.locator("#panels details:not([open])").count()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    said = page.locator("#printed").inner_text()
    for words in ("EHR Insights", "Patient p00", "StageNet", "IntegratedGradients"):
        assert words in said
    assert str(time.localtime().tm_year) in said
    assert page.locator(".panel .controls").first.inner_text().split() == [
        "Method", "DeepLiftEHR", "Target", "predicted", "class", "Baseline", "unk"
    ]  # fmt: skip
    assert not page.locator(".panel select:visible, #sidebar:visible").count()
    assert page.locator("#panels details:not([open])").count() == 0
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#panels details:not([open])").count() == closed


class TestReadAloud:
    def test_roles(self, opened: Any, visualizer: AttributionVisualizer) -> None:
        tab = opened()
        said = tab.page.locator("body").aria_snapshot()
        for words in (
            'tab "Patient" [selected]',
            'tab "Cohort"',
            'tabpanel "Patient"',
            'grid "Patients"',
            'columnheader "Predicted"',
            'gridcell "p00"',
            'table "Visits and values over time"',
            'rowheader "visit 1"',
        ):
            assert words in said, words
        grid = tab.page.get_by_role("grid")
        assert grid.get_attribute("aria-rowcount") == "13"
        row = tab.page.locator(f"#{grid.get_attribute('aria-activedescendant')}")
        assert row.get_attribute("aria-rowindex") == "2"
        tab.page.locator(".thead .id").click()
        assert tab.page.locator(".thead .id").get_attribute("aria-sort") == "ascending"

    def test_the_table_has_what_is_drawn(
        self, opened: Any, visualizer: AttributionVisualizer
    ) -> None:
        tab = opened()
        tab.click(".trow[data-row='4']")
        view = visualizer.view(4)
        table = tab.page.locator(".spoken tbody tr").evaluate_all(
            "all => all.map(row => [...row.cells].map(cell => cell.textContent))"
        )
        visits = [row for row in table if row[0].startswith("visit ")]
        assert len(visits) == len(view["visits"])
        points = [
            p for s in view["series"] for line in s["lines"] for p in line["points"]
        ]
        assert len(table) - len(visits) == len(points)
        drawn = tab.page.locator(".timeline .bar, .timeline .dot").count()
        assert drawn == len(table)

    def test_what_happens_is_said(self, opened: Any) -> None:
        tab = opened()
        said = tab.page.locator("#said")
        assert said.get_attribute("role") == "status"
        assert said.inner_text().startswith("p00, DeepLiftEHR: ⚠ the sum is complete")
        tab.click(".trow[data-row='5']")
        assert said.inner_text().startswith("p05, DeepLiftEHR:")
        tab.click("#tab-cohort")
        tab.wait(
            "document.getElementById('said').textContent"
            " === '12 patients explained with DeepLiftEHR'"
        )


def test_all_by_keyboard(opened: Any) -> None:
    tab = opened()
    page, keys = tab.page, tab.page.keyboard

    def focus() -> str:
        return str(
            page.evaluate(
                "(one => one.id || one.getAttribute('class') || one.tagName)"
                "(document.activeElement)"
            )
        )

    def tab_to(name: str) -> None:
        for _ in range(60):
            keys.press("Tab")
            if focus().split()[0] == name:
                return
        raise AssertionError(f"Tab never comes to {name}.")

    tab_to("tab-patient")
    keys.press("ArrowRight")
    assert focus() == "tab-cohort"
    tab.wait("document.querySelector('.cohort h2')?.textContent === '12 patients'")
    tab_to("grid")
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    assert page.locator("#grid").get_attribute("aria-activedescendant") == "row-2"
    page.evaluate("delete document.body.dataset.ready")
    keys.press("Enter")
    tab.ready()
    assert page.locator(".title h2").inner_text() == "p02"
    tab_to("bar")
    assert "visit" in page.locator("#tip").inner_text() or page.locator(
        "#tip"
    ).inner_text().startswith("time")
    keys.press("ArrowRight")
    assert focus() == "bar"
    assert page.locator(".timeline [tabindex='0']").count() == 1
    keys.press("Enter")
    assert page.locator(".visit.flash").get_attribute("data-visit") == "2"
    for _ in range(9):
        keys.press("ArrowRight")
    assert focus() == "dot" and "attribution" in page.locator("#tip").inner_text()
    keys.press("Tab")
    assert page.locator("#tip").is_hidden()


class TestAddress:
    def test_the_token_leaves_it(self, opened: Any, server: Server) -> None:
        tab = opened()
        assert server.token in tab.requests[0]
        assert server.token not in tab.page.url
        assert "?" not in tab.page.url
        reload(tab)
        assert server.token not in tab.page.url
        questions = [url for url in tab.requests if "/stream" in url]
        assert questions and not any(server.token in url for url in questions)

    def test_who_has_no_token_gets_nothing(
        self,
        browser: Any,
        opened: Any,
        server: Server,
    ) -> None:
        tab = opened()
        context = browser.new_context()  # another person's browser
        page = context.new_page()
        assert page.goto(tab.page.url).status == 403
        assert "Refused" in page.inner_text("body") and "p00" not in page.content()
        context.close()

    def test_back_forward_and_reload(self, opened: Any) -> None:
        tab = opened()
        page = tab.page
        tab.click(".trow[data-row='5']")
        tab.pick("Method", "IntegratedGradients")
        tab.pick("Target", "ward")
        tab.click("#compare")
        seen = tab.chips(0), tab.chips(1), page.url
        assert "patient=6&method=IntegratedGradients&target=2" in page.url
        tab.click("#tab-cohort")
        page.evaluate("delete document.body.dataset.ready")
        page.go_back()
        tab.ready()
        assert (tab.chips(0), tab.chips(1), page.url) == seen
        reload(tab)
        assert (tab.chips(0), tab.chips(1), page.url) == seen
        for _ in range(4):
            page.evaluate("delete document.body.dataset.ready")
            page.go_back()
            tab.ready()
        assert page.locator(".title h2").inner_text() == "p00"
        assert "DeepLiftEHR" in page.url and "patient2" not in page.url
        page.evaluate("delete document.body.dataset.ready")
        page.go_forward()
        tab.ready()
        assert page.locator(".title h2").inner_text() == "p05"

    def test_filters_stay_and_are_no_step(self, opened: Any) -> None:
        tab = opened()
        page = tab.page
        tab.click(".trow[data-row='5']")
        page.get_by_label("sex").select_option(label="sex: male")
        page.locator("#code").fill("A41")
        page.locator(".thead .id").click()
        rows = page.locator(".trow .id").all_inner_texts()
        assert "code=A41" in page.url and "sort=id" in page.url
        reload(tab)
        assert page.locator(".trow .id").all_inner_texts() == rows
        page.evaluate("delete document.body.dataset.ready")
        page.go_back()
        tab.ready()
        assert page.locator(".title h2").inner_text() == "p00"

    def test_it_names_nobody(self, opened: Any) -> None:
        tab = opened()
        page = tab.page
        page.locator("#search").fill("p03")
        page.locator("#code").fill("somebody")
        assert not re.search(r"p03|somebody", page.url)
        page.locator("#code").fill("")
        page.locator("#search").fill("<img")
        tab.click(".trow")
        assert page.locator(".title h2").inner_text() == SCRIPT
        assert not re.search(r"p0\d|img", page.url) and "patient=4" in page.url

    @pytest.mark.parametrize(
        "words", ["patient=999&method=Nothing&baseline=x&target=77&sort=no", "%%%", "a"]
    )
    def test_what_it_has_not_is_left_out(
        self, opened: Any, server: Server, words: str
    ) -> None:
        tab = opened(f"{server.url}#{words}")
        assert tab.page.locator(".title h2").inner_text() == "p00"
        assert "method=DeepLiftEHR" in tab.page.url


class TestSlow:
    @pytest.fixture
    def go_on(self, visualizer: AttributionVisualizer) -> Iterator[threading.Event]:
        """Perturbing methods wait at each run of the model until it is set."""
        event = threading.Event()
        model = visualizer._source.models[0]
        runs = []

        def wait(*_: Any) -> None:
            runs.append(1)
            if len(runs) > 8:
                event.wait(0.4)

        offer = visualizer.methods["FeatureAblation"]

        def explain(case: Any) -> Any:
            handle = model.register_forward_pre_hook(wait)
            try:
                return offer.explain(case)
            finally:
                handle.remove()

        from dataclasses import replace

        visualizer.methods["FeatureAblation"] = replace(offer, explain=explain)
        yield event
        visualizer.methods["FeatureAblation"] = offer

    def choose(self, tab: Tab) -> None:
        tab.page.get_by_label("Method").select_option(label="FeatureAblation")

    def test_it_says_how_far_it_is_and_ends_when_told(
        self,
        opened: Any,
        server: Server,
        go_on: threading.Event,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(api, "_PAUSE", 0.05)
        tab = opened()
        tab.click(".trow[data-row='4']")
        self.choose(tab)
        tab.wait("Number(document.querySelector('.progress progress')?.value) > 0")
        page = tab.page
        assert "Explaining p04 with FeatureAblation" in page.inner_text(".progress")
        assert re.search(r"\d+ %", page.inner_text(".progress"))
        # The numbers of before do not stand under the new name.
        assert page.locator(".panel .content").inner_text().strip() == ""
        page.get_by_role("button", name="Cancel").click()
        tab.wait(
            "document.querySelector('.problem')?.textContent.includes('Cancelled')"
        )
        assert page.locator(".progress").inner_text() == ""
        until = time.monotonic() + 5
        while server.is_computing:
            assert time.monotonic() < until
            time.sleep(0.02)
        go_on.set()
        page.evaluate("delete document.body.dataset.ready")
        page.get_by_role("button", name="Explain with FeatureAblation").click()
        tab.ready()
        assert page.locator(".title h2").inner_text() == "p04"

    def test_another_choice_ends_it_and_pictures_wait(
        self, opened: Any, server: Server, go_on: threading.Event
    ) -> None:
        tab = opened()
        tab.click(".trow[data-row='9']")
        self.choose(tab)
        tab.wait("Boolean(document.querySelector('.progress').children.length)")
        with tab.page.expect_download() as waiting:
            tab.page.locator("#export-png").click()
            tab.page.wait_for_timeout(300)
            assert tab.page.locator(".waiting").count() == 1
            go_on.set()
        assert waiting.value.suggested_filename == "patient.png"
        assert tab.page.locator(".waiting").count() == 0

    def test_a_cohort_is_cancelled(
        self, opened: Any, server: Server, go_on: threading.Event
    ) -> None:
        tab = opened()
        self.choose(tab)
        page = tab.page
        page.locator("#tab-cohort").click()
        page.get_by_role("button", name="Explain all 12 patients").click()
        tab.wait("Boolean(document.querySelector('.progress').children.length)")
        assert "Explaining 12 patients with" in page.inner_text(".progress")
        assert not page.get_by_role("button", name="Explain all").is_visible()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Explain all 12 patients").wait_for()
        assert page.locator(".progress").inner_text() == ""


class TestErrors:
    def test_in_the_pages_words_until_the_next_action(
        self, opened: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (page_module, api):
            monkeypatch.setattr(module, "LIMIT", 5)
        tab = opened()
        page = tab.page
        tab.click("#tab-cohort")
        page.locator("#export-html").click()
        banner = page.get_by_role("alert")
        said = banner.inner_text()
        assert "12 patients" in said and "5 at most" in said and "limit" not in said
        page.get_by_role("button", name="Close").click()
        assert banner.count() == 0
        page.locator("#export-html").click()
        tab.click("#tab-patient")
        assert page.get_by_role("alert").count() == 0
        tab.click("#tab-cohort")
        page.locator("#export-html").click()
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Save all 12").click()
        text = waiting.value.path().read_text()
        assert "the data of 12 patients" in text
        assert page.get_by_role("alert").count() == 0
