"""Times that are gaps, or begin again: one clock, or the order of the visits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explanations import VOCABULARY, explain, values
from pyhealth.datasets import create_sample_dataset, get_dataloader
from pyhealth.models import StageNet

from captum_ehr import DeepLiftEHR, Explanation
from captum_ehr.explanation import FeatureRecord
from captum_ehr.scene import patient_scene
from captum_ehr.visualization import timeline
from captum_ehr.visualization.html import patient_html

GAPS = [[0.0, 700.0, 30.0], [0.0, 10.0, 90.0]]
HOURS = [[1.0, 5.0, 2.0], [1.0, 2.0, 3.0]]


def record(gaps: bool = True, **said: Any) -> Explanation:
    """Two patients: codes with gaps (the second's look like a clock), and labs."""
    ids = torch.tensor([[[2, 3], [4, 0], [2, 0]]] * 2)
    time = torch.tensor(GAPS if gaps else [[0.0, 700.0, 730.0], [0.0, 10.0, 100.0]])
    return explain(
        {
            "codes": FeatureRecord(ids, ids != 0, time, VOCABULARY),
            "labs": values([[[1.0], [2.0], [3.0]]] * 2, HOURS),
        },
        **said,
    )


def model_and_batch(times: list[list[float]]) -> tuple[Any, Any]:
    samples = [
        {
            "patient_id": f"p{i}",
            "codes": (list(gaps), [["A", "B"], ["C"], ["A"]]),
            "label": i % 2,
        }
        for i, gaps in enumerate(times)
    ]
    data = create_sample_dataset(samples, {"codes": "stagenet"}, {"label": "binary"})
    model = StageNet(data, embedding_dim=8, chunk_size=4, levels=2).eval()
    return model, next(iter(get_dataloader(data, batch_size=len(samples))))


class TestClock:
    def test_gaps_are_added_up(self) -> None:
        said = record().with_times({"codes": "gaps"})
        for row, clock in enumerate(np.cumsum(GAPS, axis=1)):
            bands = patient_scene(said, row).bands
            assert [step.time for step in bands[0].steps] == clock.tolist()
            part = said[row].to_frame()
            mine = part[part["feature"] == "codes"].drop_duplicates("visit")
            assert mine["time"].tolist() == clock.tolist()

    def test_what_is_no_clock_is_in_order(self) -> None:
        said = record().with_times("order")
        scene = patient_scene(said, 1)
        assert [visit.visit for visit in scene.visits] == [1, 2, 3]
        assert "no clock" in scene.axis.label
        assert scene.axis.ticks == [1, 2, 3]
        assert said.to_frame()["time"].isna().all()

    def test_one_clock_per_figure(self) -> None:
        # the first patient's labs begin again: they stand in order on the codes' axis
        scene = patient_scene(record().with_times({"codes": "gaps"}), 0)
        assert [band.is_timed for band in scene.bands] == [True, False]
        places, remark = scene.axis.places(scene.bands[1])
        assert places == tuple(np.linspace(0, 730, 3)) and "in order" in remark

    def test_unsaid_times_beside_gaps_are_not_believed(self) -> None:
        scene = patient_scene(record(), 0)
        assert not any(band.is_timed for band in scene.bands)

    def test_what_is_guessed_is_said(self) -> None:
        scene = patient_scene(record(gaps=False), 1)
        assert scene.axis.label == "time (taken as elapsed)"
        said = record(gaps=False).with_times({"codes": "elapsed"})
        assert patient_scene(said, 0).axis.label == "time"
        named = patient_scene(record(gaps=False), 1, time_label="hours")
        assert named.axis.label == "hours"

    @pytest.mark.parametrize(
        ("times", "words"),
        [
            ("elapsed", "'codes'.*patient 0 fall to 30 at step 3"),
            ({"codes": "gap"}, "'codes'.*'gap', expected one of 'elapsed', 'gaps'"),
            ({"drugs": "gaps"}, "'drugs'"),
        ],
    )
    def test_what_cannot_be_is_refused(self, times: Any, words: str) -> None:
        with pytest.raises((ValueError, KeyError), match=words):
            record().with_times(times)

    def test_a_gap_is_not_negative(self) -> None:
        one = record()
        one.features["codes"].time[1, 2] = -1.0
        with pytest.raises(ValueError, match=r"patient 1 at step 3 is -1"):
            one.with_times({"codes": "gaps"})

    def test_padding_and_files_keep_it(self, tmp_path: Path) -> None:
        said = record().with_times({"codes": "gaps", "labs": "order"})
        back = Explanation.load(said.save(tmp_path / "x.parquet"))
        kinds = [one.times for one in back.features.values()]
        assert kinds == ["gaps", "order"]
        both = Explanation.concat([said, back])
        assert both.features["codes"].times == "gaps"
        with pytest.raises(ValueError, match="times of feature 'codes'"):
            Explanation.concat([said, record()])


class TestDataset:
    def test_gaps_of_any_patient_are_gaps_of_all(self) -> None:
        model, batch = model_and_batch(GAPS)
        explanation = DeepLiftEHR(model).explain(batch)
        assert explanation.features["codes"].times == "order"
        scene = patient_scene(explanation, 1)  # whose gaps grow
        assert [visit.visit for visit in scene.visits] == [1, 2, 3]
        assert math.isnan(scene.visits[0].time)

    def test_times_that_run_forward_are_elapsed(self) -> None:
        model, batch = model_and_batch([[0.0, 1.0, 4.0], [0.0, 2.0, 3.0]])
        explanation = DeepLiftEHR(model).explain(batch)
        scene = patient_scene(explanation, 1)
        assert [visit.time for visit in scene.visits] == [0.0, 2.0, 3.0]


def test_axes_have_no_visit_that_there_is_not() -> None:
    said = record().with_times("order")
    _, ax = timeline(said, 0)
    assert ax.get_xticks().tolist() == [1, 2, 3]
    page = patient_html(patient_scene(said, 0))
    ticks = page.split('class="tick"')[1:4]
    assert [tick.split(">")[1].split("<")[0] for tick in ticks] == ["1", "2", "3"]
    ids = torch.full((1, 60, 1), 2)
    long = explain({"codes": FeatureRecord(ids, ids > 0, None, VOCABULARY)})
    assert patient_scene(long).axis.ticks == [10, 20, 30, 40, 50, 60]
