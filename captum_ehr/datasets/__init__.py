"""Built-in data: a synthetic cohort whose risk factors are known.

Importing this package imports neither PyHealth nor torch;
:func:`synthetic_cohort` imports PyHealth when it is called.
"""

from captum_ehr.datasets.codes import CODE_NAMES, CONDITIONS, DRUGS, Code
from captum_ehr.datasets.labs import LAB_NAMES, LABS, Lab
from captum_ehr.datasets.synthetic import (
    INPUT_SCHEMA,
    OUTPUT_SCHEMA,
    TIME_UNIT,
    synthetic_cohort,
    synthetic_samples,
)
from captum_ehr.datasets.tiny import tiny_model
from captum_ehr.datasets.truth import (
    CODE_FACTORS,
    INTERACTION,
    INTERCEPT,
    LAB_FACTOR,
    CodeFactor,
    Interaction,
    LabFactor,
    Sample,
    contributions,
    distractor_codes,
    distractor_labs,
    log_odds,
    planted_codes,
    risk,
)

__all__ = [
    "CODE_FACTORS",
    "CODE_NAMES",
    "CONDITIONS",
    "DRUGS",
    "INPUT_SCHEMA",
    "INTERACTION",
    "INTERCEPT",
    "LABS",
    "LAB_FACTOR",
    "LAB_NAMES",
    "OUTPUT_SCHEMA",
    "TIME_UNIT",
    "Code",
    "CodeFactor",
    "Interaction",
    "Lab",
    "LabFactor",
    "Sample",
    "contributions",
    "distractor_codes",
    "distractor_labs",
    "log_odds",
    "planted_codes",
    "risk",
    "synthetic_cohort",
    "synthetic_samples",
    "tiny_model",
]
