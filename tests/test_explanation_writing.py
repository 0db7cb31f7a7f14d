"""Files of patients: whole or not there, their owner's alone, and nothing that runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from explanations import explain, tokens, values
from insights_cases import Bag, bag_arguments

from captum_ehr.explanation.writing import private
from captum_ehr.insights import AttributionVisualizer
from captum_ehr.insights.views import rows_of
from captum_ehr.scene import patient_scene
from captum_ehr.visualization import write_report


class TestWriting:
    def written(self) -> dict[str, Callable[[Path], Any]]:
        made = explain({"c": tokens([[2, 3]]), "l": values([[1.0]])})

        model = Bag()
        page = AttributionVisualizer(model, *bag_arguments(model))
        return {
            "page": page.save,
            "save": made.save,
            "to_csv": made.to_csv,
            "to_html": made.to_html,
            "report": lambda path: write_report(made, path, title="x"),
        }

    @pytest.mark.parametrize("way", ["save", "to_csv", "to_html", "report", "page"])
    def test_only_the_owner_reads(self, way: str, tmp_path: Path) -> None:
        path, elsewhere = tmp_path / "x", tmp_path / "elsewhere"
        write = self.written()[way]
        mask = os.umask(0)
        try:
            write(path)
            assert path.stat().st_mode & 0o777 == 0o600
            path.chmod(0o644)
            write(path)
            assert path.stat().st_mode & 0o777 == 0o600
        finally:
            os.umask(mask)
        elsewhere.write_text("mine")
        path.unlink()
        path.symlink_to(elsewhere)
        write(path)
        assert elsewhere.read_text() == "mine" and not path.is_symlink()
        assert sorted(tmp_path.iterdir()) == [elsewhere, path]

    def test_after_an_error_the_old_file_is_there(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_text("old")
        with pytest.raises(KeyboardInterrupt), private(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such folder.*nowhere"):
            explain({"c": tokens([[2]])}).save(tmp_path / "nowhere" / "x.parquet")


class TestCsv:
    def test_no_spreadsheet_runs_it(self, tmp_path: Path) -> None:
        words = ["=HYPERLINK(1)", "+1", "-1", "@x", "\tx", "\rx", "\nx", "x=1", "a\rb"]
        vocabulary = ("<pad>", *words)
        record = tokens([list(range(len(vocabulary)))])
        record = type(record)(record.values, record.mask, None, vocabulary)
        made = explain({"c": record}, patient_ids=("=p",), names={"x=1": "=named"})
        frame = pd.read_csv(made.to_csv(tmp_path / "x.csv"), dtype={"code": str})
        assert frame["code"].tolist() == [f"'{w}" for w in words[:7]] + words[7:]
        assert frame["name"][7] == "'=named" and set(frame["patient_id"]) == {"'=p"}
        expected = made.to_frame()["attribution"].to_numpy()
        assert frame["attribution"].to_numpy() == pytest.approx(expected)
        assert made.to_frame()["code"].tolist() == words

    def test_another_table(self, tmp_path: Path) -> None:
        made = explain({"c": tokens([[2, 2, 3]])})
        path = made.to_csv(tmp_path / "x.csv", made.by_code())
        assert list(pd.read_csv(path)) == list(made.by_code())

    def test_visits_count_from_1(self, tmp_path: Path) -> None:
        made = explain({"c": tokens([[[2, 3], [4, 0]]]), "flat": tokens([[2]])})
        frame = pd.read_csv(made.to_csv(tmp_path / "x.csv"))
        assert frame["visit"].fillna(0).tolist() == [1, 1, 2, 0]
        assert frame["position"].tolist() == [1, 2, 1, 1]
        assert made.to_frame()["visit"].fillna(-1).tolist() == [0, 0, 1, -1]
        visits = pd.read_csv(made.to_csv(tmp_path / "x.csv", made.by_visit()))
        assert visits["visit"].fillna(0).tolist() == [1, 2, 0]


def test_the_pages_rows_have_visit_and_time() -> None:
    ids = torch.tensor([[[2], [3]]])
    time = torch.tensor([[0.0, 7.0]])
    timed = tokens(ids.tolist(), time)
    made = explain({"timed": timed, "untimed": tokens(ids.tolist())})
    rows = rows_of(patient_scene(made))
    assert [row[:4] for row in rows] == [
        ["timed", 1, 0.0, "I50"],
        ["timed", 2, 7.0, "E11"],
        ["untimed", 1, None, "I50"],
        ["untimed", 2, None, "E11"],
    ]
