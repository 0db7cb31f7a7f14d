"""Reference patients: some of a dataset, and how they fit into another's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .encoded import EncodedBatch
from .features import Feature

if TYPE_CHECKING:
    from .adapter import PyHealthAdapter


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
    from pyhealth.datasets.utils import collate_fn_dict_with_padding

    size = len(dataset)
    if not 0 < count <= size:
        raise ValueError(f"{count} reference patients of a dataset that has {size}.")
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    samples = [dataset[int(k)] for k in order[:count]]
    batch: dict[str, Any] = collate_fn_dict_with_padding(samples)
    return batch


def as_batch(given: Any, features: Sequence[Feature]) -> Mapping[str, Any]:
    """A data loader's batch as it is, a single sample as a batch of one patient.

    Raises:
        TypeError: If it is neither; the message says how to get there.
    """
    if isinstance(given, Mapping):
        if not _is_sample(given, features):
            return given
        return {key: batched(entry) for key, entry in given.items()}
    wanted = "Expected a batch as PyHealth's data loader yields it (a dict), got "
    kind = type(given).__name__
    if hasattr(given, "input_processors"):
        how = "a dataset. Explain the batches of get_dataloader(dataset, batch_size=32)"
    elif hasattr(given, "batch_size") and hasattr(given, "dataset"):
        how = f"{kind}. Explain its batches one by one: for batch in loader"
    elif isinstance(given, (list, tuple)) and any(
        isinstance(g, Mapping) for g in given
    ):
        how = (
            f"a {kind} of samples. Make them a batch with pyhealth.datasets.utils."
            "collate_fn_dict_with_padding(samples)"
        )
    else:
        how = kind
    raise TypeError(f"{wanted}{how}.")


def _is_sample(given: Mapping[str, Any], features: Sequence[Feature]) -> bool:
    """Whether a mapping is a sample of the dataset: of one patient, without a batch."""
    if not isinstance(given.get("patient_id"), str):
        return False
    values = ((f.dims, _value(given.get(f.key), f)) for f in features)
    return all(v.dim() == dims for dims, v in values if isinstance(v, Tensor) and dims)


def _value(entry: Any, feature: Feature) -> Any:
    if not isinstance(entry, (tuple, list)):
        return entry
    names = dict(zip(feature.schema, entry))
    return names.get("value")


def batched(entry: Any) -> Any:
    """A sample's entry as a batch of one."""
    if isinstance(entry, Tensor):
        return entry.unsqueeze(0)
    if isinstance(entry, tuple):
        return tuple(None if part is None else part.unsqueeze(0) for part in entry)
    return [entry]


def fitted(
    adapter: PyHealthAdapter,
    encoded: EncodedBatch,
    patients: Mapping[str, Any] | EncodedBatch,
) -> tuple[tuple[Tensor, ...], ...]:
    """One reference per reference patient: what that one has, where this one has it.

    Which tokens there are belongs to the explained patient, so a reference's tokens
    and values stand at the same positions; where it has none, there is nothing (the
    zero embedding, 0), and what it has beyond is left out.

    Args:
        adapter: The model's adapter.
        encoded: The explained patients.
        patients: The reference patients, a batch with all of the model's features.

    Returns:
        Per reference patient a tuple of tensors like ``encoded.inputs``.
    """
    encode = adapter.encode
    others = patients if isinstance(patients, EncodedBatch) else encode(patients)
    references = []
    for k in range(len(others)):
        given = {}
        for feature, x, other, mask in zip(
            adapter.features, encoded.inputs, others.inputs, others.masks
        ):
            kept = other * (mask.unsqueeze(-1) if feature.embedding else mask)
            if kept.dim() != x.dim():
                raise ValueError(
                    f"Feature {feature.key!r}: the reference patients have shape "
                    f"{tuple(kept.shape[1:])}, the explained {tuple(x.shape[1:])}."
                )
            last = x.dim() - 1 if feature.embedding or x.dim() > 2 else x.dim()
            given[feature.key] = _at(kept[k : k + 1], x.shape, last).expand(x.shape)
        references.append(adapter.baseline(encoded, given))
    return tuple(references)


def _at(value: Tensor, shape: torch.Size, last: int) -> Tensor:
    """Cut or fill the axes of positions (1 to ``last`` - 1) to a shape."""
    sizes = [
        n if 0 < axis < last else value.shape[axis] for axis, n in enumerate(shape)
    ]
    cut = value[tuple(slice(n) for n in sizes)]
    missing = [n - m for n, m in zip(sizes, cut.shape)]
    return F.pad(cut, [p for n in reversed(missing) for p in (0, n)])
