"""What an attribution method hands over, and what a person makes of it.

:class:`Explanation` holds the tensors; the modules beside it turn them into rows,
sums, comparisons, probabilities, files, and the forms of SHAP and Captum.
:class:`Interactions` holds what pairs of codes do together, :class:`WhatIf` what the
model answers to changed records, :class:`Evaluation` how far to believe any of it.
"""

from .evaluation import Evaluation
from .explained import Contrast
from .explanation import Explanation
from .feature_record import FeatureKeyError, FeatureRecord
from .interactions import Interactions
from .what_if import Change, WhatIf
from .words import completeness, summary

__all__ = [
    "Change",
    "Contrast",
    "Evaluation",
    "Explanation",
    "FeatureKeyError",
    "FeatureRecord",
    "Interactions",
    "WhatIf",
    "completeness",
    "summary",
]
