"""References: by name, by feature, by tensor, by function, or other patients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..explanation import FeatureKeyError, FeatureRecord
from ..explanation.times import runs_forward
from .encoded import EncodedBatch, batched, collated
from .features import Feature

#: What ``baselines`` may be for a batch; see :meth:`PyHealthAdapter.baseline`.
type Baseline = (
    None
    | str
    | float
    | Tensor
    | Sequence[Any]
    | Mapping[str, Any]
    | Callable[[EncodedBatch], Any]
)

#: From a feature and token ids to their embeddings.
type Embed = Callable[[Feature, Tensor], Tensor]

NAMES = ("unk", "pad", "mean", "median", "pyhealth")

#: What PyHealth's DeepLift takes for every continuous value.
PYHEALTH_VALUE = 0.01

_MOST_PATIENTS = 500


@dataclass(frozen=True, eq=False)
class _Input:
    """An explained input; ``untouched`` if its embeddings are those looked up."""

    feature: Feature
    value: Tensor
    mask: Tensor
    ids: Tensor
    untouched: bool
    embed: Callable[[Tensor], Tensor]


def reference(
    features: Sequence[Feature],
    embed: Embed,
    encoded: EncodedBatch,
    baselines: Baseline,
    dataset: Observations,
) -> tuple[Tensor, ...]:
    """The reference tensors of an encoded batch, one per feature."""
    keys = [feature.key for feature in features]
    inputs = _inputs(features, embed, encoded)
    if callable(baselines):
        baselines = baselines(encoded)
    if baselines is None or isinstance(baselines, str):
        name = baselines or "unk"
        if name not in NAMES:
            raise ValueError(f"Unknown baseline {name!r}; the names are {NAMES}.")
        specs: list[Any] = [name] * len(features)
    elif isinstance(baselines, Mapping):
        unknown = set(baselines) - set(keys)
        if unknown:
            raise FeatureKeyError(
                f"baselines names {sorted(map(str, unknown))}; the features are {keys}."
            )
        specs = [_spec(feature, baselines) for feature in features]
    else:  # Captum's way: a tensor or number for one feature, or a tuple for all
        parts = baselines if isinstance(baselines, (tuple, list)) else (baselines,)
        if len(parts) != len(features):
            raise ValueError(
                f"baselines has {len(parts)} part(s), the model {len(features)} "
                f"features: {', '.join(keys)}."
            )
        return tuple(_fitted(x, part) for x, part in zip(inputs, parts))
    return tuple(_masked(x, spec, dataset) for x, spec in zip(inputs, specs))


def _inputs(
    features: Sequence[Feature], embed: Embed, encoded: EncodedBatch
) -> Iterator[_Input]:
    untouched = encoded.inputs is encoded.looked_up
    for feature, x, mask in zip(features, encoded.inputs, encoded.masks):
        ids = encoded.features[feature.key].values
        yield _Input(feature, x, mask, ids, untouched, partial(embed, feature))


def _spec(feature: Feature, baselines: Mapping[str, Any]) -> Any:
    """What a mapping says of a feature; times may stand in their feature's tuple."""
    if feature.owner is not None and feature.key not in baselines:
        whole = baselines.get(feature.owner.key)
        return whole if isinstance(whole, (tuple, list)) else "unk"
    return baselines.get(feature.key, "unk")


def _masked(x: _Input, spec: Any, dataset: Observations) -> Tensor:
    """One feature's reference; where nothing stands it is the input's own padding."""
    feature = x.feature
    if isinstance(spec, str):
        if spec not in NAMES:
            raise ValueError(
                f"Feature {feature.key!r}: unknown baseline {spec!r}; the names are "
                f"{NAMES}."
            )
        if spec == "unk" and feature.embedding and x.untouched:
            return x.embed(torch.where(x.mask, _unknown(feature), x.ids))
        raw = _named(x, spec, dataset)
        if spec == "pyhealth":
            return raw
    else:
        raw = _fitted(x, spec)
        if feature.owner is None and feature.columns is not None:
            return raw  # a category that is absent is a value, not padding
    mask = x.mask.unsqueeze(-1) if feature.embedding else x.mask
    return torch.where(mask, raw, x.value)


def _named(x: _Input, name: str, dataset: Observations) -> Tensor:
    feature, value = x.feature, x.value
    if name in ("mean", "median"):  # over all real tokens, or all steps
        held, counts = dataset.of(feature)
        points = x.embed(held.to(value.device)) if feature.embedding else held.to(value)
        middle = _mean if name == "mean" else _median
        return middle(points, counts.to(value.device)).expand(value.shape)
    if feature.owner is not None and name == "pyhealth":
        return value
    if feature.embedding is None:
        return torch.full_like(value, PYHEALTH_VALUE if name == "pyhealth" else 0.0)
    if name == "pad":
        return torch.zeros_like(value)
    unknown = torch.tensor(_unknown(feature), device=value.device)
    return x.embed(unknown).expand(value.shape)


def _unknown(feature: Feature) -> int:
    return feature.special("<unk>", 1)


