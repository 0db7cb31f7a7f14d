"""Records with something taken out or put in, as PyHealth would have made them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..explanation import FeatureKeyError, FeatureRecord
from ..explanation.feature_record import column_names
from ..explanation.player import Player
from ..explanation.what_if import WAYS, Change
from .encoded import EncodedBatch, like
from .features import Feature
from .packing import unpacked

if TYPE_CHECKING:
    from .adapter import PyHealthAdapter

#: A code or column; with its feature before it, or a visit (from 0) after it, or both.
type Name = str | tuple[str, str] | tuple[str, int] | tuple[str, str, int]

#: By feature key, the codes or columns that may be named.
type Names = Mapping[str, Sequence[str]]


class Edit(NamedTuple):
    """What becomes of one feature.

    Args:
        removed: Boolean, shaped like the feature's values: tokens that go, or whatever
            goes to its reference.
        put: Boolean, likewise: values that are set.
        values: The values then; of tokens, and of what is removed, as they were.
    """

    removed: Tensor
    put: Tensor
    values: Tensor


def changes_of(
    features: Sequence[Feature],
    records: Mapping[str, FeatureRecord],
    remove: str | Iterable[Name],
    values: Mapping[Name, float] | None,
    how: str = "drop",
) -> tuple[Change, ...]:
    """What is asked for, every name looked up; see :meth:`DeepLiftEHR.what_if`.

    Raises:
        KeyError: If there is no such feature, code or column.
        ValueError: If several features have it, it has no visits, a value is no finite
            number, nothing is asked for, or ``how`` is unknown.
    """
    if how not in WAYS:
        raise ValueError(
            f"how is {how!r}, expected one of {', '.join(map(repr, WAYS))}."
        )
    own = {f.key: f for f in features if f.owner is None}
    columns = {
        key: column_names(key, records[key])
        for key, f in own.items()
        if f.embedding is None
    }
    codes = {
        key: tuple(str(code) for code in f.ids if code != "<pad>")
        for key, f in own.items()
        if f.embedding is not None
    }
    codes |= {key: names for key, names in columns.items() if own[key].columns}
    removable = codes if how == "drop" else {**columns, **codes}
    wanted = [remove] if isinstance(remove, str) else list(remove)
    changes = [
        Change(
            _player("remove", name, removable, records, _OF_VALUES * (how == "drop"))
        )
        for name in wanted
    ]
    for name, value in (values or {}).items():
        player = _player("set", name, columns, records, _OF_CODES)
        changes.append(Change(player, _number(player, value)))
    if not changes:
        raise ValueError("nothing is changed: give codes to remove, or values to set.")
    return tuple(dict.fromkeys(changes))


_OF_VALUES = " A value is not removed: set it, or say how='reference'."
_OF_CODES = " Codes are removed, and not set."


def _number(player: Player, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if abs(number) < float("inf"):
        return number
    raise ValueError(
        f"{player.words!r} of feature {player.feature!r} is set to {value!r}, expected "
        "a finite number in the units of the data."
    )


def _player(
    what: str, name: Any, known: Names, records: Mapping[str, FeatureRecord], hint: str
) -> Player:
    """Whose places a name means."""
    key, code, visit = _parts(name)
    if key is not None and key not in records:
        raise FeatureKeyError(
            f"{what} names the feature {key!r}; the features are "
            f"{', '.join(map(repr, records))}."
        )
    keys = [k for k in known if key in (None, k)]
    holders = [k for k in keys if code in known[k]]
    if not holders:
        names = [word for k in keys for word in known[k]]
        near = get_close_matches(code, names, 3) or names[-3:]
        raise FeatureKeyError(
            f"{what} names {code!r}, which is none of the {len(names)} names of "
            f"{', '.join(map(repr, keys)) or 'any feature'}"
            + (f"; near are {', '.join(map(repr, near))}." if near else ".")
            + hint
        )
    if len(holders) > 1:
        raise ValueError(
            f"{what} names {code!r}, which {' and '.join(map(repr, holders))} have; "
            f"say which: ({holders[0]!r}, {code!r})."
        )
    if visit is not None and _steps(records[holders[0]]) is None:
        raise ValueError(
            f"{what} names visit {visit} of {code!r}, but feature {holders[0]!r} has "
            "no visits or steps."
        )
    return Player(holders[0], code, visit)


def _parts(name: Any) -> tuple[str | None, str, int | None]:
    """The feature, if it is said, the code, and the visit, if it is said."""
    parts = list(name) if isinstance(name, tuple) else [name]
    visit = None
    if len(parts) > 1 and isinstance(parts[-1], Integral):  # NumPy's, of a frame
        visit = int(parts.pop())
    if not 1 <= len(parts) <= 2 or (visit is not None and visit < 0):
        raise ValueError(
            f"{name!r} is no name: give a code or column, (feature, code), (code, "
            "visit) or (feature, code, visit), visits from 0."
        )
    return (str(parts[0]) if len(parts) == 2 else None), str(parts[-1]), visit


def edits_of(
    features: Sequence[Feature],
    records: Mapping[str, FeatureRecord],
    case: Iterable[Change],
    how: str = "drop",
) -> dict[str, Edit]:
    """By feature, what some changes do to it together; later ones go over others."""
    by_key = {feature.key: feature for feature in features}
    edits: dict[str, Edit] = {}
    for player, value in case:
        feature, record = by_key[player.feature], records[player.feature]
        nothing = torch.zeros_like(record.mask)
        removed, put, values = edits.get(
            player.feature, Edit(nothing, nothing, record.values)
        )
        at = _places(feature, record, player, value)
        if value is None and (how == "reference" or feature.embedding):
            values = torch.where(at, record.values, values)
            edits[player.feature] = Edit(removed | at, put & ~at, values)
        else:  # an absent category of a multi-hot vector is 0
            values = torch.where(at, values.new_tensor(value or 0.0), values)
            edits[player.feature] = Edit(removed & ~at, put | at, values)
    return edits


def _places(
    feature: Feature, record: FeatureRecord, player: Player, value: float | None
) -> Tensor:
    """Boolean, like the values: where a player's tokens or known values stand."""
    if feature.embedding:
        ids = [i for code, i in feature.ids.items() if str(code) == player.code]
        at = torch.isin(record.values, record.values.new_tensor(ids)) & record.mask
    else:
        held = record.mask
        if feature.columns and value is not None:
            held = torch.ones_like(held)  # that a category is absent is a value
        names, shape = column_names(player.feature, record), record.values.shape
        mine = torch.tensor([name == player.code for name in names])
        mine = mine.any() if record.is_series else mine.view(shape[2:] or shape[1:])
        at = held & mine.to(held.device) & ~torch.isnan(record.values)
    steps = _steps(record)
    if player.visit is None or steps is None:
        return at
    return at & (steps.to(at.device) == player.visit)


