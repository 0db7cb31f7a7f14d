"""What a code or value adds in each sample: against its amount, and side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

import numpy as np

from captum_ehr.explanation import FeatureKeyError

from .palette import ColorScale
from .population import code_samples
from .wording import code_labels

if TYPE_CHECKING:
    import pandas as pd

    from captum_ehr.explanation import Explanation
    from captum_ehr.explanation.feature_record import Range

type Column = str | tuple[str, str]
"""A code, a column of values, or the name of either; or its feature and it."""

_COLORED = 0.99
"""The share of the cells whose attributions the colours of a cohort span."""

_MOST_ALIKE = 5_000
"""The most samples that are put in order by their likeness: each pair is looked at."""


@dataclass(frozen=True)
class Measured:
    """A code or a column of values in each sample."""

    label: str
    amounts: np.ndarray  # (samples,), the mean value, NaN for none; of a code its count
    sizes: np.ndarray  # (samples,), its sums of attributions; 0 where it is absent
    is_count: bool
    is_imputed: np.ndarray  # (samples,), whether none of its values was measured
    usual: Range | None = None


def measured(explanation: Explanation, frame: pd.DataFrame, column: Column) -> Measured:
    """What each sample has of a code or column, from the rows of all.

    Raises:
        KeyError: If no sample has it, naming near ones.
        ValueError: If several features have it.
    """
    key, name = column if isinstance(column, tuple) else (None, column)
    known = frame.drop_duplicates(["feature", "code"])
    if key is not None:
        known = known[known["feature"] == key]
    found = known[(known["code"] == name) | (known["name"] == name)]
    if not len(found):
        words = sorted({*known["code"], *known["name"]})
        near = get_close_matches(str(name), words, 3) or words[:3]
        raise FeatureKeyError(
            f"no sample has a code or column {column!r}; near are "
            f"{', '.join(map(repr, near)) or 'none'}."
        )
    feature, code = found.iloc[0][["feature", "code"]]
    if len(found) > 1:
        raise ValueError(
            f"{name!r} stands for {len(found)} codes or columns, of "
            f"{', '.join(map(repr, dict.fromkeys(found['feature'])))}; say which: "
            f"({feature!r}, {code!r})."
        )
    samples = code_samples(frame, feature, code, len(explanation))
    is_count = explanation.features[feature].is_token
    mine = (frame["feature"] == feature) & (frame["code"] == code)
    counts = np.bincount(frame["sample"][mine], minlength=len(explanation))
    if is_count:
        amounts = counts.astype(float)
    elif samples.values is None:
        amounts = np.full(len(explanation), math.nan)
    else:
        amounts = samples.values
    taken = frame["sample"][mine & frame["measured"].fillna(True).astype(bool)]
    is_imputed = (counts > 0) & (np.bincount(taken, minlength=len(counts)) == 0)
    usual = explanation.ranges.get(feature, {}).get(code)
    label = code_labels(found)[0]
    return Measured(label, amounts, samples.sizes, is_count, is_imputed, usual)


@dataclass(frozen=True)
class CohortGrid:
    """Attributions by code and sample."""

    cells: np.ndarray  # (codes, samples); NaN where a sample has it not
    rows: list[str]
    samples: np.ndarray  # (samples,), which sample each column is
    outputs: np.ndarray  # (samples,), f(x) of each column
    scale: ColorScale
    is_cut: bool  # whether some are beyond the scale


def cohort_grid(
    explanation: Explanation,
    frame: pd.DataFrame,
    top: pd.DataFrame,
    order: Literal["output", "similarity"],
) -> CohortGrid:
    """All samples and the codes of a table, strongest first.

    Raises:
        ValueError: If there are too many samples to order by their likeness.
    """
    count = len(explanation)
    places = {pair: row for row, pair in enumerate(zip(top["feature"], top["code"]))}
    pairs = zip(frame["feature"], frame["code"])
    row = np.array([places.get(pair, -1) for pair in pairs], dtype=int)
    sums, seen = np.zeros((len(places), count)), np.zeros((len(places), count), bool)
    at = row[row >= 0], frame["sample"].to_numpy()[row >= 0]
    np.add.at(sums, at, frame["attribution"].to_numpy(dtype=float)[row >= 0])
    seen[at] = True
    outputs = explanation.f_input.detach().double().cpu().numpy()
    across = np.argsort(-outputs, kind="stable")
    if order == "similarity":
        across = _by_likeness(sums.T)
    sizes = np.abs(sums[seen])
    limit = float(np.quantile(sizes, _COLORED)) if len(sizes) else 0.0
    scale = ColorScale(limit) if limit > 0 else ColorScale.of(sizes.tolist())
    is_cut = bool((sizes > scale.limit).any())
    cells = np.where(seen, sums, math.nan)[:, across]
    return CohortGrid(cells, code_labels(top), across, outputs[across], scale, is_cut)


def _by_likeness(samples: np.ndarray) -> np.ndarray:
    """Neighbours have like attributions: the leaves of a tree of average linkage."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(samples) > _MOST_ALIKE:
        raise ValueError(
            f"order='similarity' compares each pair of samples, and there are "
            f"{len(samples)}, more than {_MOST_ALIKE}: select some, or order='output'."
        )
    if len(samples) < 3:
        return np.arange(len(samples))
    return np.asarray(leaves_list(linkage(samples, "average")), dtype=int)
