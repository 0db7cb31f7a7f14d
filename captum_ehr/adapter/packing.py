"""Between a batch's entries and the flat arguments that Captum repeats and slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .features import Feature


@dataclass(frozen=True, eq=False)
class Entry:
    """What a batch holds of a feature: its schema's parts, a mask, and the input."""

    feature: Feature
    parts: Mapping[str, Any]
    given: Tensor

    def whole(self, ids: Tensor | None = None) -> Any:
        """As the data loader yields it, with these ids in place of its own."""
        parts = self.parts if ids is None else {**self.parts, "value": ids}
        tensors = [parts[name] for name in self.feature.schema]
        if "mask" not in self.feature.schema and parts["mask"] is not None:
            tensors.append(parts["mask"])
        return tuple(tensors) if len(tensors) > 1 else tensors[0]


def own(parts: Mapping[str, Tensor | None], device: torch.device) -> dict[str, Any]:
    """On the model's device, and ordinary tensors even under inference mode."""
    return {
        name: None
        if part is None
        else (part.clone() if part.is_inference() else part.detach()).to(device)
        for name, part in parts.items()
    }


def extra(batch: Mapping[str, Any], key: str) -> Tensor:
    """An entry that is no feature and that the model reads."""
    part = batch[key]
    if not isinstance(part, Tensor) or part.dim() == 0:
        got = "one number" if isinstance(part, Tensor) else f"a {type(part).__name__}"
        raise TypeError(
            f"Entry {key!r}, which the model reads: expected a tensor, the patients "
            f"first, got {got}; make it one first, e.g. torch.tensor(batch[{key!r}])."
        )
    return part


def packed(feature: Feature, parts: Mapping[str, Any]) -> list[Tensor]:
    """Ids, times and masks as additional arguments; ``(batch, 0)`` if absent."""
    value = parts["value"]
    tensors = [value] if feature.embedding else []
    for name in feature.companions:
        part = parts.get(name)
        tensors.append(value.new_empty(value.shape[0], 0) if part is None else part)
    return tensors


def unpacked(
    features: Sequence[Feature], inputs: Sequence[Tensor], rest: Sequence[Any]
) -> tuple[list[Entry], list[Any]]:
    """The parts of each feature's entry, and what is left of the arguments."""
    left = iter(rest)
    times = {f.owner.key: x for f, x in zip(features, inputs) if f.owner}
    entries = []
    for feature, x in zip(features, inputs):
        if feature.owner is not None:
            continue
        value = _next(left, feature, "value") if feature.embedding else x
        parts = {"value": value}
        for name in feature.companions:
            part = _next(left, feature, name)
            absent = part.dim() == 2 and part.shape[1] == 0 and value.shape[1:] != (0,)
            parts[name] = None if absent else part
        if feature.key in times:
            parts["time"] = times[feature.key]
        entries.append(Entry(feature, parts, x))
    return entries, list(left)


def assumed(features: Sequence[Feature], pairs: Sequence[Any]) -> list[Tensor]:
    """The additional arguments of bare pairs: ids that have the mask's padding."""
    rest: list[Tensor] = []
    for feature, pair in zip(features, pairs):
        timed = any(name != "mask" for name in feature.companions)
        if timed or not isinstance(pair, (tuple, list)):
            raise ValueError(
                f"Feature {feature.key!r}: the model needs more than embeddings "
                f"({', '.join(feature.companions)}). Pass additional_forward_args="
                "enc.additional_forward_args, or enc.pairs as it is."
            )
        ids = torch.where(pair[1], feature.special("<unk>", 1), 0)
        parts = {"value": ids if feature.embedding else pair[0]}
        rest += packed(feature, parts)
    return rest


def misfits(entries: Sequence[Entry], dtype: torch.dtype) -> list[str]:
    """What is unlike the dataset's own samples, in words, one per feature.

    Asked where a model could not take its batch; many can take more than their
    dataset has.
    """
    said = []
    for entry in entries:
        feature, value = entry.feature, entry.parts["value"]
        shape = ", ".join(map(str, value.shape))
        wrong = []
        if value.is_floating_point() and value.dtype != dtype:
            wrong.append(f"dtype {value.dtype}, the model has {dtype}")
        if feature.dims is not None and value.dim() != feature.dims + 1:
            wrong.append(
                f"shape ({shape}), the data loader gives {feature.dims + 1} dimensions"
            )
        elif feature.width is not None and value.shape[-1] != feature.width:
            wrong.append(f"shape ({shape}), the dataset has {feature.width} columns")
        if wrong:
            said.append(f"Feature {feature.key!r} has {' and '.join(wrong)}.")
    return said


def _next(left: Iterator[Any], feature: Feature, name: str) -> Any:
    for part in left:
        return part
    raise ValueError(
        f"Feature {feature.key!r}: its {name} is missing among the additional "
        "arguments. Pass additional_forward_args=enc.additional_forward_args."
    )