def _steps(record: FeatureRecord) -> Tensor | None:
    """The visit or step of each place, as it is broadcast; None where there is none."""
    shape = record.values.shape[1:]
    if record.is_token and len(shape) == 3:
        return torch.arange(shape[0] * shape[1]).view(shape[0], shape[1], 1)
    if len(shape) < 2 and not record.is_series:
        return None
    return torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1))


def edited(
    adapter: PyHealthAdapter,
    encoded: EncodedBatch,
    edits: Mapping[str, Edit],
    reference: Sequence[Tensor] | None = None,
) -> EncodedBatch:
    """The batch with these edits, padded as it was.

    What is removed is taken out of the record, the tokens behind it moving up as if it
    had never been there; or it is put to its ``reference``, where one is given.

    Raises:
        ValueError: If tokens are to go from a model that reads other entries beside
            them, or embeddings are not those of the batch's ids.
    """
    for feature, x in zip(adapter.features, encoded.inputs):
        ids = encoded.features[feature.key].values
        if feature.embedding and not torch.equal(adapter.embed(feature, ids), x):
            raise ValueError(
                f"The embeddings of feature {feature.key!r} are not those of its ids, "
                "so that no record stands for them; give the batch itself."
            )
    gone = {key: edit.removed for key, edit in edits.items() if edit.removed.any()}
    if reference is None and gone and adapter.extra_keys:
        raise ValueError(
            f"tokens of {', '.join(map(repr, gone))} are not dropped, for the model "
            f"reads {', '.join(map(repr, adapter.extra_keys))} beside them, which may "
            "stand place by place with them: say how='reference'."
        )
    args = encoded.additional_forward_args
    entries, rest = unpacked(adapter.features, encoded.inputs, args)
    batch: dict[str, Any] = dict(zip(adapter.extra_keys, rest))
    for entry in entries:
        key, parts = entry.feature.key, entry.parts
        if key in edits and entry.feature.embedding is None:
            parts = {**parts, "value": edits[key].values}
        elif key in gone and reference is None:
            parts = _moved_up(entry.feature, parts, gone[key])
        batch[key] = replace(entry, parts=parts).whole()
    changed = adapter.encode({**batch, "patient_id": list(encoded.patient_ids)})
    if reference is None:
        return changed
    inputs = tuple(
        torch.where(like(gone[key], x), x0, x) if key in gone else x
        for key, x, x0 in zip(changed.features, changed.inputs, reference)
    )
    return replace(changed, inputs=inputs)


def _moved_up(
    feature: Feature, parts: Mapping[str, Any], removed: Tensor
) -> dict[str, Any]:
    """A feature's parts without some tokens, those behind them moved up.

    Also what is one for each token: times of flat codes, masks.
    """
    order = removed.int().argsort(dim=-1, stable=True)
    places = torch.arange(removed.shape[-1], device=removed.device)
    left = places < removed.shape[-1] - removed.sum(-1, keepdim=True)
    padding = {"value": feature.special("<pad>", 0)}
    return {
        name: part
        if part is None or part.shape != removed.shape
        else torch.where(left, part.gather(-1, order), padding.get(name, 0)).to(part)
        for name, part in parts.items()
    }
