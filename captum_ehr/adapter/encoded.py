"""A batch as the data loader yields it, and as attribution methods want it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..explanation import FeatureRecord
from ..explanation.sample_columns import SampleColumns
from .features import Feature


class Pairs(tuple[tuple[Tensor, Tensor], ...]):
    """(embedding, mask) pairs that remember what else the forward needs.

    A plain tuple to everything that only reads it.
    """

    additional_forward_args: tuple[Tensor, ...]

    def __new__(cls, pairs: Any, additional_forward_args: tuple[Tensor, ...]) -> Pairs:
        """Pairs, and the additional arguments that belong to them."""
        whole = super().__new__(cls, pairs)
        whole.additional_forward_args = additional_forward_args
        return whole

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.additional_forward_args


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """What :meth:`PyHealthAdapter.encode` makes of a data loader's batch.

    Args:
        inputs: One float tensor per feature key: the embeddings of tokens, shaped
            ``(*ids.shape, embedding_dim)``, or the raw values of continuous features.
        masks: One boolean tensor per feature key, shaped like the ids or raw values:
            True where a real token or value stands.
        additional_forward_args: All the rest that the forward needs (ids, times,
            masks), as tensors with the batch as dimension 0.
        features: The features as the data loader gave them, by feature key.
        patient_ids: One per patient.
        looked_up: The ``inputs`` that came from the model's own tables, while they are
            still the same.
        sample_columns: Other entries with one word, number or truth value per patient.
    """

    inputs: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    additional_forward_args: tuple[Tensor, ...]
    features: Mapping[str, FeatureRecord]
    patient_ids: tuple[str, ...]
    looked_up: tuple[Tensor, ...] = ()
    sample_columns: SampleColumns = field(default_factory=dict)

    @property
    def feature_keys(self) -> tuple[str, ...]:
        """The feature keys, in the order of ``inputs``."""
        return tuple(self.features)

    @property
    def pairs(self) -> Pairs:
        """``((embedding, mask), ...)``, one pair per feature key."""
        return Pairs(zip(self.inputs, self.masks), self.additional_forward_args)

    def __len__(self) -> int:
        return len(self.patient_ids)

    def __getitem__(self, rows: Sequence[int]) -> EncodedBatch:
        """Some of the patients, padded as they were."""
        chosen = list(rows)
        return EncodedBatch(
            tuple(x[chosen] for x in self.inputs),
            tuple(mask[chosen] for mask in self.masks),
            tuple(
                arg[chosen] if isinstance(arg, Tensor) and arg.dim() else arg
                for arg in self.additional_forward_args
            ),
            {key: record[chosen] for key, record in self.features.items()},
            tuple(self.patient_ids[row] for row in chosen),
            sample_columns={
                name: tuple(values[row] for row in chosen)
                for name, values in self.sample_columns.items()
            },
        )

    def attributed(
        self, parts: Sequence[Tensor], answered: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, FeatureRecord]]:
        """Attributions per token or value, and the features that they belong to.

        What has an attribution is unmasked, so that rows add up: padding and absent
        categories have none but where a given reference changes them. Where the model
        has no answer nothing adds up, and padding stays padding.

        Args:
            parts: One tensor like each of ``inputs``, or summed over embeddings.
            answered: ``(patients,)``, whether the model has an answer.
        """
        sums, features = {}, {}
        for (key, record), part in zip(self.features.items(), parts):
            total = part.sum(-1) if part.dim() > record.mask.dim() else part
            known = answered.view(-1, *[1] * (total.dim() - 1))
            extra = (total != 0) & ~record.mask & known
            if bool(extra.any()):
                record = replace(record, mask=record.mask | extra)
            sums[key], features[key] = total, record
        return sums, features


def like(mask: Tensor, x: Tensor) -> Tensor:
    """A mask broadcast over the embedding dimension, if there is one."""
    return mask.view(*mask.shape, *[1] * (x.dim() - mask.dim()))


def as_batch(batch: Any, features: Sequence[Feature]) -> Mapping[str, Any]:
    """A data loader's batch as it is, a single sample as a batch of one patient."""
    if isinstance(batch, Mapping):
        if not _is_sample(batch, features):
            return batch
        return {key: batched(entry) for key, entry in batch.items()}
    wanted = "Expected a batch as PyHealth's data loader yields it (a dict), got "
    kind = type(batch).__name__
    if hasattr(batch, "input_processors"):
        how = "a dataset. Explain the batches of get_dataloader(dataset, batch_size=32)"
    elif hasattr(batch, "batch_size") and hasattr(batch, "dataset"):
        how = f"{kind}. Explain its batches one by one: for batch in loader"
    elif isinstance(batch, (list, tuple)) and any(
        isinstance(part, Mapping) for part in batch
    ):
        how = (
            f"a {kind} of samples. Make them a batch with pyhealth.datasets.utils."
            "collate_fn_dict_with_padding(samples)"
        )
    else:
        how = kind
    raise TypeError(f"{wanted}{how}.")


def _is_sample(batch: Mapping[str, Any], features: Sequence[Feature]) -> bool:
    """Whether a mapping is a sample of the dataset: of one patient, without a batch."""
    if not isinstance(batch.get("patient_id"), str):
        return False
    for feature in features:
        value = batch.get(feature.key)
        if isinstance(value, (tuple, list)):
            value = dict(zip(feature.schema, value)).get("value")
        if feature.dims and isinstance(value, Tensor) and value.dim() != feature.dims:
            return False
    return True


def batched(entry: Any) -> Any:
    """A sample's entry as a batch of one."""
    if isinstance(entry, Tensor):
        return entry.unsqueeze(0)
    if isinstance(entry, tuple):
        return tuple(None if part is None else part.unsqueeze(0) for part in entry)
    return [entry]


def collated(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples of a dataset as one batch, padded as PyHealth's data loader does."""
    from pyhealth.datasets.utils import collate_fn_dict_with_padding

    batch: dict[str, Any] = collate_fn_dict_with_padding(list(samples))
    return batch


def patient_ids(batch: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """The identifiers in a batch, else the numbers of its rows."""
    ids = batch.get("patient_id")
    if isinstance(ids, (list, tuple)) and len(ids) == count:
        return tuple(map(str, ids))
    return tuple(map(str, range(count)))
