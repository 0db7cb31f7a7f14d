"""What a PyHealth model reads, found out from its dataset and its modules."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..explanation import FeatureKeyError
from .column_titles import titled
from .features import Feature


def is_pyhealth_model(model: object) -> bool:
    """Whether a module is a PyHealth model, without importing PyHealth."""
    return (
        isinstance(model, nn.Module)
        and hasattr(model, "feature_keys")
        and hasattr(getattr(model, "dataset", None), "input_processors")
    )


def describe(
    model: Any, embeddings: Mapping[str, str], structure: Collection[str] = ()
) -> tuple[Feature, ...]:
    """The model's features but its structure, each with the table that embeds it."""
    if not is_pyhealth_model(model):
        raise TypeError(
            f"Expected a PyHealth model (with feature_keys and a dataset), got "
            f"{type(model).__name__}. Give other torch modules to DeepLiftEHR directly."
        )
    keys = list(model.feature_keys)
    unknown = set(embeddings) - set(keys)
    if unknown:
        raise FeatureKeyError(
            f"embeddings names {sorted(unknown)}; the features are {keys}."
        )
    processors = model.dataset.input_processors
    tables = [n for n, m in model.named_modules() if isinstance(m, nn.Embedding)]
    features = [
        Feature(
            key,
            processors[key],
            _table(model, key, processors[key], embeddings, tables),
        )
        for key in keys
        if key not in structure
    ]
    return titled(features, model.dataset)


def any_number(model: nn.Module) -> Tensor:
    """A parameter or buffer, of whose device and dtype all are; else an empty tensor.

    Example:
        >>> any_number(nn.Identity()).dtype
        torch.float32
    """
    numbers = chain(model.parameters(), model.buffers())
    return next((x for x in numbers if x.is_floating_point()), torch.empty(0))


def times(features: Iterable[Feature]) -> tuple[Feature, ...]:
    """A feature for the times of each feature that has some: ``"<key>.time"``."""
    return tuple(
        Feature(f"{feature.key}.time", feature.processor, None, feature)
        for feature in features
        if "time" in feature.schema
    )


def _table(
    model: Any,
    key: str,
    processor: Any,
    embeddings: Mapping[str, str],
    tables: Iterable[str],
) -> str | None:
    """The path of the module that embeds a feature, None for continuous ones."""
    if key in embeddings:
        table = dict(model.named_modules()).get(embeddings[key])
        if not isinstance(getattr(table, "weight", None), Tensor):
            raise ValueError(
                f"Feature {key!r}: {type(model).__name__} has no module "
                f"{embeddings[key]!r} with a table of embeddings (weight)."
            )
        return embeddings[key]
    if not _is_token(processor):
        return None
    paths = [name for name in tables if name.rpartition(".")[2] == key]
    if len(paths) == 1:
        return paths[0]
    raise ValueError(
        f"Feature {key!r}: {type(model).__name__} has "
        f"{'no' if not paths else 'several'} nn.Embedding of that name"
        f"{'' if not paths else ': ' + ', '.join(paths)}. If another module embeds it, "
        f"say so: PyHealthAdapter(model, embeddings={{{key!r}: 'path.of.module'}}). A "
        "model that takes the ids themselves as numbers has nothing to attribute to "
        "them."
    )


def _is_token(processor: Any) -> bool:
    try:
        return bool(processor.is_token())
    except (AttributeError, NotImplementedError):
        return bool(getattr(processor, "code_vocab", None))


def zero_labels(model: Any, size: int, device: torch.device) -> dict[str, Tensor]:
    """Labels for models that ask for one; a label changes no score."""
    labels: dict[str, Tensor] = {}
    for key in getattr(model, "label_keys", ()):
        processor = model.dataset.output_processors[key]
        if getattr(model, "mode", None) == "multiclass":
            labels[key] = torch.zeros(size, dtype=torch.long, device=device)
        else:
            width = getattr(processor, "size", lambda: 1)() or 1
            labels[key] = torch.zeros(size, width, device=device)
    return labels


def target_names(model: Any, labels: Mapping[Any, int]) -> tuple[str, ...] | None:
    """What each output of a model is called, None where nobody says.

    A binary one's is the positive label, or, where that is 1 or True, the label's key.
    """
    mode, keys = getattr(model, "mode", None), getattr(model, "label_keys", ())
    outcomes = tuple(str(key).replace("_", " ") for key in keys)
    if mode == "regression":
        return outcomes or None
    names = tuple(str(label) for label in sorted(labels, key=labels.__getitem__))
    if mode != "binary":
        return names or None
    is_flag = names[-1:] in (("1",), ("1.0",), ("True",))
    return (outcomes[:1] if is_flag and outcomes else names[-1:]) or None
