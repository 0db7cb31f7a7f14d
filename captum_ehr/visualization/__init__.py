"""Figures and pages of explanations.

Of one patient: :func:`timeline`, :func:`waterfall`, :func:`heatmap`. Of a cohort:
:func:`cohort_bar`, :func:`cohort_beeswarm`, :func:`completeness`. A page of both:
:func:`write_report`. In every figure red raises the output and blue lowers it.

Importing this loads neither matplotlib nor jinja2; asking for a function does, and
leaves pyplot alone: nothing stays open, no screen is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .report import write_report

if TYPE_CHECKING:
    from .bar_plot import cohort_bar
    from .beeswarm_plot import cohort_beeswarm
    from .heatmap_plot import heatmap
    from .residual_plot import completeness
    from .timeline_plot import timeline
    from .waterfall_plot import waterfall

__all__ = [
    "cohort_bar",
    "cohort_beeswarm",
    "completeness",
    "heatmap",
    "timeline",
    "waterfall",
    "write_report",
]


def __getattr__(name: str) -> Any:
    home = {
        "cohort_bar": "bar_plot",
        "cohort_beeswarm": "beeswarm_plot",
        "completeness": "residual_plot",
        "heatmap": "heatmap_plot",
        "timeline": "timeline_plot",
        "waterfall": "waterfall_plot",
    }.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{home}", __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ImportError(
            f"{name} draws with matplotlib, which is not installed: "
            "pip install 'captum-ehr[plots]'"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
