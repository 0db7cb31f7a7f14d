"""References by name, by feature, by tensor or by function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..explanation import FeatureKeyError
from .encoded import EncodedBatch
from .features import Feature
from .patients import batched

if TYPE_CHECKING:
    from .adapter import PyHealthAdapter

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

NAMES = ("unk", "pad", "mean", "median", "pyhealth")

#: What PyHealth's DeepLift takes for every continuous value.
PYHEALTH_VALUE = 0.01


def reference(
    adapter: PyHealthAdapter, encoded: EncodedBatch, baselines: Baseline, dataset: Any
) -> tuple[Tensor, ...]:
    """The reference tensors of an encoded batch, one per feature."""
    if callable(baselines):
        baselines = baselines(encoded)
    if baselines is None or isinstance(baselines, str):
        name = baselines or "unk"
        if name not in NAMES:
            raise ValueError(f"Unknown baseline {name!r}; the names are {NAMES}.")
        given: Mapping[str, Any] = dict.fromkeys(adapter.feature_keys, name)
    elif isinstance(baselines, Mapping):
        unknown = set(baselines) - set(adapter.feature_keys)
        if unknown:
            raise FeatureKeyError(
                f"baselines names {sorted(map(str, unknown))}; the features are "
                f"{list(adapter.feature_keys)}."
            )
        given = {f.key: _given(f, baselines) for f in adapter.features}
    else:
        return _as_captum(adapter, encoded, baselines)
    return tuple(
        _masked(adapter, feature, encoded, k, given[feature.key], dataset)
        for k, feature in enumerate(adapter.features)
    )


def _given(feature: Feature, baselines: Mapping[str, Any]) -> Any:
    """What a mapping says of a feature; times may stand in their feature's tuple."""
    if feature.owner is not None and feature.key not in baselines:
        whole = baselines.get(feature.owner.key)
        return whole if isinstance(whole, (tuple, list)) else "unk"
    return baselines.get(feature.key, "unk")


def _as_captum(
    adapter: PyHealthAdapter, encoded: EncodedBatch, baselines: Any
) -> tuple[Tensor, ...]:
    """A tensor or number for one feature, or a tuple of them for all."""
    parts = baselines if isinstance(baselines, (tuple, list)) else (baselines,)
    if len(parts) != len(adapter.features):
        raise ValueError(
            f"baselines has {len(parts)} part(s), the model {len(adapter.features)} "
            f"features: {', '.join(adapter.feature_keys)}."
        )
    return tuple(
        _fitted(adapter, feature, encoded.inputs[k], parts[k], encoded)
        for k, feature in enumerate(adapter.features)
    )


def _masked(
    adapter: PyHealthAdapter,
    feature: Feature,
    encoded: EncodedBatch,
    position: int,
    spec: Any,
    dataset: Any,
) -> Tensor:
    """One feature's reference; where nothing stands it is the input's own padding."""
    value, mask = encoded.inputs[position], encoded.masks[position]
    if isinstance(spec, str):
        if spec not in NAMES:
            raise ValueError(
                f"Feature {feature.key!r}: unknown baseline {spec!r}; the names are "
                f"{NAMES}."
            )
        if spec == "unk" and feature.embedding and encoded.inputs is encoded.looked_up:
            ids = encoded.features[feature.key].values
            return adapter.embed(feature, torch.where(mask, _unknown(feature), ids))
        raw = _named(adapter, feature, encoded, value, spec, dataset)
        if spec == "pyhealth":
            return raw
    else:
        raw = _fitted(adapter, feature, value, spec, encoded)
        if feature.owner is None and feature.columns is not None:
            return raw  # a category that is absent is a value, not padding
    return torch.where(mask.unsqueeze(-1) if feature.embedding else mask, raw, value)


def _named(
    adapter: PyHealthAdapter,
    feature: Feature,
    encoded: EncodedBatch,
    value: Tensor,
    name: str,
    dataset: Any,
) -> Tensor:
    if name in ("mean", "median"):
        return _statistic(adapter, feature, value, name, dataset)
    if feature.owner is not None and name == "pyhealth":
        return value
    if feature.embedding is None:
        return torch.full_like(value, PYHEALTH_VALUE if name == "pyhealth" else 0.0)
    if name == "pad":
        return torch.zeros_like(value)
    unknown = torch.tensor(_unknown(feature), device=value.device)
    return adapter.embed(feature, unknown).expand(value.shape)


def _unknown(feature: Feature) -> int:
    return feature.special("<unk>", 1)


def _fitted(
    adapter: PyHealthAdapter,
    feature: Feature,
    value: Tensor,
    spec: Any,
    encoded: EncodedBatch,
) -> Tensor:
    """A number, raw values, ids or embeddings, brought to the input's shape."""
    if isinstance(spec, (tuple, list)) and not isinstance(spec, Tensor):
        spec = feature.read(tuple(spec))["value"]
    if isinstance(spec, (int, float)):
        return torch.full_like(value, float(spec))
    if not isinstance(spec, Tensor):
        raise TypeError(
            f"Feature {feature.key!r}: a baseline may be a name, a number, a tensor or "
            f"the data loader's tuple, got {type(spec).__name__}."
        )
    spec = spec.detach().to(value.device)
    ids = encoded.features[feature.key].values
    if feature.embedding and not spec.is_floating_point():
        try:
            return adapter.embed(feature, spec.expand(ids.shape))
        except (RuntimeError, ValueError):
            raise _misfit(feature, spec, ids.shape, value.shape) from None
    try:
        return spec.to(value.dtype).expand(value.shape)
    except RuntimeError:
        raise _misfit(feature, spec, ids.shape, value.shape) from None


def _misfit(feature: Feature, spec: Tensor, raw: Any, full: Any) -> ValueError:
    wanted = f"{tuple(raw)} (raw values, or ids of its vocabulary)"
    if feature.embedding:
        wanted += f" or {tuple(full)} (embeddings)"
    return ValueError(
        f"Feature {feature.key!r}: its baseline has shape {tuple(spec.shape)} and "
        f"dtype {spec.dtype}, expected {wanted}."
    )


def _statistic(
    adapter: PyHealthAdapter, feature: Feature, value: Tensor, name: str, dataset: Any
) -> Tensor:
    """Mean or median over all real tokens, or over all steps, of a dataset."""
    table = observed(feature, dataset).to(value.device)
    points = adapter.embed(feature, table) if feature.embedding else table.to(value)
    centre = points.mean(0) if name == "mean" else points.median(0).values
    return centre.expand(value.shape)


def observed(feature: Feature, samples: Iterable[Mapping[str, Any]]) -> Tensor:
    """All real tokens of some samples, ``(tokens,)``, or values, ``(steps, columns)``.

    Raises:
        ValueError: If there are no samples.
    """
    rows = []
    for sample in samples:
        owner = feature if feature.owner is None else feature.owner
        named = feature.read(batched(sample[owner.key]))
        record = feature.record(named)
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
