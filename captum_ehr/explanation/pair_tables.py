"""The pairs of players as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from .player import Player
from .sums import aggregated

_ENDS = [f"{name}_{end}" for end in "ab" for name in Player._fields]
_PLACES = [name for name in _ENDS if name.startswith(("visit", "position"))]


def pair_frame(
    patient_ids: Sequence[str],
    players: Sequence[Sequence[Player]],
    effect: Tensor,
    asymmetry: Tensor,
) -> pd.DataFrame:
    """One row per pair; see :meth:`captum_ehr.Interactions.to_frame`."""
    columns = ["patient_id", "sample", *_ENDS, "effect", "asymmetry"]
    rows = _rows(patient_ids, players, effect.numpy(), asymmetry.numpy())
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.astype({"sample": int, "effect": float, "asymmetry": float})
    each = chain.from_iterable(players)
    if all(p.visit is None and p.position is None for p in each):
        return frame.drop(columns=_PLACES)
    return frame.astype(dict.fromkeys(_PLACES, "Int64"))


def ranked(frame: pd.DataFrame, samples: int) -> pd.DataFrame:
    """The pairs of a frame over so many samples, the strongest first."""
    frame = frame.assign(absolute=frame["effect"].abs())
    table = aggregated(
        frame,
        [name for name in _ENDS if name in frame],
        True,
        samples=("sample", "size"),
        patients=("patient_id", "nunique"),
        mean=("effect", "sum"),
        mean_abs=("absolute", "sum"),
        mean_present=("effect", "sum"),
        asymmetry=("asymmetry", "sum"),
    )
    table[["mean", "mean_abs"]] /= max(samples, 1)
    for name in ("mean_present", "asymmetry"):
        table[name] /= table["samples"]
    table = table.sort_values("mean_abs", ascending=False, kind="stable")
    return table.reset_index(drop=True)


def _rows(
    patient_ids: Sequence[str],
    players: Sequence[Sequence[Player]],
    effects: np.ndarray,
    widths: np.ndarray,
) -> Iterator[tuple[Any, ...]]:
    """Each pair in the same order in all patients, the strongest of a patient first."""
    for sample, (name, mine) in enumerate(zip(patient_ids, players)):
        first, second = np.triu_indices(len(mine), 1)
        strength = -np.abs(effects[sample][first, second])
        for k in np.argsort(strength, kind="stable"):
            place = first[k], second[k]
            one, other = sorted((mine[i] for i in place), key=_order)
            numbers = effects[sample][place], widths[sample][place]
            yield (name, sample, *one, *other, *numbers)


def _order(player: Player) -> tuple[Any, ...]:
    return tuple(-1 if word is None else word for word in player)
