"""Feature masks: what Captum's perturbation methods take away together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..explanation import FeatureRecord
from ..explanation.feature_record import column_names
from ..explanation.player import Player
from .encoded import EncodedBatch, like

if TYPE_CHECKING:
    import pandas as pd

PLAYERS = ("code", "token", "visit", "feature")


class FeatureMask(tuple[Tensor, ...]):
    """A ``feature_mask`` for Captum that remembers who its players are.

    A plain tuple of integer tensors to everything that only reads it. Each patient's
    players are numbered on their own, from 0, so that a batch takes no more runs than
    its longest patient alone; padding has the one number after all of them.
    """

    players: tuple[tuple[Player, ...], ...]
    """By patient, the player of each number; padding is not among them."""

    patient_ids: tuple[str, ...]

    def __new__(
        cls,
        masks: Sequence[Tensor],
        players: Sequence[tuple[Player, ...]],
        patient_ids: tuple[str, ...],
    ) -> FeatureMask:
        """Masks, and by patient who stands behind their numbers."""
        whole = super().__new__(cls, masks)
        whole.players, whole.patient_ids = tuple(players), patient_ids
        return whole

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.players, self.patient_ids

    def to_frame(self, attributions: Sequence[Tensor]) -> pd.DataFrame:
        """What a perturbation method gave each player, one row per player.

        Args:
            attributions: As the method returned them for this mask: one tensor per
                feature, shaped like the inputs, the same at all places of a player.

        Returns:
            A frame with the columns ``patient_id``, ``player`` (its number),
            ``feature``, ``code``, ``visit``, ``position`` and ``attribution``.

        Raises:
            ValueError: If there is not one tensor per feature, a shape does not fit,
                or attributions differ within a player (sum those yourself).

        Example:
            >>> from captum.attr import FeatureAblation
            >>> from captum_ehr import PyHealthAdapter
            >>> from captum_ehr.datasets import tiny_model
            >>> model, batch = tiny_model()
            >>> adapter = PyHealthAdapter(model)
            >>> enc, mask = adapter.encode(batch), adapter.feature_mask(batch)
            >>> found = FeatureAblation(adapter).attribute(
            ...     enc.inputs,
            ...     adapter.baseline(enc),
            ...     target=0,
            ...     additional_forward_args=enc.additional_forward_args,
            ...     feature_mask=mask,
            ... )
            >>> list(mask.to_frame(found).columns)[-3:]
            ['visit', 'position', 'attribution']
        """
        import pandas as pd

        lowest, highest = self._ends(attributions)
        rows = [
            (patient, number, *player, float(lowest[row, number]))
            for row, patient in enumerate(self.patient_ids)
            for number, player in enumerate(self.players[row])
        ]
        real = torch.zeros_like(lowest, dtype=torch.bool)
        for row, players in enumerate(self.players):
            real[row, : len(players)] = True
        ends = lowest[real], highest[real]  # NaN where the model has no answer
        if not torch.allclose(*ends, rtol=0, atol=0, equal_nan=True):
            raise ValueError(
                "The attributions differ within a player, so they are not what a "
                "perturbation method gives for this mask. Sum them over its places."
            )
        columns = ["patient_id", "player", *Player._fields, "attribution"]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype({"visit": "Int64", "position": "Int64"})

    def _ends(self, attributions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The lowest and the highest attribution of each player, by patient."""
        if len(attributions) != len(self):
            raise ValueError(
                f"{len(attributions)} tensor(s) of attributions for the {len(self)} "
                "of this mask: give one per feature."
            )
        numbers, shares = [], []
        for k, (mask, part) in enumerate(zip(self, attributions)):
            if part.dim() != mask.dim() or any(
                m not in (1, n) for m, n in zip(mask.shape, part.shape)
            ):
                raise ValueError(
                    f"Attributions {k} have shape {tuple(part.shape)}, expected that "
                    f"of the input, {tuple(mask.shape)} with the last dimension free."
                )
            numbers.append(mask.expand_as(part).flatten(1))
            shares.append(part.detach().flatten(1).double())
        index, values = torch.cat(numbers, 1), torch.cat(shares, 1)
        ends = values.new_zeros(len(values), int(index.max()) + 1)
        return (
            ends.scatter_reduce(1, index, values, "amin", include_self=False),
            ends.scatter_reduce(1, index, values, "amax", include_self=False),
        )


