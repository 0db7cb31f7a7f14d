"""Some patients of an explanation, and several explanations as one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from explanations import assert_same, cohorts, explain, tokens, values
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_ehr import DeepLiftEHR, Explanation
from captum_ehr.datasets import tiny_model
from captum_ehr.propagation.diagnostics import Diagnostics, Operation


class TestSelect:
    def test_one_patient_a_slice_several_and_a_mask(self) -> None:
        time = torch.tensor([[1.0], [2.0], [3.0]])
        whole = explain({"c": tokens([[[2]], [[3]], [[4]]], time)}, target=(0, 1, 2))
        assert whole[1].patient_ids == ("p1",)
        assert whole[-1].target == (2,)
        assert whole[1:].to_frame()["time"].tolist() == [2.0, 3.0]
        assert whole.select([2, 0]).patient_ids == ("p2", "p0")
        assert whole[torch.tensor([True, False, True])].target == (0, 2)
        assert [len(one) for one in whole] == [1, 1, 1]
        assert len(whole.select([])) == 0

    @pytest.mark.parametrize("index", [3, -4, [0, 7]])
    def test_out_of_range_names_the_range(self, index: int | list[int]) -> None:
        with pytest.raises(IndexError, match=r"3 patient\(s\), indices 0 to 2"):
            explain({"c": tokens([[2], [3], [4]])})[index]

    def test_a_mask_of_another_length_is_refused(self) -> None:
        with pytest.raises(IndexError, match="has 1 entries, expected 2"):
            explain({"c": tokens([[2], [3]])})[[True]]

    def test_a_patient_has_all_of_its_samples(self) -> None:
        whole = explain(
            {"c": tokens([[2], [3], [4]])},
            target=(0, 1, 2),
            patient_ids=("a", "b", "a"),
        )
        assert whole["a"].target == (0, 2)
        assert whole[["b", "a"]].target == (1, 0, 2)
        assert whole["b"].to_frame()["code"].tolist() == ["E11"]

    def test_an_unknown_patient_is_named_with_some_that_there_are(self) -> None:
        with pytest.raises(KeyError, match="no patient 'x'.*it has 2: 'p0', 'p1'"):
            explain({"c": tokens([[2], [3]])})["x"]

    def test_numbers_and_masks_of_numpy_and_torch(self) -> None:
        whole = explain({"c": tokens([[2], [3], [4]])}, target=(0, 1, 2))
        assert whole[np.int64(1)].target == (1,)
        assert whole[np.array([2, 0])].target == (2, 0)
        assert whole[np.array([True, False, True])].target == (0, 2)
        assert whole[[np.True_, np.False_, np.False_]].target == (0,)
        assert whole[torch.tensor(2)].target == (2,)

    @pytest.mark.parametrize("index", [1.5, None, [0.0], {"a": 1}.items()])
    def test_other_things_are_refused(self, index: object) -> None:
        with pytest.raises(TypeError, match="an index, a slice, an id"):
            explain({"c": tokens([[2], [3]])})[index]

    def test_a_mask_may_not_be_half_of_numbers(self) -> None:
        with pytest.raises(IndexError, match="one True or False per patient"):
            explain({"c": tokens([[2], [3]])})[[True, 1]]


class TestConcat:
    @given(cohorts(), st.data())
    @settings(deadline=None, max_examples=40)
    def test_the_parts_of_a_whole_are_the_whole(
        self, whole: Explanation, data: st.DataObject
    ) -> None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=3)))
        ends = [0, *cuts, len(whole)]
        parts = [whole[a:b] for a, b in zip(ends, ends[1:])]
        assert_same(whole, Explanation.concat(parts))

    def test_batches_of_different_widths(self) -> None:
        one = explain(
            {
                "c": tokens([[2]]),
                "n": tokens([[[2, 3]]], torch.tensor([[1.0]])),
                "l": values([[[5.0, 6.0]]], [[0.0]], ("a", "b")),
            }
        )
        two = explain(
            {
                "c": tokens([[3, 4]]),
                "n": tokens([[[2], [4]]], torch.tensor([[1.0, 2.0]])),
                "l": values([[[7.0, 8.0], [9.0, 1.0]]], [[0.0, 3.0]], ("a", "b")),
            }
        )
        both = Explanation.concat([one, two])
        assert both.attributions["n"].shape == (2, 2, 2)
        frames = [part.to_frame() for part in (one, two)]
        frames[1]["sample"] += 1
        for column in ("sample", "visit", "time", "code", "value", "attribution"):
            expected = [v for frame in frames for v in frame[column].tolist()]
            found = both.to_frame()[column].tolist()
            assert list(map(str, found)) == list(map(str, expected))

    def test_a_flat_series_is_padded_columns_are_not(self) -> None:
        short = explain({"hr": values([[70.0]], [[0.0]])})
        long = explain({"hr": values([[60.0, 80.0]], [[0.0, 6.0]])})
        both = Explanation.concat([short, long]).to_frame()
        assert both["code"].tolist() == ["hr"] * 3
        assert both["value"].tolist() == [70.0, 60.0, 80.0]
        narrow, wide = (explain({"d": values([[1.0] * n])}) for n in (2, 3))
        with pytest.raises(ValueError, match=r"'d' has a different number of columns"):
            Explanation.concat([narrow, wide])

    def test_accounts_and_names_are_joined(self) -> None:
        parts = [
            explain(
                {"c": tokens([[2]])},
                diagnostics=Diagnostics((Operation("gelu", "elementwise", 2),), (m,)),
                names=names,
            )
            for m, names in (("a", {"I50": "heart"}), ("b", {"c": {"E11": "sugar"}}))
        ]
        both = Explanation.concat(iter(parts))
        assert both.diagnostics.operations == (Operation("gelu", "elementwise", 4),)
        assert both.diagnostics.messages == ("a", "b")
        assert both.names == {"I50": "heart", "c": {"E11": "sugar"}}

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"model_name": "RNN"}, "different models: 'GRU' and 'RNN'"),
            ({"output": "probability"}, "different scales of the output"),
            ({"target_names": ("died",)}, "different outputs"),
            ({"baseline": "pad"}, "different baselines: 'unk' and 'pad'"),
            ({"mode": "multilabel"}, "different kinds of label"),
            ({"fingerprint": "22"}, "different weights of the model: '11' and '22'"),
            ({"names": {"I50": "other"}}, "different names for 'I50'"),
            ({"units": {"I50": "mg"}}, "different units for 'I50': 'g' and 'mg'"),
        ],
    )
    def test_what_was_not_explained_alike_is_refused(
        self, changes: dict, words: str
    ) -> None:
        one = explain(
            {"c": tokens([[2]])},
            model_name="GRU",
            baseline="unk",
            mode="binary",
            fingerprint="11",
            names={"I50": "heart"},
            units={"I50": "g"},
        )
        assert len(Explanation.concat([one, replace(one, fingerprint="")])) == 2
        with pytest.raises(ValueError, match=words):
            Explanation.concat([one, one, replace(one, **changes)])

    def test_explanations_of_two_models_of_a_class_are_refused(self) -> None:
        models = [tiny_model(seed) for seed in (0, 1)]
        one, two = (DeepLiftEHR(model).explain(batch) for model, batch in models)
        assert len(Explanation.concat([one[:2], one[2:]])) == len(one)
        with pytest.raises(ValueError, match="different weights of the model"):
            Explanation.concat([one, two])

    def test_other_features_vocabularies_and_times_are_refused(self) -> None:
        def part(key: str = "c", **changes: object) -> Explanation:
            return explain({key: replace(tokens([[2]]), **changes)})

        time = torch.zeros(1, 1)
        vocabulary = ("<pad>", "<unk>", "E11")
        for other, words in (
            (part("d"), "different features"),
            (
                part(vocabulary=vocabulary),
                "vocabulary of feature 'c': number 2 is 'I50' in the first and 'E11'",
            ),
            (part(time=time), "times of feature 'c': 'none' and 'some'"),
            (explain({"c": tokens([[[2]]])}), r"shapes of \[2, 3\] axes"),
        ):
            with pytest.raises(ValueError, match=words):
                Explanation.concat([part(), other])
        with pytest.raises(ValueError, match="nothing to concatenate"):
            Explanation.concat([])
