"""Explanations on disk: everything comes back, other files are refused."""

import json
import math
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from explanations import assert_same, bits, explain, explanations, same, tokens, values
from hypothesis import given, settings

from captum_ehr.explanation import Explanation, storage

KEY = b"captum_ehr"


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

    def test_files_of_the_first_format_still_load(self, tmp_path: Path) -> None:
        given = explain({"c": tokens([[2, 0], [3, 4]])}, names={"I50": "heart"})
        table = pq.read_table(given.save(tmp_path / "new.parquet"))
        header = json.loads(pq.read_metadata(tmp_path / "new.parquet").metadata[KEY])
        for name in ("units", "mode", "fingerprint"):
            del header[name]
        header["format"] = 1
        table = table.drop_columns(["sample", "unit"])
        old = tmp_path / "old.parquet"
        with pq.ParquetWriter(old, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({KEY: json.dumps(header)})
        assert_same(given, Explanation.load(old))
