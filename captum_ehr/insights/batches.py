"""Captum's way to give patients: batches of tensors, and features that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter import (
    EncodedBatch,
    FeatureRecord,
    PyHealthAdapter,
    is_pyhealth_model,
)
from ..propagation import private_view
from .features import BaseFeature
from .heads import Head


class Batch:
    """Patients as Captum Insights has them.

    Args:
        inputs: One tensor per feature, with the batch as dimension 0: token ids of
            codes, values of labs.
        labels: ``(batch,)`` class indices, ``(batch, classes)`` for several labels
            each, or None.
        additional_args: What else the model's forward takes: tensors with the batch
            as dimension 0, or anything that is the same for all.
        patient_ids: One per patient; numbers by default.
        times: By the feature's name, ``(batch, visits)`` times.
        groups: By the grouping's name, each patient's group, e.g. ``{"ward": [...]}``.

    Raises:
        ValueError: If the inputs, labels or ids differ in their number of patients.

    Example:
        >>> batch = Batch(torch.tensor([[2, 3, 0]]), torch.tensor([1]))
        >>> len(batch)
        1
    """

    def __init__(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        labels: Tensor | None,
        additional_args: Any = None,
        *,
        patient_ids: Sequence[str] | None = None,
        times: Mapping[str, Tensor] | None = None,
        groups: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.labels = labels
        given = () if additional_args is None else additional_args
        self.additional_args = given if isinstance(given, tuple) else (given,)
        self.patient_ids = patient_ids
        self.times = dict(times or {})
        self.groups = dict(groups or {})
        parts: dict[str, Any] = {f"input {k}": x for k, x in enumerate(self.inputs)}
        parts |= {"labels": labels, "patient_ids": patient_ids}
        parts |= {f"times of {name!r}": x for name, x in self.times.items()}
        parts |= {f"groups {name!r}": x for name, x in self.groups.items()}
        sizes = {name: len(x) for name, x in parts.items() if x is not None}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"The batch differs in its number of patients: {sizes}.")

    def __len__(self) -> int:
        return len(self.inputs[0])


class BatchSource:
    """Captum's way: any modules, classes by name, features, batches.

    Args:
        models: Modules, called with the transformed inputs and additional arguments.
        classes: The name of each class.
        features: One per input.
        batches: The patients.
        score_func: From the models' output to the score of each class.
        most: How many patients are read, at most.

    Raises:
        ValueError: If there is nobody, or a batch does not fit the features.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        classes: Sequence[str],
        features: Sequence[BaseFeature],
        batches: Iterable[Batch],
        score_func: Callable[[Tensor], Tensor] | None,
        most: int,
    ) -> None:
        self.models: tuple[nn.Module, ...] = tuple(map(_own, models))
        self.features = tuple(features)
        self._classes = tuple(map(str, classes))
        self._score_func = score_func
        self.scale = "logit"
        patients = ((b, i) for b in batches for i in range(len(_fitting(b, features))))
        self._places = list(islice(patients, most))
        if not self._places:
            raise ValueError("The dataset has no batch; there is nobody to show.")
        self.ids = tuple(
            str(n) if b.patient_ids is None else str(b.patient_ids[i])
            for n, (b, i) in enumerate(self._places)
        )
        self.labels = tuple(
            None if b.labels is None else b.labels[i] for b, i in self._places
        )
        names = {name for b, _ in self._places for name in b.groups}
        self.groups = {
            name: tuple(
                str(b.groups[name][i]) if name in b.groups else "unknown"
                for b, i in self._places
            )
            for name in sorted(names)
        }
        count = max(1, *(len(one.baseline_transforms) for one in features))
        plain = not any(one.baseline_transforms for one in features)
        self.baselines = (
            ("zero",)
            if plain
            else tuple(
                "given" if count == 1 else f"given {k + 1}" for k in range(count)
            )
        )

    def head(self, model: int) -> Head:
        """How to read a model's outputs."""
        width = self.score(self.encode([0], model), model).shape[1]
        scale = "logit" if self._score_func is None else "probability"
        if width == 1 and len(self._classes) == 2:
            return Head("binary", self._classes, scale)
        mode = "multiclass" if width > 1 else "regression"
        if width != len(self._classes):
            raise ValueError(
                f"The model has {width} output(s) for {len(self._classes)} classes "
                f"{list(self._classes)}; give one name for each (two for one logit)."
            )
        if self.labels[0] is not None and torch.as_tensor(self.labels[0]).numel() > 1:
            mode = "multilabel"
        return Head(mode, self._classes, scale)

    def encode(self, rows: Sequence[int], model: int = 0) -> EncodedBatch:
        """Some patients as the model takes them; of one length only if they are."""
        places = [self._places[row] for row in rows]
        inputs, records = [], {}
        for k, feature in enumerate(self.features):
            data = [batch.inputs[k][i : i + 1] for batch, i in places]
            inputs.append(_joined(feature, [_put(feature, one) for one in data]))
            read = [
                feature.record(one, _time(batch, feature.name, i))
                for one, (batch, i) in zip(data, places)
            ]
            records[feature.name] = _record(feature, read)
        args = [
            [
                arg[i : i + 1] if isinstance(arg, Tensor) and arg.dim() else arg
                for arg in batch.additional_args
            ]
            for batch, i in places
        ]
        rest = tuple(
            torch.cat(column) if isinstance(column[0], Tensor) else column[0]
            for column in zip(*args)
        )
        masks = tuple(record.mask for record in records.values())
        ids = tuple(self.ids[row] for row in rows)
        return EncodedBatch(tuple(inputs), masks, rest, records, ids)

    def chunks(self, rows: Sequence[int], size: int) -> Iterator[list[int]]:
        """Patients that can be encoded together, so many at a time at most."""
        for _, group in groupby(rows, lambda row: id(self._places[row][0])):
            same = list(group)
            yield from (same[i : i + size] for i in range(0, len(same), size))

    def reference(
        self, encoded: EncodedBatch, baseline: str, model: int = 0
    ) -> tuple[Tensor, ...]:
        """A baseline of some patients, like ``encoded.inputs``; padding stays."""
        place = self.baselines.index(baseline)
        made = []
        for feature, x, mask in zip(self.features, encoded.inputs, encoded.masks):
            raw = torch.zeros_like(x)
            if place < len(feature.baseline_transforms):
                transform = feature.baseline_transforms[place]
                raw = torch.cat([transform(one)[None] for one in x])
            made.append(_where_real(mask.to(x.device), raw, x))
        return tuple(made)

    def score(self, encoded: EncodedBatch, model: int = 0) -> Tensor:
        """``(patients, outputs)``."""
        module = self.models[model]
        with torch.no_grad():
            found = module(*encoded.inputs, *encoded.additional_forward_args)
            if self._score_func is not None:
                found = self._score_func(found)
        return found.reshape(len(encoded), -1)


