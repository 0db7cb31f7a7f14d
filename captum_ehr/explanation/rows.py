"""The rows of an explanation by code or group, and what is said of their sums."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import polars as pl

from .aggregates import SAMPLE, Places, Population, found
from .data import ExplanationData
from .frame import to_frame
from .labels import Grouping, group_labels
from .words import caution, target_labels


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


def places_of(
    explanation: ExplanationData, mapping: Grouping | None, rest: str
) -> Callable[[Population], Places]:
    """From who is counted to the codes, or groups, that any of them has."""
    if mapping is None:
        frame, words = to_frame(explanation), ["name", "unit"]
    else:
        frame, words = grouped(explanation, mapping, rest), []
    keys = ["feature", "code"] if mapping is None else ["group"]
    rows = pl.from_pandas(frame[[SAMPLE, *keys, "attribution"]]).lazy()
    names = pl.from_pandas(frame[[*keys, *words]].drop_duplicates(keys))

    def places(population: Population) -> Places:
        lines = found([rows], keys, population).with_row_index("place")
        labels = lines.select(keys).join(names, keys, "left", maintain_order="left")
        return Places([rows], lines, labels)

    return places


def people_of(explanation: ExplanationData) -> pl.DataFrame:
    """A row per sample: whose it is, and the name of its target."""
    columns = {
        SAMPLE: range(len(explanation)),
        "patient_id": explanation.patient_ids,
        "target": target_labels(explanation),
    }
    words = dict.fromkeys(("patient_id", "target"), pl.String)
    return pl.DataFrame(columns, {SAMPLE: pl.Int64, **words})


def explained_for(label: str, population: Population) -> Population:
    """Those of a population whose target has this name."""
    return Population(population.samples.filter(target=label), population.strata)


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
