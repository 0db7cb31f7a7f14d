"""The ways out: SHAP's plots, Captum's records, and a page of HTML."""

import re
from configparser import ConfigParser
from dataclasses import replace
from html.parser import HTMLParser
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from captum.attr import visualization
from explanations import cohorts, explain, tokens, values
from hypothesis import given, settings

from captum_ehr import Explanation
from captum_ehr.explanation import conversion
from captum_ehr.explanation.explained import Contrast

SCRIPT = "<script>alert('x')</script>"


@pytest.fixture
def marked() -> Explanation:
    """Three patients whose names, ids, target and messages are markup."""
    return explain(
        {
            "c": tokens([[2, 3], [4, 0], [2, 4]]),
            "l": values([[1.5, 2.0], [0.5, 1.0], [2.5, 0.0]], columns=("hr", "bp")),
        },
        names={"I50": SCRIPT, "bp": SCRIPT},
        units={"hr": SCRIPT},
        patient_ids=(SCRIPT, "p1", "p2"),
        target_names=(SCRIPT,),
        model_name=SCRIPT,
        mode="binary",
    )


class Tags(HTMLParser):
    """The elements of a page, and what they would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.loads: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.names.append(tag)
        wanted = ("src", "href", "srcset", "data", "action")
        self.loads += [v for k, v in attrs if k in wanted and not v.startswith("#")]


class TestShap:
    @given(cohorts())
    @settings(deadline=None, max_examples=30)
    def test_sums_are_kept(self, explanation: Explanation) -> None:
        pytest.importorskip("shap")
        if not len(explanation) or not len(explanation.to_frame()):
            return
        cohort = explanation.to_shap("codes")
        expected = explanation.total.numpy()
        np.testing.assert_allclose(cohort.values.sum(1), expected, 1e-6, 1e-9)
        np.testing.assert_allclose(cohort.base_values, explanation.f_baseline)
        assert len(set(cohort.feature_names)) == cohort.shape[1]
        if len(explanation[0].to_frame()):
            one = explanation[0].to_shap()
            np.testing.assert_allclose(one.values.sum(), expected[0], 1e-6, 1e-9)
            assert one.base_values == explanation.f_baseline[0].item()

    def test_codes_are_columns_that_align(self) -> None:
        pytest.importorskip("shap")
        cohort = explain(
            {
                "c": tokens([[2, 2], [3, 0]]),
                "d": tokens([[2], [0]]),
                "l": values(
                    [[[1.0], [3.0]], [[5.0], [7.0]]], [[0.0, 1.0]] * 2, ("hr",)
                ),
            },
            {
                "c": torch.tensor([[1.0, 2.0], [4.0, 0.0]]),
                "d": torch.tensor([[8.0], [0.0]]),
                "l": torch.tensor([[[16.0], [32.0]], [[64.0], [128.0]]]),
            },
        ).to_shap()
        assert cohort.feature_names == ["I50 (c I50)", "I50 (d I50)", "hr", "E11"]
        assert cohort.values.tolist() == [[3.0, 8.0, 48.0, 0.0], [0.0, 0.0, 192.0, 4.0]]
        assert cohort.data.tolist() == [[2.0, 1.0, 2.0, 0.0], [0.0, 0.0, 6.0, 1.0]]

    def test_tokens_say_what_and_where(self) -> None:
        pytest.importorskip("shap")
        one = explain(
            {
                "c": tokens([[[2, 0], [3, 4]]]),
                "l": values([[61.25]], columns=("weight",)),
            },
            names={"I50": "heart failure"},
            units={"weight": "kg"},
        ).to_shap()
        assert one.feature_names == ["heart failure", "E11", "N18", "weight"]
        where = ["c visit 1", "c visit 2", "c visit 2", "61.25 kg"]
        assert one.display_data.tolist() == where
        words = ["heart failure; ", "E11; ", "N18; ", "weight 61.25 kg; "]
        assert one.data.tolist() == words

    def test_shaps_plots_run(self, marked: Explanation) -> None:
        shap = pytest.importorskip("shap")
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.use("Agg")
            import matplotlib.pyplot as plt

            one, cohort = marked[0].to_shap(), marked.to_shap()
            for plot, given in (
                (shap.plots.waterfall, one),
                (shap.plots.bar, one),
                (shap.plots.bar, cohort),
                (shap.plots.beeswarm, cohort),
                (shap.plots.heatmap, cohort),
            ):
                plot(given, show=False)
                texts = [t.get_text() for t in plt.gcf().findobj(plt.Text)]
                assert any("E11" in text for text in texts)
                plt.close("all")
        html = shap.plots.text(one, display=False)
        assert SCRIPT not in html
        assert "hr 1.5" in html

    def test_tokens_are_one_patients(self, marked: Explanation) -> None:
        pytest.importorskip("shap")
        with pytest.raises(ValueError, match=r"has 3: explanation\[0\].to_shap"):
            marked.to_shap("tokens")
        with pytest.raises(ValueError, match="'visits', expected 'tokens' or 'codes'"):
            marked.to_shap("visits")


class TestCaptumRecords:
    def test_they_say_what_was_explained(self, marked: Explanation) -> None:
        first = marked.to_captum_records(labels=[1, 0, 1])[0]
        frame = marked[0].to_frame()
        assert first.attr_score == pytest.approx(frame["attribution"].sum())
        assert first.word_attributions.abs().max().item() == 1.0
        assert first.pred_prob == pytest.approx(torch.sigmoid(marked.f_input[0]).item())
        assert (first.true_class, len(first.raw_input_ids)) == ("1", len(frame))
        assert first.convergence_score == marked.delta[0].item()
        raw = marked.to_captum_records(normalize=False)[0].word_attributions
        assert raw.tolist() == frame["attribution"].tolist()
        with pytest.raises(ValueError, match="labels has 1 entries, expected 3"):
            marked.to_captum_records(labels=[1])

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"mode": "binary"}, ("1", 0.6225)),
            ({"mode": "multiclass"}, ("", float("nan"))),
            ({"mode": "multiclass", "output": "probability"}, ("", 0.5)),
            ({"mode": "regression"}, ("", 0.5)),
            ({"mode": None}, ("", float("nan"))),
            ({"mode": "binary", "target": (Contrast(0, 1),)}, ("", float("nan"))),
        ],
    )
    def test_a_probability_that_is_not_known_is_not_made_up(
        self, changes: dict, expected: tuple
    ) -> None:
        one = explain({"c": tokens([[2]])}, target_names=("1",), **changes)
        (record,) = one.to_captum_records()
        assert (record.pred_class, record.pred_prob) == (
            expected[0],
            pytest.approx(expected[1], abs=1e-4, nan_ok=True),
        )

    def test_captum_shows_them(self, marked: Explanation) -> None:
        html = visualization.visualize_text(
            marked.to_captum_records(labels=[SCRIPT] * 3)
        )
        assert "script" not in Tags(html.data).names
        assert "&lt;script&gt;" in html.data
        assert "E11" in html.data

    def test_padding_alone_has_no_words(self) -> None:
        nothing = explain({"c": tokens([[0], [2]])})
        empty, full = nothing.to_captum_records()
        assert (empty.raw_input_ids, len(full.raw_input_ids)) == ([], 1)
        assert empty.attr_score == 0.0


class TestDisplays:
    def test_where_nothing_draws_the_text_is_shown(
        self, marked: Explanation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(conversion, "entry_points", lambda **_: ())
        assert marked._repr_html_() is None
        with pytest.raises(ImportError, match="to_html: no installed.* pip install"):
            marked.to_html()

    def test_another_package_may_draw(
        self, marked: Explanation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def drawn(*given: object, **named: object) -> str:
            return f"{len(given)} {named}"

        point = SimpleNamespace(load=lambda: drawn)
        monkeypatch.setattr(conversion, "entry_points", lambda **_: (point,))
        assert marked._repr_html_() == "1 {}"
        assert marked.to_html(tmp_path / "x", title="a") == "2 {'title': 'a'}"

    def test_ours_are_declared_and_there(self) -> None:
        config = ConfigParser()
        config.read(Path(__file__).resolve().parents[1] / "setup.cfg")
        lines = config["options.entry_points"]["captum_ehr.displays"].split("\n")
        points = [line.split(" = ") for line in lines if line]
        assert [name for name, _ in points] == ["notebook", "page"]
        for name, value in points:
            assert callable(EntryPoint(name, value, "captum_ehr.displays").load())


class TestHtml:
    def test_markup_is_text_and_nothing_is_loaded(
        self, marked: Explanation, tmp_path: Path
    ) -> None:
        html = marked.to_html(tmp_path / "page.html")
        assert (tmp_path / "page.html").read_text(encoding="utf-8") == html
        assert "alert" in html and SCRIPT not in html
        tags = Tags(html)
        plain = replace(marked, names={}, units={}, target_names=("died",))
        plain = replace(plain, model_name="RNN", patient_ids=("p0", "p1", "p2"))
        ours = Tags(plain.to_html()).names
        assert tags.names.count("script") == ours.count("script")
        assert tags.loads == []
        assert not re.search(r"@import|url\(", html)
        assert "E11" in html

    def test_of_no_patients(self, marked: Explanation) -> None:
        assert "<html" in marked[[]].to_html(title="none")

    def test_the_notebooks_view_is_escaped_too(self, marked: Explanation) -> None:
        assert "script" not in Tags(marked._repr_html_()).names
