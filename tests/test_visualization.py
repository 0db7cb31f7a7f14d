"""The pictures: colours, the timeline, the notebook view and the report."""

import html.parser
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from captum_ehr import __version__
from captum_ehr.explanation import Explanation, FeatureRecord
from captum_ehr.propagation.diagnostics import Diagnostics
from captum_ehr.scene import patient_scene
from captum_ehr.scene.folding import fold
from captum_ehr.scene.palette import STOPS, ColorScale, text_color
from captum_ehr.visualization import timeline, write_report
from captum_ehr.visualization.chips import spread
from captum_ehr.visualization.report import notebook_html

SCRIPT = "<script>document.title='run'</script>"
VOCABULARY = ("<pad>", "<unk>", "I50", "E11", SCRIPT, "a$x^2$b")
LABS = ("creatinine", SCRIPT)


def build(
    visits: int = 3,
    codes: int = 2,
    times: bool = True,
    count: int = 2,
    **changes: object,
) -> Explanation:
    """Patients with nested codes, a static row and labs over time."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 6, (count, visits, codes), generator=random)
    ids[:, -1, 1:] = 0
    time = torch.arange(visits).mul(7.0).expand(count, visits) if times else None
    labs = torch.rand(count, 4, 2, generator=random)
    lab_time = torch.tensor([0.0, 1.0, 5.0, 9.0]).expand(count, 4) if times else None
    seen = torch.rand(count, 4, 2, generator=random) > 0.2
    features = {
        "conditions": FeatureRecord(ids, ids > 0, time, VOCABULARY),
        "static": FeatureRecord(
            torch.tensor([[67.0, 1.0]]).expand(count, 2),
            torch.ones(count, 2, dtype=torch.bool),
            columns=("age", "male"),
        ),
        "labs": FeatureRecord(labs, seen, lab_time, None, LABS),
    }
    attributions = {
        key: (torch.randn(one.values.shape, generator=random) + 0.5) * one.mask
        for key, one in features.items()
    }
    total = sum(one.flatten(1).sum(1) for one in attributions.values())
    given: dict[str, object] = {
        "f_input": total - 1,
        "f_baseline": torch.full((count,), -1.0),
        "delta": torch.full((count,), 1e-7),
        "rescale_factor": torch.ones(count),
        "target": (0,) * count,
        "diagnostics": Diagnostics(),
        "patient_ids": tuple(f"patient {SCRIPT} {i}" for i in range(count)),
        "model_name": SCRIPT,
        "target_names": (SCRIPT,),
        "baseline": SCRIPT,
        "names": {"I50": f"heart {SCRIPT}"},
    }
    return Explanation(attributions=attributions, features=features, **given | changes)


def single() -> Explanation:
    """One patient with one code, without time and without visits."""
    codes = FeatureRecord(torch.tensor([[2]]), torch.tensor([[True]]), None, VOCABULARY)
    return Explanation(
        attributions={"conditions": torch.tensor([[0.5]])},
        features={"conditions": codes},
        f_input=torch.tensor([0.5]),
        f_baseline=torch.zeros(1),
        delta=torch.zeros(1),
        rescale_factor=torch.ones(1),
        target=(1,),
        diagnostics=Diagnostics(),
        patient_ids=("p",),
    )


class Tags(html.parser.HTMLParser):
    """What tags and addresses a page has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("href", "src", "srcset", "action", "data", "poster")
        self.addresses += [value or "" for name, value in attrs if name in names]


class TestColors:
    def test_the_ends_and_the_middle(self) -> None:
        scale = ColorScale(2.0)
        assert [scale.color(x) for x in (-2.0, 0.0, 2.0)] == [
            STOPS[0],
            "#ffffff",
            STOPS[-1],
        ]
        assert scale.color(9.0) == STOPS[-1]
        assert scale.color(-math.inf) == STOPS[0]
        assert scale.color(math.nan) != "#ffffff"
        assert ColorScale(0.0).color(1.0) == "#ffffff"

    @given(st.floats(-3, 3), st.floats(0, 3))
    def test_any_chip_can_be_read(self, attribution: float, limit: float) -> None:
        def light(color: str) -> float:
            parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            linear = [
                x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4
                for x in parts
            ]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        color = ColorScale(limit).color(attribution)
        assert re.fullmatch("#[0-9a-f]{6}", color)
        low, high = sorted([light(color), light(text_color(color))])
        assert (high + 0.05) / (low + 0.05) >= 4.5


