"""Cohorts: any number of patients, explained into Parquet files.

:func:`explain_cohort` makes one, in this process or on a cluster of dask's;
:class:`Cohort` reads it. Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..scene.performance import Decision, Errors, Hits, Performance
    from .cohort import Cohort
    from .judging import Judgement
    from .manifest import CohortError
    from .running import explain_cohort

__all__ = [
    "Cohort",
    "CohortError",
    "Decision",
    "Errors",
    "Hits",
    "Judgement",
    "Performance",
    "explain_cohort",
]

_HOMES = {
    "Cohort": "cohort",
    "CohortError": "manifest",
    "Judgement": "judging",
    "explain_cohort": "running",
    **dict.fromkeys(
        ("Decision", "Errors", "Hits", "Performance"), ".scene.performance"
    ),
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
