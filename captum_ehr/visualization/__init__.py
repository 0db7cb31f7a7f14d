"""Figures and pages of explanations.

Of one patient: :func:`timeline`, :func:`waterfall`, :func:`heatmap`. Of a cohort:
:func:`cohort_bar`, :func:`cohort_beeswarm`, :func:`completeness`. A page of both:
:func:`write_report`. In every figure red raises the output and blue lowers it.

Importing this loads neither matplotlib nor jinja2; the functions do when called, and
leave pyplot alone: nothing stays open, no screen is needed.
"""

from captum_ehr.visualization.beeswarm import cohort_beeswarm
from captum_ehr.visualization.cohort import cohort_bar
from captum_ehr.visualization.completeness import completeness
from captum_ehr.visualization.heatmap import heatmap
from captum_ehr.visualization.report import write_report
from captum_ehr.visualization.timeline import timeline
from captum_ehr.visualization.waterfall import waterfall

__all__ = [
    "cohort_bar",
    "cohort_beeswarm",
    "completeness",
    "heatmap",
    "timeline",
    "waterfall",
    "write_report",
]
