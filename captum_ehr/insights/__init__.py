"""Explanations of many patients, to look at: a page, or Captum's own Captum Insights.

:class:`AttributionVisualizer` has Captum Insights' names and arguments, and a short
form for PyHealth's models. What it shows is plain data first (``view``, ``cohort``),
then a page that is served live or saved as one file. Names are loaded when they are
first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches import Batch as Batch
    from .bridge import captum_visualizer as captum_visualizer
    from .cohort_viewer import CohortViewer as CohortViewer
    from .inline_frame import render as render
    from .page import ExportLimitError as ExportLimitError
    from .page import save as save
    from .readers import CodeFeature as CodeFeature
    from .readers import FeatureOutput as FeatureOutput
    from .readers import LabFeature as LabFeature
    from .readers import VisitFeature as VisitFeature
    from .server import PortInUseError as PortInUseError
    from .server import Server as Server
    from .server import serve as serve
    from .visualizer import AttributionVisualizer as AttributionVisualizer

_HOMES = {
    "AttributionVisualizer": "visualizer",
    "Batch": "batches",
    "CodeFeature": "readers",
    "CohortViewer": "cohort_viewer",
    "ExportLimitError": "page",
    "FeatureOutput": "readers",
    "LabFeature": "readers",
    "PortInUseError": "server",
    "Server": "server",
    "VisitFeature": "readers",
    "captum_visualizer": "bridge",
    "render": "inline_frame",
    "save": "page",
    "serve": "server",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
