"""Pictures of a cohort: what is drawn is what the explanation says."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from explanations import explain, tokens, values
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from captum_ehr.explanation import Explanation
from captum_ehr.scene.palette import ColorScale
from captum_ehr.scene.wording import signed
from captum_ehr.visualization import cohort_bar, cohort_beeswarm, completeness
from captum_ehr.visualization.beeswarm_plot import ABSENT, PRESENT, VALUES, swarm
from captum_ehr.visualization.layout import ink


def cohort(**changes: object) -> Explanation:
    """Four patients with up to three codes and two labs."""
    torch.manual_seed(1)
    features = {
        "conditions": tokens([[2, 3, 2], [2, 0, 0], [4, 0, 0], [0, 0, 0]]),
        "labs": values(
            [[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [9.0, 5.0]], None, ("urea", "flat")
        ),
    }
    return explain(features, **{"target_names": ("death",)} | changes)


def labels(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def expected(explanation: Explanation, code: str) -> np.ndarray:
    """The sum of a code's attributions in each sample, 0 where it is absent."""
    frame = explanation.to_frame()
    mine = frame[frame["code"] == code].groupby("sample")["attribution"].sum()
    return mine.reindex(range(len(explanation)), fill_value=0.0).to_numpy()


def said(figure: Figure) -> str:
    return " ".join(t.get_text() for t in figure.findobj(lambda o: hasattr(o, "_text")))


class TestBar:
    def test_three_panels_with_the_three_numbers(self) -> None:
        explanation = cohort()
        _, axes = cohort_bar(explanation)
        codes = labels(axes[0])
        assert sorted(codes) == ["E11", "I50", "N18", "flat", "urea"]
        sums = {code: expected(explanation, code) for code in codes}
        means = [sums[code].mean() for code in codes]
        widths = [[bar.get_width() for bar in one.patches] for one in axes]
        assert widths[0] == pytest.approx(means)
        assert widths[1] == pytest.approx([np.abs(sums[code]).mean() for code in codes])
        shares = {"I50": 0.5, "E11": 0.25, "N18": 0.25, "flat": 1.0, "urea": 1.0}
        assert widths[2] == [shares[code] for code in codes]
        assert widths[1] == sorted(widths[1], reverse=True)
        scale = ColorScale.of(means)
        colors = [to_hex(bar.get_facecolor()) for bar in axes[0].patches]
        assert colors == [scale.color(mean) for mean in means]

    def test_the_rest_is_added_up_below(self) -> None:
        explanation = cohort()
        figure, axes = cohort_bar(explanation, k=2)
        rest = explanation.top(None)["mean"][2:].sum()
        assert len(axes[0].patches) == 2
        assert "+3 more" in said(figure) and f"together {signed(rest, 3)}" in said(
            figure
        )

    def test_features_and_groups(self) -> None:
        _, axes = cohort_bar(cohort(), features="labs")
        assert sorted(labels(axes[0])) == ["flat", "urea"]
        groups = {"I50": "heart", "E11": "sugar"}
        _, axes = cohort_bar(cohort(), mapping=groups)
        assert sorted(labels(axes[0])) == ["heart", "other", "sugar"]
        with pytest.raises(ValueError, match="features and mapping are both given"):
            cohort_bar(cohort(), mapping=groups, features=["labs"])

    def test_a_figure_or_three_axes_are_used(self) -> None:
        mine = Figure(figsize=(10, 4))
        figure, axes = cohort_bar(cohort(), mine)
        assert figure is mine and list(axes) == mine.axes
        three = Figure(figsize=(10, 4)).subplots(1, 3)
        figure, axes = cohort_bar(cohort(), three)
        assert list(axes) == list(three) and figure is three[0].get_figure()
        with pytest.raises(TypeError, match="three panels"):
            cohort_bar(cohort(), three[0])
        with pytest.raises(ValueError, match="ax has 2 entries, expected three axes"):
            cohort_bar(cohort(), three[:2])


class TestBeeswarm:
    def test_a_dot_per_patient_at_its_attribution(self) -> None:
        explanation = cohort()
        _, axes = cohort_beeswarm(explanation)
        codes = labels(axes)
        assert codes == explanation.top(None)["code"].tolist()
        for place, (code, row) in enumerate(zip(codes, axes.collections, strict=True)):
            x, y = np.asarray(row.get_offsets()).T
            assert x == pytest.approx(expected(explanation, code))
            assert np.abs(y - place).max() <= 0.4

    def test_codes_by_presence_and_values_from_low_to_high(self) -> None:
        _, axes = cohort_beeswarm(cohort())
        rows = dict(zip(labels(axes), axes.collections, strict=True))
        colors = {c: [to_hex(f) for f in r.get_facecolors()] for c, r in rows.items()}
        dark, pale = ink(axes, PRESENT), ink(axes, ABSENT)
        assert colors["I50"] == [dark, dark, pale, pale]
        scale = colormaps[VALUES]
        assert colors["urea"][0] == to_hex(scale(0.0))
        assert colors["urea"][3] == to_hex(scale(1.0))
        # One value throughout is neither low nor high.
        assert set(colors["flat"]) == {to_hex(scale(0.5))}

    def test_a_value_that_was_not_measured_is_absent(self) -> None:
        explanation = cohort()
        explanation.features["labs"].mask[2, 0] = False
        _, axes = cohort_beeswarm(explanation, features=["labs"])
        row = axes.collections[labels(axes).index("urea")]
        assert to_hex(row.get_facecolors()[2]) == ink(axes, ABSENT)
        assert row.get_offsets()[2][0] == 0.0

    def test_dots_in_a_heap_are_spread_within_their_row(self) -> None:
        offsets = swarm([0.5] * 200, 0.01, 0.8)
        assert len(set(offsets)) == 200
        assert np.abs(offsets).max() <= 0.4 + 1e-9
        assert swarm([], 0.01, 0.8).size == 0


