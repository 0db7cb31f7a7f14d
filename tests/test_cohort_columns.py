"""Explanations as rows and patients, and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import zoo
from explanations import explain, tokens, values

from captum_ehr import DeepLiftEHR, Explanation
from captum_ehr.cohort.columns import (
    explanation_of,
    header_of,
    matching,
    observed_of,
    patients_schema,
    patients_table,
    rows_schema,
    rows_table,
)
from captum_ehr.cohort.order import ordered
from captum_ehr.propagation import Diagnostics, Structure


def again(explanation: Explanation) -> Explanation:
    """There and back, the words through JSON."""
    places = range(len(explanation))
    rows = rows_table(explanation, places)
    observed = pa.nulls(len(explanation), pa.float64())
    patients = patients_table(explanation, places, observed)
    assert rows.schema == rows_schema()
    assert patients.schema == patients_schema(explanation, pa.float64())
    header = json.loads(json.dumps(header_of(explanation)))
    return explanation_of(rows, patients, header, explanation.diagnostics)


def assert_equal(found: Explanation, expected: Explanation) -> None:
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame(), rtol=1e-6)
    for name in ("f_input", "f_baseline", "delta", "rescale_factor"):
        here, there = getattr(found, name), getattr(expected, name)
        assert here.dtype == expected.f_input.dtype
        torch.testing.assert_close(
            here, there, equal_nan=True, check_dtype=False, rtol=1e-6, atol=0
        )
    for name in ("target", "patient_ids", "model_name", "output", "target_names"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("baseline", "mode", "fingerprint", "names", "units"):
        assert getattr(found, name) == getattr(expected, name)
    for key, record in expected.features.items():
        other = found.features[key]
        assert other.vocabulary == record.vocabulary and other.columns == record.columns
        assert other.values.dtype == record.values.dtype


@zoo.each(
    [c for c in zoo.configs() if c.model in ("MLP", "StageNet", "RNN", "EHRMambaCEHR")]
)
def test_explanations_come_back(config: zoo.Config) -> None:
    model, batch = zoo.shared(config)
    # Of the samples' columns those come back that were asked for; see below.
    explanation = replace(DeepLiftEHR(model).explain(batch), sample_columns={})
    found = again(explanation)
    assert_equal(found, explanation)
    for key, record in explanation.features.items():
        other = found.features[key]
        width = other.values.shape[1:2]
        if other.values.shape == record.values.shape:
            assert torch.equal(other.values, record.values)
            assert torch.equal(other.mask, record.mask)
        else:
            assert width < record.values.shape[1:2]  # padding that nobody needs
        assert (other.time is None) == (record.time is None)
    for row in range(len(explanation)):
        one = again(explanation[row])
        assert_equal(one, explanation[row])


def test_ranges_units_and_what_was_measured_come_back() -> None:
    labs = values([[[1.0, 2.0], [3.0, 0.0]]])
    flags = torch.tensor([[[True, False], [False, True]]])
    explanation = explain({"labs": labs, "codes": tokens([[2]])}, mode="regression")
    explanation = explanation.with_measured({"labs": flags})
    explanation = explanation.with_ranges({"labs[0]": (None, 2), "labs[1]": (0.5, 9)})
    explanation = explanation.with_target("stay", "days")
    found = again(explanation)
    assert_equal(found, explanation)
    assert found.ranges == explanation.ranges
    assert found.ranges["labs"]["labs[0]"] == (-math.inf, 2.0)
    assert (found.target_names, found.target_unit) == (("stay",), "days")
    assert torch.equal(found.features["labs"].measured, flags)
    assert found.features["codes"].measured is None


def test_files_without_what_was_measured_are_read() -> None:
    explanation = explain({"labs": values([[[1.0], [2.0]]])})
    header = json.loads(json.dumps(header_of(explanation)))
    rows = matching(rows_table(explanation, [0]), header)
    assert "measured" not in rows.schema.names
    for name in ("target_unit", "ranges"):
        del header[name]
    del header["features"][0]["measured"]
    observed = pa.nulls(1, pa.float64())
    patients = patients_table(explanation, [0], observed)
    found = explanation_of(rows, patients, header, explanation.diagnostics)
    assert_equal(found, explanation)
    assert found.features["labs"].measured is None and found.ranges == {}


def test_columns_that_were_asked_for_are_those_of_the_samples() -> None:
    explanation = explain({"codes": tokens([[2], [3]])}, patient_ids=("a", "b"))
    patients = patients_table(explanation, [0, 1], pa.nulls(2, pa.float64()))
    day = date(2026, 3, 1)
    for name, held in {"sex": ["F", None], "age": [63, 48], "day": [day, day]}.items():
        patients = patients.append_column(name, pa.array(held))
    header, rows = header_of(explanation), rows_table(explanation, [0, 1])
    found = explanation_of(rows, patients, header, explanation.diagnostics)
    assert found.sample_columns == {
        "sex": ("F", None),
        "age": (63, 48),
        "day": ("2026-03-01", "2026-03-01"),
    }
    assert found["b"].to_frame()["age"].tolist() == [48]


@pytest.mark.parametrize(
    "given, held",
    [
        ([64.0, math.nan], [64.0, None]),
        (np.array([math.nan, 2]), [None, 2.0]),
        ([torch.tensor([2]), np.float32(1.5)], [2, 1.5]),
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pa.array(["f", None]), ["f", None]),
        ([date(2026, 3, 1), pd.NaT], [date(2026, 3, 1), None]),
        (
            np.array(["2026-03-01", "NaT"], "M8[ns]"),
            [datetime(2026, 3, 1), None],
        ),
    ],
)
def test_values_by_name_are_pythons_own(given: Any, held: list[Any]) -> None:
    read = {"patient_id": ["a", "b"], "sample": [0, 1], "length": [2, 1]}
    table = ordered([pa.table({**read, "shape": [0, 0]})], {"mine": given}, 2)
    assert table["mine"].to_pylist() == held


def test_deep_nested_visits_and_tuples_of_targets_come_back() -> None:
    deep = tokens([[[[2, 3], [4, 0]], [[0, 0], [2, 2]]]])
    explanation = explain({"deep": deep}, target=((1, 0),))
    found = again(explanation)
    assert_equal(found, explanation)
    assert torch.equal(found.features["deep"].values, deep.values)


def test_values_of_any_form_come_back() -> None:
    features = {
        "one": values([1.0, 2.0]),
        "labs": values([[1.0, math.nan], [3.0, 4.0]]),
        "series": values([[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [0.0, 2.0]]),
        "codes": tokens([[2, 3, 0], [4, 0, 0]]),
    }
    explanation = explain(features, patient_ids=("p", "p"))
    found = again(explanation)
    assert_equal(found, explanation)
    assert found.features["labs"].values[0, 1].isnan()
    assert torch.equal(found.features["series"].time, features["series"].time)


def test_what_has_no_number_is_null_and_never_nan() -> None:
    features = {"labs": values([[1.0, math.nan]]), "codes": tokens([[2, 3]])}
    shares = {"labs": torch.tensor([[math.nan, 0.5]]), "codes": torch.ones(1, 2)}
    explanation = explain(features, shares, f_input=torch.tensor([math.nan]))
    rows = rows_table(explanation, [7])
    for name in ("value", "attribution", "time"):
        column = rows[name].drop_null()
        assert not any(map(math.isnan, column.to_pylist()))
    assert rows["value"].null_count == 3 and rows["attribution"].null_count == 1
    assert rows["visit"].null_count == rows["time"].null_count == 4
    assert rows["sample"].to_pylist() == [7] * 4
    observed = pa.array([1.0])
    patients = patients_table(explanation, [7], observed)
    assert patients["f_input"].null_count == 1
    found = explanation_of(rows, patients, header_of(explanation), Diagnostics())
    assert found.f_input.isnan().all() and found.attributions["labs"][0, 0].isnan()


def test_messages_are_the_patients_own_and_the_rest_the_partitions() -> None:
    report = Diagnostics(messages=("a word",), structure=(Structure("sort", 2),))
    explanation = explain({"codes": tokens([[2]])}, diagnostics=report)
    held = Diagnostics(notes=("a note",), structure=report.structure)
    patients = patients_table(explanation, [0], pa.array([None], pa.float64()))
    rows, header = rows_table(explanation, [0]), header_of(explanation)
    found = explanation_of(rows, patients, header, held).diagnostics
    assert found.messages == ("a word",) and found.notes == ("a note",)
    assert found.structure == report.structure and found.cancellation > 0


def test_what_is_said_of_others_is_not_said_of_a_patient() -> None:
    said = "the attributions of patient(s) {} do not add up"
    report = Diagnostics(messages=(said.format([1]), "all are approximated"))
    features = {"codes": tokens([[2], [3]])}
    explanation = explain(features, patient_ids=("a", "b"), diagnostics=report)
    patients = patients_table(explanation, [0, 1], pa.nulls(2, pa.float64()))
    assert patients["messages"].to_pylist() == [
        ["all are approximated"],
        [said.format([0]), "all are approximated"],
    ]
    assert explanation["a"].diagnostics.messages == ("all are approximated",)
    joined = Explanation.concat([explanation[1], explanation[0], explanation])
    told = [said.format(rows) for rows in ([0], [3])]
    assert sorted(joined.diagnostics.messages) == ["all are approximated", *told]


@pytest.mark.parametrize("answer, times", [(0.0, math.inf), (math.nan, 0.0)])
def test_how_much_cancels_is_what_explain_says(answer: float, times: float) -> None:
    codes, shares = {"codes": tokens([[2, 3]])}, {"codes": torch.tensor([[1.0, -1.0]])}
    numbers = {"f_input": torch.tensor([answer]), "f_baseline": torch.zeros(1)}
    assert again(explain(codes, shares, **numbers)).diagnostics.cancellation == times


def test_rows_that_do_not_fit_are_named() -> None:
    explanation = explain({"codes": tokens([[2, 3]])})
    patients = patients_table(explanation, [0], pa.array([0.0]))
    rows, header = rows_table(explanation, [0]), header_of(explanation)
    twice = pa.concat_tables([rows, rows])
    with pytest.raises(ValueError, match="'p0', feature 'codes'.*two rows"):
        explanation_of(twice, patients, header, Diagnostics())
    rows = rows_table(explain({"codes": tokens([[0, 0, 0, 2]])}), [0])
    with pytest.raises(ValueError, match="'p0', feature 'codes'"):
        explanation_of(rows, patients, header, Diagnostics())


@pytest.mark.parametrize("mode", zoo.MODES)
def test_the_true_labels(mode: str) -> None:
    model, _ = zoo.shared(zoo.Config("MLP", "tensor", mode, zoo.HIDDEN))
    explainer = DeepLiftEHR(model)
    data = zoo.dataset("tensor", mode)
    labels = observed_of([data[n] for n in range(4)], explainer.model).to_pylist()
    if mode == "multilabel":
        assert [sum(flags) for flags in labels] == [2, 2, 2, 1] and len(labels[0]) == 4
    else:
        expected = {"binary": (0, 1, 0, 1), "multiclass": (0, 1, 2, 0)}
        assert labels == pytest.approx(expected.get(mode, (0, 1 / 3, 2 / 3, 1)))
    assert observed_of([{}], explainer.model).to_pylist() == [None]
