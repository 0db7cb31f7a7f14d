"""Pictures of one patient: what is drawn is what the explanation says."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from explanations import explain, tokens, values
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from captum_ehr.explanation import Explanation, FeatureRecord
from captum_ehr.scene import patient_scene
from captum_ehr.scene.palette import LOWERS, RAISES, ColorScale
from captum_ehr.scene.wording import signed
from captum_ehr.visualization import (
    cohort_bar,
    cohort_beeswarm,
    heatmap,
    timeline,
    waterfall,
)
from captum_ehr.visualization.html import patient_html, stylesheet

ODD = "$\\frac{a}$ _b^2 <b>" + "long name " * 20
PICTURES = (timeline, waterfall, heatmap)


def history(count: int = 1, **changes: object) -> Explanation:
    """Two visits with codes at days 0 and 9, labs at days 0 and 4, a static age."""
    torch.manual_seed(0)
    time = torch.tensor([[0.0, 9.0]]).expand(count, 2)
    features = {
        "conditions": tokens([[[2, 3, 0], [2, 4, 3]]] * count, time),
        "labs": values(
            [[[1.4, 140.0], [0.5, math.nan]]] * count,
            [[0.0, 4.0]] * count,
            ("creatinine", "sodium"),
        ),
        "static": values([[67.0]] * count, columns=("age",)),
    }
    features["labs"].mask[:, 1, 1] = False
    made = explain(features, mode="binary", target_names=("death",), **changes)
    total = made.total.float()
    return replace(made, f_baseline=torch.full((count,), -1.0), f_input=total - 1)


def words(axes: Axes) -> list[str]:
    """The labels of the rows, from top to bottom."""
    return [label.get_text() for label in axes.get_yticklabels()]


def all_words(figure: Figure) -> str:
    return " ".join(t.get_text() for t in figure.findobj(lambda o: hasattr(o, "_text")))


class TestWaterfall:
    def test_bars_lead_from_the_baseline_to_the_output(self) -> None:
        one = history()
        _, axes = waterfall(one)
        table = one.by_code()
        order = table["attribution"].abs().sort_values(ascending=False).index
        wanted = table["attribution"][order].tolist()
        bars = axes.patches
        assert [bar.get_width() for bar in bars] == pytest.approx(wanted)
        starts = [bar.get_x() for bar in bars]
        ends = [bar.get_x() + bar.get_width() for bar in bars]
        assert starts[0] == pytest.approx(-1.0)
        assert starts[1:] == pytest.approx(ends[:-1])
        assert ends[-1] == pytest.approx(float(one.f_input[0]), abs=1e-6)
        scale = ColorScale.of(wanted)
        colors = [to_hex(bar.get_facecolor()) for bar in bars]
        assert colors == [scale.color(size) for size in wanted]

    def test_the_rest_is_one_bar_and_the_sum_stays(self) -> None:
        one = history()
        _, axes = waterfall(one, k=2)
        assert len(axes.patches) == 3
        assert words(axes)[-2:] == ["4 more", "f(x)"]
        change = float(one.f_input[0] - one.f_baseline[0])
        assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(change)

    def test_what_does_not_add_up_is_a_bar_of_its_own(self) -> None:
        one = history()
        off = replace(one, f_input=one.f_input + 0.5)
        _, axes = waterfall(off)
        assert words(axes)[-2] == "not attributed"
        assert axes.patches[-1].get_width() == pytest.approx(0.5, abs=1e-5)
        assert axes.patches[-1].get_hatch()

    @pytest.mark.parametrize(
        ("by", "rows"),
        [
            ("visit", ["day 0: conditions, labs", "day 4: labs", "day 9: conditions"]),
            ("feature", ["conditions", "labs", "static"]),
        ],
    )
    def test_by_visit_and_by_feature_keep_their_order(
        self, by: str, rows: list[str]
    ) -> None:
        one = history()
        _, axes = waterfall(one, by=by, time_label="day")  # type: ignore[arg-type]
        assert [row for row in words(axes) if row in rows] == rows
        total = sum(bar.get_width() for bar in axes.patches)
        assert total == pytest.approx(float(one.total[0]), abs=1e-6)

    def test_groups_take_the_place_of_codes(self) -> None:
        one = history()
        _, axes = waterfall(one, mapping={"I50": "heart", "E11": "other organs"})
        assert {"heart", "other organs", "other"} <= set(words(axes))
        table = one.by_group({"I50": "heart", "E11": "other organs"})
        drawn = [bar.get_width() for bar in axes.patches]
        assert sorted(drawn) == pytest.approx(sorted(table["attribution"]))

    def test_the_upper_axis_has_the_probabilities_of_the_logits(self) -> None:
        _, axes = waterfall(history())
        (top,) = axes.child_axes
        shares = [float(t.get_text()[:-2]) / 100 for t in top.get_xticklabels()]
        logits = torch.tensor(top.get_xticks(), dtype=torch.float64)
        assert torch.sigmoid(logits).tolist() == pytest.approx(shares, abs=1e-6)
        assert len(shares) >= 2

    def test_probabilities_only_where_they_are_known(self) -> None:
        unknown = replace(history(), mode="multiclass")
        figure, axes = waterfall(unknown)
        assert axes.child_axes == []
        assert "%" not in all_words(figure)

    def test_in_probability_the_bars_add_up_to_the_change(self) -> None:
        one = history().in_probability()
        _, axes = waterfall(one)
        change = float(one.f_input[0] - one.f_baseline[0])
        assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(change)
        assert all(0 <= tick <= 1 for tick in axes.get_xticks())

    def test_beyond_probabilities_it_says_what_sums_are(self) -> None:
        one = history().in_probability()
        parts = {key: 9 * a for key, a in one.attributions.items()}
        parts["static"] = parts["static"] - 8 * float(one.total[0])
        _, axes = waterfall(replace(one, attributions=parts))
        assert "partial sums may leave 0 to 1" in " ".join(axes.get_xlabel().split())
        assert "partial sums" not in waterfall(one)[1].get_xlabel()

    def test_visits_without_times_have_numbers_from_1(self) -> None:
        one = explain({"conditions": tokens([[[2], [3], [4]]])})
        _, axes = waterfall(one, by="visit")
        rows = {row for row in words(axes) if "conditions" in row}
        assert rows == {f"visit {number}: conditions" for number in (1, 2, 3)}
        _, axes = timeline(one)
        ticks = [text.get_text() for text in axes.get_xticklabels()]
        assert ticks == ["1", "2", "3"]


class TestHeatmap:
    def test_cells_and_sums_are_the_explanations(self) -> None:
        one = history()
        figure, axes = heatmap(one, by="code")
        cells = axes.collections[0].get_array()
        assert [t.get_text() for t in axes.get_xticklabels()] == [
            "no visit",
            "0",
            "4",
            "9",
        ]
        frame = one.to_frame()
        for code, row in zip(words(axes), np.ma.filled(cells, 0.0), strict=True):
            mine = frame[frame["code"] == code]
            for time, size in zip((math.nan, 0.0, 4.0, 9.0), row, strict=True):
                at = mine["time"].isna() if math.isnan(time) else mine["time"] == time
                assert size == pytest.approx(mine[at]["attribution"].sum(), abs=1e-6)
        assert cells.sum() == pytest.approx(float(one.total[0]), abs=1e-6)
        # The age has no visit, and is nowhere else.
        assert cells.mask[words(axes).index("age")].tolist() == [
            False,
            True,
            True,
            True,
        ]
        assert signed(float(one.total[0]), 3) in all_words(figure)

    def test_the_scale_is_symmetric_and_zero_is_white(self) -> None:
        _, axes = heatmap(history())
        mesh = axes.collections[0]
        assert mesh.norm.vmin == -mesh.norm.vmax
        assert to_hex(mesh.cmap(mesh.norm(0.0))) == "#ffffff"
        assert np.abs(mesh.get_array()).max() == pytest.approx(mesh.norm.vmax)

    def test_two_hundred_codes_and_fifty_visits_fold_and_keep_the_sum(self) -> None:
        ids = torch.arange(2, 202).view(1, 50, 4)
        vocabulary = ("<pad>", "<unk>", *(f"C{i}" for i in range(200)))
        codes = FeatureRecord(ids, ids > 0, torch.arange(50.0)[None], vocabulary)
        one = explain({"conditions": codes}, model_name="M" * 30)
        figure, axes = heatmap(one, by="code", k=25, max_visits=20)
        figure.canvas.draw()
        cells = axes.collections[0].get_array()
        assert cells.shape == (26, 21)
        assert words(axes)[-1] == "175 more"
        assert axes.get_xticklabels()[-1].get_text() == "30 more"
        assert cells.sum() == pytest.approx(float(one.total[0]), abs=1e-5)
        # The colours are those of what is shown, and the label is on the figure.
        shown = np.abs(cells[:-1, :-1]).max()
        assert axes.collections[0].norm.vmax == pytest.approx(shown)
        box = figure.get_tightbbox(figure.canvas.get_renderer())
        assert box.y0 >= 0 and (box.max <= figure.get_size_inches()).all()

    @pytest.mark.parametrize("bins", [1, 2, 3, 7])
    def test_bins_keep_sums_and_have_equal_lengths(self, bins: int) -> None:
        one = history()
        _, axes = heatmap(one, bins=bins)
        cells = np.ma.filled(axes.collections[0].get_array(), 0.0)
        assert cells.shape == (3, bins + 1)  # one for what has no visit
        frame = one.to_frame()
        edges = [9.0 * place / bins for place in range(bins + 1)]
        for row, feature in enumerate(words(axes)):
            mine = frame[(frame["feature"] == feature) & frame["time"].notna()]
            for place, (low, high) in enumerate(zip(edges, edges[1:]), 1):
                at = (mine["time"] >= low - 1e-9) & (mine["time"] < high - 1e-9)
                at |= (place == bins) & (mine["time"] == high)
                wanted = mine[at]["attribution"].sum()
                assert cells[row, place] == pytest.approx(wanted, abs=1e-6)
        assert cells.sum() == pytest.approx(float(one.total[0]), abs=1e-6)

    def test_bins_of_visits(self) -> None:
        one = explain({"conditions": tokens([[[2], [3], [4], [2], [3]]])})
        _, axes = heatmap(one, bins=2)
        columns = [text.get_text() for text in axes.get_xticklabels()]
        assert columns == ["visit 1–2", "visit 3–5"]
        cells = axes.collections[0].get_array()
        visits = one.by_visit()["attribution"].tolist()
        wanted = [sum(visits[:2]), sum(visits[2:])]
        assert cells.ravel().tolist() == pytest.approx(wanted, abs=1e-6)
        _, axes = heatmap(one, bins=9)
        assert axes.collections[0].get_array().shape == (1, 5)
        with pytest.raises(ValueError, match="bins is 0, expected at least 1"):
            heatmap(one, bins=0)

    def test_what_sums_the_rest_has_no_colour(self) -> None:
        ids = torch.arange(2, 22).view(1, 10, 2)
        vocabulary = ("<pad>", "<unk>", *(f"C{i}" for i in range(20)))
        codes = FeatureRecord(ids, ids > 0, torch.arange(10.0)[None], vocabulary)
        figure, axes = heatmap(explain({"c": codes}), by="code", k=6, max_visits=4)
        figure.canvas.draw()
        image = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3]
        rows, columns = axes.collections[0].get_array().shape
        for place in [(0.3, rows - 1.3), (columns - 1.3, 0.3), (columns - 1.3, 2.3)]:
            x, y = axes.transData.transform(place).astype(int)
            assert image[y, x].tolist() == [255, 255, 255]

    def test_features_are_chosen(self) -> None:
        _, axes = heatmap(history(), features=["static", "labs"])
        assert words(axes) == ["labs", "static"]

    def test_steps_of_an_untimed_series_are_columns_of_their_own(self) -> None:
        one = explain(
            {"conditions": tokens([[[2], [3]]]), "labs": values([[[1.0], [2.0]]])}
        )
        _, axes = heatmap(one)
        columns = [t.get_text() for t in axes.get_xticklabels()]
        assert columns == ["visit 1", "visit 2", "labs 1", "labs 2"]


class TestReference:
    def test_ranges_are_shaded_and_values_outside_are_marked(self) -> None:
        usual = {"creatinine": (0.6, 1.2), "labs": {"sodium": (135.0, math.inf)}}
        figure, axes = timeline(history(), reference=usual)
        figure.canvas.draw()
        said = all_words(figure)
        assert "1.4 ↑" in said and "0.5 ↓" in said
        assert "140 ↑" not in said
        assert "usual 0.6–1.2" in said and "usual > 135" in said
        # In y, downwards: the value above the range is above the band.
        dots = next(c for c in axes.collections if len(c.get_offsets()) == 2)
        bands = [p for p in axes.patches if to_hex(p.get_facecolor()) == "#8fbf8f"]
        assert len(bands) == 2
        places = sorted(float(y) for _, y in dots.get_offsets())
        box = min(bands, key=lambda b: abs(b.get_y() - places[0])).get_extents()
        box = box.transformed(axes.transData.inverted())
        assert places[0] < min(box.y0, box.y1) < max(box.y0, box.y1) < places[1]

    def test_units_are_shown(self) -> None:
        one = history().with_units({"labs": {"creatinine": "mg/dL"}})
        assert "creatinine (mg/dL)" in all_words(timeline(one)[0])

    @pytest.mark.parametrize(
        ("usual", "error", "message"),
        [
            (
                {"kreatinin": (0, 1)},
                KeyError,
                "kreatinin.*'creatinine', 'sodium', 'age",
            ),
            ({"drugs": {"x": (0, 1)}}, KeyError, "drugs.*'conditions', 'labs', 'sta"),
            ({"sodium": (145, 135)}, ValueError, "sodium.*low not above high"),
            ({"sodium": (math.nan, 135)}, ValueError, "sodium"),
            ({"sodium": 135}, ValueError, "sodium.*135"),
        ],
    )
    def test_wrong_ranges_are_refused(
        self, usual: dict, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            timeline(history(), reference=usual)


@pytest.mark.parametrize("picture", PICTURES)
class TestAll:
    def test_axes_of_the_caller_are_used(self, picture) -> None:
        mine = Figure(figsize=(10, 6)).add_subplot()
        figure, axes = picture(history(), ax=mine)
        assert axes is mine and figure is mine.get_figure()
        figure.canvas.draw()

    def test_several_patients_are_refused_unless_one_is_named(self, picture) -> None:
        many = history(3)
        with pytest.raises(ValueError, match="one patient and the explanation has 3"):
            picture(many)
        assert "p2" in picture(many, "p2")[1].get_title("left")
        assert "p1" in picture(many, 1)[1].get_title("left")
        with pytest.raises(IndexError, match="patient 3 is out of range"):
            picture(many, 3)
        with pytest.raises(KeyError, match="no patient 'p9'"):
            picture(many, "p9")
        with pytest.raises(ValueError, match="'p' has 3 samples"):
            picture(replace(many, patient_ids=("p",) * 3), "p")

    def test_nothing_to_show_is_said(self, picture) -> None:
        one = explain({"conditions": tokens([[0, 0]])})
        with pytest.raises(ValueError, match="nothing to show"):
            picture(one)
        with pytest.raises(ValueError, match="has 0"):
            picture(one[0:0])

    def test_names_are_no_formulas(self, picture) -> None:
        odd = history(
            model_name=ODD, patient_ids=(ODD,), baseline=ODD, names={"I50": ODD}
        )
        odd = replace(odd, target_names=(ODD,)).with_units({"labs": {"sodium": ODD}})
        figure, _ = picture(odd)
        figure.canvas.draw()
        said = [t for t in figure.findobj(lambda o: hasattr(o, "_text"))]
        assert any("$\\frac" in t.get_text() for t in said)
        assert all(not t.get_parse_math() for t in said if "$" in t.get_text())
        assert max(len(line) for t in said for line in t.get_text().split("\n")) < 200

    def test_no_text_is_cut_off(self, picture) -> None:
        names = {"I50": "heart failure " * 9}
        figure, _ = picture(history(model_name="StageNet", baseline="unk", names=names))
        figure.canvas.draw()
        box = figure.get_tightbbox(figure.canvas.get_renderer())
        assert box.x0 >= 0 and box.y0 >= 0
        assert (box.max <= figure.get_size_inches()).all()

    def test_the_title_says_what_it_is(self, picture) -> None:
        figure, axes = picture(history(model_name="RNN", baseline="unk"))
        figure.canvas.draw()
        assert axes.get_title("left") == "p0 | RNN: logit of death"
        assert "f(x0) (unk) −1.000 (27 %) → f(x)" in all_words(figure)


class TestLimits:
    def test_limits_and_choices_are_checked(self) -> None:
        one = history()
        with pytest.raises(ValueError, match="k is 0, expected at least 1"):
            waterfall(one, k=0)
        with pytest.raises(ValueError, match="k is -1"):
            heatmap(one, k=-1)
        with pytest.raises(ValueError, match="by is 'codes', expected one of 'code'"):
            waterfall(one, by="codes")  # type: ignore[arg-type]
        with pytest.raises(KeyError, match="'drugs'.*'conditions', 'labs', 'static'"):
            heatmap(one, features=["drugs"])

    @pytest.mark.parametrize("picture", [waterfall, heatmap])
    def test_an_attribution_that_is_no_number_is_refused(self, picture) -> None:
        one = history()
        one.attributions["conditions"][0, 0, 0] = math.nan
        with pytest.raises(ValueError, match="'I50' in feature 'conditions'.*nan"):
            picture(one)

    def test_one_visit_one_code_and_missing_times(self) -> None:
        single = explain({"conditions": tokens([[[2]]])})
        time = torch.tensor([[0.0, math.nan]])
        untimed = explain({"conditions": tokens([[[2], [3]]], time)})
        for one in (single, untimed):
            for picture in PICTURES:
                picture(one)[0].canvas.draw()
        once = explain({"conditions": tokens([[[2]]], torch.tensor([[3.5]]))})
        _, axes = timeline(once)
        assert [t.get_text() for t in axes.get_xticklabels()] == ["3.5"]


class TestGaps:
    """Times that do not run forward are no axis: visits stand in their order."""

    def gaps(self, time: list[float], labs: list[float]) -> Explanation:
        times = torch.tensor([time])
        return explain(
            {
                "c": tokens([[[2], [3], [4]]], times),
                "l": values([[[1.0], [2.0], [3.0]]], [labs]),
            }
        )

    @pytest.mark.parametrize(
        ("time", "labs"),
        [
            ([0.0, 600.0, 20.0], [0.0, 600.0, 20.0]),
            ([0.0, 600.0, 20.0], [1.0, 2.0, 3.0]),
            ([0.0, 20.0, 600.0], [3.0, 2.0, 1.0]),
            ([0.0, 20.0, 20.0], [0.0, 20.0, 20.0]),
        ],
    )
    def test_from_left_to_right_by_visit(
        self, time: list[float], labs: list[float]
    ) -> None:
        made = self.gaps(time, labs)
        figure, ax = timeline(made)
        assert ax.get_xlabel() == "visit (in order; the recorded times are no clock)"
        at = {text.get_text(): text.get_position()[0] for text in ax.texts}
        assert at["I50"] < at["E11"] < at["N18"]
        assert at["1"] < at["2"] < at["3"]
        scene = patient_scene(made)
        assert [scene.when(one) for one in scene.visits] == [
            "visit 1",
            "visit 2",
            "visit 3",
        ]
        assert [one.items[0].code for one in scene.visits] == ["I50", "E11", "N18"]
        assert all(math.isnan(one.time) for one in scene.visits)
        steps = scene.bands[1].steps
        assert [step.items[0].value for step in steps] == [1.0, 2.0, 3.0]
        assert all(math.isnan(step.time) for step in steps)
        # The page draws it from left to right, too.
        drawn = re.findall(
            r'data-value="([^"]*)" data-time="[^"]*" cx="([^"%]*)%"',
            patient_html(scene),
        )
        assert [float(value) for value, _ in drawn] == [1.0, 2.0, 3.0]
        places = [float(x) for _, x in drawn]
        assert places == sorted(set(places))

    def test_places_without_times_are_told(self) -> None:
        features = {
            "c": tokens([[[2], [3], [4]]], torch.tensor([[0.0, 20.0, 600.0]])),
            "l": values([[[1.0], [2.0], [3.0]]]),
        }
        page = patient_html(patient_scene(explain(features)))
        assert page.count("l: in order, evenly spaced: no times to go by") == 1

    def test_a_flat_series_stands_in_order(self) -> None:
        made = explain({"hr": values([[70.0, 80.0, 90.0]], [[3.0, 2.0, 2.5]])})
        _, ax = timeline(made)
        at = {text.get_text(): text.get_position()[0] for text in ax.texts}
        assert at["70"] < at["80"] < at["90"]

    def test_times_that_run_forward_are_the_axis(self) -> None:
        made = self.gaps([0.0, 20.0, 600.0], [0.0, 20.0, 600.0])
        _, ax = timeline(made, time_label="hours")
        assert ax.get_xlabel() == "hours"
        assert [v.time for v in patient_scene(made).visits] == [0.0, 20.0, 600.0]

    def test_unlike_targets_are_not_added_up(self) -> None:
        made = explain({"c": tokens([[2], [3]])}, target=(0, 1))
        for draw in (cohort_bar, cohort_beeswarm):
            with pytest.raises(ValueError, match="2 different targets.*of one target"):
                draw(made)
            draw(made[[target == 0 for target in made.target]])


def luminance(color: str) -> float:
    """Of ``"#rrggbb"`` or ``"#rgb"``, as WCAG 2 has it."""
    color = color.strip("# ")
    pairs = [c * 2 for c in color] if len(color) == 3 else re.findall("..", color)
    shares = [int(pair, 16) / 255 for pair in pairs]
    linear = [
        s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


class TestColours:
    """Of pages and pieces, light and dark."""

    @pytest.mark.parametrize("place", [0, 1], ids=["light", "dark"])
    def test_they_have_contrast(self, place: int) -> None:
        blocks = re.findall(r"\.ehr, \.ehr-page \{(.*?)\}", stylesheet(), re.DOTALL)
        colors = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", blocks[place]))
        grounds = ["paper", "soft", "stripe", "chosen"]
        for name in ("ink", "muted"):
            for ground in (*grounds, "warn-soft", "star-soft"):
                assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
        for name in ("accent", "good", "warn", "bad"):
            for ground in grounds:
                assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
        for name in ("good", "warn", "bad"):
            assert contrast(colors[name], colors[f"{name}-soft"]) >= 4.5, name
        assert contrast(colors["on-accent"], colors["accent"]) >= 4.5
        for name in ("edge", "plain", "output"):
            for ground in ("paper", "soft", "track"):
                assert contrast(colors[name], colors[ground]) >= 3, (name, ground)
        for bar in (LOWERS, RAISES):
            for ground in ("paper", "track"):
                assert contrast(bar, colors[ground]) >= 3, (bar, ground)

    def test_they_are_named_once_and_used(self) -> None:
        css = stylesheet()
        names = set(re.findall(r"--([a-z-]+):", css))
        assert set(re.findall(r"var\(--([a-z-]+)\)", css)) <= names
        rules = css.split(".ehr {", 1)[1].rpartition(".ehr .ramp {")[0]
        assert not re.search(r"#[0-9a-f]{3,6}\b", rules)
