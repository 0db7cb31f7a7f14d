"""What to know when reading an explanation, although nothing in it is inexact."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapter import EncodedBatch, PyHealthAdapter
from ..explanation.feature_record import column_names


def outside(
    adapter: PyHealthAdapter, encoded: EncodedBatch, reference: Sequence[Tensor]
) -> tuple[str, ...]:
    """A note for each feature whose reference no patient of the dataset has.

    Of a laboratory value that is never 0, a reference of 0 makes much of what does not
    matter.

    Args:
        adapter: Of the explained model.
        encoded: The explained patients.
        reference: A tensor for each of the inputs.
    """
    notes = []
    for key, given, mask in zip(encoded.feature_keys, reference, encoded.masks):
        found, record = adapter.ranges.get(key), encoded.features[key]
        width = 1 if record.is_series or given.dim() < 2 else given.shape[-1]
        if found is None or len(found.low) != width or not given.numel():
            continue
        least, most = (
            torch.where(mask, given, sign * torch.inf).reshape(-1, width)
            for sign in (1, -1)
        )
        low, high = least.amin(0).cpu(), most.amax(0).cpu()
        off = (low < found.low - found.slack) | (high > found.high + found.slack)
        if bool(off.any()):
            one = int(off.nonzero()[0])
            value = low if low[one] < found.low[one] else high
            notes.append(
                f"the reference of feature {key!r} is outside of what the dataset "
                f"holds, in {int(off.sum())} of {width} column(s): "
                f"{column_names(key, record)[one]} is "
                f"{float(value[one]):.4g}, where {found.patients} samples have "
                f"{float(found.low[one]):.4g} to {float(found.high[one]):.4g}. "
                f'A usual patient: baselines={{{key!r}: "mean"}}'
            )
    return tuple(notes)