def _where_real(mask: Tensor, raw: Tensor, x: Tensor) -> Tensor:
    """A baseline where something stands; padding stays the input's own."""
    shaped = mask.unsqueeze(-1) if mask.dim() < x.dim() else mask
    fits = all(m in (1, n) for m, n in zip(shaped.shape, x.shape))
    return torch.where(shaped, raw, x) if fits and shaped.dim() == x.dim() else raw


def _own(model: nn.Module) -> nn.Module:
    """The model as a function of tensors, in eval mode."""
    if isinstance(model, PyHealthAdapter):
        return model
    if is_pyhealth_model(model):
        return PyHealthAdapter(model)
    view: nn.Module = private_view(model)
    return view


def _fitting(batch: Batch, features: Sequence[BaseFeature]) -> Batch:
    if len(batch.inputs) != len(features):
        raise ValueError(
            f"A batch has {len(batch.inputs)} input(s) for {len(features)} features: "
            f"{', '.join(feature.name for feature in features)}."
        )
    return batch


def _put(feature: BaseFeature, data: Tensor) -> Tensor:
    """One patient's data as the model takes them."""
    one = data[0]
    for transform in feature.input_transforms:
        one = transform(one)
    if not one.is_floating_point():
        raise ValueError(
            f"Feature {feature.name!r}: what the model is given has dtype {one.dtype}, "
            "expected floating-point numbers; give input_transforms= that embeds ids."
        )
    return one.detach()[None]


def _joined(feature: BaseFeature, parts: Sequence[Tensor]) -> Tensor:
    if len({part.shape for part in parts}) > 1:
        raise ValueError(
            f"Feature {feature.name!r}: batches of different lengths cannot be put "
            "together; explain their patients one at a time."
        )
    return torch.cat(list(parts))


def _time(batch: Batch, name: str, place: int) -> Tensor | None:
    return batch.times[name][place : place + 1] if name in batch.times else None


def _record(feature: BaseFeature, read: Sequence[FeatureRecord]) -> FeatureRecord:
    """Records of one patient each as one; each may have codes of its own."""
    first = read[0]
    if len(read) == 1:
        return first
    values, vocabulary = [one.values for one in read], first.vocabulary
    if feature.is_token and feature.visualization_transform is not None:
        vocabulary = tuple(word for one in read for word in one.vocabulary or ())
        width = len(first.vocabulary or ())
        values = [one + k * width for k, one in enumerate(values)]
    times = [one.time for one in read if one.time is not None]
    return FeatureRecord(
        torch.cat(values),
        torch.cat([one.mask for one in read]),
        torch.cat(times) if len(times) == len(read) else None,
        vocabulary,
        first.columns,
    )
