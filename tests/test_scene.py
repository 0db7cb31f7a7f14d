"""The scene: it says what the explanation says, and all that draw it say the same."""

import html.parser
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from explanations import explain, tokens, values
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from captum_ehr.explanation import Explanation, FeatureRecord
from captum_ehr.explanation.words import OUTSIDE
from captum_ehr.propagation.diagnostics import Diagnostics
from captum_ehr.scene import (
    TABLE,
    ColorScale,
    PatientScene,
    PopulationScene,
    patient_scene,
    population_scene,
    top_codes,
)
from captum_ehr.scene.folding import OPEN_CHIPS, OPEN_VISITS
from captum_ehr.scene.history import Item
from captum_ehr.scene.palette import UNKNOWN
from captum_ehr.scene.wording import number, output_value, percent, signed
from captum_ehr.visualization import heatmap, timeline, waterfall, write_report
from captum_ehr.visualization.html import patient_html, population_html, stylesheet
from captum_ehr.visualization.keys import COLORMAP
from captum_ehr.visualization.report import notebook_html

CODES = ("<pad>", "<unk>", *(f"C{i}" for i in range(40)))
PATIENT = 1


def cohort(visits: int = 20, **changes: object) -> Explanation:
    """Three patients: codes and drugs on true time, labs at others, a static row."""
    torch.manual_seed(3)
    ids = torch.randint(2, 42, (3, visits, 13))
    ids[:, ::2, 4:] = 0
    drugs = torch.randint(2, 42, (3, visits, 2))
    time = torch.arange(float(visits)).mul(3.5).expand(3, visits)
    labs = torch.rand(3, 5, 10) * 9
    features = {
        "conditions": FeatureRecord(ids, ids > 0, time, CODES),
        # Half a visit later: visits of their own.
        "drugs": FeatureRecord(drugs, drugs > 0, time + 3.5 * visits / 2, CODES),
        "labs": FeatureRecord(
            labs,
            torch.rand(labs.shape) > 0.3,
            torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]]).expand(3, 5),
            columns=tuple(f"lab {i}" for i in range(10)),
        ),
        "static": values([[67.0, 1.0]] * 3, columns=("age", "male")),
    }
    attributions = {
        key: torch.randn(one.values.shape) ** 3 * one.mask
        for key, one in features.items()
    }
    total = sum(one.flatten(1).double().sum(1) for one in attributions.values())
    words: dict[str, object] = {
        "f_baseline": torch.full((3,), -1.0, dtype=torch.float64),
        "f_input": total - 1,
        "delta": torch.full((3,), 1e-7),
        "mode": "binary",
        "target_names": ("death",),
        "names": {"C1": "heart failure", "C2": "C2 sepsis"},
        "units": {"labs": {"lab 0": "mmol/L"}},
    }
    return explain(features, attributions, **words | changes)


def unanswered() -> Explanation:
    """The same, with no answer for the patient."""
    whole = cohort()
    for one in whole.attributions.values():
        one[PATIENT] = math.nan
    outputs, delta = whole.f_input.clone(), whole.delta.clone()
    outputs[PATIENT] = delta[PATIENT] = math.nan
    return replace(whole, f_input=outputs, delta=delta)