def feature_mask(encoded: EncodedBatch, players: str) -> FeatureMask:
    """The mask of an encoded batch; see :meth:`PyHealthAdapter.feature_mask`."""
    if players not in PLAYERS:
        raise ValueError(f"players={players!r}; it is one of {PLAYERS}.")
    if players == "visit":
        _check_visits(encoded)
    masks = [torch.full(m.shape, -1) for m in encoded.masks]
    named = [
        _number(encoded, players, row, [mask[row] for mask in masks])
        for row in range(len(encoded))
    ]
    padding = max(map(len, named))
    shaped = []
    for mask, x in zip(masks, encoded.inputs):
        mask[mask < 0] = padding
        shaped.append(like(mask, x).to(x.device))
    return FeatureMask(shaped, named, encoded.patient_ids)


def _number(
    encoded: EncodedBatch, players: str, row: int, masks: Sequence[Tensor]
) -> tuple[Player, ...]:
    """Write one patient's numbers into the masks, in the order of the record."""
    numbers: dict[Player, int] = {}
    rows = zip(encoded.features.items(), encoded.inputs, masks)
    for (key, record), x, mask in rows:
        is_token = record.is_token or x.dim() > record.mask.dim()
        ids = record.values[row] if is_token else None
        names = () if is_token else column_names(key, record)
        for place in record.mask[row].nonzero().tolist():
            at = _position(record, place)
            code = names[at] if ids is None else _code(record, place, ids)
            player = _player(key, record, players, place, code)
            mask[tuple(place)] = numbers.setdefault(player, len(numbers))
    return tuple(numbers)


def _player(
    key: str,
    record: FeatureRecord,
    players: str,
    place: list[int],
    code: str,
) -> Player:
    """Whom a real token or value belongs to."""
    visit = _visit(record, place)
    if players == "feature" or (players == "visit" and visit is None):
        return Player(key)
    if players == "visit":
        return Player("", visit=visit)
    if players == "code":
        return Player(key, code)
    held = visit if len(place) > 1 else None
    return Player(key, code, held, _position(record, place))


def _code(record: FeatureRecord, place: list[int], ids: Tensor) -> str:
    token, vocabulary = int(ids[tuple(place)]), record.vocabulary or ()
    return vocabulary[token] if token < len(vocabulary) else str(token)


def _position(record: FeatureRecord, place: list[int]) -> int:
    """Where in its visit or step a place is, over all axes of its columns."""
    if len(place) < 2 or record.is_token:
        return place[-1] if place else 0
    inner = record.values.shape[2:]
    return sum(k * inner[axis:].numel() for axis, k in enumerate(place[1:], 1))


def _visit(record: FeatureRecord, place: list[int]) -> int | None:
    """Which visit or step a place is in, None for features that have none."""
    if not _has_visits(record):
        return None
    groups = _groups(record)
    return place[0] if groups is None else place[0] * groups + place[1]


def _has_visits(record: FeatureRecord) -> bool:
    """Whether places are in visits or steps; a single time is that of all columns."""
    if record.values.dim() > 2 or record.time is None:
        return record.values.dim() > 2
    return record.is_series or record.time.shape == record.values.shape


def _groups(record: FeatureRecord) -> int | None:
    """How many visits are in a group of them, None where there are no groups."""
    grouped = record.is_token and record.values.dim() == 4
    return record.values.shape[2] if grouped else None


def _check_visits(encoded: EncodedBatch) -> None:
    """Refuse to match the visits of features that do not go together."""
    stepped = {k: r for k, r in encoded.features.items() if _has_visits(r)}
    if not stepped:
        raise ValueError(
            f"players='visit', but none of the features ({', '.join(encoded.features)})"
            " has visits or steps."
        )
    counts = {key: r.values.shape[1] * (_groups(r) or 1) for key, r in stepped.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"players='visit', but the features differ in their number of visits or "
            f"steps: {counts}. Visit k of one is not visit k of the other."
        )
    timed = [(k, r) for k, r in stepped.items() if r.time is not None]
    for (key, first), (other, second) in zip(timed, timed[1:]):
        both = _real_steps(first) & _real_steps(second)
        assert first.time is not None and second.time is not None
        apart = (both & (first.time != second.time)).any(1)
        if bool(apart.any()):
            raise ValueError(
                f"players='visit', but the times of {key!r} and {other!r} differ for "
                f"patient(s) {apart.nonzero().flatten().tolist()} of the batch. Visit "
                "k of one is not visit k of the other."
            )


def _real_steps(record: FeatureRecord) -> Tensor:
    return record.mask.flatten(2).any(2) if record.mask.dim() > 2 else record.mask
