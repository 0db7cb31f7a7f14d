"""Whether a dataset's ids are those that a model was made for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..explanation.feature_record import first_difference
from .features import Feature


def vocabulary(processor: Any) -> list[Any]:
    """What a processor makes ids, columns or labels of: its kind and its tables."""
    words = getattr(processor, "vocab", None)
    return [
        type(processor).__qualname__,
        getattr(processor, "code_vocab", None) or getattr(words, "token_to_id", None),
        getattr(processor, "label_vocab", None),
    ]


def check_dataset(features: Iterable[Feature], model: Any, dataset: Any) -> None:
    """Refuse a dataset whose codes, columns or labels have other ids than the model's.

    Datasets of two ``set_task`` calls have, each, a vocabulary of their own. Anything
    without processors, such as a list of samples, is taken as it is.

    Args:
        features: The model's features.
        model: The PyHealth model; its own dataset says how its labels are numbered.
        dataset: The dataset to be explained, or to take references from.

    Raises:
        ValueError: If they differ; it names the feature and the first code.
    """
    theirs = getattr(dataset, "input_processors", {})
    for feature in features:
        if feature.source in theirs:
            name = f"Feature {feature.source!r}"
            _check(name, feature.processor, theirs[feature.source], "input_processors")
            other = Feature(feature.key, theirs[feature.source], feature.embedding)
            if feature.width != other.width:
                raise ValueError(
                    f"{name}: the dataset has {other.width} column(s), the model was "
                    f"made for {feature.width}."
                )
    own = getattr(model.dataset, "output_processors", {})
    labels = getattr(dataset, "output_processors", {})
    for key in getattr(model, "label_keys", ()):
        if key in own and key in labels:
            held = _labels(own[key]).items()
            # A dataset without patients of some label may number the others alike.
            if not _labels(labels[key]).items() <= held:
                _check(f"Label {key!r}", own[key], labels[key], "output_processors")


def _check(name: str, mine: Any, theirs: Any, option: str) -> None:
    """Refuse a processor that numbers otherwise."""
    (kind, *tables), (other_kind, *other_tables) = vocabulary(mine), vocabulary(theirs)
    said = "" if kind == other_kind else f"{kind} and {other_kind}"
    for one, other in zip(tables, other_tables):
        words = _ordered(one), _ordered(other)
        if not said and words[0] != words[1]:
            said = f"number {first_difference(*words)}"
    if said:
        raise ValueError(
            f"{name}: the model and the dataset have another vocabulary, so that codes "
            f"would be taken for others: {said}. Make the dataset with the model's "
            f"processors: {option}=model.dataset.{option}."
        )


def _labels(processor: Any) -> dict[Any, int]:
    return getattr(processor, "label_vocab", None) or {}


def _ordered(table: Mapping[Any, int] | None) -> list[str]:
    """The word of each id, empty where there is none."""
    if not table:
        return []
    words = {number: str(word) for word, number in table.items()}
    return [words.get(number, "") for number in range(max(words) + 1)]
