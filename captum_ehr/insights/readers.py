"""Features as Captum Insights has them, for codes, nested visits and labs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..explanation import FeatureRecord
from ..scene.wording import number

#: One transform, several to be called one after the other, or none.
type Transforms = (
    Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]] | None
)


class FeatureOutput(NamedTuple):
    """What a feature shows of one patient; Captum's fields.

    Args:
        name: The feature's name.
        base: What stands there: codes, visits of codes, or ``"name: value"``.
        modified: An attribution for each, in per cent of the strongest.
        type: ``"codes"``, ``"visits"`` or ``"labs"``.
        contribution: The feature's part in all, between -1 and 1.
    """

    name: str
    base: list[Any]
    modified: list[Any]
    type: str
    contribution: float


class BaseFeature:
    """One input of the model: how to transform, to read and to show it.

    Args:
        name: The feature's name.
        baseline_transforms: From one patient's transformed input, without the batch
            dimension, to a baseline; several are offered as several baselines.
            Without one the baseline is 0.
        input_transforms: From one patient's data, without the batch dimension, to
            what the model takes, one after the other; e.g. an embedding.
        visualization_transform: From one patient's data to what a person reads.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        name: str,
        baseline_transforms: Transforms = None,
        input_transforms: Transforms = None,
        visualization_transform: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.name = name
        self.baseline_transforms = _listed(baseline_transforms)
        self.input_transforms = _listed(input_transforms)
        self.visualization_transform = visualization_transform

    @classmethod
    def visualization_type(cls) -> str:
        """How it is shown."""
        return cls.kind

    def transform(self, data: Tensor) -> Tensor:
        """The data of some patients as the model takes them.

        Raises:
            ValueError: If that is no floating-point numbers, or of several shapes.
        """
        patients = list(data)
        for transform in self.input_transforms:
            patients = [transform(patient) for patient in patients]
        if len({patient.shape for patient in patients}) > 1:
            raise ValueError(
                f"Feature {self.name!r}: after input_transforms= patients of one batch "
                "differ in shape; expected one shape for all of them."
            )
        inputs = torch.stack(patients).detach()
        if not inputs.is_floating_point():
            raise ValueError(
                f"Feature {self.name!r}: what the model is given has dtype "
                f"{inputs.dtype}, expected floating-point numbers; give "
                "input_transforms= that embeds ids."
            )
        return inputs

    def record(self, data: Tensor, time: Tensor | None = None) -> FeatureRecord:
        """The data of some patients as their owner would read them."""
        raise NotImplementedError

    def visualize(
        self, attribution: Tensor, data: Tensor, contribution_frac: float
    ) -> FeatureOutput:
        """What to show of one patient.

        Args:
            attribution: ``(1, ...)``, shaped like the data, or with the embedding
                dimension after it.
            data: ``(1, ...)``, as the :class:`~captum_ehr.insights.Batch` has it.
            contribution_frac: The feature's part in all.
        """
        record = self.record(data)
        if attribution.dim() > record.mask.dim():
            attribution = attribution.sum(-1)
        shape = record.mask.shape[1:]
        words = np.array(self._words(record), dtype=object).reshape(shape)
        percent = _percent(attribution.detach())[0].cpu().numpy()
        real = record.mask[0].cpu().numpy()
        if real.ndim > 1 and self.kind != "codes":
            steps = [step for step in range(len(real)) if real[step].any()]
            base = [words[step][real[step]].tolist() for step in steps]
            modified = [percent[step][real[step]].tolist() for step in steps]
        else:
            base, modified = words[real].tolist(), percent[real].tolist()
        kind = self.visualization_type()
        return FeatureOutput(self.name, base, modified, kind, contribution_frac)

    def _words(self, record: FeatureRecord) -> list[str]:
        """What stands at each place of the first patient, padding included."""
        raise NotImplementedError