class TestCompleteness:
    def made(self, deltas: list[float], **changes: object) -> Explanation:
        count = len(deltas)
        return explain(
            {"conditions": tokens([[2]] * count)},
            delta=torch.tensor(deltas),
            f_input=torch.full((count,), 3.0),
            f_baseline=torch.full((count,), 1.0),
            **changes,
        )

    def test_dots_stand_at_the_relative_deltas(self) -> None:
        explanation = self.made([2e-7, -2e-6, 2e-2])
        figure, axes = completeness(explanation)
        within, beyond = axes.collections
        assert within.get_offsets()[:, 0].tolist() == pytest.approx([1e-7, 1e-6])
        assert beyond.get_offsets()[:, 0].tolist() == pytest.approx([1e-2])
        assert axes.get_xscale() == "log"
        assert "beyond: p2 (0.01)" in said(figure)
        assert "3 samples, 1 beyond" in said(figure)
        line = next(line for line in axes.lines if line.get_linestyle() == "--")
        assert set(line.get_xdata()) == {1e-3}

    def test_zero_infinite_and_unknown_are_at_the_edges(self) -> None:
        explanation = self.made([0.0, 2e-7, 1.0, math.nan])
        f_input = torch.tensor([3.0, 3.0, 1.0, 3.0])
        figure, axes = completeness(replace(explanation, f_input=f_input))
        figure.canvas.draw()
        ticks = [t.get_text() for t in axes.get_xticklabels()]
        assert ticks[0] == "0" and ticks[-1] == "∞"
        low, high = axes.get_xlim()
        for dots in axes.collections:
            places = dots.get_offsets()[:, 0]
            assert ((low < places) & (places < high)).all()
        assert len(axes.collections[1].get_offsets()) == 2

    def test_several_models_and_many_beyond(self) -> None:
        rows = {"good": self.made([1e-8] * 3), "$bad$": self.made([1.0] * 9)}
        figure, axes = completeness(rows, max_named=2)
        figure.canvas.draw()
        assert labels(axes) == ["good", "$bad$"]
        assert "p0 (0.5), p1 (0.5) +7 more" in said(figure)

    def test_bad_asks_are_refused(self) -> None:
        with pytest.raises(ValueError, match="there is no explanation"):
            completeness({})
        with pytest.raises(ValueError, match="'a' has no sample"):
            completeness({"a": cohort()[0:0]})
        with pytest.raises(ValueError, match="tolerance is 0, expected more than 0"):
            completeness(cohort(), tolerance=0)
        with pytest.raises(ValueError, match="max_named is 0"):
            completeness(cohort(), max_named=0)


@pytest.mark.parametrize("picture", [cohort_bar, cohort_beeswarm])
class TestBoth:
    def test_limits_and_features_are_checked(self, picture) -> None:
        with pytest.raises(ValueError, match="k is 0, expected at least 1"):
            picture(cohort(), k=0)
        with pytest.raises(KeyError, match="'drugs'.*'conditions', 'labs'"):
            picture(cohort(), features=["drugs"])
        with pytest.raises(ValueError, match="nothing to show"):
            picture(cohort()[0:0])
        empty = cohort()[3]
        with pytest.raises(ValueError, match="nothing to show: 'conditions'"):
            picture(empty, features="conditions")

    def test_odd_names_two_hundred_codes_and_one_patient(self, picture) -> None:
        ids = torch.arange(2, 202)[None]
        odd = [f"$C_{i}^2$ {'long ' * 30}" for i in range(200)]
        record = replace(tokens([[2]]), values=ids, mask=ids > 0)
        record = replace(record, vocabulary=("<pad>", "<unk>", *odd))
        explanation = explain({"conditions": record}, model_name="$M_1$")
        figure, axes = picture(explanation, k=30)
        figure.canvas.draw()
        first = axes[0] if isinstance(axes, np.ndarray) else axes
        assert len(first.get_yticklabels()) == 30
        assert all("…" in text for text in labels(first))
        assert "+170 more" in said(figure)

    def test_no_text_is_cut_off(self, picture) -> None:
        names = {"I50": "heart failure " * 9}
        figure, _ = picture(cohort(model_name="StageNet", names=names), k=3)
        figure.canvas.draw()
        box = figure.get_tightbbox(figure.canvas.get_renderer())
        assert box.x0 >= 0 and box.y0 >= 0
        assert (box.max <= figure.get_size_inches()).all()

    def test_the_title_says_of_what_and_of_how_many(self, picture) -> None:
        explanation = cohort(patient_ids=("a", "a", "b", "c"), baseline="unk")
        figure, _ = picture(explanation)
        assert "what adds to the logit of death" in said(figure)
        assert "4 samples of 3 patients, each against the baseline unk" in said(figure)


def test_no_picture_touches_pyplot() -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import test_visualization_cohort as c, test_visualization_patient as p\n"
        "from captum_ehr import visualization as v\n"
        "for f in (v.timeline, v.waterfall, v.heatmap): f(p.history())\n"
        "for f in (v.cohort_bar, v.cohort_beeswarm, v.completeness): f(c.cohort())\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
