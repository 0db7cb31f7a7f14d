"""Figures and pages of explanations.

Importing this loads neither matplotlib nor jinja2; the functions do when called.
"""

from captum_ehr.visualization.report import write_report
from captum_ehr.visualization.timeline import timeline

__all__ = ["timeline", "write_report"]
