"""The explanation: its rows, its storage, its parts and its refusals."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from captum_ehr.explanation import Explanation, storage
from captum_ehr.adapter.records import FeatureRecord
from captum_ehr.propagation.diagnostics import Diagnostics, Operation

VOCABULARY = ("<pad>", "<unk>", "I50", "E11", "N18")


def explain(
    features: dict[str, FeatureRecord],
    attributions: dict[str, Tensor] | None = None,
    **changes: object,
) -> Explanation:
    """An explanation of some features; attributions are random on the mask."""
    count = next(iter(features.values())).values.shape[0] if features else 2
    if attributions is None:
        attributions = {
            key: torch.randn(record.values.shape) * record.mask
            for key, record in features.items()
        }
    given: dict[str, object] = {
        "f_input": torch.linspace(0.5, 1.5, count),
        "f_baseline": torch.zeros(count),
        "delta": torch.full((count,), 1e-7),
        "rescale_factor": torch.ones(count),
        "target": (0,) * count,
        "diagnostics": Diagnostics(),
        "patient_ids": tuple(f"p{i}" for i in range(count)),
    }
    return Explanation(attributions=attributions, features=features, **given | changes)


def tokens(ids: list, time: Tensor | None = None) -> FeatureRecord:
    """A record of token ids, 0 being padding."""
    values = torch.tensor(ids)
    return FeatureRecord(values, values != 0, time, VOCABULARY)


def values(
    numbers: list, time: list | None = None, columns: tuple[str, ...] | None = None
) -> FeatureRecord:
    """A record of values, all of them observed."""
    tensor = torch.tensor(numbers, dtype=torch.float32)
    mask = torch.ones(tensor.shape, dtype=torch.bool)
    return FeatureRecord(
        tensor, mask, None if time is None else torch.tensor(time), None, columns
    )


def rows(explanation: Explanation, *columns: str) -> list[tuple]:
    """The frame's rows, NA and NaN as None."""
    frame = explanation.to_frame()[list(columns)].astype(object)
    return list(frame.where(frame.notna(), None).itertuples(index=False, name=None))


def same(one: Tensor | None, other: Tensor | None) -> bool:
    """True for tensors with the same dtype, shape and bits."""
    if one is None or other is None:
        return one is other
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.numpy().tobytes() == other.numpy().tobytes()


def assert_same(one: Explanation, other: Explanation) -> None:
    """Assert that two explanations hold the same, bit for bit."""
    assert list(one.features) == list(other.features)
    for key, record in one.features.items():
        back = other.features[key]
        assert same(one.attributions[key], other.attributions[key])
        assert same(record.values, back.values)
        assert same(record.mask, back.mask)
        assert same(record.time, back.time)
        assert (record.vocabulary, record.columns) == (back.vocabulary, back.columns)
    for name in ("f_input", "f_baseline", "delta", "rescale_factor"):
        assert same(getattr(one, name), getattr(other, name))
    plain = "target diagnostics patient_ids model_name output target_names baseline"
    for name in [*plain.split(), "names"]:
        assert getattr(one, name) == getattr(other, name)


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

    def test_attributions_keep_full_precision(self) -> None:
        exact = torch.tensor([[1 / 3]], dtype=torch.float64)
        frame = explain({"c": tokens([[2]])}, {"c": exact}).to_frame()
        assert frame["attribution"].tolist() == [1 / 3]


class TestTop:
    def test_codes_are_aggregated_and_sorted(self) -> None:
        given = {"c": torch.tensor([[1.0, -3.0], [0.5, 0.0]])}
        explanation = explain({"c": tokens([[2, 2], [3, 0]])}, given)
        table = explanation.top()
        assert table.to_dict("records") == [
            {
                "feature": "c",
                "code": "I50",
                "name": "I50",
                "count": 2,
                "samples": 1,
                "patients": 1,
                "mean": -1.0,  # a sum of -2 in one patient, 0 in the other
                "mean_abs": 1.0,
                "sum": -2.0,
            },
            {
                "feature": "c",
                "code": "E11",
                "name": "E11",
                "count": 1,
                "samples": 1,
                "patients": 1,
                "mean": 0.25,
                "mean_abs": 0.25,
                "sum": 0.5,
            },
        ]
        assert explanation.top(1)["code"].tolist() == ["I50"]
        assert len(explanation.top(None)) == 2

    def test_nothing_gives_an_empty_table(self) -> None:
        assert len(explain({}).top()) == 0


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
FLOATS = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])
INTEGERS = st.sampled_from([torch.int64, torch.int32, torch.uint8])


