"""Captum attribution classes with exact multipliers."""

from .classes import contrast, label
from .completeness import AttributionWarning, CompletenessError
from .deep_lift import DeepLiftEHR
from .deep_lift_shap import DeepLiftShapEHR
from .layers import LayerDeepLiftEHR, NeuronDeepLiftEHR

__all__ = [
    "AttributionWarning",
    "CompletenessError",
    "DeepLiftEHR",
    "DeepLiftShapEHR",
    "LayerDeepLiftEHR",
    "NeuronDeepLiftEHR",
    "contrast",
    "label",
]
