"""Codes as Captum Insights' text features, values as its general features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...adapter import FeatureRecord
from ...explanation.feature_record import Words, column_names, words_for
from .captums import GeneralFeature, TextFeature
from .patients import Patients


class FeatureOutput(NamedTuple):
    """Captum Insights' ``FeatureOutput``, and what it was scaled from.

    Args:
        name: The feature key.
        base: What is shown: words, or values with their names.
        modified: Percent of the largest absolute attribution of the feature (text),
            or of their L2 norm (general); what Captum Insights draws.
        type: ``"text"`` or ``"general"``.
        contribution: The feature's part of the ``Σ |sum over a feature|``.
        attributions: One number per entry of ``base``, in units of the score.
    """

    name: str
    base: list[str]
    modified: list[float]
    type: str
    contribution: float
    attributions: list[float]


class CodesFeature(TextFeature):
    """Tokens as text: a word for each real token, in the order of the record.

    Args:
        patients: Where to find them.
        key: The feature key.
        names: Human names of codes, or such a table per feature key.
    """

    def __init__(self, patients: Patients, key: str, names: Words) -> None:
        super().__init__(key, None, None, None)
        self.patients, self.names = patients, words_for(key, names)

    def visualize(
        self, attribution: Tensor, data: Tensor, contribution_frac: float
    ) -> FeatureOutput:
        """A word and an attribution for each token."""
        record, places = self.patients.places(int(data), self.name)
        base = _words(record, places, self.names)
        each = attribution.flatten()[places]
        return _output(self, base, each, contribution_frac, math.inf)


class ValuesFeature(GeneralFeature):
    """Values, multi-hot categories and series as a bar each.

    Args:
        patients: Where to find them.
        key: The feature key.
        names: Human names of columns, or such a table per feature key.
    """

    def __init__(self, patients: Patients, key: str, names: Words) -> None:
        super().__init__(key, [])
        self.patients, self.names = patients, words_for(key, names)

    def visualize(
        self, attribution: Tensor, data: Tensor, contribution_frac: float
    ) -> FeatureOutput:
        """Values with their names, those that are padding left out."""
        record, places = self.patients.places(int(data), self.name)
        base = _readings(self.name, record, places, self.names)
        each = attribution.flatten()[places]
        return _output(self, base, each, contribution_frac, 2)


def _words(
    record: FeatureRecord, places: Sequence[int], names: Mapping[str, str]
) -> list[str]:
    """Codes with their names; a visit's first one says which visit it is."""
    assert record.vocabulary is not None
    ids, shape = record.values.flatten().tolist(), record.values.shape
    words, last = [], -1
    for place in places:
        code = record.vocabulary[ids[place]]
        word = f"{code} {names[code]}" if code in names else code
        visit = place // shape[-1]
        first = len(shape) > 2 and visit != last
        words.append(f"visit {visit + 1}: {word}" if first else word)
        last = visit
    return words


def _readings(
    key: str, record: FeatureRecord, places: Sequence[int], names: Mapping[str, str]
) -> list[str]:
    """Values with the names of their columns, and the step where there are steps."""
    values, stepped = record.values.flatten().tolist(), record.values.dim() > 2
    columns = [names.get(code, code) for code in column_names(key, record)]
    texts = []
    for place in places:
        step, column = divmod(place, len(columns))
        name = f"{columns[column]}, step {step + 1}" if stepped else columns[column]
        texts.append(f"{name}: {values[place]:.4g}")
    return texts


def _output(
    feature: Any, base: list[str], each: Tensor, contribution: float, order: float
) -> FeatureOutput:
    """Scaled as Captum Insights scales text (order inf) and general (2) features."""
    norm = torch.linalg.vector_norm(each, order) if len(each) else each.new_ones(())
    percent = 100 * each / torch.where(norm == 0, 1, norm)
    return FeatureOutput(
        feature.name,
        base,
        percent.tolist(),
        feature.visualization_type(),
        contribution,
        each.tolist(),
    )
