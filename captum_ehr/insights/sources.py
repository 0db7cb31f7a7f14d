"""Where patients come from, for all that looks at them: one interface."""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor, nn

from ..adapter import EncodedBatch, PyHealthAdapter, check_dataset
from ..explanation.feature_record import column_names
from .output_head import Head, two_classes
from .readers import BaseFeature, CodeFeature, LabFeature, VisitFeature

#: One patient's value for a grouping: from the sample, or one per patient.
type Grouping = Callable[[Mapping[str, Any]], Any] | Sequence[Any]

MOST_GROUPS = 12
"""What has more different values is no grouping."""

#: Patients are padded in blocks of so many, in the dataset's order, as PyHealth's data
#: loader does. The outputs of some of its models depend on the length of the padding:
#: so they are the same however a patient is asked for.
BLOCK = 32


class Cache[K: Hashable, V](LRUCache[K, V]):
    """The values that were used last; safe to use from several threads.

    Example:
        >>> cache = Cache[str, int](1)
        >>> cache["a"], cache["b"] = 1, 2
        >>> cache.get("a"), cache.get("b")
        (None, 2)
    """

    def __init__(self, size: int) -> None:
        super().__init__(max(1, size))
        self._lock = threading.Lock()

    def get(self, key: K, default: Any = None) -> Any:
        """A value, or the default where it is not kept (any more)."""
        with self._lock:
            return super().get(key, default)

    def __setitem__(self, key: K, value: V) -> None:
        with self._lock:
            super().__setitem__(key, value)


class Source(ABC):
    """Patients in blocks, and the models that score them.

    Patients of a block are padded alike, and only they can be encoded together; the
    blocks that were encoded last are kept.
    """

    models: tuple[nn.Module, ...]  # what Captum's classes take
    features: tuple[BaseFeature, ...]  # how each input is read
    ids: tuple[str, ...]
    labels: tuple[Any, ...]  # what is true of each patient; None where unknown
    groups: dict[str, tuple[str, ...]]  # by grouping, each patient's group
    baselines: tuple[str, ...]  # their names
    scale: str = "logit"  # of the explained outputs, or probability
    score_func: Callable[[Tensor], Tensor] | None = None  # from outputs to scores

    def __init__(self, blocks: Sequence[range], kept: int = 4) -> None:
        self._block_of = [block for block in blocks for _ in block]
        self._encoded = Cache[tuple[int, int], EncodedBatch](kept)

    @abstractmethod
    def head(self, model: int) -> Head:
        """How to read a model's outputs."""

    @abstractmethod
    def encode_block(self, block: range, model: int) -> EncodedBatch:
        """All patients of a block as the model takes them."""

    @abstractmethod
    def reference(
        self, encoded: EncodedBatch, baseline: str, model: int = 0
    ) -> tuple[Tensor, ...]:
        """A baseline of some patients, like ``encoded.inputs``."""

    def encode(self, rows: Sequence[int], model: int = 0) -> EncodedBatch:
        """Some patients of one block, padded as the whole block is."""
        block = self._block_of[rows[0]]
        encoded = self._encoded.get((block.start, model))
        if encoded is None:
            encoded = self.encode_block(block, model)
            self._encoded[block.start, model] = encoded
        return encoded[[block.index(row) for row in rows]]

    def score(self, encoded: EncodedBatch, model: int = 0) -> Tensor:
        """``(patients, outputs)``."""
        with torch.no_grad():
            output = self.models[model](
                *encoded.inputs, *encoded.additional_forward_args
            )
            if self.score_func is not None:
                output = self.score_func(output)
        return output.reshape(len(encoded), -1)

    def chunks(self, rows: Sequence[int], size: int) -> Iterator[list[int]]:
        """Patients that can be encoded together, so many at a time at most."""
        for _, group in groupby(rows, lambda row: self._block_of[row].start):
            same = list(group)
            yield from (same[i : i + size] for i in range(0, len(same), size))