class Page(html.parser.HTMLParser):
    """The patient of a page: what is marked, in which colours, and what folds."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.marked: list[dict[str, str]] = []
        self.visits: list[tuple[int, bool]] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.styles: list[str] = []
        self.words: dict[int, str] = {}
        self.text = ""
        self._details: list[str] = []
        self._style = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.attributes |= set(found)
        self._style = tag == "style"
        if "style" in found:
            self.styles.append(found["style"])
        kind = found.get("class", "")
        if tag == "details":
            self._details.append(kind)
        if "visit" in kind.split():
            place = int(found["data-visit"])
            self.visits.append((place, "fold" in self._details))
        if "data-code" in found and "data-attribution" in found:
            more = "more" in self._details
            self.marked.append(found | {"tag": tag, "more": str(more)})

    def handle_endtag(self, tag: str) -> None:
        self._style = False
        if tag == "details":
            self._details.pop()

    def handle_data(self, data: str) -> None:
        if self._style:
            return
        self.text += data
        if self.marked:
            last = len(self.marked) - 1
            self.words[last] = self.words.get(last, "") + data

    def painted(self, tag: str) -> list[tuple[str, float, str, str]]:
        """Code, attribution, background and text colour of all of a kind."""
        return [
            (one["data-code"], float(one["data-attribution"]), *_colors(one["style"]))
            for one in self.marked
            if one["tag"] == tag
        ]


def _colors(style: str) -> tuple[str, str]:
    match = re.fullmatch(r"background:(#[0-9a-f]{6});color:(#[0-9a-f]{6})", style)
    assert match, style
    return match[1], match[2]


def pages(explanation: Explanation, folder: Path) -> dict[str, Page]:
    """The patient in the fragment of the page, in the report and in a notebook."""
    report = write_report(
        explanation, folder / "r.html", title="x", patients=[PATIENT]
    ).read_text()
    scene = patient_scene(explanation, PATIENT)
    return {
        "page": Page(patient_html(scene)),
        "report": Page(report[report.index("<details") :]),
        "notebook": Page(notebook_html(explanation[PATIENT])),
    }


def shown(items: list[Item], scene: PatientScene) -> list[tuple[str, float, str, str]]:
    """What is to be drawn of codes and values."""
    return sorted(
        (item.code, item.attribution, *scene.scale.pair(item.attribution))
        for item in items
    )


class TestSaysWhatTheExplanationSays:
    def test_sums_are_the_explanations(self) -> None:
        one = cohort()[PATIENT]
        scene = patient_scene(one)
        table = one.by_feature()
        assert [band.feature for band in scene.bands] == table["feature"].tolist()
        totals = [band.total for band in scene.bands]
        assert totals == pytest.approx(table["attribution"].tolist(), rel=1e-9)
        assert sum(totals) == pytest.approx(scene.total, rel=1e-9)
        assert scene.changes[-2].end == pytest.approx(scene.f_input, rel=1e-9)
        frame = one.to_frame()
        coded = frame[frame["feature"].isin(["conditions", "drugs"])]
        sums = coded.groupby("time")["attribution"].sum()
        assert [visit.time for visit in scene.visits] == sums.index.tolist()
        assert [visit.total for visit in scene.visits] == pytest.approx(sums.tolist())
        assert sum(len(band.items) for band in scene.bands) == len(frame)

    def test_visits_stand_in_order_and_features_meet(self) -> None:
        scene = patient_scene(cohort(), PATIENT, time_label="day")
        times = [visit.time for visit in scene.visits]
        assert times == sorted(set(times))
        groups = [list(visit.groups) for visit in scene.visits]
        assert groups[0] == ["conditions"] and groups[-1] == ["drugs"]
        assert ["conditions", "drugs"] in groups
        assert scene.when(scene.visits[1]) == "day 3.5"
        for visit in scene.visits:
            for items in visit.groups.values():
                strengths = [item.strength for item in items]
                assert strengths == sorted(strengths, reverse=True)
        untimed = explain({"a": tokens([[[2], [3]]]), "b": tokens([[4, 2]])})
        other = patient_scene(untimed)
        words = [other.when(visit) for visit in other.visits]
        assert words == ["all codes", "visit 1", "visit 2"]

    def test_a_cohorts_codes_are_those_of_top(self) -> None:
        explanation = cohort()
        table = explanation.top(None)
        scene = population_scene(explanation, k=None, planted=["C3", "gone"])
        for name in ("feature", "code", "patients", "count", "mean", "mean_abs"):
            assert [getattr(one, name) for one in scene.codes] == table[name].tolist()
        ranks = table.index[table["code"] == "C3"].tolist()
        assert scene.planted == (("C3", ranks[0] + 1), ("gone", None))
        assert scene.codes[0].share == 1.0
        page = population_html(population_scene(explanation, k=5))
        means = re.findall(r'data-mean="([^"]*)"', page)
        assert [float(mean) for mean in means] == table["mean"].tolist()[:5]
        assert [signed(float(mean), 3) in page for mean in means] == [True] * 5

    def test_rows_of_others_may_have_no_answer(self) -> None:
        row = {"feature": "f", "code": "C1", "name": "", "patients": 1}
        rows = [{**row, "mean": 1.0, "mean_abs": 2.0}]
        rows += [{**row, "mean": None, "mean_abs": None}]
        codes = top_codes(rows, 4)
        assert [one.prevalence for one in codes] == [0.25, 0.25]
        assert codes[0].signed_share == 0.5 and codes[1].signed_share == 0.0
        page = population_html(PopulationScene(4, codes, 9))
        assert "no answer" in page and "2 strongest of 9" in page

    @pytest.mark.parametrize(
        ("changes", "output", "has_probability"),
        [
            ({}, "logit", True),
            ({"mode": "multilabel"}, "logit", True),
            ({"mode": None}, "logit", True),
            ({"mode": None, "target_names": None}, "logit", False),
            ({"mode": None, "target_names": ("a", "b")}, "logit", False),
            ({"mode": "multiclass"}, "logit", False),
            ({"mode": "regression"}, "output", False),
            ({"output": "probability"}, "probability", False),
        ],
    )
    def test_title_words(
        self, changes: dict, output: str, has_probability: bool, tmp_path: Path
    ) -> None:
        explanation = cohort(**changes)
        scene = patient_scene(explanation, PATIENT)
        assert scene.output == output
        assert (scene.probabilities is not None) == has_probability
        figure, axes = waterfall(explanation, PATIENT)
        assert axes.get_title("left") == f"p1 | {output} of {scene.target}"
        assert bool(axes.child_axes) == has_probability
        words = [figure_words(figure), figure_words(heatmap(explanation, PATIENT)[0])]
        for page in pages(explanation, tmp_path).values():
            assert f"{output} of {scene.target}" in page.text
            words.append(page.text)
        ends = [scene.output_words("baseline"), scene.output_words("input")]
        assert all(end in said for said in words for end in ends)
        probability = percent(torch.sigmoid(torch.tensor(-1.0)).item())
        assert all((f"({probability})" in said) == has_probability for said in words)


def figure_words(figure: Figure) -> str:
    return " ".join(t.get_text() for t in figure.findobj(lambda o: hasattr(o, "_text")))


class TestAllDrawTheSame:
    def test_chips_have_the_scenes_colours_and_numbers(self, tmp_path: Path) -> None:
        explanation = cohort()
        scene = patient_scene(explanation, PATIENT)
        coded = [item for visit in scene.visits for item in visit.items]
        columns = [i for b in scene.bands if b.kind == "columns" for i in b.items]
        labs = [i for b in scene.bands if b.kind == "series" for i in b.items]
        drawn = pages(explanation, tmp_path)
        for name, page in drawn.items():
            expected = coded + columns + (labs if name == "notebook" else [])
            assert sorted(page.painted("span")) == shown(expected, scene)
            chips = [
                (place, one)
                for place, one in enumerate(page.marked)
                if one["tag"] == "span"
            ]
            for place, one in chips:
                text = page.words[place]
                assert signed(float(one["data-attribution"])) in text
                if "data-value" in one:
                    assert f"= {number(float(one['data-value']))}" in text
        for name in ("page", "report"):
            page = drawn[name]
            assert sorted(page.painted("td")) == shown(labs, scene)
            dots = sorted(
                (one["data-code"], float(one["data-attribution"]), one["fill"])
                for one in page.marked
                if one["tag"] == "circle"
            )
            assert dots == [item[:3] for item in shown(labs, scene)]

    def test_a_timeline_has_the_scenes_colours(self) -> None:
        explanation = cohort()
        scene = patient_scene(explanation, PATIENT)
        limits = {"max_visits": 99, "max_codes": 99, "max_values": 99}
        axes = Figure(figsize=(90, 40)).add_subplot()
        timeline(explanation, PATIENT, axes, **limits)
        chips = [p for p in axes.patches if isinstance(p, FancyBboxPatch)]
        on_chips = [item for b in scene.bands if b.kind != "series" for item in b.items]
        found = sorted(to_hex(chip.get_facecolor()) for chip in chips)
        assert found == sorted(scene.scale.color(i.attribution) for i in on_chips)
        dots = [to_hex(c) for row in axes.collections for c in row.get_facecolors()]
        labs = [i for b in scene.bands if b.kind == "series" for i in b.items]
        assert sorted(dots) == sorted(scene.scale.color(i.attribution) for i in labs)

    @given(st.floats(-3, 3), st.floats(1e-3, 3))
    def test_matplotlib_and_the_page_look_the_table_up_alike(
        self, attribution: float, limit: float
    ) -> None:
        scale = ColorScale(limit)
        norm = Normalize(-limit, limit)
        place = COLORMAP(norm(attribution), bytes=True)
        # Rounding may fall on either side of the border of two colours.
        step = limit / 1e6
        near = {scale.color(attribution + way * step) for way in (-1, 0, 1)}
        assert "#" + bytes(place[:3]).hex() in near

    def test_visits_fold_alike(self, tmp_path: Path) -> None:
        explanation = cohort()
        scene = patient_scene(explanation, PATIENT)
        folds = [block.folded for block in scene.blocks for _ in block.visits]
        assert True in folds and folds.count(False) >= OPEN_VISITS
        expected = list(enumerate(folds, 1))
        for page in pages(explanation, tmp_path).values():
            assert page.visits == expected
            open_chips = [o for o in page.marked if o["more"] == "False"]
            folded = [o for o in page.marked if o["more"] == "True"]
            assert folded and open_chips
        most = [len(items) for v in scene.visits for items in v.groups.values()]
        hidden = sum(count - OPEN_CHIPS for count in most if count > OPEN_CHIPS + 1)
        assert sum(o["more"] == "True" for o in page.marked if _coded(o)) == hidden

    def test_no_answer_is_said_everywhere(self, tmp_path: Path) -> None:
        explanation = unanswered()
        scene = patient_scene(explanation, PATIENT)
        assert scene.verdict.status == "unanswered"
        assert scene.probabilities is None and scene.scale.limit == 0.0
        for page in pages(explanation, tmp_path).values():
            assert "no answer" in page.text
            assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)
            assert {color for *_, color, _ in page.painted("span")} == {UNKNOWN}
        figure, axes = timeline(explanation, PATIENT)
        assert "→ f(x) no answer" in figure_words(figure)
        chips = [p for p in axes.patches if isinstance(p, FancyBboxPatch)]
        assert {to_hex(chip.get_facecolor()) for chip in chips} == {UNKNOWN}

    def test_units_ranges_and_lost_values(self) -> None:
        explanation = cohort()
        ranged = explanation.with_ranges({"lab 0": (2.0, 3.0)})
        scene = patient_scene(ranged, PATIENT)
        page = Page(patient_html(scene))
        said = figure_words(
            timeline(
                explanation,
                PATIENT,
                max_values=99,
                reference={"lab 0": (2.0, 3.0)},
            )[0]
        )
        (band,) = [band for band in scene.bands if band.kind == "series"]
        (line,) = [line for line in band.lines if line.items[0].code == "lab 0"]
        assert "lab 0 (mmol/L)" in page.text and "lab 0 (mmol/L)" in said
        for item in line.items:
            assert item.value_words in page.text
        marks = [item.value_words for item in line.items if item.value > 3]
        assert marks and all(mark.endswith(" ↑") for mark in marks)
        assert any(mark in said for mark in marks)
        lost = sum(len(band.steps) - len(line.items) for line in band.lines)
        assert patient_html(scene).count('title="not measured"') == lost > 0

    def test_the_way_from_the_baseline_to_the_output(self) -> None:
        scene = patient_scene(cohort(), PATIENT)
        page = patient_html(scene)
        table = page[page.index('class="bridge features"') :]
        for change in scene.changes:
            size = change.end - change.start
            is_output = change.kind == "output"
            assert (output_value(change.end) if is_output else signed(size, 3)) in table
        bars = re.findall(r"left:([\d.]+)%;width:([\d.]+)%", table)
        assert len(bars) == len(scene.changes)
        assert all(0 <= float(x) and float(x) + float(w) <= 100 for x, w in bars)


def _coded(mark: dict[str, str]) -> bool:
    return mark["tag"] == "span" and mark["data-feature"] in ("conditions", "drugs")


class TestFragment:
    def test_it_runs_nothing_and_styles_only_colours_and_places(self) -> None:
        script = "<script>x</script>"
        odd = cohort(
            names={"C1": script, "C2": '" onclick="x'}, patient_ids=(script,) * 3
        )
        odd = replace(odd, target_names=(script,), model_name=script)
        for compact in (False, True):
            scene = replace(
                patient_scene(odd, PATIENT), facts=((script, script),), is_right=False
            )
            page = Page(patient_html(scene, compact=compact))
            assert not page.tags & {"script", "link", "iframe", "img", "style"}
            assert not {name for name in page.attributes if name.startswith("on")}
            allowed = re.compile(
                r"((left|width):[\d.]+%;|(background|color):#\w{6};?)+"
            )
            assert all(allowed.fullmatch(f"{style};") for style in page.styles)
            assert script in page.text and "≠ the class observed" in page.text
        assert not re.search(r"url\(|@import|http", stylesheet())

    def test_every_rule_is_of_the_fragments_class(self) -> None:
        rules = re.sub(r"/\*.*?\*/|@[^{]*\{", "", stylesheet(), flags=re.DOTALL)
        selectors = re.findall(r"([^{}]+)\{[^{}]*\}", rules)
        assert len(selectors) > 50
        assert all(
            part.strip().startswith(".ehr")
            for one in selectors
            for part in one.split(",")
        )

    def test_bars_lead_to_their_visits(self) -> None:
        page = patient_html(patient_scene(cohort(), PATIENT))
        bars = re.findall(
            r'class="bar" data-visit="(\d+)" data-attribution="([^"]+)"', page
        )
        visits = patient_scene(cohort(), PATIENT).visits
        assert [int(place) for place, _ in bars] == list(range(1, len(visits) + 1))
        sums = [float(total) for _, total in bars]
        assert sums == [visit.total for visit in visits]

    @pytest.mark.parametrize(
        ("changes", "status"),
        [
            ({"diagnostics": Diagnostics(notes=("mind it",))}, "noted"),
            ({"diagnostics": Diagnostics(notes=(f"it {OUTSIDE}",))}, "caution"),
            ({"delta": torch.tensor([50.0])}, "off"),
        ],
    )
    def test_the_badge(self, changes: dict, status: str) -> None:
        one = explain(
            {"c": tokens([[2, 3]])},
            {"c": torch.tensor([[0.5, 0.25]])},
            **{"f_input": torch.tensor([0.75])} | changes,
        )
        scene = patient_scene(one)
        assert scene.verdict.status == status
        page = patient_html(scene)
        assert f'data-status="{status}">{scene.verdict.sign} ' in page
        assert all(message in page for message in scene.verdict.messages)
        unpromised = patient_scene(one, adds_up=False)
        assert unpromised.verdict.status == "none"

    def test_an_exact_one_has_nothing_to_say(self) -> None:
        one = explain(
            {"c": tokens([[2, 3]])},
            {"c": torch.tensor([[0.5, 0.25]])},
            f_input=torch.tensor([0.75]),
        )
        scene = patient_scene(one)
        assert scene.verdict.status == "exact" and not scene.verdict.messages
        assert "✓ the sum is complete<" in patient_html(scene)


def test_the_palette() -> None:
    assert len(TABLE) % 2 == 1 and TABLE[len(TABLE) // 2][0] == "#ffffff"
    colors = pd.Series([color for color, _ in TABLE])
    assert colors.is_unique
    assert ColorScale(0.0).color(1.0) == "#ffffff"


def test_the_page_and_the_notebook_need_no_matplotlib() -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None; sys.path.insert(0, 'tests')\n"
        "from explanations import explain, tokens\n"
        "from captum_ehr.scene import patient_scene\n"
        "from captum_ehr.visualization import report\n"
        "from captum_ehr.visualization.html import patient_html\n"
        "one = explain({'c': tokens([[2, 3]])})\n"
        "assert 'I50' in report.notebook_html(one) and 'I50' in report.page_html(one)\n"
        "assert 'I50' in patient_html(patient_scene(one))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
