"""Figures for a column of a journal: no word is lost, none lies over another."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from explanations import explain
from figure_words import meeting, outside, smallest, words_of
from matplotlib import style
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from captum_ehr import DeepLiftEHR
from captum_ehr.datasets import tiny_model
from captum_ehr.explanation import Explanation, FeatureRecord
from captum_ehr.scene.performance import performance_of
from captum_ehr.visualization import (
    cohort_bar,
    cohort_beeswarm,
    completeness,
    faithfulness,
    heatmap,
    intervals,
    pair_heatmap,
    pair_network,
    timeline,
    waterfall,
)
from captum_ehr.visualization.performance_plot import performance_curves

TITLES = (
    "Malignant neoplasm of unspecified part of bronchus or lung, x",
    "Type 2 diabetes mellitus with diabetic chronic kidney disease",
    "Acute respiratory failure with hypoxia and hypercapnia, other",
    "Heart failure, unspecified, chronic, with preserved ejection f",
)


def record(
    visits: int = 6,
    codes: int = 4,
    labs: int = 5,
    steps: int = 8,
    vocabulary: int = 40,
    count: int = 1,
    times: bool = True,
    **changes: object,
) -> Explanation:
    """Patients with codes of long names, labs of long names, an age and a sex."""
    random = torch.Generator().manual_seed(3)
    words = [f"{'ABCDEFGHIJ'[i % 10]}{i:02d}.{i % 10}" for i in range(vocabulary)]
    ids = torch.randint(2, vocabulary + 2, (count, visits, codes), generator=random)
    columns = tuple(
        f"Laboratory measurement number {i} with a long name in plasma"
        for i in range(labs)
    )
    seen = torch.rand(count, steps, labs, generator=random) > 0.1
    values = torch.rand(count, steps, labs, generator=random) * 100
    at = torch.arange(visits).mul(7.3).expand(count, visits) if times else None
    lab_at = (
        torch.arange(steps).mul(5.1).add(0.7).expand(count, steps) if times else None
    )
    features = {
        "conditions": FeatureRecord(ids, ids > 0, at, ("<pad>", "<unk>", *words)),
        "laboratory values": FeatureRecord(values, seen, lab_at, None, columns),
        "static": FeatureRecord(
            torch.tensor([[67.0, 1.0]]).expand(count, 2),
            torch.ones(count, 2, dtype=torch.bool),
            columns=("age", "male"),
        ),
    }
    attributions = {
        key: torch.randn(one.values.shape, generator=random) * one.mask * 0.3
        for key, one in features.items()
    }
    total = sum(one.double().flatten(1).sum(1) for one in attributions.values())
    given: dict[str, Any] = {
        "f_input": total - 1,
        "f_baseline": torch.full((count,), -1.0, dtype=torch.float64),
        "patient_ids": tuple(f"patient {i}" for i in range(count)),
        "model_name": "StageNet",
        "target_names": ("death within 90 days",),
        "baseline": "unk",
        "mode": "binary",
        "names": {word: TITLES[i % 4] for i, word in enumerate(words)},
        "units": {"laboratory values": dict.fromkeys(columns[::2], "mmol/L")},
    }
    return explain(features, attributions, **given | changes)


ONE = record()
SHORT = record(visits=1, codes=1, labs=1, steps=1)
MANY = record(count=12, visits=3, labs=3)
CODES = MANY.top(10, level=0.95)
JUDGED = performance_of(
    "death within 90 days of the discharge from the hospital",
    np.array([0.0, 1.0] * 30),
    np.linspace(0, 1, 60) ** 2,
    is_probability=True,
)
MODEL, BATCH = tiny_model()
PAIRS = DeepLiftEHR(MODEL).interactions(BATCH, "unk")["p1"]
NAMES = dict(zip(("I50.9", "I10", "N18.3", "E11.9"), TITLES))
BELIEF = DeepLiftEHR(MODEL).evaluate(
    BATCH,
    measures=["curves"],
    methods=["random", "InputXGradient"],
    show_progress=False,
)
OFF = replace(MANY, delta=MANY.delta + 0.1)


@cache
def long_one() -> Explanation:
    """Sixty visits, three hundred codes, forty columns at other times."""
    return record(visits=60, codes=5, labs=40, steps=60, vocabulary=300)


type Draw = Callable[..., tuple[Figure, Any]]

PUBLIC: dict[str, Draw] = {
    "timeline": lambda **k: timeline(ONE, **k),
    "timeline of one visit": lambda **k: timeline(SHORT, **k),
    "timeline with numbers": lambda **k: timeline(ONE, values=True, **k),
    "timeline by visit": lambda **k: timeline(record(times=False), **k),
    "waterfall": lambda **k: waterfall(ONE, **k),
    "waterfall of one visit": lambda **k: waterfall(SHORT, **k),
    "waterfall in probability": lambda **k: waterfall(ONE.in_probability(), **k),
    "waterfall by visit": lambda **k: waterfall(ONE, by="visit", **k),
    "heatmap": lambda **k: heatmap(ONE, **k),
    "heatmap of codes": lambda **k: heatmap(ONE, by="code", k=12, bins=6, **k),
    "heatmap of one visit": lambda **k: heatmap(SHORT, **k),
    "bar": lambda **k: cohort_bar(MANY, k=10, **k),
    "beeswarm": lambda **k: cohort_beeswarm(MANY, k=10, **k),
    "completeness": lambda **k: completeness({"StageNet": MANY, "other": OFF}, **k),
    "pairs": lambda **k: pair_heatmap(PAIRS, names=NAMES, **k),
    "network": lambda **k: pair_network(PAIRS, names=NAMES, **k),
    "performance": lambda **k: performance_curves(JUDGED, **k),
    "evaluation": lambda **k: faithfulness(BELIEF, **k),
}
LONG_ONES: dict[str, Draw] = {
    "timeline": lambda **k: timeline(long_one(), max_visits=60, values=True, **k),
    "waterfall": lambda **k: waterfall(long_one(), k=30, **k),
    "heatmap": lambda **k: heatmap(long_one(), by="code", bins=30, **k),
    "heatmap without bins": lambda **k: heatmap(
        long_one(), by="code", max_visits=60, **k
    ),
}
SIZES = [
    (3.5, 8.0),
    *(
        pytest.param(*size, marks=pytest.mark.complete)
        for size in [(7.0, 8.0), (3.5, 6.0)]
    ),
]
SOME = ("timeline", "heatmap", "bar", "performance")

ALL = [
    pytest.param(name, marks=() if name in SOME else pytest.mark.complete)
    for name in PUBLIC
]


def check(figure: Figure) -> None:
    words = words_of(figure)
    assert outside(figure, words) == []
    assert meeting(words) == []


class TestColumns:
    @pytest.mark.parametrize(("width", "points"), SIZES)
    @pytest.mark.parametrize("name", PUBLIC)
    def test_every_word_has_its_place(
        self, name: str, width: float, points: float
    ) -> None:
        figure, _ = PUBLIC[name](width=width, fontsize=points)
        assert figure.get_figwidth() == width
        check(figure)
        assert smallest(figure) >= 0.8 * points

    @pytest.mark.complete
    @pytest.mark.parametrize(("width", "points"), SIZES)
    @pytest.mark.parametrize("name", LONG_ONES)
    def test_in_long_records_too(self, name: str, width: float, points: float) -> None:
        check(LONG_ONES[name](width=width, fontsize=points)[0])

    @pytest.mark.complete
    @pytest.mark.parametrize("name", PUBLIC)
    def test_at_the_usual_size(self, name: str) -> None:
        check(PUBLIC[name]()[0])

    @pytest.mark.parametrize(("width", "points"), SIZES)
    def test_intervals(self, width: float, points: float) -> None:
        head = "What the codes do on average, in a heading that is a long one"
        looks = {"width": width, "fontsize": points}
        figure, _ = intervals(CODES, title=head, subtitle="small", **looks)
        check(figure)

    @pytest.mark.parametrize("suffix", ["pdf", "svg"])
    def test_on_paper(self, suffix: str, tmp_path) -> None:
        figure, _ = waterfall(ONE, width=3.5)
        path = tmp_path / f"figure.{suffix}"
        figure.savefig(path)
        assert path.stat().st_size > 2000
        check(figure)


class TestLooks:
    @pytest.mark.parametrize("name", ALL)
    def test_headings_are_what_is_asked_for(self, name: str) -> None:
        draw = PUBLIC[name]
        full = {text.get_text() for text, _ in words_of(draw()[0])}
        none, _ = draw(title=False, subtitle=False)
        own, _ = draw(title="Figure 1", subtitle="of the study")
        bare = {text.get_text() for text, _ in words_of(none)}
        assert len(bare) == len(full) - 2
        said = [text.get_text() for text, _ in words_of(own)]
        assert said.count("Figure 1") == said.count("of the study") == 1
        assert none.get_figheight() < draw()[0].get_figheight()
        assert own.axes[0].get_title("left") == "Figure 1"

    @pytest.mark.parametrize("name", ALL)
    def test_sizes_are_those_of_the_style_or_asked_for(self, name: str) -> None:
        with mpl.rc_context({"font.size": 20}):
            large, _ = PUBLIC[name](width=14)
        assert 12.9 <= smallest(large) <= 16
        assert 4.8 <= smallest(PUBLIC[name](fontsize=6)[0]) <= 6

    def test_what_cannot_be_is_refused(self) -> None:
        with pytest.raises(ValueError, match="width is 1, expected at least 2 inches"):
            waterfall(ONE, width=1)
        with pytest.raises(ValueError, match="fontsize is 0, expected points above 0"):
            waterfall(ONE, fontsize=0)
        mine = Figure().add_subplot()
        with pytest.raises(ValueError, match="leave one of them out"):
            waterfall(ONE, ax=mine, width=3.5)
        small = Figure(figsize=(3, 1)).add_subplot()
        with pytest.raises(ValueError, match="there is no room"):
            timeline(ONE, ax=small)

    def test_numbers_keep_the_sign_in_grey(self) -> None:
        figure, _ = timeline(ONE, values=True, max_codes=9)
        said = " ".join(text.get_text() for text, _ in words_of(figure))
        item = max(
            ONE.to_frame().query("feature == 'conditions'").itertuples(),
            key=lambda row: abs(row.attribution),
        )
        assert f"{item.code} {item.attribution:+.2f}".replace("-", "−") in said
        with pytest.raises(ValueError, match="values=True: there is no room"):
            heatmap(long_one(), by="code", max_visits=60, values=True, width=3.5)
        none, _ = heatmap(SHORT, values=False)
        assert len(none.axes[0].texts) < len(heatmap(SHORT)[0].axes[0].texts)


class TestTicks:
    @pytest.mark.parametrize("factor", [1e-6, 1e-3, 1.0, 1e4])
    def test_numbers_are_those_of_their_places(self, factor: float) -> None:
        parts = {key: factor * one for key, one in ONE.attributions.items()}
        start = torch.zeros(1, dtype=torch.float64)
        small = replace(
            ONE, attributions=parts, f_baseline=start, f_input=start + factor, mode=None
        )
        pictures = (waterfall(small, width=3.5), cohort_beeswarm(small, width=7))
        far = {key: 3 * one for key, one in ONE.in_probability().attributions.items()}
        beyond = replace(ONE.in_probability(), attributions=far)
        for figure, axes in (*pictures, waterfall(beyond)):
            figure.canvas.draw()
            said = [text.get_text() for text in axes.get_xticklabels()]
            assert said
            for text, place in zip(said, axes.get_xticks(), strict=True):
                number = float(text.replace("−", "-"))
                assert number == pytest.approx(place, rel=1e-3, abs=1e-12)


class TestStyles:
    @pytest.mark.parametrize("name", ALL)
    def test_dark_is_dark(self, name: str) -> None:
        with style.context("dark_background"):
            figure, _ = PUBLIC[name]()
        assert to_hex(figure.get_facecolor()) == "#000000"
        for text, _ in words_of(figure):
            on_data = text.get_bbox_patch() is None and _is_on_data(text)
            assert on_data or max(mpl.colors.to_rgb(text.get_color())) > 0.3, text
            box = text.get_bbox_patch()
            assert box is None or to_hex(box.get_facecolor()[:3]) == "#000000"

    @pytest.mark.parametrize("look", ["seaborn-v0_8-darkgrid", "ggplot", "bmh"])
    def test_of_others_nothing_is_lost(self, look: str) -> None:
        with style.context(look):
            check(waterfall(ONE, width=3.5)[0])
            check(cohort_bar(MANY, k=5, width=7, fontsize=8)[0])

    def test_serif_is_measured_as_serif(self) -> None:
        with mpl.rc_context({"font.family": "serif"}):
            check(timeline(ONE, width=7)[0])


def _is_on_data(text: Any) -> bool:
    """Chips, cells and halos have colours of their own."""
    return text.get_color() in ("#000000", "#ffffff")


class TestAxesGiven:
    @pytest.mark.parametrize("layout", [None, "constrained", "tight"])
    def test_panels_keep_to_themselves(self, layout: str | None) -> None:
        figure = Figure(figsize=(7, 6), layout=layout)
        panels = figure.subplots(2, 2).ravel()
        waterfall(ONE, ax=panels[0], fontsize=6)
        waterfall(ONE.in_probability(), ax=panels[1], fontsize=6)
        heatmap(ONE, ax=panels[2], fontsize=6)
        cohort_beeswarm(MANY, panels[3], fontsize=6)
        check(figure)

    def test_a_figure_in_a_column(self) -> None:
        figure = Figure(figsize=(3.5, 2.6))
        _, axes = waterfall(ONE, ax=figure.add_subplot(), fontsize=6)
        check(figure)
        rows = [text.get_text() for text in axes.get_yticklabels()]
        assert rows[-2].endswith("more")
        change = float(ONE.f_input[0] - ONE.f_baseline[0])
        bars = sum(bar.get_width() for bar in axes.patches)
        assert bars == pytest.approx(change, abs=1e-5)

    def test_a_timeline_has_fewer_chips_where_it_is_low(self) -> None:
        figure = Figure(figsize=(7, 5))
        timeline(ONE, ax=figure.add_subplot(), fontsize=6)
        check(figure)
        said = " ".join(text.get_text() for text, _ in words_of(figure))
        assert "more" in said

    def test_a_larger_figure_keeps_the_margins(self) -> None:
        figure, axes = waterfall(ONE, width=7)
        left = axes.get_window_extent().x0
        figure.set_size_inches(9, 6)
        check(figure)
        assert axes.get_window_extent().x0 == pytest.approx(left, abs=0.5)
