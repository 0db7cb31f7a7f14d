"""What values the patients of a dataset have, to judge a reference by."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from .references import observed

if TYPE_CHECKING:
    from .adapter import PyHealthAdapter

_MOST_PATIENTS = 500


class ValueRange(NamedTuple):
    """Of one continuous feature.

    Args:
        low: ``(columns,)``, the least value of each column.
        high: ``(columns,)``, the greatest.
        slack: ``(columns,)``, rounding: beyond them by less is not outside.
        patients: Of how many samples.
    """

    low: Tensor
    high: Tensor
    slack: Tensor
    patients: int


def value_ranges(adapter: PyHealthAdapter) -> dict[str, ValueRange]:
    """By feature key, the range of each column of values in the model's dataset.

    Of some hundred samples, evenly spread; empty where the dataset cannot be read.
    Multi-hot features are left out, whose 0 is the absence of a category.
    """
    keys = {f.key: f for f in adapter.features if f.embedding is None}
    valued = [f for f in keys.values() if f.columns is None or f.owner is not None]
    found: dict[str, ValueRange] = {}
    if not valued:
        return found
    try:
        dataset = adapter.model.dataset
        step = max(1, len(dataset) // _MOST_PATIENTS)
        samples = [dataset[k] for k in range(0, len(dataset), step)]
        for feature in valued:
            table = observed(feature, samples)
            if len(table):
                low, high = table.amin(0), table.amax(0)
                slack = 1e-6 * low.abs().maximum(high.abs())
                found[feature.key] = ValueRange(low, high, slack, len(samples))
    except Exception:
        # No explanation depends on it: the dataset may be gone, or hold what the model
        # is not explained for (NaN).
        return {}
    return found
