"""Where patients come from: a PyHealth dataset, or Captum's batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..adapter import EncodedBatch, PyHealthAdapter
from .features import BaseFeature, CodeFeature, LabFeature, VisitFeature
from .heads import Head

#: One patient's value for a grouping: from the sample, or one per patient.
type Grouping = Callable[[Mapping[str, Any]], Any] | Sequence[Any]

_MOST_GROUPS = 12

#: Patients are padded in blocks of so many, in the dataset's order, as PyHealth's data
#: loader does. The outputs of some of its models depend on the length of the padding:
#: so they are the same however a patient is asked for.
BLOCK = 32


class Source(Protocol):
    """Patients, and the models that score them.

    Args:
        models: What Captum's classes take, one or several.
        features: How each input is read.
        ids: Per patient, the identifier.
        labels: Per patient, what is true of it; None where unknown.
        groups: Per grouping, each patient's group.
        baselines: The names of the baselines.
        scale: Of the explained outputs: ``"logit"`` or ``"probability"``.
    """

    models: tuple[nn.Module, ...]
    features: tuple[BaseFeature, ...]
    ids: tuple[str, ...]
    labels: tuple[Any, ...]
    groups: dict[str, tuple[str, ...]]
    baselines: tuple[str, ...]
    scale: str

    def head(self, model: int) -> Head:
        """How to read a model's outputs."""
        ...

    def encode(self, rows: Sequence[int], model: int = 0) -> EncodedBatch:
        """Some patients as the model takes them."""
        ...

    def reference(
        self, encoded: EncodedBatch, baseline: str, model: int = 0
    ) -> tuple[Tensor, ...]:
        """A baseline of some patients, like ``encoded.inputs``."""
        ...

    def score(self, encoded: EncodedBatch, model: int = 0) -> Tensor:
        """``(patients, outputs)``."""
        ...

    def chunks(self, rows: Sequence[int], size: int) -> Iterator[list[int]]:
        """Patients that can be encoded together, so many at a time at most."""
        ...


