"""The two forms in which patients and models may be given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..adapter import is_pyhealth_model
from .batches import Batch, BatchSource
from .features import BaseFeature
from .sources import Grouping, PyHealthSource, Source

_BASELINES: Mapping[str, Any] = {"unk": "unk", "pad": "pad", "mean": "mean"}


def short_form(
    models: Sequence[nn.Module],
    classes: Sequence[str] | None,
    dataset: Any,
    baselines: Sequence[str] | Mapping[str, Any] | None,
    groups: Mapping[str, Grouping] | Sequence[str] | None,
) -> Source:
    """A PyHealth model and dataset.

    Raises:
        TypeError: If they are none.
    """
    own = [getattr(model, "model", model) for model in models]
    if not all(map(is_pyhealth_model, own)) or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            "Give AttributionVisualizer(model, dataset) with a PyHealth model and its "
            "sample dataset, or AttributionVisualizer(models, classes, features, "
            "batches) as for Captum Insights."
        )
    offered = _BASELINES if baselines is None else baselines
    if not isinstance(offered, Mapping):
        offered = {name: name for name in offered}
    return PyHealthSource(models, dataset, offered, groups, classes)


def long_form(
    models: Sequence[nn.Module],
    classes: Any,
    features: Sequence[BaseFeature],
    dataset: Iterable[Batch] | None,
    score_func: Callable[[Tensor], Tensor] | None,
    most: int,
) -> Source:
    """What Captum Insights takes.

    Raises:
        TypeError: If the classes or the batches are missing.
    """
    if dataset is None or classes is None or isinstance(classes, str):
        raise TypeError(
            "The long form takes classes (the name of each) and dataset (batches), "
            f"got classes={classes!r} and dataset={dataset!r}."
        )
    return BatchSource(models, classes, features, dataset, score_func, most)
