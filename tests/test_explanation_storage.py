"""Explanations on disk: everything comes back, other files are refused."""

import base64
import json
import math
import resource
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from explanations import assert_same, bits, explain, explanations, same, tokens, values
from hypothesis import given, settings
from safetensors.torch import load, save

from captum_ehr.explanation import Explanation, storage
from captum_ehr.propagation import Diagnostics, Structure

WORDS, TENSORS = b"captum_ehr", b"captum_ehr.tensors"


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

    def test_one_value_per_patient_without_an_axis_of_its_own(
        self, tmp_path: Path
    ) -> None:
        explanation = explain({"age": values([61.0, 47.0])})
        loaded = Explanation.load(explanation.save(tmp_path / "x.parquet"))
        assert_same(bits(explanation), bits(loaded))
        assert "age" in repr(loaded)

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

    @pytest.mark.parametrize(
        ("number", "cure"), [(99, "Install a newer"), (2, "Explain them again")]
    )
    def test_another_format_is_refused(
        self, number: int, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(storage, "FORMAT", number)
            path = explain({"c": tokens([[2]])}).save(tmp_path / "x.parquet")
        words = rf"x\.parquet .*format {number}.* reads the formats 3 and 4.*{cure}"
        with pytest.raises(ValueError, match=words):
            Explanation.load(path)

    def test_numbers_of_numpy_and_torch_stay_what_they_are(
        self, tmp_path: Path
    ) -> None:
        made = explain(
            {"l": values([[1.0]], columns=("hr",))},
            target=(np.int64(0),),
            ranges={"l": {"hr": (np.float32(0.5), torch.tensor(1.5))}},
            sample_columns={
                "age": (np.float32(71.5),),
                "ill": (np.bool_(True),),
                "bmi": (torch.tensor(22.5),),
                "day": (date(2026, 3, 1),),
            },
        )
        for held in (made, Explanation.load(made.save(tmp_path / "x.parquet"))):
            assert held.ranges == {"l": {"hr": (0.5, 1.5)}} and held.target == (0,)
            assert repr(held.sample_columns) == repr(
                {"age": (71.5,), "ill": (True,), "bmi": (22.5,), "day": ("2026-03-01",)}
            )

    def test_padding_takes_no_room(self, tmp_path: Path) -> None:
        ids = torch.zeros(40, 5000, dtype=torch.long)
        ids[:, 0] = 2
        given = {"c": (ids > 0).float()}
        path = explain({"c": tokens(ids.tolist())}, given).save(tmp_path / "x.parquet")
        assert path.stat().st_size < 50_000

    def test_everything_told_of_the_run_comes_back(self, tmp_path: Path) -> None:
        report = Diagnostics(
            structure=(Structure("where", 3, 0.5, "none"),),
            cancellation=math.inf,
            rewrites=("StageNetLayer",),
        )
        made = explain({"c": tokens([[2]])}, diagnostics=report)
        back = Explanation.load(made.save(tmp_path / "x.parquet"))
        assert back.diagnostics == report


def pack(data: bytes) -> bytes:
    return base64.b64encode(zlib.compress(data, 9))


class Forged:
    """A saved file to tamper with."""

    def __init__(self, folder: Path) -> None:
        self.explanation = explain(
            {
                "c": tokens([[2, 3, 0], [4, 0, 0]]),
                "l": values([[1.0, 2.0], [3.0, 4.0]]),
            },
            delta=torch.zeros(2),
            f_input=torch.tensor([3.0, 5.0]),
            attributions={
                "c": torch.tensor([[1.0, 0.5, 0.0], [2.0, 0.0, 0.0]]),
                "l": torch.tensor([[1.0, 0.5], [2.5, 0.5]]),
            },
        )
        self.path = self.explanation.save(folder / "x.parquet")
        self.table = pq.read_table(self.path)
        metadata = pq.read_metadata(self.path).metadata
        self.header = json.loads(metadata[WORDS])
        self.tensors = load(zlib.decompress(base64.b64decode(metadata[TENSORS])))

    def write(
        self,
        raw: Any = None,
        table: pa.Table | None = None,
        packed: str | bytes | None = None,
    ) -> Path:
        table = self.table if table is None else table
        metadata = {
            WORDS: json.dumps(self.header) if raw is None else raw,
            TENSORS: pack(save(self.tensors)) if packed is None else packed,
        }
        with pq.ParquetWriter(self.path, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({k: v for k, v in metadata.items() if v})
        return self.path

    def column(self, name: str, data: Any) -> pa.Table:
        place = self.table.schema.get_field_index(name)
        return self.table.set_column(place, name, pa.array(data))


@pytest.fixture
def forged(tmp_path: Path) -> Forged:
    return Forged(tmp_path)


def refused(forged: Forged, words: str = "", **given: Any) -> None:
    """The file is refused by one kind of error, which names it and what is wrong."""
    path = forged.write(**given)
    with pytest.raises(ValueError, match=rf"x\.parquet .*{words}") as caught:
        Explanation.load(path)
    assert type(caught.value) is ValueError


HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "ids": lambda h: h.update(patient_ids=[1, 2]),
    "ids that are too many": lambda h: h["patient_ids"].append("p9"),
    "half a character": lambda h: h.update(patient_ids=["\ud800", "p"]),
    "targets": lambda h: h.update(target=["a", "b"]),
    "a target that is true": lambda h: h.update(target=[True, 0]),
    "names": lambda h: h.update(names={"c": {"I50": 3}}),
    "names of no feature": lambda h: h.update(names={"x": {"I50": "heart"}}),
    "output": lambda h: h.update(output="odds"),
    "mode": lambda h: h.update(mode=["binary"]),
    "messages": lambda h: h["diagnostics"].update(messages="all is well"),
    "notes": lambda h: h["diagnostics"].update(notes=[1]),
    "calls": lambda h: h["diagnostics"].update(operations=[{"name": "relu"}]),
    "format": lambda h: h.update(format="2"),
    "format 0": lambda h: h.update(format=0),
    "feature twice": lambda h: h["features"].append(h["features"][0]),
    "no feature": lambda h: h["features"].pop(),
    "features": lambda h: h.update(features={}),
    "key": lambda h: h["features"][0].update(key="x"),
    "vocabulary": lambda h: h["features"][0].update(vocabulary=["<pad>"]),
    "columns": lambda h: h["features"][1].update(columns=["a", "b", "c"]),
    **{
        f"shape {shape}": lambda h, shape=shape: h["features"][0].update(shape=shape)
        for shape in (
            [2, 10**10],
            [-2, -3],
            [2**62, 2**62],
            [2**62, 0],
            [2.5, 3],
            [6],
            [3, 2],
            [],
            [1] * 100,
        )
    },
}

TENSOR_CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no delta": lambda t: t.pop("delta"),
    "no padding": lambda t: t.pop("0.values"),
    "a delta for one": lambda t: t.update(delta=t["delta"][:1]),
    "whole attributions": lambda t: t.update({"0.attributions": torch.zeros(3).int()}),
    "padding in two axes": lambda t: t.update({"0.values": torch.zeros(3, 1).long()}),
    "padding that is fewer": lambda t: t.update({"0.values": t["0.values"][:1]}),
    "whole values of labs": lambda t: t.update({"1.values": torch.zeros(0).int()}),
    "times of nobody": lambda t: t.update({"0.time": torch.zeros(1, 3)}),
    "f(x)": lambda t: t.update(f_input=torch.tensor([3.1, 5.0])),
    "delta": lambda t: t.update(delta=torch.tensor([0.0, 0.1])),
    "factor": lambda t: t.update(rescale_factor=torch.tensor([1.0, 1.01])),
    "factor NaN": lambda t: t.update(rescale_factor=torch.tensor([1.0, math.nan])),
    "padding that counts": lambda t: t.update(
        {"0.attributions": torch.tensor([0.0, 0.0, 1.0])}
    ),
}