class PyHealthSource:
    """A PyHealth dataset and models over it.

    Patients are taken in blocks of :data:`BLOCK`, in the dataset's order.

    Args:
        models: PyHealth models, or adapters of them.
        dataset: A PyHealth sample dataset.
        baselines: By name, what :meth:`PyHealthAdapter.baseline` takes.
        groups: By name, a key of the samples, or see :data:`Grouping`; None for all
            keys with few different values.
        classes: Names of the classes, in the order of the label's vocabulary.

    Raises:
        ValueError: If there is nobody, or the models differ in their features.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        dataset: Any,
        baselines: Mapping[str, Any],
        groups: Mapping[str, Grouping] | Sequence[str] | None,
        classes: Sequence[str] | None = None,
    ) -> None:
        adapters = [
            one if isinstance(one, PyHealthAdapter) else PyHealthAdapter(one)
            for one in models
        ]
        keys = {adapter.feature_keys for adapter in adapters}
        if len(keys) > 1:
            raise ValueError(
                f"The models read different features: {sorted(keys)}; give models of "
                "one dataset and the same feature keys."
            )
        self._samples = [dataset[i] for i in range(len(dataset))]
        if not self._samples:
            raise ValueError("The dataset is empty; there is nobody to show.")
        self.models: tuple[nn.Module, ...] = tuple(adapters)
        self.features = _features(adapters[0], self._samples[0])
        self.scale = adapters[0].scale
        self.ids = tuple(
            str(sample.get("patient_id", i)) for i, sample in enumerate(self._samples)
        )
        labels = getattr(adapters[0].model, "label_keys", ())
        self.labels = tuple(
            sample.get(labels[0]) if labels else None for sample in self._samples
        )
        taken = {*adapters[0].feature_keys, *labels, "patient_id"}
        self.groups = _groups(self._samples, groups, taken)
        self._classes = None if classes is None else tuple(map(str, classes))
        self._baselines = dict(baselines)
        self.baselines = tuple(baselines)

    def head(self, model: int) -> Head:
        """How to read a model's outputs."""
        adapter = self._adapter(model)
        mode = adapter.mode or "regression"
        names = [str(k) for k, _ in sorted(adapter.labels.items(), key=lambda p: p[1])]
        if mode == "regression" or not names:
            key = next(iter(getattr(adapter.model, "label_keys", ())), "output")
            names = ["0", "1"] if mode == "binary" else [str(key)]
        if self._classes is not None and len(self._classes) != len(names):
            raise ValueError(
                f"classes has {len(self._classes)} name(s), expected {len(names)}: one "
                f"for each of {', '.join(names)}."
            )
        return Head(mode, self._classes or tuple(names), adapter.scale)

    def encode(self, rows: Sequence[int], model: int = 0) -> EncodedBatch:
        """Some patients of one block, padded as the whole block is."""
        from pyhealth.datasets.utils import collate_fn_dict_with_padding

        start = rows[0] // BLOCK * BLOCK
        block = self._samples[start : start + BLOCK]
        batch = collate_fn_dict_with_padding(block)
        return _picked(
            self._adapter(model).encode(batch), [row - start for row in rows]
        )

    def reference(
        self, encoded: EncodedBatch, baseline: str, model: int = 0
    ) -> tuple[Tensor, ...]:
        """A baseline of some patients, like ``encoded.inputs``."""
        return self._adapter(model).baseline(encoded, self._baselines[baseline])

    def score(self, encoded: EncodedBatch, model: int = 0) -> Tensor:
        """``(patients, outputs)``."""
        with torch.no_grad():
            adapter = self._adapter(model)
            scores: Tensor = adapter(*encoded.inputs, *encoded.additional_forward_args)
        return scores.reshape(len(encoded), -1)

    def chunks(self, rows: Sequence[int], size: int) -> Iterator[list[int]]:
        """Patients of one block each, so many at a time at most."""
        for _, group in groupby(rows, lambda row: row // BLOCK):
            same = list(group)
            yield from (same[i : i + size] for i in range(0, len(same), size))

    def _adapter(self, model: int) -> PyHealthAdapter:
        adapter = self.models[model]
        assert isinstance(adapter, PyHealthAdapter)
        return adapter


def _picked(encoded: EncodedBatch, places: Sequence[int]) -> EncodedBatch:
    """Some patients of a batch, padded as they were."""
    index = torch.tensor(places)

    def pick(tensor: Tensor) -> Tensor:
        return tensor[index.to(tensor.device)]

    features = {
        key: replace(
            record,
            values=pick(record.values),
            mask=pick(record.mask),
            time=None if record.time is None else pick(record.time),
        )
        for key, record in encoded.features.items()
    }
    return EncodedBatch(
        tuple(map(pick, encoded.inputs)),
        tuple(map(pick, encoded.masks)),
        tuple(map(pick, encoded.additional_forward_args)),
        features,
        tuple(encoded.patient_ids[place] for place in places),
    )


def _features(
    adapter: PyHealthAdapter, sample: Mapping[str, Any]
) -> tuple[BaseFeature, ...]:
    """What PyHealth's processors say of the features, in Captum's classes."""
    made: list[BaseFeature] = []
    for feature in adapter.features:
        value = feature.read(_batched(sample[feature.key]))["value"]
        assert value is not None
        if feature.embedding is not None:
            words = feature.vocabulary or tuple(map(str, range(int(value.max()) + 1)))
            kind = VisitFeature if value.dim() > 2 else CodeFeature
            made.append(kind(feature.key, words, pad=feature.special("<pad>", 0)))
            continue
        width = value.shape[-1] if value.dim() > 1 else 1
        names = feature.columns or [f"{feature.key}[{i}]" for i in range(width)]
        made.append(LabFeature(feature.key, names))
    return tuple(made)


def _batched(entry: Any) -> Any:
    """A sample's entry as a batch of one."""
    if isinstance(entry, (tuple, list)):
        return tuple(None if part is None else part.unsqueeze(0) for part in entry)
    return entry.unsqueeze(0)


def _groups(
    samples: Sequence[Mapping[str, Any]],
    groups: Mapping[str, Grouping] | Sequence[str] | None,
    taken: set[str],
) -> dict[str, tuple[str, ...]]:
    """Per grouping, each sample's group in words."""
    if groups is None:
        found = {key for sample in samples for key in sample} - taken
        groups = [key for key in sorted(found) if _is_grouping(samples, key)]
    if not isinstance(groups, Mapping):
        groups = {key: partial(_entry, key) for key in groups}
    made = {}
    for name, how in groups.items():
        values = [how(sample) for sample in samples] if callable(how) else list(how)
        if len(values) != len(samples):
            raise ValueError(
                f"groups[{name!r}] has {len(values)} entries, expected "
                f"{len(samples)}: one per patient."
            )
        made[name] = tuple(map(str, values))
    return made


def _entry(key: str, sample: Mapping[str, Any]) -> Any:
    return sample.get(key, "unknown")


def _is_grouping(samples: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether a key's values are few words or whole numbers."""
    values = [sample.get(key) for sample in samples]
    if not all(isinstance(one, (str, int, bool)) for one in values):
        return False
    return 1 < len(set(values)) <= min(_MOST_GROUPS, len(samples) - 1)
