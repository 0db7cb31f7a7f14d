"""What a dataset holds: its tokens, its values, their middle and their range."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..explanation import FeatureRecord
from ..explanation.times import runs_forward
from .encoded import batched, collated
from .features import Feature

_MOST_PATIENTS = 500


def observed(feature: Feature, samples: Iterable[Mapping[str, Any]]) -> Tensor:
    """All real tokens of samples, ``(tokens,)``, or values, ``(steps, columns)``.

    A value that is missing in a step that is there is NaN.
    """
    rows = []
    for sample in samples:
        record = _record(feature, sample)
        if feature.embedding:
            rows.append(record.values[record.mask])
            continue
        values = record.values
        if feature.owner is not None or feature.columns is None:
            values = values if values.is_floating_point() else values.float()
            values = values.masked_fill(~record.mask, torch.nan)
        width = 1 if record.is_series else values.shape[-1]
        steps = values.reshape(-1, width)
        rows.append(steps[~steps.isnan().all(1)])
    if not rows:
        raise ValueError("The dataset is empty: it has no mean or median.")
    return torch.cat(rows)


def middle_of(points: Tensor, counts: Tensor, name: str) -> Tensor:
    """``(columns,)``: the mean or median of points that are there several times.

    Of NaN there is none; of an even number the median is the lower one, as torch's.

    Args:
        points: ``(points, columns)``.
        counts: ``(points,)``, how many times each is there.
        name: ``"mean"`` or ``"median"``.

    Example:
        >>> points = torch.tensor([[3.0, 5.0], [1.0, torch.nan]])
        >>> middle_of(points, torch.tensor([1, 2]), "median")
        tensor([1., 5.])
    """
    if name == "mean":
        weights = counts.double()
        known = ~points.isnan()
        total = weights @ torch.where(known, points.double(), 0.0)
        return (total / (weights @ known.double())).to(points.dtype)
    ordered, order = points.sort(0)  # NaN comes last
    upto = (counts[order] * ~ordered.isnan()).cumsum(0)
    place = (upto <= (upto[-1] - 1) // 2).sum(0, keepdim=True)
    return ordered.gather(0, place.clamp(max=len(points) - 1)).squeeze(0)


def _record(feature: Feature, sample: Mapping[str, Any]) -> FeatureRecord:
    return feature.record(feature.read(batched(sample[feature.source])))


class ValueRange(NamedTuple):
    """What values the patients of a dataset have, to judge a reference by.

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


class Observations:
    """What the samples of a dataset hold, read once, when it is first asked for.

    Args:
        samples: The dataset.
    """

    def __init__(self, samples: Any) -> None:
        self._samples = samples
        self._tokens: dict[str, tuple[Tensor, Tensor]] = {}
        self._middles: dict[tuple[str, str], Tensor] = {}
        self._clocks: dict[tuple[str, ...], bool] = {}
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        """All but the lock, which cannot be pickled or copied."""
        return {name: held for name, held in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = Lock()

    def tokens(self, feature: Feature) -> tuple[Tensor, Tensor]:
        """Each token that there is, and how many times."""
        with self._lock:
            if feature.key not in self._tokens:
                table = observed(feature, self._samples)
                self._tokens[feature.key] = table.unique(return_counts=True)
            return self._tokens[feature.key]

    def middle(self, feature: Feature, name: str) -> Tensor:
        """``(columns,)``: the mean or median of a feature's values.

        Padding and missing values do not count.

        Raises:
            ValueError: If nobody has a value of one of the columns.
        """
        with self._lock:
            if (feature.key, name) not in self._middles:
                table = observed(feature, self._samples)
                once = torch.ones(len(table), dtype=torch.long)
                found = middle_of(table, once, name)
                if empty := found.isnan().nonzero().flatten().tolist():
                    raise ValueError(
                        f"Feature {feature.key!r}: no sample has a value in column(s) "
                        f"{empty} of the dataset, so there is no {name}; give values, "
                        f"baselines={{{feature.key!r}: ...}}."
                    )
                self._middles[feature.key, name] = found
            return self._middles[feature.key, name]

    def ranges(self, features: Sequence[Feature]) -> dict[str, ValueRange]:
        """By feature key, the range of each column of continuous values.

        Of some hundred samples, evenly spread; empty where they cannot be read.
        Multi-hot features are left out, whose 0 is the absence of a category.
        """
        valued = [feature for feature in features if feature.is_valued]
        if not valued:
            return {}
        ranges: dict[str, ValueRange] = {}
        try:
            samples = self._some()
            for feature in valued:
                table = observed(feature, samples)
                if len(table):
                    empty = table.isnan().all(0)  # of which anything may be usual
                    low, high = (
                        sign * (sign * table).nan_to_num(torch.inf).amin(0)
                        for sign in (1, -1)
                    )
                    low, high = (
                        low.where(~empty, -torch.inf),
                        high.where(~empty, torch.inf),
                    )
                    slack = 1e-6 * low.abs().maximum(high.abs())
                    held = ValueRange(low, high, slack, len(samples))
                    ranges[feature.key] = held
        except Exception:
            # No explanation depends on it: the dataset may be gone, or hold what the
            # model is not explained for (NaN).
            return {}
        return ranges

    def has_clock(self, features: Sequence[Feature]) -> bool:
        """Whether all recorded times run forward, of some hundred samples.

        Gaps since the visit before do not, and where those of one feature are such,
        those of the others may be too. True where the samples cannot be read.
        """
        timed = [feature for feature in features if "time" in feature.schema]
        keys = tuple(feature.key for feature in timed)
        if keys and keys not in self._clocks:
            try:
                self._clocks[keys] = all(
                    runs_forward(_record(feature, sample))[0]
                    for sample in self._some()
                    for feature in timed
                )
            except Exception:
                self._clocks[keys] = True  # no number depends on it
        return self._clocks.get(keys, True)

    def _some(self) -> list[Any]:
        """Some hundred samples, evenly spread."""
        count = len(self._samples)
        step = max(1, count // _MOST_PATIENTS)
        return [self._samples[k] for k in range(0, count, step)]


def reference_patients(dataset: Any, count: int, seed: int = 0) -> dict[str, Any]:
    """Some patients of a dataset as one batch, drawn without replacement.

    Args:
        dataset: A PyHealth sample dataset.
        count: How many.
        seed: Which ones.

    Returns:
        A batch as PyHealth's data loader yields it.

    Raises:
        ValueError: If the dataset has fewer patients.

    Example:
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> sample = reference_patients(model.dataset, 3)
        >>> len(sample["patient_id"])
        3
    """
    size = len(dataset)
    if not 0 < count <= size:
        raise ValueError(f"{count} reference patients of a dataset that has {size}.")
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return collated([dataset[int(k)] for k in order[:count]])
