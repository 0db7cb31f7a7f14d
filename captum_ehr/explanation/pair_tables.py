"""The pairs of players as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from .player import Player
from .sums import aggregated

if TYPE_CHECKING:
    import pandas as pd

    from .interactions import Interactions

_ENDS = [f"{name}_{end}" for end in "ab" for name in Player._fields]
_PLACES = [name for name in _ENDS if name.startswith(("visit", "position"))]


def to_frame(pairs: Interactions) -> pd.DataFrame:
    """One row per pair; see :meth:`captum_ehr.Interactions.to_frame`."""
    import pandas as pd

    columns = ["patient_id", "sample", *_ENDS, "effect", "asymmetry"]
    frame = pd.DataFrame(_rows(pairs), columns=columns)
    frame = frame.astype({"sample": int, "effect": float, "asymmetry": float})
    players = chain.from_iterable(pairs.players)
    if all(p.visit is None and p.position is None for p in players):
        return frame.drop(columns=_PLACES)
    return frame.astype(dict.fromkeys(_PLACES, "Int64"))


def ranked(pairs: Interactions) -> pd.DataFrame:
    """The rows of :meth:`captum_ehr.Interactions.top`, all of them."""
    frame = to_frame(pairs)
    frame["absolute"] = frame["effect"].abs()
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
    table[["mean", "mean_abs"]] /= max(len(pairs), 1)
    for name in ("mean_present", "asymmetry"):
        table[name] /= table["samples"]
    table = table.sort_values("mean_abs", ascending=False, kind="stable")
    return table.reset_index(drop=True)


def _rows(pairs: Interactions) -> Iterator[tuple[Any, ...]]:
    """Each pair in the same order in all patients, the strongest of a patient first."""
    effects, widths = pairs.effect.numpy(), pairs.asymmetry.numpy()
    for sample, players in enumerate(pairs.players):
        first, second = np.triu_indices(len(players), 1)
        strength = -np.abs(effects[sample][first, second])
        for k in np.argsort(strength, kind="stable"):
            place = first[k], second[k]
            one, other = sorted((players[i] for i in place), key=_order)
            numbers = effects[sample][place], widths[sample][place]
            yield (pairs.patient_ids[sample], sample, *one, *other, *numbers)


def _order(player: Player) -> tuple[Any, ...]:
    return tuple(-1 if word is None else word for word in player)
