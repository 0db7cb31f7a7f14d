"""References: by name, by feature, by tensor, by function, or other patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..explanation import FeatureKeyError
from .encoded import EncodedBatch
from .features import Feature
from .observations import Observations, middle_of

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

NAMES = ("unk", "pad", "typical", "mean", "median", "pyhealth")

#: What PyHealth's DeepLift takes for every continuous value.
PYHEALTH_VALUE = 0.01


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
        if spec == "typical":  # codes have no middle
            spec = "median" if feature.is_valued else "unk"
        if spec == "unk" and feature.embedding and x.untouched:
            return x.embed(torch.where(x.mask, _unknown(feature), x.ids))
        raw = _named(x, spec, dataset)
        if spec == "pyhealth":
            return raw
        valued = spec in ("mean", "median")
    else:
        raw, valued = _fitted(x, spec), True
    if valued and feature.owner is None and feature.columns is not None:
        return raw  # a category that is absent is a value, not padding
    mask = x.mask.unsqueeze(-1) if feature.embedding else x.mask
    return torch.where(mask, raw, x.value)


def _named(x: _Input, name: str, dataset: Observations) -> Tensor:
    feature, value = x.feature, x.value
    if name in ("mean", "median"):  # over all real tokens, or all steps
        if feature.embedding is None:
            return dataset.middle(feature, name).to(value).expand(value.shape)
        held, counts = dataset.tokens(feature)
        points = x.embed(held.to(value.device))
        return middle_of(points, counts.to(value.device), name).expand(value.shape)
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
    if isinstance(spec, Real):  # NumPy's too
        return torch.full_like(value, float(spec))
    if not isinstance(spec, Tensor):
        raise TypeError(
            f"Feature {feature.key!r}: a baseline may be a name, a number, a tensor or "
            f"the data loader's tuple, got {type(spec).__name__}."
        )
    spec = spec.detach().to(value.device)
    tokens = feature.embedding and not spec.is_floating_point()
    try:
        spec = spec.expand(x.ids.shape if tokens else value.shape)
    except (RuntimeError, ValueError):
        wanted = f"{tuple(x.ids.shape)} (raw values, or ids of its vocabulary)"
        if feature.embedding:
            wanted += f" or {tuple(value.shape)} (embeddings)"
        raise ValueError(
            f"Feature {feature.key!r}: its baseline has shape {tuple(spec.shape)} and "
            f"dtype {spec.dtype}, expected {wanted}."
        ) from None
    return x.embed(spec) if tokens else spec.to(value.dtype)


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
