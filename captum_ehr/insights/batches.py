"""Captum's way to give patients: batches of tensors, and features that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter import EncodedBatch, PyHealthAdapter, is_pyhealth_model
from ..adapter.encoded import like
from ..propagation import private_view
from .output_head import Head
from .readers import BaseFeature
from .sources import BLOCK, Grouping, PyHealthSource, Source


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
        args = () if additional_args is None else additional_args
        self.additional_args = args if isinstance(args, tuple) else (args,)
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


class BatchSource(Source):
    """Any modules, classes by name, features and batches."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        classes: Sequence[str],
        features: Sequence[BaseFeature],
        batches: Iterable[Batch],
        score_func: Callable[[Tensor], Tensor] | None,
        most: int,
    ) -> None:
        self.models = tuple(map(_as_function, models))
        self.features = tuple(features)
        self._classes = tuple(map(str, classes))
        self.score_func = score_func
        self._places: list[tuple[Batch, int]] = []
        blocks = []
        for batch in batches:
            first = len(self._places)
            if len(batch.inputs) != len(features):
                raise ValueError(
                    f"A batch has {len(batch.inputs)} input(s) for {len(features)} "
                    f"features: {', '.join(feature.name for feature in features)}."
                )
            end = min(first + len(batch), most)
            starts = range(first, end, BLOCK)
            blocks += [range(k, min(k + BLOCK, end)) for k in starts]
            self._places += [(batch, row - first) for row in range(first, end)]
            if end == most:
                break
        if not self._places:
            raise ValueError("The dataset has no batch; there is nobody to show.")
        super().__init__(blocks)
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
        counts = [len(feature.baseline_transforms) for feature in features]
        several = tuple(f"given {k + 1}" for k in range(max(counts)))
        self.baselines = several if len(several) > 1 else ("given",)
        if not any(counts):
            self.baselines = ("zero",)

    def head(self, model: int) -> Head:
        """How to read a model's outputs."""
        width = self.score(self.encode([0], model), model).shape[1]
        scale = "logit" if self.score_func is None else "probability"
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

    def encode_block(self, block: range, model: int) -> EncodedBatch:
        """Patients of one batch as the models take them."""
        batch, start = self._places[block.start]
        rows = slice(start, start + len(block))
        inputs, records = [], {}
        for feature, x in zip(self.features, batch.inputs):
            time = batch.times.get(feature.name)
            inputs.append(feature.transform(x[rows]))
            records[feature.name] = feature.record(
                x[rows], None if time is None else time[rows]
            )
        args = tuple(
            arg[rows] if isinstance(arg, Tensor) and arg.dim() else arg
            for arg in batch.additional_args
        )
        masks = tuple(record.mask for record in records.values())
        ids = self.ids[block.start : block.stop]
        return EncodedBatch(tuple(inputs), masks, args, records, ids)

    def reference(
        self, encoded: EncodedBatch, baseline: str, model: int = 0
    ) -> tuple[Tensor, ...]:
        """A baseline of some patients, like ``encoded.inputs``; padding stays."""
        place = self.baselines.index(baseline)
        references = []
        for feature, x, mask in zip(self.features, encoded.inputs, encoded.masks):
            raw = torch.zeros_like(x)
            if place < len(feature.baseline_transforms):
                transform = feature.baseline_transforms[place]
                raw = torch.stack([transform(patient) for patient in x])
            real = like(mask, x).to(x.device)
            fits = all(m in (1, n) for m, n in zip(real.shape, x.shape))
            fits = fits and real.dim() == x.dim()
            references.append(torch.where(real, raw, x) if fits else raw)
        return tuple(references)


def source_of(
    models: Sequence[nn.Module],
    classes: Any,
    features: Sequence[BaseFeature] | BaseFeature | None,
    dataset: Any,
    score_func: Callable[[Tensor], Tensor] | None,
    baselines: Sequence[str] | Mapping[str, Any] | None,
    groups: Mapping[str, Grouping] | Sequence[str] | None,
    most: int,
) -> Source:
    """The source that a visualizer's arguments mean."""
    if features is not None:
        if dataset is None or classes is None or isinstance(classes, str):
            raise TypeError(
                "The long form takes classes (the name of each) and dataset (batches), "
                f"got classes={classes!r} and dataset={dataset!r}."
            )
        several = [features] if isinstance(features, BaseFeature) else features
        return BatchSource(models, classes, several, dataset, score_func, most)
    if dataset is None:
        dataset, classes = classes, None
    inside = [getattr(model, "model", model) for model in models]
    if not all(map(is_pyhealth_model, inside)) or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            "Give AttributionVisualizer(model, dataset) with a PyHealth model and its "
            "sample dataset, or AttributionVisualizer(models, classes, features, "
            "batches) as for Captum Insights."
        )
    offered = ("unk", "pad", "typical", "mean") if baselines is None else baselines
    if not isinstance(offered, Mapping):
        offered = {name: name for name in offered}
    return PyHealthSource(models, dataset, offered, groups, classes)


def _as_function(model: nn.Module) -> nn.Module:
    """The model as a function of tensors, in eval mode."""
    if isinstance(model, PyHealthAdapter):
        return model
    if is_pyhealth_model(model):
        return PyHealthAdapter(model)
    view: nn.Module = private_view(model)
    return view