class TestLayout:
    def test_features_meet_at_their_times(self) -> None:
        time = torch.tensor([[0.0, 4.0]])
        explanation = build(count=1)
        codes = FeatureRecord(torch.tensor([[[2], [3]]]), torch.ones(1, 2, 1) > 0)
        records = {
            "a": FeatureRecord(codes.values, codes.mask, time, VOCABULARY),
            "b": FeatureRecord(codes.values, codes.mask, time + 4, VOCABULARY),
        }
        both = Explanation(
            **vars(explanation)
            | {
                "features": records,
                "attributions": {"a": torch.ones(1, 2, 1), "b": torch.ones(1, 2, 1)},
            }
        )
        scene = patient_scene(both, 0, time_label="day")
        visits = scene.visits
        assert [scene.when(one) for one in visits] == ["day 0", "day 4", "day 8"]
        assert list(visits[1].groups) == ["a", "b"]
        assert visits[1].total == 2.0

    def test_padding_is_nowhere(self) -> None:
        explanation = build()
        view = patient_scene(explanation, 0)
        real = sum(int(one.mask[0].sum()) for one in explanation.features.values())
        items = [item for band in view.bands for item in band.items]
        assert len(items) == real
        assert "<pad>" not in {item.code for item in items}

    def test_folding_keeps_all_visits_in_order(self) -> None:
        rows = patient_scene(build(visits=40, codes=1), 0).visits
        blocks = fold(rows)
        assert [row for block in blocks for row in block.visits] == list(rows)
        assert sum(len(one.visits) for one in blocks if not one.folded) >= 8
        # One visit alone is never folded, at an end neither.
        assert all(len(one.visits) > 1 for one in blocks if one.folded)
        assert any(block.folded for block in blocks)
        assert fold(()) == ()

    @given(st.lists(st.floats(0, 10), min_size=1, max_size=8))
    @settings(max_examples=50, deadline=None)
    def test_columns_do_not_overlap_and_stay_inside(self, places: list[float]) -> None:
        moved = spread(sorted(places), 1.0, 10.0)
        assert all(b - a >= 1.0 - 1e-9 for a, b in zip(moved, moved[1:], strict=False))
        assert moved[0] >= 0.5 - 1e-9
        assert moved[-1] <= 9.5 + 1e-9


def texts(figure: Figure) -> list[str]:
    """All words on a figure."""
    return [t.get_text() for t in figure.findobj() if hasattr(t, "get_text")]


def chips(figure: Figure) -> list[FancyBboxPatch]:
    """All chips of a figure."""
    return [p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)]


