"""PyHealth's models and DeepLiftEHR inside Captum's own Captum Insights.

Captum Insights left Captum with 0.9; the extra ``captum-ehr[captum-insights]`` brings
the last one that goes with PyHealth 2. Nothing of Captum's is changed: its classes are
subclassed, its page, its server and its other attribution methods are its own.
"""

from .features import FeatureOutput
from .visualizer import captum_visualizer

__all__ = ["FeatureOutput", "captum_visualizer"]
