"""Captum's own ``DeepLift.attribute``, without its warning."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from captum.attr import DeepLift


class _Quiet:
    """Stands for the warnings module in Captum's attribute.

    Its one warning, of hooks and attributes set on the model, does not apply.
    """

    @staticmethod
    def warn(*_: Any, **__: Any) -> None:
        return None


def _rebound() -> Callable[..., Any]:
    """Captum's own ``DeepLift.attribute``, in a namespace of our own."""
    function = DeepLift.attribute
    function = getattr(function, "__wrapped__", function)
    scope = {**function.__globals__, "warnings": _Quiet}
    return types.FunctionType(
        function.__code__,
        scope,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


#: ``DeepLift.attribute`` as a function of an instance and Captum's arguments.
CAPTUM_ATTRIBUTE = _rebound()