class TestTimeline:
    def test_a_chip_per_code_and_a_dot_per_value(self) -> None:
        explanation = build()
        figure, axes = timeline(explanation, 0)
        figure.canvas.draw()
        masks = {key: one.mask[0] for key, one in explanation.features.items()}
        count = int(masks["conditions"].sum() + masks["static"].sum())
        assert len(chips(figure)) == count
        dots = sum(len(one.get_offsets()) for one in axes.collections)
        assert dots == int(masks["labs"].sum())
        assert axes.get_xlabel() == "time (taken as elapsed)"
        low, high = axes.get_xlim()
        assert low < 0.0 < 14.0 < high
        words = texts(figure)
        assert {"conditions", "static", "labs", "creatinine"} <= set(words)
        assert any("f(x0)" in w and "completeness" in w for w in words)

    def test_chips_have_the_colour_of_their_attribution(self) -> None:
        figure, _ = timeline(single())
        (chip,) = chips(figure)
        expected = tuple(int(STOPS[-1][i : i + 2], 16) / 255 for i in (1, 3, 5))
        assert chip.get_facecolor()[:3] == pytest.approx(expected)

    def test_without_times_visits_stand_in_order(self) -> None:
        _, axes = timeline(build(times=False), 0)
        assert "no times" in axes.get_xlabel()

    def test_long_histories_fold_and_say_so(self) -> None:
        explanation = build(visits=40, codes=15)
        figure, _ = timeline(explanation, 1, max_visits=5, max_codes=4)
        figure.canvas.draw()
        assert len(chips(figure)) <= 5 * 5 + 2
        words = " ".join(texts(figure))
        assert "+35 more visits" in words
        assert "+11 more" in words

    def test_what_has_no_room_is_said(self) -> None:
        explanation = build(visits=60, codes=1)
        figure, _ = timeline(explanation, 0, max_visits=60, width=7)
        words = " ".join(texts(figure))
        found = re.search(
            r"\+(\d+) more visits as dots only \(there is room for (\d+)\)", words
        )
        assert found is not None
        left_out, shown = map(int, found.groups())
        scene = patient_scene(explanation, 0)
        assert left_out + shown == len(scene.visits)
        # The strongest are those that have their chips; the others are dots.
        ranked = sorted(scene.visits, key=lambda visit: -visit.strength)
        wanted = [scene.scale.color(visit.total) for visit in ranked[:shown]]
        drawn = [to_hex(chip.get_facecolor()) for chip in chips(figure)]
        static = next(band for band in scene.bands if band.feature == "static")
        wanted += [scene.scale.color(item.attribution) for item in static.items]
        assert sorted(drawn) == sorted(wanted)

    def test_messages_are_on_the_figure(self) -> None:
        told = build(diagnostics=Diagnostics(messages=("sort fell back", "more")))
        figure, _ = timeline(told, 0)
        assert any("sort fell back (+1 more)" in words for words in texts(figure))

    def test_axes_of_the_caller_are_used(self) -> None:
        mine = Figure(figsize=(10, 6)).add_subplot()
        figure, axes = timeline(build(), 0, mine)
        assert axes is mine
        assert figure is mine.get_figure()

    def test_values_that_are_no_numbers_are_drawn(self) -> None:
        whole = build(count=1)
        whole.features["labs"].values[0, 0, 0] = math.nan
        whole.attributions["labs"][0, 1, 0] = math.nan
        figure, _ = timeline(whole)
        figure.canvas.draw()

    def test_bad_asks_are_refused(self) -> None:
        with pytest.raises(IndexError, match="patient 9 is out of range"):
            timeline(build(), 9)
        with pytest.raises(ValueError, match="max_visits is 0"):
            timeline(build(), 0, max_visits=0)

    def test_pyplot_is_left_alone(self) -> None:
        program = (
            "import sys, captum_ehr.visualization as v\n"
            "assert 'matplotlib' not in sys.modules and 'jinja2' not in sys.modules\n"
            "assert callable(v.timeline) and callable(v.write_report)\n"
            "assert 'matplotlib.pyplot' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True)


class TestNotebook:
    def test_data_is_text_there(self) -> None:
        told = build(diagnostics=Diagnostics(messages=(SCRIPT,)))
        page = told._repr_html_()
        assert "script" not in Tags(page).tags
        assert "&lt;script&gt;" in page
        assert Tags(page).addresses == []

    def test_more_patients_are_counted(self) -> None:
        assert "+4 more patients" in build(count=7)._repr_html_()
        assert "0 patient(s)" in build()[0:0]._repr_html_()


class TestReport:
    def write(self, tmp_path: Path, explanation: object, **changes: object) -> str:
        """The page of an explanation."""
        options: dict = {"title": f"Title {SCRIPT}"} | changes
        path = write_report(explanation, tmp_path / "r.html", **options)  # type: ignore[arg-type]
        assert path == tmp_path / "r.html"
        return path.read_text(encoding="utf-8")

    def test_it_stands_alone_and_data_is_text(self, tmp_path: Path) -> None:
        told = build(diagnostics=Diagnostics(messages=(SCRIPT,)))
        page = self.write(
            tmp_path, {SCRIPT: told, "b": build()}, notes=[SCRIPT], planted=[SCRIPT]
        )
        tags = Tags(page)
        assert tags.tags.count("script") == 1
        assert all(address.startswith("#m") for address in tags.addresses)
        assert not re.search(r"url\(|@import|http", page)

    def test_it_shows_patients_codes_and_completeness(self, tmp_path: Path) -> None:
        page = self.write(tmp_path, build(), planted=["I50", "absent"])
        assert page.count('<details class="patient"') == 2
        assert "<b>I50</b>" in page and "★ planted" in page
        assert "in no patient" in page
        assert "&lt;pad&gt;" not in page
        assert "median |delta|" in page

    def test_a_probability_needs_a_known_single_logit(self, tmp_path: Path) -> None:
        assert "(27 %)" in self.write(tmp_path, build())
        for unknown in (
            build(target_names=None),
            build(target_names=("a", "b")),
            build(output="probability"),
        ):
            assert "(27 %)" not in self.write(tmp_path, unknown)

    def test_long_histories_fold(self, tmp_path: Path) -> None:
        page = self.write(tmp_path, build(visits=40, codes=15))
        assert 'class="fold"' in page
        assert "+5 more, together" in page

    def test_patients_are_chosen_or_the_first_twenty(self, tmp_path: Path) -> None:
        many = build(count=25)
        assert "(20 of 25 shown)" in self.write(tmp_path, many)
        page = self.write(tmp_path, many, patients=[24])
        assert page.count('<details class="patient"') == 1
        assert "&lt;/script&gt; 24</h2>" in page

    def test_small_and_empty_explanations(self, tmp_path: Path) -> None:
        assert "<b>I50</b>" in self.write(tmp_path, single())
        assert "(0 of 0 shown)" in self.write(tmp_path, single()[0:0])

    def test_one_patient_is_that_patient_alone(self) -> None:
        made = build(model_name="StageNet", patient_ids=("p0", "p1"))
        page = made["p1"].to_html()
        assert "<h1>p1 · StageNet</h1>" in page
        assert page.count('data-patient="') == 1 and 'data-patient="p1"' in page
        for word in ("cohort", "rescaled", "Open all patients", "mean attribution"):
            assert word not in page
        assert "<h1>Mine</h1>" in made["p1"].to_html(title="Mine")
        assert "Strongest codes of the cohort" in made.to_html()

    def test_below_stands_where_it_comes_from(self, tmp_path: Path) -> None:
        today = f"written {datetime.now(UTC):%Y-%m-%d}"
        made = build(fingerprint="0123abcd", baseline="unk")
        other = replace(made, fingerprint="", baseline="")
        report = self.write(tmp_path, {"a": made, "b": other})
        for page in (made[0].to_html(), made.to_html(), report):
            foot = page[page.index("<footer") :]
            assert f"captum_ehr {__version__} · model 0123abcd · baseline unk" in foot
            assert f"{today} " in foot and " UTC</p>" in foot
        assert "model without a fingerprint · baseline not known" in report

    def test_rescaling_is_said_to_be_rounding_only_where_it_is(self) -> None:
        factors = torch.ones(200, dtype=torch.float64)
        assert ">0 of 200</dd>" in build(count=200, rescale_factor=factors).to_html()
        factors[:149] += 3e-7
        page = build(count=200, rescale_factor=factors).to_html()
        assert ">149 of 200; of these, rounding only (≤ 3e−07)</dd>" in page
        factors[7] = 1.25
        page = build(count=200, rescale_factor=factors).to_html()
        assert ">149 of 200; more than rounding, by up to 0.2</dd>" in page

    def test_bad_asks_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="at least one Explanation"):
            self.write(tmp_path, {})
        with pytest.raises(TypeError, match="planted is the string 'I50'"):
            self.write(tmp_path, build(), planted="I50")
        with pytest.raises(IndexError, match="patient 5 is out of range"):
            self.write(tmp_path, build(), patients=[5])

    def test_a_browser_shows_it_and_runs_nothing(self, tmp_path: Path) -> None:
        browser = shutil.which("chromium") or shutil.which("chromium-browser")
        if browser is None:
            pytest.skip("chromium is not on PATH")
        playwright = pytest.importorskip("playwright.sync_api")
        self.write(tmp_path, build(visits=40, codes=15))
        with playwright.sync_playwright() as driver:
            opened = driver.chromium.launch(
                executable_path=browser, args=["--no-sandbox", "--disable-quic"]
            )
            page = opened.new_page(viewport={"width": 1280, "height": 900})
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            address = (tmp_path / "r.html").as_uri()
            page.goto(address)
            assert asked == [address]
            assert page.title() == f"Title {SCRIPT}"
            assert page.locator("details.patient[open]").count() == 2
            page.get_by_role("button", name="Close all").click()
            assert page.locator("details.patient[open]").count() == 0
            overflow = "document.documentElement.scrollWidth - innerWidth"
            for width in (1280, 2560):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate(overflow) <= 0
            opened.close()


