"""What is explained has its own name: a regression is no logit, targets stay apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zoo
from pyhealth.datasets import create_sample_dataset, get_dataloader
from pyhealth.models import StageNet
from pyhealth.tasks import BaseTask

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

SERIES = "stagenet_tensor"
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


class _Task(BaseTask):
    """As PyHealth's: it names the laboratory values that it makes a vector of."""

    task_name = "a task with three labs"
    LAB_CATEGORY_NAMES = ("Sodium", "Potassium", "Chloride")


class TestColumns:
    @pytest.fixture
    def model(self) -> Any:
        samples = [
            {
                "patient_id": f"p{n}",
                "codes": ([0.0, 1.0], ["A", "B"]),
                "labs": ([0.0, 1.0], [[1.0, 2.0, float(n)], [3.0, 0.0, 1.0]]),
                "vitals": ([0.0, 1.0], [[float(n), 1.0], [2.0, 3.0]]),
                "label": n % 2,
            }
            for n in range(4)
        ]
        schema = {"codes": "stagenet"} | dict.fromkeys(("labs", "vitals"), SERIES)
        data = create_sample_dataset(
            samples, schema, {"label": "binary"}, task_name=_Task.task_name
        )
        return StageNet(data, embedding_dim=8, chunk_size=4, levels=2).eval()

    def columns(self, model: Any) -> dict[str, set[str]]:
        batch = next(iter(get_dataloader(model.dataset, batch_size=4)))
        frame = DeepLiftEHR(model).explain(batch).to_frame()
        return {key: set(part["code"]) for key, part in frame.groupby("feature")}

    def test_the_task_names_them(self, model: Any) -> None:
        found = self.columns(model)
        assert found["labs"] == {*_Task.LAB_CATEGORY_NAMES}
        assert found["vitals"] == {"vitals[0]", "vitals[1]"}
        shown = AttributionVisualizer(model, model.dataset).view(0)
        lines = shown["series"][0]["lines"]
        assert {line["code"] for line in lines} == {*_Task.LAB_CATEGORY_NAMES}

    def test_a_processor_names_its_own(self, model: Any) -> None:
        model.dataset.input_processors["vitals"].feature_names = ["pulse", "SpO2"]
        assert self.columns(model)["vitals"] == {"pulse", "SpO2"}

    def test_names_that_do_not_fit_are_not_taken(self, model: Any) -> None:
        model.dataset.input_processors["vitals"].feature_names = [
            "pulse"
        ]  # one too few
        model.dataset.task_name = "another task"
        found = self.columns(model)
        assert found["vitals"] == {"vitals[0]", "vitals[1]"}
        assert found["labs"] == {"labs[0]", "labs[1]", "labs[2]"}
