"""Missing values: what is NaN on one of the two sides.

A model that takes NaN for what was not measured (GRU-D, Che et al., 2018) has an answer
for it, and the place itself has no value that could change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .tape import Tape


def missing(x: Tensor, reference: Tensor) -> Tensor | None:
    """Where a value is missing (NaN) on one of the sides; None if nowhere.

    There the reference takes the input's value: that it is missing belongs to the
    patient, and its place has no part in the change.
    """
    if x.is_meta or bool(torch.isfinite(x.detach().sum() + reference.sum())):
        return None
    places = torch.isnan(x.detach()) | torch.isnan(reference)
    return places if bool(places.any()) else None


def where_known(value: Tensor, other: Tensor | float, places: Tensor | None) -> Tensor:
    """The value, and another one where it is missing."""
    return value if places is None else torch.where(places, other, value)


def references_where_known(
    inputs: Sequence[Tensor], references: Sequence[Tensor], tape: Tape
) -> list[Tensor]:
    """The references with the input's values where one of the two is missing."""
    if not tape.seeks_missing:
        return list(references)
    known = []
    for x, reference in zip(inputs, references):
        places = missing(x, reference)
        tape.keep("missing values (NaN)", 0 if places is None else places.sum())
        known.append(where_known(reference, x.detach(), places))
    return known


def nan_without_answer(
    attributions: tuple[Tensor, ...], f_input: Tensor, f_baseline: Tensor
) -> tuple[Tensor, ...]:
    """NaN for all of a patient for whom the model has no finite answer."""
    broken = ~torch.isfinite(f_input - f_baseline)
    if not bool(broken.any()):
        return attributions
    rows = (broken.view(-1, *[1] * (a.dim() - 1)) for a in attributions)
    return tuple(a.masked_fill(row, torch.nan) for a, row in zip(attributions, rows))
