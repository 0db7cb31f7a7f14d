"""Explanations of many patients, to look at: in Captum's own Captum Insights.

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bridge import captum_visualizer

__all__ = ["captum_visualizer"]


def __getattr__(name: str) -> Any:
    home = {"captum_visualizer": "bridge"}.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)
