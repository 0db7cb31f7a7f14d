"""captum_ehr: which part of a patient's record moved the model, exactly.

A Captum plugin for PyHealth. Names are loaded when they are first used, so that
importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter import EncodedBatch, PyHealthAdapter, reference_patients
    from .attr import (
        AttributionWarning,
        CompletenessError,
        DeepLiftEHR,
        DeepLiftShapEHR,
        LayerDeepLiftEHR,
        NeuronDeepLiftEHR,
        contrast,
        label,
    )
    from .cohort import Cohort, CohortError, explain_cohort
    from .explanation import Evaluation, Explanation, Interactions, WhatIf

__version__ = "0.2.0"

__all__ = [
    "AttributionWarning",
    "Cohort",
    "CohortError",
    "CompletenessError",
    "DeepLiftEHR",
    "DeepLiftShapEHR",
    "EncodedBatch",
    "Evaluation",
    "Explanation",
    "Interactions",
    "LayerDeepLiftEHR",
    "NeuronDeepLiftEHR",
    "PyHealthAdapter",
    "WhatIf",
    "contrast",
    "explain_cohort",
    "label",
    "reference_patients",
]

_HOMES = ("explanation", "cohort", "adapter", "attr")
"""Where names are looked for, in this order; cohort has its own loaded lazily too."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            module = import_module(f".{home}", __name__)
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*__all__, "__version__"))