@st.composite
def explanations(draw: st.DrawFn) -> Explanation:
    """Any explanation: odd texts, dtypes, NaN, padding that is not zero."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    count = draw(st.integers(0, 3))

    def floats(*shape: int) -> Tensor:
        wide = torch.randn(shape, generator=random, dtype=torch.float64)
        odd = torch.rand(shape, generator=random)
        wide[odd < 0.1], wide[odd > 0.95], wide[odd > 0.98] = math.nan, -0.0, math.inf
        return wide.to(draw(FLOATS))

    features, attributions = {}, {}
    for key in draw(st.lists(TEXT, unique=True, max_size=3)):
        is_token = draw(st.booleans())
        sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
        shape = (count, *sizes)
        mask = torch.rand(shape, generator=random) > draw(st.floats(0, 1))
        time, vocabulary = None, None
        if draw(st.booleans()):
            time = floats(count, sizes[0])
        if is_token:
            vocabulary = tuple(draw(st.lists(TEXT, min_size=1, max_size=5)))
            ids = torch.randint(0, len(vocabulary), shape, generator=random)
            record_values = torch.where(mask, ids, ids + 100).to(draw(INTEGERS))
        elif draw(st.booleans()):
            record_values = floats(*shape)
        else:
            record_values = torch.randint(0, 2, shape, generator=random).bool()
        columns = None
        if not is_token and draw(st.booleans()):
            columns = tuple(draw(TEXT) for _ in range(sizes[-1]))
        record = FeatureRecord(record_values, mask, time, vocabulary, columns)
        features[key], attributions[key] = record, floats(*shape)
    index = st.integers(0, 5) | st.tuples(st.integers(0, 5), st.integers(0, 5))
    return explain(
        features,
        attributions,
        f_input=floats(count),
        f_baseline=floats(count),
        delta=floats(count),
        rescale_factor=floats(count),
        target=tuple(draw(index) for _ in range(count)),
        diagnostics=Diagnostics(
            (Operation(draw(TEXT), draw(TEXT), 2, draw(st.booleans())),),
            tuple(draw(st.lists(TEXT, max_size=2))),
        ),
        patient_ids=tuple(draw(TEXT) for _ in range(count)),
        model_name=draw(TEXT),
        output=draw(st.sampled_from(["logit", "probability"])),
        target_names=draw(st.none() | st.tuples(TEXT, TEXT)),
        baseline=draw(TEXT),
        names=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
    )


def bits(explanation: Explanation) -> Explanation:
    """The same with every bfloat16 tensor seen as int16, which numpy knows."""

    def seen(tensor: Tensor) -> Tensor:
        return tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor

    copy = object.__new__(Explanation)
    fields = dict(vars(explanation))
    for name in ("f_input", "f_baseline", "delta", "rescale_factor"):
        fields[name] = seen(fields[name])
    fields["attributions"] = {k: seen(v) for k, v in fields["attributions"].items()}
    fields["features"] = {
        key: replace(
            record,
            values=seen(record.values),
            time=None if record.time is None else seen(record.time),
        )
        for key, record in fields["features"].items()
    }
    copy.__dict__.update(fields)
    return copy


class TestStorage:
    @given(explanation=explanations())
    @settings(deadline=None, max_examples=60)
    def test_everything_comes_back(
        self, explanation: Explanation, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("saved") / "x.parquet"
        assert explanation.save(path) == path
        assert_same(bits(explanation), bits(Explanation.load(path)))

    def test_any_reader_gets_the_frame(self, tmp_path: Path) -> None:
        record = values([[[1.0, math.nan]], [[3.0, 4.0]]], [[0.0], [1.0]])
        explanation = explain({"c": tokens([[2, 0], [3, 4]]), "l": record})
        path = explanation.save(tmp_path / "x.parquet")
        frame = pd.read_parquet(path)[list(storage.COLUMNS)]
        pd.testing.assert_frame_equal(frame, explanation.to_frame())
        column = pq.ParquetFile(path).metadata.row_group(0).column(0)
        assert column.compression == "ZSTD"

    def test_requires_grad_is_no_obstacle(self, tmp_path: Path) -> None:
        given = {"c": torch.ones(1, 1, requires_grad=True)}
        path = explain({"c": tokens([[2]])}, given).save(tmp_path / "x.parquet")
        assert same(Explanation.load(path).attributions["c"], torch.ones(1, 1))

    def test_other_files_are_refused_by_name(self, tmp_path: Path) -> None:
        text, table = tmp_path / "a.parquet", tmp_path / "b.parquet"
        text.write_text("code,attribution\n")
        pq.write_table(pa.table({"code": ["I50"]}), table)
        with pytest.raises(ValueError, match=r"a\.parquet is not a Parquet file"):
            Explanation.load(text)
        with pytest.raises(ValueError, match=r"b\.parquet .*not a saved Explanation"):
            Explanation.load(table)
        with pytest.raises(FileNotFoundError):
            Explanation.load(tmp_path / "c.parquet")

    def test_a_newer_format_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(storage, "FORMAT", 99)
            path = explain({"c": tokens([[2]])}).save(tmp_path / "x.parquet")
        with pytest.raises(ValueError, match="format 99.*up to format 2"):
            Explanation.load(path)


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
