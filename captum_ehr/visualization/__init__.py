"""Figures and pages of explanations.

Of one patient: :func:`timeline`, :func:`waterfall`, :func:`heatmap`; of its pairs of
codes: :func:`pair_heatmap`, :func:`pair_network`. Of a cohort:
:func:`cohort_bar`, :func:`cohort_beeswarm`, :func:`cohort_heatmap`,
:func:`dependence`, :func:`completeness`. Of an evaluation: :func:`faithfulness`. A page
of patients and of a cohort: :func:`write_report`. In figures of attributions red raises
the output and blue lowers it.

Importing this loads neither matplotlib nor jinja2; asking for a function does, and
leaves pyplot alone: nothing stays open, no screen is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .report import write_report

if TYPE_CHECKING:
    from .bar_plot import cohort_bar as cohort_bar
    from .beeswarm_plot import cohort_beeswarm as cohort_beeswarm
    from .cohort_heatmap_plot import cohort_heatmap as cohort_heatmap
    from .dependence_plot import dependence as dependence
    from .faithfulness_plot import faithfulness as faithfulness
    from .heatmap_plot import heatmap as heatmap
    from .pair_plot import pair_heatmap as pair_heatmap
    from .pair_plot import pair_network as pair_network
    from .residual_plot import completeness as completeness
    from .timeline_plot import timeline as timeline
    from .waterfall_plot import waterfall as waterfall

_HOMES = {
    "cohort_bar": "bar_plot",
    "cohort_beeswarm": "beeswarm_plot",
    "cohort_heatmap": "cohort_heatmap_plot",
    "completeness": "residual_plot",
    "dependence": "dependence_plot",
    "faithfulness": "faithfulness_plot",
    "heatmap": "heatmap_plot",
    "pair_heatmap": "pair_plot",
    "pair_network": "pair_plot",
    "timeline": "timeline_plot",
    "waterfall": "waterfall_plot",
}

__all__ = [*_HOMES, "write_report"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
