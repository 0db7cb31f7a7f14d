"""PyHealth models and batches as Captum knows them. Does not import PyHealth."""

from ..explanation.player import Player
from .adapter import PyHealthAdapter
from .baselines import Baseline
from .encoded import EncodedBatch, Pairs, collated
from .feature_masks import FeatureMask
from .known_models import module_rules
from .observations import reference_patients
from .schema import is_pyhealth_model
from .vocabularies import check_dataset

__all__ = [
    "Baseline",
    "EncodedBatch",
    "FeatureMask",
    "Pairs",
    "Player",
    "PyHealthAdapter",
    "check_dataset",
    "collated",
    "is_pyhealth_model",
    "module_rules",
    "reference_patients",
]
