"""Explanations in probabilities, and two explanations side by side."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from explanations import cohorts, explain, tokens, values
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_ehr import DeepLiftEHR, DeepLiftShapEHR, Explanation, reference_patients
from captum_ehr.datasets import tiny_model
from captum_ehr.explanation.described import sigmoid_slope


class TestInProbability:
    @given(cohorts())
    @settings(deadline=None, max_examples=40)
    def test_sums_are_the_change_of_the_probability(
        self, explanation: Explanation
    ) -> None:
        given = explanation.in_probability()
        at_input = torch.sigmoid(explanation.f_input)
        at_baseline = torch.sigmoid(explanation.f_baseline)
        torch.testing.assert_close(given.f_input, at_input)
        torch.testing.assert_close(
            given.total, at_input - at_baseline, rtol=1e-6, atol=1e-13
        )
        for key, one in explanation.attributions.items():
            assert torch.equal(given.attributions[key].sign(), one.double().sign())

    @pytest.mark.parametrize("change", [0.0, 1e-300, 1e-12, -1e-7, 1e-3, 1.0, -40.0])
    @pytest.mark.parametrize("at", [-300.0, -8.0, 0.0, 0.3, 20.0])
    def test_the_slope_has_no_cancellation(self, at: float, change: float) -> None:
        decimal = pytest.importorskip("decimal")
        with decimal.localcontext(prec=700):
            a, b = decimal.Decimal(at) + decimal.Decimal(change), decimal.Decimal(at)
            one = decimal.Decimal(1)

            def sigmoid(x: object) -> object:
                return one / (one + (-x).exp())

            if change:
                expected = float((sigmoid(a) - sigmoid(b)) / (a - b))
            else:
                expected = float(sigmoid(b) * (one - sigmoid(b)))
        two = (torch.tensor([x], dtype=torch.float64) for x in (at + change, at))
        found = sigmoid_slope(*two).item()
        # at + change is rounded; the slope changes by as much at most.
        assert found == pytest.approx(expected, rel=1e-12 + 1e-15 * abs(at))

    def test_the_residual_and_a_lost_part_come_along(self) -> None:
        half = explain(
            {"c": tokens([[2]])},
            {"c": torch.tensor([[1.0]])},
            f_input=torch.tensor([2.0]),
            f_baseline=torch.tensor([0.0]),
            delta=torch.tensor([-1.0]),
            mode="multilabel",
        ).in_probability()
        change = half.f_input - half.f_baseline
        torch.testing.assert_close(half.total, change / 2)
        torch.testing.assert_close(half.delta, -change / 2)
        torch.testing.assert_close(half.relative_delta, torch.tensor([0.5]).double())

    def test_a_probability_is_one_already(self) -> None:
        for mode in (None, "binary", "multiclass"):
            one = explain({"c": tokens([[2]])}, output="probability", mode=mode)
            assert one.in_probability() is one

    @pytest.mark.parametrize(
        ("mode", "words"),
        [
            ("multiclass", r'multiclass.*DeepLiftEHR\(model, output="probability"\)'),
            ("regression", "regression.*no probability"),
            (None, r'not known.*replace\(explanation, mode="binary"\)'),
        ],
    )
    def test_where_there_is_none_it_says_what_to_do(
        self, mode: str | None, words: str
    ) -> None:
        with pytest.raises(ValueError, match=words):
            explain({"c": tokens([[2]])}, mode=mode).in_probability()

    def test_a_model_explained_agrees_with_its_own_probability(self) -> None:
        model, batch = tiny_model()
        given = DeepLiftEHR(model).explain(batch)
        itself = DeepLiftEHR(model, output="probability").explain(batch)
        mine = given.in_probability()
        assert given.mode == "binary"
        torch.testing.assert_close(
            mine.f_input, itself.f_input.double(), rtol=1e-5, atol=1e-7
        )
        for key, one in itself.attributions.items():
            torch.testing.assert_close(
                mine.attributions[key], one.double(), rtol=2e-3, atol=1e-7
            )
        shap = DeepLiftShapEHR(model).explain(
            batch, reference_patients(model.dataset, 3)
        )
        moved = shap.in_probability()
        torch.testing.assert_close(
            moved.total, moved.f_input - moved.f_baseline, rtol=1e-4, atol=1e-7
        )


class TestCompare:
    @given(cohorts(), st.randoms(use_true_random=False))
    @settings(deadline=None, max_examples=40)
    def test_totals_are_those_of_both(self, one: Explanation, random: object) -> None:
        drawn = {
            key: torch.randn(a.shape).to(a.dtype) * one.features[key].mask
            for key, a in one.attributions.items()
        }
        other = replace(one, attributions=drawn, baseline="pad")
        # The order of patients may be another, that of a patient's samples not.
        order = sorted(range(len(one)), key=lambda i: one.patient_ids[i])
        if random.random() < 0.5:
            order = list(range(len(one)))
        frame = one.compare(other.select(order))
        found = frame.groupby("sample")[
            ["attribution", "attribution_other", "difference"]
        ].sum()
        found = found.reindex(range(len(one)), fill_value=0.0).to_numpy()
        totals = np.stack([one.total, other.total, one.total - other.total], axis=1)
        np.testing.assert_allclose(found, totals, rtol=1e-6, atol=1e-9)
        assert len(frame) == len(one.to_frame())

    def test_codes_stand_side_by_side(self) -> None:
        features = {"c": tokens([[2, 3], [4, 0]])}
        one = explain(features, {"c": torch.tensor([[1.0, 2.0], [4.0, 0.0]])})
        other = explain(features, {"c": torch.tensor([[0.5, 2.5], [4.0, 0.0]])})
        frame = one.compare(other[[1, 0]])
        columns = ["patient_id", "code", "attribution", "attribution_other"]
        assert frame[[*columns, "difference"]].to_dict("split")["data"] == [
            ["p0", "I50", 1.0, 0.5, 0.5],
            ["p0", "E11", 2.0, 2.5, -0.5],
            ["p1", "N18", 4.0, 4.0, 0.0],
        ]

    def test_models_may_read_other_features(self) -> None:
        both = {"c": tokens([[2]]), "l": values([[1.0]])}
        one = explain({"c": both["c"]}, {"c": torch.tensor([[1.0]])})
        two = explain(both, {"c": torch.tensor([[2.0]]), "l": torch.tensor([[4.0]])})
        for frame, sides in (
            (one.compare(two), ([1.0, 0.0], [2.0, 4.0])),
            (two.compare(one), ([2.0, 4.0], [1.0, 0.0])),
        ):
            assert frame["feature"].tolist() == ["c", "l"]
            assert frame["attribution"].tolist() == sides[0]
            assert frame["attribution_other"].tolist() == sides[1]
            assert frame["value"].tolist()[1] == 1.0
            assert frame["patient_id"].tolist() == ["p0", "p0"]

    def test_two_baselines_of_a_model(self) -> None:
        model, batch = tiny_model()
        unk, pad = (DeepLiftEHR(model).explain(batch, b) for b in ("unk", "pad"))
        frame = unk.compare(pad)
        both = torch.stack([unk.total, pad.total], 1)
        sums = frame.groupby("sample")[["attribution", "attribution_other"]].sum()
        torch.testing.assert_close(torch.tensor(sums.to_numpy()), both)
        assert frame["difference"].abs().max() > 1e-4

    def test_other_patients_records_and_scales_are_refused(self) -> None:
        one = explain({"c": tokens([[2], [3]])})
        with pytest.raises(ValueError, match="not in the second one, such as .*'p1'"):
            one.compare(one[:1])
        with pytest.raises(ValueError, match="not in the first one, such as .*'p1'"):
            one[:1].compare(one)
        with pytest.raises(ValueError, match="'p1' has E11 in one and N18 in"):
            one.compare(explain({"c": tokens([[2], [4]])}))
        lab = explain({"l": values([[1.0], [2.5]])})
        with pytest.raises(ValueError, match=r"l\[0\] = 2.5 in one and l\[0\] = 3 in"):
            lab.compare(explain({"l": values([[1.0], [3.0]])}))
        with pytest.raises(ValueError, match="logit, the other in probability"):
            one.compare(replace(one, output="probability"))

    def test_visits_numbered_by_another_padding_are_refused(self) -> None:
        one = explain({"c": tokens([[[[2], [3]]]])})
        with pytest.raises(ValueError, match="padded to 2 visits .* and to 3"):
            one.compare(explain({"c": tokens([[[[2], [3], [0]]]])}))
