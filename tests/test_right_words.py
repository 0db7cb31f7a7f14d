"""What is explained has its own name: a regression is no logit, targets stay apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zoo

from captum_ehr import DeepLiftEHR, Explanation
from captum_ehr.insights import AttributionVisualizer
from captum_ehr.scene import patient_scene
from captum_ehr.visualization import (
    cohort_bar,
    cohort_beeswarm,
    heatmap,
    timeline,
    waterfall,
)
from captum_ehr.visualization.html import patient_html

HIDDEN = {"embedding_dim": 8, "hidden_dim": 8}


@pytest.fixture(scope="module")
def regression() -> tuple[Any, Explanation]:
    model, batch = zoo.build(zoo.Config("MLP", "sequence", "regression", HIDDEN))
    exp = DeepLiftEHR(model).explain(batch)
    assert exp.mode == "regression" and exp.target_names == ("label",)
    return model, replace(exp, target_names=("length of stay",), target_unit="days")


def texts(figure: Any) -> str:
    return " ".join(
        str(part.get_text()) for part in figure.findobj() if hasattr(part, "get_text")
    )


class TestRegression:
    def test_no_logit_and_no_probability_anywhere(
        self, regression: Any, tmp_path: Path
    ) -> None:
        model, exp = regression
        page = AttributionVisualizer(model, model.dataset)
        said = [repr(exp), exp.to_html(), repr(exp[0]), exp[0]._repr_html_() or ""]
        said.append(patient_html(page.scene(0, page.setting())))
        assert page.view(0)["output"] == "output"
        said += [texts(draw(exp, 0)[0]) for draw in (timeline, waterfall, heatmap)]
        said += [texts(draw(exp)[0]) for draw in (cohort_bar, cohort_beeswarm)]
        for words in said:
            assert words
            assert "logit" not in words
            assert "probability" not in words

    def test_the_unit_stands_beside_the_numbers(self, regression: Any) -> None:
        _, exp = regression
        scene = patient_scene(exp)
        assert scene.head.endswith("output of length of stay (days)")
        assert scene.output_words("input").endswith(" days")
        assert "attribution (days)" in texts(timeline(exp, 0)[0])

    def test_a_file_keeps_it(self, regression: Any, tmp_path: Path) -> None:
        back = Explanation.load(regression[1].save(tmp_path / "x.parquet"))
        assert back.target_unit == "days"
