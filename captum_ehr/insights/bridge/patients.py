"""A PyHealth dataset as Captum Insights' batches of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from ...adapter import Baseline, EncodedBatch, FeatureRecord, PyHealthAdapter
from .captums import Batch

_REMEMBERED = 64


@dataclass(frozen=True, eq=False)
class Patient:
    """One patient as Captum Insights is given it.

    Args:
        adapter: The model's adapter.
        encoded: Inputs, masks and additional arguments, of one patient: no padding
            but what stands within visits.
        reference: See :meth:`PyHealthAdapter.baseline`.
        label: ``(1,)``, the index of the actual class.
    """

    adapter: PyHealthAdapter
    encoded: EncodedBatch
    reference: Baseline
    label: Tensor

    @cached_property
    def baselines(self) -> tuple[Tensor, ...]:
        """The reference, a tensor per input; some take a look at the whole dataset."""
        return self.adapter.baseline(self.encoded, self.reference)

    @cached_property
    def shown(self) -> tuple[Tensor, ...]:
        """Per feature, shaped like its ids or values: what has an attribution.

        That is what the patient has, and what the reference changes besides.
        """
        return tuple(
            mask | _differs(x, x0, mask)
            for x, x0, mask in zip(
                self.encoded.inputs, self.baselines, self.encoded.masks
            )
        )


class Patients:
    """A dataset's patients, encoded when they are asked for; the last ones are kept.

    Iterating yields Captum Insights' batches of one. Their inputs are the patient's
    place in the dataset, once per feature: what the model is given and what is shown
    are both found by it.

    Args:
        adapter: The model's adapter.
        dataset: PyHealth samples.
        baselines: See :meth:`PyHealthAdapter.baseline`.
    """

    def __init__(
        self, adapter: PyHealthAdapter, dataset: Any, baselines: Baseline
    ) -> None:
        self.adapter = adapter
        self.dataset = dataset
        self.baselines = baselines
        self.at = lru_cache(maxsize=_REMEMBERED)(self._read)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        for row in range(len(self)):
            patient = self.at(row)
            places = (torch.tensor([row]),) * len(self.adapter.features)
            args = patient.encoded.additional_forward_args
            yield Batch(places, patient.label, args)

    def width(self) -> int:
        """How many outputs the model has."""
        encoded = self.at(0).encoded
        with torch.no_grad():
            score = self.adapter(*encoded.inputs, *encoded.additional_forward_args)
        return int(score.shape[-1])

    def places(self, row: int, key: str) -> tuple[FeatureRecord, list[int]]:
        """A feature of a patient, and what of it, flattened, is shown."""
        patient = self.at(row)
        shown = dict(zip(patient.encoded.feature_keys, patient.shown))[key]
        places = shown.flatten().nonzero().flatten().tolist()
        return patient.encoded.features[key], places

    def _read(self, row: int) -> Patient:
        from pyhealth.datasets.utils import collate_fn_dict_with_padding

        batch = collate_fn_dict_with_padding([self.dataset[row]])
        encoded = self.adapter.encode(batch)
        return Patient(self.adapter, encoded, self.baselines, self._label(batch))

    def _label(self, batch: Mapping[str, Any]) -> Tensor:
        """The actual class; of several labels the first, of none the one after."""
        key = self.adapter.model.label_keys[0]
        if key not in batch:
            raise ValueError(
                f"The samples have no label {key!r}; Captum Insights shows every "
                "patient's actual class and cannot do without."
            )
        label = torch.as_tensor(batch[key]).flatten()
        if self.adapter.mode != "multilabel":
            return label[:1].long()
        present = label.nonzero().flatten()
        return present[:1] if len(present) else torch.tensor([len(label)])


def _differs(x: Tensor, x0: Tensor, mask: Tensor) -> Tensor:
    differs = x != x0
    return differs.any(-1) if differs.dim() > mask.dim() else differs