class TestForged:
    def test_untouched_it_loads(self, forged: Forged) -> None:
        assert_same(forged.explanation, Explanation.load(forged.write()))

    def test_files_of_the_format_before_load(self, forged: Forged) -> None:
        forged.header["format"] = 3
        for name in ("ranges", "sample_columns"):
            del forged.header[name]
        back = Explanation.load(forged.write())
        assert back.ranges == back.sample_columns == {}
        assert_same(replace(forged.explanation, sample_columns={}, ranges={}), back)

    @pytest.mark.parametrize("name", HEADERS)
    def test_a_header_that_does_not_fit(self, forged: Forged, name: str) -> None:
        HEADERS[name](forged.header)
        refused(forged)

    @pytest.mark.parametrize("name", TENSOR_CHANGES)
    def test_tensors_that_do_not_fit(self, forged: Forged, name: str) -> None:
        TENSOR_CHANGES[name](forged.tensors)
        refused(forged)

    @pytest.mark.parametrize(
        "packed",
        [
            "",
            "!",
            "AAAA",
            pack(b""),
            pack(b"\xff" * 64),
            pack(save({"delta": torch.zeros(2)})[:-4]),
            base64.b64encode(zlib.compress(bytes(100))[:-4]),
        ],
        ids=range(7),
    )
    def test_tensors_that_are_none(self, forged: Forged, packed: str | bytes) -> None:
        refused(forged, packed=packed)

    def test_truth_values_are_0_or_1(self, forged: Forged) -> None:
        ones = torch.tensor([True, False])
        data = save({"x": ones}).replace(b"\x01\x00", b"\x02\x00")
        assert data != save({"x": ones})
        flags = storage._unpacked(pack(data), 1000)["x"]
        assert flags.view(torch.uint8).tolist() == [1, 0]

    @pytest.mark.parametrize("raw", ["", "[]", "null", "\x80\x04.", "NaN", "{", "5"])
    def test_a_header_that_is_none(self, forged: Forged, raw: str) -> None:
        refused(forged, raw=raw)

    def test_it_says_where(self, forged: Forged) -> None:
        forged.header["features"][1]["shape"] = [2, "2"]
        refused(forged, r"features\.1\.shape\.1 is '2': .* valid integer")

    def test_depth_is_no_recursion(self, forged: Forged) -> None:
        refused(forged, raw='{"format":3,"features":' + "[" * 10**5 + "]" * 10**5 + "}")
        forged.header["names"] = {"a": {"b": {"c": "d"}}}
        refused(forged, r"names\.a\..* is .* valid string")

    @pytest.mark.parametrize(
        "name", ["feature", "value", "attribution", "_index", "_integer"]
    )
    def test_a_column_that_is_missing_or_of_another_type(
        self, forged: Forged, name: str
    ) -> None:
        refused(forged, f"column '{name}' is missing", table=forged.table.drop([name]))
        table = forged.column(name, [b"x"] * forged.table.num_rows)
        refused(forged, f"column '{name}' is binary", table=table)

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("_index", lambda n: 10**9),
            ("_index", lambda n: -1),
            ("_index", lambda n: 0),
            ("_index", lambda n: None),
            ("_integer", lambda n: 99),
            ("_integer", lambda n: -1),
            ("_integer", lambda n: None),
            ("value", lambda n: None),
            ("attribution", lambda n: -3 * n),
            ("attribution", lambda n: 1.001 * n),
            ("attribution", lambda n: math.nan),
            ("attribution", lambda n: math.inf),
            ("attribution", lambda n: None),
            ("feature", lambda n: "c"),
            ("feature", lambda n: "x"),
            ("feature", lambda n: None),
        ],
    )
    def test_rows_that_do_not_fit(
        self, forged: Forged, name: str, change: Callable[[Any], Any]
    ) -> None:
        data = [change(one) for one in forged.table[name].to_pylist()]
        kind = forged.table.schema.field(name).type
        refused(forged, table=forged.column(name, pa.array(data, kind)))

    def test_rows_that_are_fewer_or_twice(self, forged: Forged) -> None:
        refused(forged, "3 rows", table=forged.table.slice(0, 3))
        twice = pa.concat_tables([forged.table, forged.table])
        refused(forged, "14 rows", table=twice)

    def test_bombs_stay_small(self, forged: Forged) -> None:
        bomb, before = pack(bytes(200 * 2**20)), peak()
        path = forged.write(packed=bomb)
        with pytest.raises(ValueError, match=r"x\.parquet .*max_bytes=1,000,000"):
            Explanation.load(path, max_bytes=10**6)
        forged.header["features"][0]["shape"] = [2, 10**7]
        with pytest.raises(ValueError, match=r"x\.parquet .*max_bytes=1,000,000"):
            Explanation.load(forged.write(), max_bytes=10**6)
        refused(forged, "rows")
        assert peak() - before < 100

    def test_no_more_memory_is_asked_than_allowed(self, forged: Forged) -> None:
        path = forged.write()
        with pytest.raises(ValueError, match=r"x\.parquet .*max_bytes=100"):
            Explanation.load(path, max_bytes=100)

    def test_broken_bytes(self, forged: Forged) -> None:
        whole = forged.path.read_bytes()
        for data in (b"", b"PAR1", whole[: len(whole) // 2], b"PAR1" + bytes(400)):
            forged.path.write_bytes(data)
            with pytest.raises(ValueError, match=r"x\.parquet "):
                Explanation.load(forged.path)


def peak() -> float:
    """In MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class TestSums:
    def test_what_would_be_refused_is_not_written(self, tmp_path: Path) -> None:
        broken = explain(
            {"c": tokens([[2]])}, {"c": torch.ones(1, 1)}, delta=torch.ones(1)
        )
        with pytest.raises(ValueError, match="'p0', add up to 1; .* should be 1.5"):
            broken.save(tmp_path / "x.parquet")
        assert not list(tmp_path.iterdir())

    def test_what_was_rescaled_fits(self, tmp_path: Path) -> None:
        given = explain(
            {"c": tokens([[2]])},
            {"c": torch.full((1, 1), 0.5)},
            delta=torch.full((1,), 0.25),
            rescale_factor=torch.full((1,), 0.5 / 0.75),
        )
        assert_same(given, Explanation.load(given.save(tmp_path / "x.parquet")))

    @pytest.mark.parametrize("name", ["f_input", "f_baseline", "delta"])
    def test_no_number_where_the_outputs_are_none(
        self, name: str, tmp_path: Path
    ) -> None:
        given: dict[str, Any] = {"delta": torch.zeros(2), "f_input": torch.zeros(2)}
        given[name] = torch.tensor([0.0, math.nan])
        shares = torch.tensor([[0.0], [math.nan]])
        made = explain({"c": tokens([[2], [3]])}, {"c": shares}, **given)
        assert_same(made, Explanation.load(made.save(tmp_path / "x.parquet")))
        with pytest.raises(ValueError, match="'p0', add up to nan"):
            explain({"c": tokens([[2], [3]])}, {"c": shares.flip(0)}, **given).save(
                tmp_path / "y.parquet"
            )

    def test_notes_come_back(self, tmp_path: Path) -> None:
        report = Diagnostics(notes=("mind the reference",))
        given = explain({"c": tokens([[2]])}, diagnostics=report)
        assert (
            Explanation.load(given.save(tmp_path / "x.parquet")).diagnostics == report
        )


class TestNulls:
    def test_a_code_has_no_value(self, tmp_path: Path) -> None:
        record = values([[1.0, math.nan]])
        path = explain({"c": tokens([[2, 3]]), "l": record}).save(
            tmp_path / "x.parquet"
        )
        column = pq.read_table(path)["value"].to_pylist()
        assert column[:3] == [None, None, 1.0] and math.isnan(column[3])
