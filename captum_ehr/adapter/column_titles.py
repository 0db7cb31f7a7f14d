"""What the columns of continuous values are called, as processors and tasks say."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from .features import Feature


def titled(features: Sequence[Feature], dataset: Any) -> tuple[Feature, ...]:
    """Features with the names of their columns, where they are to be had.

    From the processor (``feature_names``, as scikit-learn calls them); else from the
    task of the dataset: PyHealth's have ``LAB_CATEGORY_NAMES``, the columns of the one
    feature that has as many.
    """
    names = _names_of_task(getattr(dataset, "task_name", ""))
    wide = [
        feature.key for feature in features if names and feature.width == len(names)
    ]
    keys = wide if len(wide) == 1 else []
    return tuple(
        replace(one, titles=_own(one) or (names if one.key in keys else None))
        for one in features
    )


def _own(feature: Feature) -> tuple[str, ...] | None:
    """The names that a processor has for its columns."""
    names = getattr(feature.processor, "feature_names", None)
    fits = isinstance(names, (list, tuple)) and len(names) == feature.width
    return tuple(map(str, names)) if names and fits else None


def _names_of_task(name: str) -> tuple[str, ...] | None:
    """The laboratory values of the task of a name, of those that are imported."""
    module = sys.modules.get("pyhealth.tasks.base_task")
    if module is None or not name:
        return None
    found = {
        tuple(map(str, task.LAB_CATEGORY_NAMES))
        for task in _below(module.BaseTask)
        if getattr(task, "task_name", None) == name
        and hasattr(task, "LAB_CATEGORY_NAMES")
    }
    return found.pop() if len(found) == 1 else None


def _below(kind: Any) -> Iterator[Any]:
    """All subclasses of a class."""
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)
