"""What to know of a reference that no patient of the dataset has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..explanation.feature_record import column_names
from ..explanation.words import OUTSIDE
from .encoded import EncodedBatch
from .observations import ValueRange

_MORE = 4
"""How many columns are told of beyond the first."""


def outside(
    ranges: Mapping[str, ValueRange], encoded: EncodedBatch, reference: Sequence[Tensor]
) -> tuple[str, ...]:
    """A note for each feature whose reference no patient of the dataset has.

    Of a laboratory value that is never 0, a reference of 0 makes much of what does not
    matter.

    Args:
        ranges: By feature key, what the dataset holds.
        encoded: The explained batch.
        reference: One tensor like each of its inputs.
    """
    notes = []
    for key, baseline, mask in zip(encoded.feature_keys, reference, encoded.masks):
        held, record = ranges.get(key), encoded.features[key]
        width = 1 if record.is_series or baseline.dim() < 2 else baseline.shape[-1]
        if held is None or len(held.low) != width or not baseline.numel():
            continue
        least, most = (
            torch.where(mask, baseline, sign * torch.inf).reshape(-1, width)
            for sign in (1, -1)
        )
        low, high = least.amin(0).cpu(), most.amax(0).cpu()
        below = low < held.low - held.slack
        columns = (below | (high > held.high + held.slack)).nonzero().flatten().tolist()
        if not columns:
            continue
        names, value = column_names(key, record), torch.where(below, low, high)
        some = [
            f"{names[k]} is {float(value[k]):.4g}, where {who} have "
            f"{float(held.low[k]):.4g} to {float(held.high[k]):.4g}"
            for k, who in zip(columns, [f"{held.patients} samples", *["they"] * _MORE])
        ]
        rest = len(columns) - len(some)
        notes.append(
            f"the reference of feature {key!r} {OUTSIDE}, in {len(columns)} of {width} "
            f"column(s): {'; '.join(some)}"
            f"{f'; and {rest} more' if rest else ''}. "
            'A usual patient: baselines="typical"'
        )
    return tuple(notes)
