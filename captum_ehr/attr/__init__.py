"""Captum attribution classes with exact multipliers."""

from .completeness import AttributionWarning, CompletenessError
from .deep_lift import DeepLiftEHR

__all__ = ["AttributionWarning", "CompletenessError", "DeepLiftEHR"]
