"""Two explanations of the same patients side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .data import ExplanationData
from .frame import build_rows, frame_of
from .sample_columns import COLUMNS, with_samples

_PLACE = ["sample", "feature", "visit", "position"]
_WORDS = ["patient_id", "time", "code", "name", "value", "unit", "measured"]


def compare(explanation: ExplanationData, other: ExplanationData) -> pd.DataFrame:
    """Two of the same samples, row by row; see :meth:`Explanation.compare`."""
    if explanation.output != other.output:
        raise ValueError(
            f"one explanation is in {explanation.output}, the other in {other.output}; "
            "bring both to one scale with in_probability()."
        )
    _check_visits(explanation, other)
    frame, second = (frame_of(build_rows(one)) for one in (explanation, other))
    rows = np.array([*_matched(explanation, other), 0])
    second["sample"] = rows[second["sample"].to_numpy()]
    both = frame.merge(
        second, "outer", _PLACE, sort=False, suffixes=("", "_other"), indicator="_in"
    )
    _check_same(both)
    for name in _WORDS:
        here, there = both[name], both.pop(f"{name}_other")
        both[name] = here.where(here.notna(), there)
    sides = ["attribution", "attribution_other"]
    # A row that one of them does not have moved it by nothing; NaN is something else.
    for side, other_alone in zip(sides, ("right_only", "left_only")):
        both[side] = both[side].mask(both["_in"] == other_alone, 0.0)
    both["difference"] = both["attribution"] - both["attribution_other"]
    places = {
        key: i for i, key in enumerate({**explanation.features, **other.features})
    }
    order = both.assign(feature=both["feature"].map(places)).sort_values(_PLACE).index
    columns = [*COLUMNS, "attribution_other", "difference"]
    table = both.loc[order, columns].reset_index(drop=True)
    return with_samples(table, explanation.sample_columns)


def _matched(explanation: ExplanationData, other: ExplanationData) -> list[int]:
    """For each sample of the other, the row of the same one.

    Samples of one patient are matched in their order.
    """
    rows = {sample: row for row, sample in enumerate(_samples(explanation))}
    samples = _samples(other)
    missing = [*(rows.keys() - set(samples))]
    extra = [sample for sample in samples if sample not in rows]
    for some, where in ((missing, "second"), (extra, "first")):
        if some:
            patient, place = min(some)
            raise ValueError(
                f"the explanations are not of the same patients: {len(some)} sample(s) "
                f"are not in the {where} one, such as patient {patient!r}'s number "
                f"{place}. Select the same patients from both."
            )
    return [rows[sample] for sample in samples]


def _samples(explanation: ExplanationData) -> list[tuple[str, int]]:
    """Each sample's patient, and its number among that patient's."""
    ids = pd.Series(explanation.patient_ids, dtype=object)
    return [*zip(ids, ids.groupby(ids).cumcount())]


def _check_visits(explanation: ExplanationData, other: ExplanationData) -> None:
    """Visits within groups are numbered by the width that they are padded to."""
    for key in explanation.features.keys() & other.features.keys():
        shapes = [e.features[key].values.shape for e in (explanation, other)]
        if len(shapes[0]) == 4 == len(shapes[1]) and shapes[0][2] != shapes[1][2]:
            raise ValueError(
                f"feature {key!r} is padded to {shapes[0][2]} visits per group in one "
                f"explanation and to {shapes[1][2]} in the other. Explain the same "
                "batch."
            )


def _check_same(both: pd.DataFrame) -> None:
    """What both have at a place must be the same code and value."""
    shared = both["code"].notna() & both["code_other"].notna()
    near = np.isclose(both["value"], both["value_other"], equal_nan=True)
    off = shared & ((both["code"] != both["code_other"]) | ~near)
    if off.any():
        row = both[off].iloc[0]
        here, there = (
            row[f"code{end}"]
            + ("" if np.isnan(row[f"value{end}"]) else f" = {row[f'value{end}']:g}")
            for end in ("", "_other")
        )
        raise ValueError(
            f"the explanations are of different records: patient {row['patient_id']!r} "
            f"has {here} in one and {there} in the other, in feature "
            f"{row['feature']!r} at position {row['position']}. Explain the same batch."
        )
