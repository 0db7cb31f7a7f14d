"""PyHealth models and batches as Captum knows them. Does not import PyHealth."""

from .adapter import PyHealthAdapter
from .encoded import EncodedBatch, Pairs
from .records import FeatureKeyError, FeatureRecord
from .references import Baseline
from .schema import is_pyhealth_model, module_rules

__all__ = [
    "Baseline",
    "EncodedBatch",
    "FeatureKeyError",
    "FeatureRecord",
    "Pairs",
    "PyHealthAdapter",
    "is_pyhealth_model",
    "module_rules",
]
