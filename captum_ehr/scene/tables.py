"""A patient's sums as a waterfall's bars and as a heatmap's cells; the rest is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from captum_ehr.explanation.sums import sums_of

from .account import Change, by_code, missing
from .folding import strongest_places
from .history import Item, bands_of
from .palette import ColorScale
from .wording import code_labels, number, shorten

if TYPE_CHECKING:
    from captum_ehr.explanation import Explanation
    from captum_ehr.explanation.labels import Grouping

_NOWHERE, _TIMED, _VISIT, _STEP = range(4)

type _Place = tuple[int, str, float]
"""Where a column stands: its kind, its feature if it has one alone, its number."""


def waterfall_bars(
    explanation: Explanation,
    by: str,
    mapping: Grouping | None,
    k: int,
    time_label: str = "time",
) -> list[Change]:
    """The sums of one patient, each from 0: the strongest, the rest, the missing."""
    if mapping is not None:
        table = explanation.by_group(mapping)
        labels = code_labels(table)
    elif by == "code":
        table, items = explanation.by_code(), by_code(bands_of(explanation))
        keys = zip(table["feature"], table["code"], strict=True)
        labels = [
            label + _in_short(items[key])
            for label, key in zip(code_labels(table), keys, strict=True)
        ]
    elif by == "visit":
        table = explanation.by_visit()
        labels = _visit_labels(table, time_label)
    else:
        table = explanation.by_feature()
        labels = [shorten(feature, 100) for feature in table["feature"]]
    sizes = table["attribution"].tolist()
    places = strongest_places(list(map(abs, sizes)), k)
    bars = [Change(labels[i], "item", 0.0, sizes[i]) for i in places]
    rest = [size for i, size in enumerate(sizes) if i not in places]
    if rest:
        bars.append(Change(f"{len(rest)} more", "rest", 0.0, math.fsum(rest)))
    if left := missing(explanation, math.fsum(sizes)):
        bars.append(Change("not attributed", "missing", 0.0, left))
    return bars


def _in_short(items: Sequence[Item]) -> str:
    """How often a code is there, how many values were measured, and the arrows.

    Example:
        >>> low = Item("labs", "K", "K", 0.1, 3.0, usual=(3.5, 5.1), measured=True)
        >>> imputed = Item("labs", "K", "K", 0.1, 4.0, measured=False)
        >>> _in_short([low]), _in_short([low, imputed])
        (' ↓', ' ×2, 1 measured ↓')
    """
    measured = sum(not item.is_imputed for item in items)
    words = f" ×{len(items)}" if len(items) > 1 else ""
    if measured < len(items):
        words += f", {measured or 'none'} measured"
    arrows = {item.flag for item in items}
    return words + (" " if arrows - {""} else "") + "".join(sorted(arrows))


def _visit_labels(table: pd.DataFrame, time_label: str) -> list[str]:
    """What to call each row of ``by_visit``."""
    labels = []
    rows = zip(table["visit"], table["time"], table["features"], strict=True)
    for visit, time, features in rows:
        place = "no visit" if pd.isna(visit) else f"visit {visit + 1}"
        if math.isfinite(time):
            place = f"{time_label} {number(time)}"
        labels.append(shorten(f"{place}: {features}", 100))
    return labels


@dataclass(frozen=True)
class Grid:
    """Attributions by row and column."""

    cells: np.ndarray  # (rows, columns); NaN where the patient has nothing
    rows: list[str]
    columns: list[str]
    scale: ColorScale  # of the cells that sum nothing hidden
    is_timed: bool  # columns are times
    imputed: np.ndarray  # (rows, columns); True where no value was measured
    shown: tuple[int, int]  # rows and columns that stand for themselves, not the rest


def heatmap_grid(
    explanation: Explanation,
    frame: pd.DataFrame,
    by: str,
    k: int,
    max_visits: int,
    bins: int | None = None,
) -> Grid:
    """One patient's table, with what is beyond the limits added up at its end.

    Args:
        explanation: Of one patient.
        frame: Its rows to show.
        by: ``"feature"`` or ``"code"``, which a row is.
        k: The most rows.
        max_visits: The most columns, where there are no bins.
        bins: How many stretches of time the columns are put into, if at all.
    """
    keys = ["feature", "code"] if by == "code" else ["feature"]
    places = _places(explanation, frame)
    columns = sorted(set(places))
    is_timed = any(kind == _TIMED for kind, *_ in columns)
    words = _column_words(columns)
    if bins is not None:
        places, columns, words = _binned(places, bins)
        max_visits = len(columns)
    column_of = {place: i for i, place in enumerate(columns)}
    frame = frame.assign(
        _row=frame.groupby(keys, sort=False).ngroup(),
        _column=[column_of[place] for place in places],
    )
    sums = sums_of(frame, ["_row", "_column"])["attribution"]
    wide = sums.unstack().reindex(columns=range(len(columns)))
    cells = wide.to_numpy(dtype=float)
    first = frame.drop_duplicates(keys)
    if by == "code":
        labels = code_labels(first)
    else:
        labels = [shorten(feature, 100) for feature in first["feature"]]
    strength = np.nansum(np.abs(cells), axis=1)
    rows = strongest_places(strength.tolist(), k)
    if by == "code":
        rows.sort(key=lambda row: -strength[row])
    imputed = _imputed(frame, len(columns))
    cells, labels = _folded(cells, labels, rows)
    strength = np.nansum(np.abs(cells), axis=0)
    visits = strongest_places(strength.tolist(), max_visits)
    across, words = _folded(cells.T, words, visits)
    # What is not shown may be much: it takes no colour from the others.
    shown = len(rows), len(visits)
    scale = ColorScale.of(across.T[: shown[0], : shown[1]].ravel().tolist())
    hollow = np.zeros(across.T.shape, dtype=bool)
    hollow[: shown[0], : shown[1]] = imputed[np.ix_(rows, visits)]
    return Grid(across.T, labels, words, scale, is_timed, hollow, shown)


def _imputed(frame: pd.DataFrame, columns: int) -> np.ndarray:
    """The cells all of whose values are known not to have been measured."""
    known = ~frame["measured"].astype("boolean").fillna(True).astype(bool)
    cells = known.groupby([frame["_row"], frame["_column"]]).all()
    wide = cells.unstack(fill_value=False)
    wide = wide.reindex(columns=range(columns), fill_value=False)
    return wide.to_numpy(dtype=bool)


def _binned(
    places: Sequence[_Place], bins: int
) -> tuple[list[_Place], list[_Place], list[str]]:
    """Places in stretches of equal length; what has no place, or no time, stays apart.

    Returns:
        The place of each row, all columns in order, also those in which nothing is, and
        what to call them: the first and the last of what a stretch may hold.
    """
    binned = list(places)
    names: dict[_Place, str] = {}
    for kind, feature in {place[:2] for place in places if place[0] != _NOWHERE}:
        here = [i for i, place in enumerate(places) if place[:2] == (kind, feature)]
        numbers = np.array([places[i][2] for i in here])
        edges = _edges(float(numbers.min()), float(numbers.max()), bins, kind == _TIMED)
        # Each stretch begins with its first edge; the last has its end, too.
        at = np.searchsorted(edges[1:-1], numbers, side="right")
        for i, stretch in zip(here, at.tolist(), strict=True):
            binned[i] = (kind, feature, float(stretch))
        for stretch, (start, end) in enumerate(pairwise(edges)):
            words = [number(start, 3), number(end, 3)]
            if kind != _TIMED:
                words = _column_words([(kind, feature, at) for at in (start, end - 1)])
            names[kind, feature, float(stretch)] = _stretch(*words)
    if any(place[0] == _NOWHERE for place in places):
        names[_NOWHERE, "", 0.0] = "no visit" if names else "all"
    columns = sorted(names)
    return binned, columns, [names[place] for place in columns]


def _edges(low: float, high: float, bins: int, is_timed: bool) -> list[float]:
    """The ends of stretches: of times of equal length, of visits of about as many."""
    if is_timed:
        return np.linspace(low, high, (bins if high > low else 1) + 1).tolist()
    count = min(bins, int(high - low) + 1)
    return np.round(np.linspace(low, high + 1, count + 1)).tolist()


def _stretch(first: str, last: str) -> str:
    """From the first to the last of a stretch.

    Example:
        >>> _stretch("visit 1", "visit 3"), _stretch("0", "7.5"), _stretch("2", "2")
        ('visit 1–3', '0–7.5', '2')
    """
    return first if first == last else f"{first}–{last.rpartition(' ')[2]}"


def _places(explanation: Explanation, frame: pd.DataFrame) -> list[_Place]:
    """The column of each row: its time, else its visit, else its feature's own step."""
    tokens = [key for key, record in explanation.features.items() if record.is_token]
    visits = frame["visit"].astype("float64").to_numpy(na_value=math.nan)
    times = frame["time"].to_numpy()
    # Steps of an untimed series are no visits: 3 is not the third admission.
    known = [
        np.isfinite(times),
        np.isnan(visits),
        frame["feature"].isin(tokens).to_numpy(),
    ]
    kinds = np.select(known, [_TIMED, _NOWHERE, _VISIT], _STEP)
    owners = np.where(kinds == _STEP, frame["feature"], "")
    numbers = np.select(known[:2], [times, 0.0], visits)
    return list(zip(kinds.tolist(), owners.tolist(), numbers.tolist(), strict=True))


def _column_words(places: Sequence[_Place]) -> list[str]:
    """What to call each column."""
    if len(places) == 1 and places[0][0] == _NOWHERE:
        return ["all"]
    words = []
    for kind, feature, at in places:
        name = "visit" if kind == _VISIT else shorten(feature, 12)
        by_kind = {_TIMED: number(at), _NOWHERE: "no visit"}
        words.append(by_kind.get(kind, f"{name} {int(at) + 1}"))
    return words


def _folded(
    cells: np.ndarray, labels: Sequence[str], places: Sequence[int]
) -> tuple[np.ndarray, list[str]]:
    """The shown rows, and all others as one, with the sums that they have."""
    rest = [i for i in range(len(cells)) if i not in set(places)]
    kept, words = cells[list(places)], [labels[i] for i in places]
    if not rest:
        return kept, words
    empty = np.isnan(cells[rest]).all(axis=0)
    total = np.where(empty, math.nan, np.nansum(cells[rest], axis=0))
    return np.vstack([kept, total]), [*words, f"{len(rest)} more"]
