"""PyHealth models and batches as Captum knows them. Does not import PyHealth."""

from ..explanation import FeatureKeyError, FeatureRecord
from .adapter import PyHealthAdapter
from .encoded import EncodedBatch, Pairs
from .feature_masks import FeatureMask, Player
from .patients import fitted, reference_patients
from .references import Baseline
from .schema import is_pyhealth_model, module_rules

__all__ = [
    "Baseline",
    "EncodedBatch",
    "FeatureKeyError",
    "FeatureMask",
    "FeatureRecord",
    "Pairs",
    "Player",
    "PyHealthAdapter",
    "fitted",
    "is_pyhealth_model",
    "module_rules",
    "reference_patients",
]