def _fitted(x: _Input, spec: Any) -> Tensor:
    """A number, raw values, ids or embeddings, brought to the input's shape."""
    feature, value = x.feature, x.value
    if isinstance(spec, (tuple, list)):
        spec = feature.read(tuple(spec))["value"]
    if isinstance(spec, (int, float)):
        return torch.full_like(value, float(spec))
    if not isinstance(spec, Tensor):
        raise TypeError(
            f"Feature {feature.key!r}: a baseline may be a name, a number, a tensor or "
            f"the data loader's tuple, got {type(spec).__name__}."
        )
    spec = spec.detach().to(value.device)
    try:
        if feature.embedding and not spec.is_floating_point():
            return x.embed(spec.expand(x.ids.shape))
        return spec.to(value.dtype).expand(value.shape)
    except (RuntimeError, ValueError):
        wanted = f"{tuple(x.ids.shape)} (raw values, or ids of its vocabulary)"
        if feature.embedding:
            wanted += f" or {tuple(value.shape)} (embeddings)"
        raise ValueError(
            f"Feature {feature.key!r}: its baseline has shape {tuple(spec.shape)} and "
            f"dtype {spec.dtype}, expected {wanted}."
        ) from None


def observed(feature: Feature, samples: Iterable[Mapping[str, Any]]) -> Tensor:
    """All real tokens of samples, ``(tokens,)``, or values, ``(steps, columns)``."""
    rows = []
    for sample in samples:
        record = _record(feature, sample)
        if feature.embedding:
            rows.append(record.values[record.mask])
        elif record.values.dim() == 2 and record.time is not None:
            rows.append(record.values[record.mask].unsqueeze(-1))
        elif feature.columns is not None:
            rows.append(record.values)
        else:
            width = record.values.shape[-1]
            rows.append(record.values[record.mask].reshape(-1, width))
    if not rows:
        raise ValueError("The dataset is empty: it has no mean or median.")
    return torch.cat(rows)


def _record(feature: Feature, sample: Mapping[str, Any]) -> FeatureRecord:
    return feature.record(feature.read(batched(sample[feature.source])))


def _mean(points: Tensor, counts: Tensor) -> Tensor:
    """``(columns,)``: the mean of points that are there several times."""
    total: Tensor = counts.double() @ points.double() / counts.sum()
    return total.to(points.dtype)


def _median(points: Tensor, counts: Tensor) -> Tensor:
    """``(columns,)``: the median likewise; of an even number the lower one, as torch's.

    Example:
        >>> _median(torch.tensor([[3.0], [1.0]]), torch.tensor([1, 2]))
        tensor([1.])
    """
    ordered, order = points.sort(0)
    upto = counts[order].cumsum(0)
    place = (upto <= (counts.sum() - 1) // 2).sum(0, keepdim=True)
    return ordered.gather(0, place).squeeze(0)


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
    """What the samples of a dataset hold, read when it is first asked for.

    Args:
        samples: The dataset.
    """

    def __init__(self, samples: Any) -> None:
        self._samples = samples
        self._held: dict[str, tuple[Tensor, Tensor]] = {}
        self._clocks: dict[tuple[str, ...], bool] = {}

    def of(self, feature: Feature) -> tuple[Tensor, Tensor]:
        """Each token that there is, or the values of each step, and how many times."""
        if feature.key not in self._held:
            table = observed(feature, self._samples)
            if feature.embedding:
                self._held[feature.key] = table.unique(return_counts=True)
            else:
                self._held[feature.key] = table, torch.ones(len(table)).long()
        return self._held[feature.key]

    def ranges(self, features: Sequence[Feature]) -> dict[str, ValueRange]:
        """By feature key, the range of each column of continuous values.

        Of some hundred samples, evenly spread; empty where they cannot be read.
        Multi-hot features are left out, whose 0 is the absence of a category.
        """
        valued = [
            feature
            for feature in features
            if feature.embedding is None
            and (feature.columns is None or feature.owner is not None)
        ]
        if not valued:
            return {}
        ranges: dict[str, ValueRange] = {}
        try:
            samples = self._some()
            for feature in valued:
                table = observed(feature, samples)
                if len(table):
                    low, high = table.amin(0), table.amax(0)
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


def at_positions(
    features: Sequence[Feature], encoded: EncodedBatch, others: EncodedBatch
) -> Iterator[dict[str, Tensor]]:
    """Each reference patient's tokens and values, at the explained ones' positions."""
    for row in range(len(others)):
        values = {}
        for feature, x, other, mask in zip(
            features, encoded.inputs, others.inputs, others.masks
        ):
            kept = other * (mask.unsqueeze(-1) if feature.embedding else mask)
            if kept.dim() != x.dim():
                raise ValueError(
                    f"Feature {feature.key!r}: the reference patients have shape "
                    f"{tuple(kept.shape[1:])}, the explained {tuple(x.shape[1:])}."
                )
            last = x.dim() - 1 if feature.embedding or x.dim() > 2 else x.dim()
            cut = _cut(kept[row : row + 1], x.shape, last)
            values[feature.key] = cut.expand(x.shape)
        yield values


def _cut(value: Tensor, shape: torch.Size, last: int) -> Tensor:
    """Cut or fill the axes of positions (1 to ``last`` - 1) to a shape."""
    more = [n - m for n, m in zip(shape, value.shape)]
    more = [n if 0 < axis < last else 0 for axis, n in enumerate(more)]
    return F.pad(value, [p for n in reversed(more) for p in (0, n)])  # < 0 cuts