class CodeFeature(BaseFeature):
    """A sequence of codes: token ids ``(batch, positions)``.

    Args:
        name: The feature's name.
        vocabulary: The code of each id; not needed with ``visualization_transform``.
        baseline_transforms: See :class:`BaseFeature`.
        input_transforms: See :class:`BaseFeature`.
        visualization_transform: From one patient's ids to the codes, one for each.
        pad: The id that means that nothing stands there.

    Raises:
        ValueError: If there is neither a vocabulary nor a transform.

    Example:
        >>> feature = CodeFeature("conditions", ("<pad>", "<unk>", "I50", "E11"))
        >>> ids = torch.tensor([[2, 3, 0]])
        >>> shown = feature.visualize(torch.tensor([[0.5, -0.25, 0.0]]), ids, 1.0)
        >>> shown.base, shown.modified
        (['I50', 'E11'], [100.0, -50.0])
    """

    kind = "codes"

    def __init__(
        self,
        name: str,
        vocabulary: Sequence[str] | None = None,
        baseline_transforms: Transforms = None,
        input_transforms: Transforms = None,
        visualization_transform: Callable[[Tensor], Any] | None = None,
        *,
        pad: int = 0,
    ) -> None:
        super().__init__(
            name, baseline_transforms, input_transforms, visualization_transform
        )
        if vocabulary is None and visualization_transform is None:
            raise ValueError(
                f"Feature {name!r}: give vocabulary=, the code of each id, or "
                "visualization_transform=, from ids to codes."
            )
        self.vocabulary = None if vocabulary is None else tuple(map(str, vocabulary))
        self.pad = pad

    def record(self, data: Tensor, time: Tensor | None = None) -> FeatureRecord:
        """The ids of some patients, with their codes."""
        mask = data != self.pad
        if self.visualization_transform is None:
            return FeatureRecord(data.long(), mask, time, self.vocabulary)
        words: list[str] = []
        for patient in data:
            codes = _flat(self.visualization_transform(patient))
            if len(codes) != patient.numel():
                raise ValueError(
                    f"Feature {self.name!r}: its visualization_transform gives "
                    f"{len(codes)} code(s) for {patient.numel()} id(s), expected one "
                    "each."
                )
            words += codes
        places = torch.arange(len(words)).view_as(data)
        return FeatureRecord(places, mask.cpu(), time, tuple(words))

    def _words(self, record: FeatureRecord) -> list[str]:
        vocabulary = record.vocabulary or ()
        ids = record.values[0].flatten().tolist()
        return [vocabulary[i] if i < len(vocabulary) else str(i) for i in ids]


class VisitFeature(CodeFeature):
    """Visits of codes: token ids ``(batch, visits, positions)``.

    Takes what :class:`CodeFeature` takes.

    Example:
        >>> feature = VisitFeature("conditions", ("<pad>", "<unk>", "I50", "E11"))
        >>> ids = torch.tensor([[[2, 0], [2, 3]]])
        >>> feature.visualize(torch.ones(1, 2, 2), ids, 1.0).base
        [['I50'], ['I50', 'E11']]
    """

    kind = "visits"


class LabFeature(BaseFeature):
    """Values: ``(batch, columns)``, or ``(batch, steps, columns)`` over time.

    Args:
        name: The feature's name.
        categories: The name of each column.
        baseline_transforms: See :class:`BaseFeature`.
        input_transforms: See :class:`BaseFeature`; they keep the shape.
        visualization_transform: From one patient's data to the values to show, of
            the same shape, e.g. back into their units.

    Example:
        >>> feature = LabFeature("labs", ["lactate", "sodium"])
        >>> values = torch.tensor([[4.0, 139.0]])
        >>> feature.visualize(torch.tensor([[2.0, -1.0]]), values, 1.0).base
        ['lactate: 4', 'sodium: 139']
    """

    kind = "labs"

    def __init__(
        self,
        name: str,
        categories: Sequence[str],
        baseline_transforms: Transforms = None,
        input_transforms: Transforms = None,
        visualization_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            name, baseline_transforms, input_transforms, visualization_transform
        )
        self.categories = tuple(map(str, categories))

    def record(self, data: Tensor, time: Tensor | None = None) -> FeatureRecord:
        """The values of some patients; trailing steps of zeros are padding."""
        mask = torch.ones_like(data, dtype=torch.bool)
        if data.dim() > 2:
            seen = (data != 0).flatten(2).any(2)
            later = seen.int().flip(1).cummax(1).values.flip(1).bool()
            mask = later.view(*later.shape, *[1] * (data.dim() - 2)).expand_as(data)
        values = data
        if self.visualization_transform is not None:
            values = torch.stack([*map(self.visualization_transform, data)])
        return FeatureRecord(values.float(), mask, time, None, self.categories)

    def _words(self, record: FeatureRecord) -> list[str]:
        names = record.columns or ()
        rows = record.values[0].reshape(-1, len(names)).tolist()
        return [f"{name}: {number(x)}" for row in rows for name, x in zip(names, row)]


def _percent(attribution: Tensor) -> Tensor:
    """In per cent of the strongest; 0 where all are 0, NaN where one is NaN."""
    strongest = attribution.abs().max() if attribution.numel() else 0
    return attribution / (strongest or 1) * 100


def _listed(transforms: Transforms) -> list[Callable[[Tensor], Tensor]]:
    if transforms is None:
        return []
    return [transforms] if callable(transforms) else list(transforms)


def _flat(words: Any) -> tuple[str, ...]:
    """Nested lists of strings, one after the other."""
    if isinstance(words, str) or not isinstance(words, Iterable):
        return (str(words),)
    return tuple(word for part in words for word in _flat(part))
