"""What an explanation carries beside numbers: ranges, what was measured, samples."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from explanations import explain, rows, tokens, values
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from captum_ehr import DeepLiftEHR, Explanation, PyHealthAdapter
from captum_ehr.datasets import tiny_model
from captum_ehr.insights.views import rows_of, view_of
from captum_ehr.scene import patient_scene
from captum_ehr.scene.history import CARRIED, IMPUTED
from captum_ehr.visualization import heatmap, timeline, waterfall
from captum_ehr.visualization.html import patient_html
from captum_ehr.visualization.report import notebook_html

LABS = ("creatinine", "lactate")
FLAGS = [[[True, True], [False, True], [True, False]]]


def history(**changes: Any) -> Explanation:
    """Codes, and two labs at three times; creatinine 1.4 is carried forward once."""
    times = torch.tensor([[0.0, 5.0, 9.0]])
    labs = values([[[1.4, 2.5], [1.4, 1.0], [0.5, 1.0]]], times.tolist(), LABS)
    shares = {
        "codes": torch.tensor([[[0.5], [0.1], [0.0]]]),
        "labs": torch.tensor([[[0.3, 0.2], [-0.2, 0.1], [0.05, 0.15]]]),
    }
    features = {"codes": tokens([[[2], [3], [4]]], times), "labs": labs}
    return explain(features, shares, **changes)


def known() -> Explanation:
    """The same with all that can be said of it."""
    one = history().with_measured({"labs": FLAGS})
    one = one.with_units({"creatinine": "mg/dL"})
    return one.with_ranges({"labs": {"creatinine": (0.6, 1.3), "lactate": (None, 2)}})


class TestRanges:
    def test_by_column_by_feature_and_by_function(self) -> None:
        expected = {"labs": {"lactate": (0.5, 2.0)}}
        for given in (
            {"lactate": (0.5, 2), "troponin": (0, 1)},
            {"labs": {"lactate": [0.5, 2]}},
            {"labs": {"lactate": (0.5, 2.0)}.get},
        ):
            assert history().with_ranges(given).ranges == expected
        more = history().with_ranges(expected).with_ranges({"creatinine": (None, 1.3)})
        creatinine = (-math.inf, 1.3)
        assert more.ranges == {
            "labs": {"lactate": (0.5, 2.0), "creatinine": creatinine}
        }

    @pytest.mark.parametrize("bounds", [(2, 1), (math.nan, 1), 3, "ab", (1, 2, 3)])
    def test_what_is_no_range_is_refused(self, bounds: Any) -> None:
        with pytest.raises(ValueError, match="usual range of 'lactate'.*low not above"):
            history().with_ranges({"lactate": bounds})
        with pytest.raises(ValueError, match="'lactate'"):
            history(ranges={"labs": {"lactate": bounds}})

    def test_a_feature_that_there_is_not(self) -> None:
        with pytest.raises(KeyError, match="'vitals'.*its features are"):
            history().with_ranges({"vitals": {"lactate": (1, 2)}})

    def test_of_batches_that_disagree(self) -> None:
        one, other = (history().with_ranges({"lactate": (0, n)}) for n in (1, 2))
        with pytest.raises(ValueError, match="different usual ranges for 'lactate'"):
            Explanation.concat([one, other])
        assert Explanation.concat([one, history()]).ranges == one.ranges


class TestMeasured:
    def test_it_stands_in_the_frame_and_goes_along(self) -> None:
        one = known()
        held = [measured for (measured,) in rows(one, "measured")]
        assert held == [None] * 3 + np.ravel(FLAGS).tolist()
        two = Explanation.concat([one, one])
        assert two[1].features["labs"].measured.tolist() == FLAGS
        assert rows(two, "measured") == 2 * rows(one, "measured")
        compared = one.compare(one)
        assert compared["measured"].equals(one.to_frame()["measured"])
        assert rows(history(), "measured") == [(None,)] * 9

    def test_arrays_and_numbers_will_do(self) -> None:
        for flags in (
            np.array(FLAGS),
            torch.tensor(FLAGS).int(),
            np.array(FLAGS, float),
        ):
            one = history().with_measured({"labs": flags})
            assert one.features["labs"].measured.tolist() == FLAGS
        assert known().with_measured({"labs": None}).features["labs"].measured is None

    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            ({"labs": [[[True, True]]]}, ValueError, r"labs.*\(1, 1, 2\).*\(1, 3, 2\)"),
            ({"labs": torch.full((1, 3, 2), 2)}, ValueError, "labs.*0 and 1"),
            ({"labs": [[True], [True, False]]}, ValueError, "labs"),
            (
                {"codes": torch.ones(1, 3, 1)},
                ValueError,
                "codes.*continuous values alone",
            ),
            ({"vitals": FLAGS}, KeyError, "vitals.*its features are"),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, given: dict, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            history().with_measured(given)

    def test_known_of_one_batch_alone(self) -> None:
        with pytest.raises(ValueError, match="known of one of explanations 0 and 1"):
            Explanation.concat([known(), history()])


def stagenet() -> tuple[Any, dict[str, Any]]:
    """A StageNet over stays of two and three steps, and what its loader yields."""
    from pyhealth.datasets import create_sample_dataset, get_dataloader
    from pyhealth.models import StageNet

    samples = [
        {
            "patient_id": name,
            "codes": ([0.0, 1.0], [["a"], ["b", "c"]]),
            "labs": ([float(k) for k in range(steps)], [[1.0, 2.0]] * steps),
            "labs_measured": [[k != 1, True] for k in range(steps)],
            "died": died,
            "sex": sex,
            "age": age,
            "time": "noon",
            "notes": ["seen", "well"],
        }
        for name, steps, died, sex, age in (
            ("p1", 2, "yes", "F", 63),
            ("p2", 3, "no", "M", None),
        )
    ]
    dataset = create_sample_dataset(
        samples, {"codes": "stagenet", "labs": "stagenet_tensor"}, {"died": "binary"}
    )
    torch.manual_seed(0)
    model = StageNet(dataset, embedding_dim=4, chunk_size=4, levels=2).eval()
    return model, next(iter(get_dataloader(dataset, batch_size=2)))


class TestFromTheBatch:
    def test_entries_of_the_task_are_kept_and_padded(self) -> None:
        model, batch = stagenet()
        one = DeepLiftEHR(model).explain(batch)
        assert one.features["labs"].measured.tolist() == [
            [[True, True], [False, True], [False, False]],
            [[True, True], [False, True], [True, True]],
        ]
        assert one.sample_columns == {
            "died": ("yes", "no"),
            "sex": ("F", "M"),
            "age": (63, None),
            "sample_time": ("noon", "noon"),
        }
        frame = one["p1"].to_frame()
        assert list(frame)[:6] == ["patient_id", "sample", *one.sample_columns]
        assert frame["sex"].tolist() == ["F"] * len(frame)
        # A sample of the dataset as well; and the model reads none of it.
        alone = DeepLiftEHR(model).explain(model.dataset[0])
        assert alone.sample_columns == one["p1"].sample_columns
        assert alone.features["labs"].measured.tolist() == [
            FLAGS[0][:1] + [[False, True]]
        ]
        bare = {k: batch[k] for k in ("patient_id", "codes", "labs")}
        plain = DeepLiftEHR(model).explain(bare)
        assert plain.sample_columns == {} and plain.features["labs"].measured is None
        for key, shares in one.attributions.items():
            assert torch.equal(shares, plain.attributions[key])

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ([[[True, True]] * 2] * 3, "labs.*'labs_measured'.*3 samples"),
            ([[[True, True]] * 2] * 2, r"labs.*sample 1.*\(2, 2\).*not under 3"),
            ([[[True]] * 3] * 2, r"labs.*sample 0.*\(3, 1\)"),
            ([1, 0], r"labs.*sample 0.*\(\)"),
            (True, r"labs.*shape \(\).*\(2, 3, 2\)"),
            ([[["x", "y"]]] * 2, "labs.*measured is no tensor"),
            (torch.ones(2, 3), r"labs.*\(2, 3\).*\(2, 3, 2\)"),
            (torch.full((2, 3, 2), 0.5), "labs.*0 and 1"),
        ],
    )
    def test_flags_that_do_not_fit_are_refused(self, flags: Any, message: str) -> None:
        model, batch = stagenet()
        with pytest.raises(ValueError, match=message):
            PyHealthAdapter(model).encode({**batch, "labs_measured": flags})

    def test_several_kinds_are_words_and_lists_are_left(self) -> None:
        model, batch = tiny_model()
        batch |= {
            "site": torch.tensor([[1], [2], [1], [2]]),
            "ward": ["a", 3, None, True],
            "weights": torch.ones(4, 2),
            "loss": torch.tensor(1.0),
            "hospital": "H",
            "ids": {"a", "b", "c", "d"},
            "conditions_measured": torch.ones(4),
        }
        one = DeepLiftEHR(model).explain(batch)
        assert one.sample_columns == {
            "label": (1, 0, 0, 1),
            "site": (1, 2, 1, 2),
            "ward": ("a", "3", None, "True"),
        }


class TestSampleColumns:
    def test_they_go_along(self) -> None:
        model, batch = tiny_model()
        one = DeepLiftEHR(model).explain(batch)
        one = one.with_sample_columns({"sex": ["F", "M", np.str_("F"), math.nan]})
        assert one[[2, 0]].sample_columns == {"label": (0, 1), "sex": ("F", "F")}
        both = Explanation.concat([one[:2], replace(one[2:], sample_columns={})])
        assert both.sample_columns["sex"] == ("F", "M", None, None)
        assert one.compare(one)["sex"].tolist() == one.to_frame()["sex"].tolist()
        people = one.samples()
        assert people["sex"].tolist()[:3] == ["F", "M", "F"]
        assert people["f_input"].tolist() == one.f_input.double().tolist()
        assert len(one[:0].to_frame()) == 0 and "sex" in one[:0].to_frame()

    @pytest.mark.parametrize(
        ("columns", "error", "message"),
        [
            ({"value": [1]}, ValueError, "'value'.*another name"),
            ({"_x": [1]}, ValueError, "'_x'"),
            ({"f_input": [1]}, ValueError, "'f_input'"),
            ({"sex": ["F", "M"]}, ValueError, "'sex'.*2 values, expected 1"),
            ({"sex": "F"}, ValueError, "'sex'.*'F', expected 1"),
            ({"sex": [["F"]]}, TypeError, "'sex'.*list"),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, columns: dict, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            history().with_sample_columns(columns)

    def test_several_kinds_are_refused(self) -> None:
        one = explain({"codes": tokens([[2], [3]])})
        with pytest.raises(ValueError, match="'age'.*numbers and words"):
            one.with_sample_columns({"age": [63, "old"]})


class TestTarget:
    def test_of_a_regression(self) -> None:
        one = history(mode="regression", target_names=("los",))
        named = one.with_target("length of stay", "days")
        assert named.target_label(0) == "length of stay"
        assert patient_scene(named).measure == "days"
        assert one.with_target(unit="h").target_names == ("los",)
        assert named.with_target("stay").target_unit == "days"

    def test_of_classes(self) -> None:
        one = history(mode="multiclass", target=(1,), target_names=("a", "b"))
        assert one.with_target(["home", "ward"]).target_label(0) == "ward"
        with pytest.raises(ValueError, match=r"1 name\(s\) for 2 output"):
            one.with_target("home")
        with pytest.raises(ValueError, match="multiclass.*no unit"):
            one.with_target(unit="days")
        unnamed = history(target=(1,))
        assert unnamed.with_target(["a", "b", "c"]).target_label(0) == "b"
        with pytest.raises(ValueError, match=r"1 name\(s\) for 2 output"):
            unnamed.with_target("a")


def words_of(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(Text))


class TestViews:
    def test_the_timeline_has_hollow_dots_without_numbers(self) -> None:
        figure, axes = timeline(known())
        said = words_of(figure)
        assert "creatinine (mg/dL)" in said and "usual 0.6–1.3" in said
        assert "usual < 2" in said and IMPUTED in said
        # Creatinine 1.4 and lactate 1.0 stand there as measured, once each.
        assert said.count("1.4 ↑") == 1 and said.count("\n1\n") == 1
        hollow = [
            dots
            for dots in axes.collections
            if len(dots.get_facecolor())
            and to_hex(dots.get_facecolor()[0]) == "#ffffff"
        ]
        assert sum(len(dots.get_offsets()) for dots in hollow) == 2
        assert all(dots.get_sizes()[0] < 20 for dots in hollow)

    def test_what_the_timeline_is_given_goes_first(self) -> None:
        said = words_of(timeline(known(), reference={"creatinine": (0.1, 9)})[0])
        assert "usual 0.1–9" in said and "usual < 2" in said
        assert "1.4 ↑" not in said

    def test_repeated_values_are_noted_once_where_nothing_is_known(self) -> None:
        for page in (patient_html(patient_scene(history())), notebook_html(history())):
            assert page.count(CARRIED) == 1
        assert words_of(timeline(history())[0]).count(CARRIED) == 1
        flags = {"labs": torch.ones(1, 3, 2)}
        all_measured = history().with_measured(flags)
        assert CARRIED not in patient_html(patient_scene(all_measured))
        other = explain({"labs": values([[[1.0], [2.0]]])})
        assert CARRIED not in patient_html(patient_scene(other))

    def test_the_page_says_units_ranges_and_what_was_measured(self) -> None:
        page = patient_html(patient_scene(known()))
        assert page.count('class="dot imputed"') == 2
        assert page.count('class="dot"') == 4
        assert "usual 0.6–1.3" in page and 'class="usual"' in page
        assert IMPUTED in page and "mg/dL" in page
        given = "not measured, the model was given 1.4 mg/dL (usual 0.6–1.3)"
        assert given in page
        drawn = re.sub(r'title="[^"]*"|<title>.*?</title>|data-\w+="[^"]*"', "", page)
        assert drawn.count("1.4 ↑") == 3  # at its dot and in both tables

    def test_of_values_without_times(self) -> None:
        labs = values([[1.8, 0.4]], columns=LABS)
        one = explain({"labs": labs}).with_measured({"labs": [[True, False]]})
        one = one.with_units({"creatinine": "mg/dL"}).with_ranges(
            {"creatinine": (0, 1)}
        )
        for said in (
            notebook_html(one),
            patient_html(patient_scene(one)),
            words_of(timeline(one)[0]),
        ):
            assert "= 1.8 ↑ mg/dL" in said and "= not measured" in said

    def test_plain_data_and_rows_of_the_page(self) -> None:
        scene = patient_scene(known())
        (band,) = view_of(scene)["series"]
        first = next(line for line in band["lines"] if line["code"] == "creatinine")
        assert (first["unit"], first["usual"]) == ("mg/dL", [0.6, 1.3])
        assert [point["measured"] for point in first["points"]] == [True, False, True]
        other = next(line for line in band["lines"] if line["code"] == "lactate")
        assert other["usual"] == [None, 2.0]
        table = [row for row in rows_of(scene) if row[3] == "creatinine"]
        assert [row[6:8] for row in table] == [
            ["mg/dL", m] for m in (True, False, True)
        ]

    def test_sums_say_how_many_were_measured_and_what_is_unusual(self) -> None:
        labels = [t.get_text() for t in waterfall(known())[1].get_yticklabels()]
        assert "creatinine (mg/dL) ×3, 2 measured ↑↓" in labels
        assert "lactate ×3, 2 measured ↑" in labels
        figure, axes = heatmap(known(), by="code")
        assert "○ not measured" in words_of(figure)
        (circles,) = [c for c in axes.collections if len(c.get_offsets()) == 2]
        names = [t.get_text() for t in axes.get_yticklabels()]
        at = {
            (names[round(y)], round(x)) for x, y in circles.get_offsets() + (0.32, 0.36)
        }
        assert at == {("creatinine (mg/dL)", 1), ("lactate", 2)}
        assert "○" not in words_of(heatmap(history(), by="code")[0])

    def test_units_stand_in_the_cohorts_table(self) -> None:
        top = known().top()
        unit = top.set_index("code")["unit"]
        assert unit["creatinine"] == "mg/dL" and unit["lactate"] is None
        assert "mg/dL" in known().to_html().split("Patients")[0]

    def test_words_for_other_packages_and_terminals(self) -> None:
        assert "labs creatinine [mg/dL]: mean" in repr(known())
        (record,) = known().to_captum_records()
        said = " | ".join(record.raw_input_ids)
        assert "creatinine 1.4 mg/dL | lactate 2.5 | " in said
        assert "creatinine 1.4 mg/dL (not measured) | lactate 1 | " in said
