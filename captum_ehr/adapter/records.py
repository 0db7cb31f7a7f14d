"""A feature of a batch as its owner would read it: codes, values, masks, times."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureRecord:
    """What stands in one feature of a batch, before any embedding.

    Args:
        values: Token ids (integer) or raw values (floating), exactly as the
            data loader gave them: ``(patients, positions)`` for flat token
            sequences, ``(patients, visits, positions)`` for nested ones,
            ``(patients, columns)`` for tensors and multi-hot vectors,
            ``(patients, steps, columns)`` for time series.
        mask: Boolean, shaped like ``values``; True where a real token or value
            stands, False on padding.
        time: ``(patients, steps)`` or None; the time of each step of axis 1, in
            the units of the task that made the samples.
        vocabulary: For tokens, the code of each id; None for continuous features.
        columns: Names of the last axis of a continuous feature, or None.
    """

    values: Tensor
    mask: Tensor
    time: Tensor | None = None
    vocabulary: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None

    @property
    def is_token(self) -> bool:
        """True for features whose values are ids of a vocabulary."""
        return self.vocabulary is not None


class FeatureKeyError(KeyError):
    """A feature key, label or batch entry that is not there; reads as a sentence."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""