class TestNoAnswer:
    """A patient for whom the model answers NaN, and what cancels or is unlike."""

    def made(self) -> Explanation:
        whole = build()
        outputs = whole.f_input.clone()
        outputs[0] = math.nan
        parts = {key: one.clone() for key, one in whole.attributions.items()}
        for one in parts.values():
            one[0] = math.nan
        delta = whole.delta.clone()
        delta[0] = math.nan
        return replace(whole, f_input=outputs, attributions=parts, delta=delta)

    def test_sums_with_it_are_no_numbers(self) -> None:
        scene = patient_scene(self.made(), 0)
        assert scene.bands and all(math.isnan(band.total) for band in scene.bands)
        assert all(math.isnan(visit.total) for visit in scene.visits)
        assert all(item.strength == 0 for band in scene.bands for item in band.items)
        assert scene.verdict.status == "unanswered" and scene.probabilities is None

    def test_the_page_and_the_notebook_say_so(self, tmp_path: Path) -> None:
        path = write_report(self.made(), tmp_path / "x.html", title="x")
        page = path.read_text()
        assert "no answer" in page and not re.search(r"\bnan\b *%|: *nan", page)
        assert "<b>no answer</b>" in notebook_html(self.made())

    def test_cancellation_and_notes_are_told(self, tmp_path: Path) -> None:
        little = build().f_baseline + 1e-3
        for changes, words in (
            ({"f_input": little}, "of 2 of 2 patients cancel"),
            (
                {"diagnostics": Diagnostics(notes=("mind the reference",))},
                "mind the reference",
            ),
        ):
            one = replace(build(), **changes)
            page = write_report(one, tmp_path / "x.html", title="x").read_text()
            assert words in page and words in notebook_html(one)
            assert "nothing to report" not in page and 'class="card warn"' in page
        one = build()
        page = write_report(one, tmp_path / "x.html", title="x").read_text()
        assert "nothing to report" in page and 'class="card warn"' not in page