class PyHealthSource(Source):
    """A PyHealth dataset and models over it."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        dataset: Any,
        baselines: Mapping[str, Any],
        groups: Mapping[str, Grouping] | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        block: int = BLOCK,
        kept: int = 4,
    ) -> None:
        count = len(dataset)
        if not count:
            raise ValueError("The dataset has no patients: there is nobody to show.")
        super().__init__(
            [range(k, min(k + block, count)) for k in range(0, count, block)], kept
        )
        self.models = self.adapters = tuple(
            model if isinstance(model, PyHealthAdapter) else PyHealthAdapter(model)
            for model in models
        )
        first = self.adapters[0]
        keys = {adapter.feature_keys for adapter in self.adapters}
        if len(keys) > 1:
            raise ValueError(
                f"The models read different features: {sorted(keys)}; give models of "
                "one dataset and the same feature keys."
            )
        for adapter in self.adapters:
            check_dataset(adapter.features, adapter.model, dataset)
        self.scale = first.scale
        self._samples = [dataset[row] for row in range(count)]
        self.ids = tuple(
            str(sample.get("patient_id", row))
            for row, sample in enumerate(self._samples)
        )
        labels = getattr(first.model, "label_keys", ())
        self.labels = tuple(
            sample.get(labels[0]) if labels else None for sample in self._samples
        )
        taken = {*first.feature_keys, *labels, "patient_id"}
        self.groups = _groups(self._samples, groups, taken)
        self._classes = None if classes is None else tuple(map(str, classes))
        self._baselines = dict(baselines)
        self.baselines = tuple(baselines)

    @cached_property
    def features(self) -> tuple[BaseFeature, ...]:  # type: ignore[override]
        """What PyHealth's processors say of the features, in Captum's classes."""
        readers: list[BaseFeature] = []
        records = self.encode([0]).features
        for feature in self.adapters[0].features:
            key, record = feature.key, records[feature.key]
            if feature.embedding is None:
                readers.append(LabFeature(key, column_names(key, record)))
                continue
            ids = range(int(record.values.max()) + 1)
            kind = VisitFeature if record.values.dim() > 2 else CodeFeature
            words = feature.vocabulary or tuple(map(str, ids))
            readers.append(kind(key, words, pad=feature.special("<pad>", 0)))
        return tuple(readers)

    def head(self, model: int) -> Head:
        """How to read a model's outputs."""
        adapter = self.adapters[model]
        mode = adapter.mode or "regression"
        names = [str(k) for k, _ in sorted(adapter.labels.items(), key=lambda p: p[1])]
        key = next(iter(getattr(adapter.model, "label_keys", ())), "output")
        called = list(adapter.target_names or (str(key),))
        if mode == "binary" and called[-1:] != names[-1:]:
            names = list(two_classes(called[-1]))
        elif mode == "regression" or not names:
            names = called
        if self._classes is not None and len(self._classes) != len(names):
            raise ValueError(
                f"classes has {len(self._classes)} name(s), expected {len(names)}: one "
                f"for each of {', '.join(names)}."
            )
        return Head(mode, self._classes or tuple(names), adapter.scale)

    def encode_block(self, block: range, model: int) -> EncodedBatch:
        """All patients of a block as the model takes them."""
        from pyhealth.datasets.utils import collate_fn_dict_with_padding

        samples = self._samples[block.start : block.stop]
        return self.adapters[model].encode(collate_fn_dict_with_padding(samples))

    def reference(
        self, encoded: EncodedBatch, baseline: str, model: int = 0
    ) -> tuple[Tensor, ...]:
        """A baseline of some patients, like ``encoded.inputs``."""
        return self.adapters[model].baseline(encoded, self._baselines[baseline])


def called(ids: Sequence[str], deidentify: bool) -> tuple[str, ...]:
    """What patients are called, each by a name of its own.

    Deidentified by numbers that say nothing, not even their order; else a patient's
    second record says that it is.
    """
    if deidentify:
        numbers = list(range(1, len(ids) + 1))
        random.SystemRandom().shuffle(numbers)
        width = len(str(len(ids)))
        return tuple(f"patient {number:0{width}d}" for number in numbers)
    seen: Counter[str] = Counter()
    names = []
    for name in ids:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(names)


def _groups(
    samples: Sequence[Mapping[str, Any]],
    groups: Mapping[str, Grouping] | Sequence[str] | None,
    taken: set[str],
) -> dict[str, tuple[str, ...]]:
    """Per grouping, each sample's group in words."""
    if groups is None:
        keys = {key for sample in samples for key in sample} - taken
        groups = [key for key in sorted(keys) if _is_grouping(samples, key)]
    if not isinstance(groups, Mapping):
        groups = {key: [s.get(key, "unknown") for s in samples] for key in groups}
    words = {}
    for name, group in groups.items():
        values = list(map(group, samples)) if callable(group) else list(group)
        if len(values) != len(samples):
            raise ValueError(
                f"groups[{name!r}] has {len(values)} entries, expected "
                f"{len(samples)}: one per patient."
            )
        words[name] = tuple(map(str, values))
    return words


def _is_grouping(samples: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether a key's values are few words or whole numbers."""
    values = [sample.get(key) for sample in samples]
    if not all(isinstance(value, (str, int, bool)) for value in values):
        return False
    return 1 < len(set(values)) <= min(MOST_GROUPS, len(samples) - 1)
