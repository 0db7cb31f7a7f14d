"""The rows of an explanation by code or group, and what is said of their sums."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .data import ExplanationData
from .frame import to_frame
from .labels import Grouping, group_labels
from .words import caution


def rows_by(
    explanation: ExplanationData, mapping: Grouping | None, rest: str
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The rows, the columns that tell their codes or groups apart, and their words."""
    if mapping is None:
        return to_frame(explanation), ["feature", "code"], ["name", "unit"]
    return grouped(explanation, mapping, rest), ["group"], []


def grouped(explanation: ExplanationData, mapping: Grouping, rest: str) -> pd.DataFrame:
    """The frame with a column ``group``; what has none is in the rest."""
    frame = to_frame(explanation)
    frame["group"] = np.full(len(frame), rest, dtype=object)
    for key, labels in group_labels(explanation, mapping).items():
        mine = frame["feature"] == key
        place, codes = frame.loc[mine, "code"].factorize()
        groups = np.array([*(labels.get(code, rest) for code in codes), ""], object)
        frame.loc[mine, "group"] = groups[place]
    return frame


def noted(table: pd.DataFrame, *words: str) -> pd.DataFrame:
    """With a note, and a warning, of what its sums are not good for."""
    note = " ".join(word[0].upper() + word[1:] for word in words if word)
    if note:
        caution(note)
        table.attrs["note"] = note
    return table


def strongest_first(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """By the size of a column; what is no number comes last."""
    order = table[column].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)
