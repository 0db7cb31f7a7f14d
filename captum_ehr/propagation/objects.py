"""Objects made without their classes' help, and which of them may be."""

from __future__ import annotations

import copy
from typing import Any


def blank(kind: type) -> Any:
    """An instance that nothing has been done to, whatever its class does at birth."""
    try:
        return object.__new__(kind)
    except TypeError:  # its memory is another builtin type's
        born = next(b for b in kind.__mro__ if not b.__flags__ & _MADE_IN_PYTHON)
        return born.__new__(kind)  # type: ignore[call-overload]


def is_plain(kind: type) -> bool:
    """Whether objects of this type are their attributes, and no more."""
    if not kind.__flags__ & _MADE_IN_PYTHON or not kind.__dictoffset__:
        return False
    if issubclass(kind, type) or kind.__module__.partition(".")[0] in (
        "torch",
        "numpy",
    ):
        return False
    return not hasattr(kind, "__del__") and all(
        getattr(kind, name, None) is getattr(object, name, None) for name in _STATED
    )


def scripted(module: Any) -> Any:
    """A TorchScript module in full, in eval mode: no pass sees what it writes."""
    made = copy.deepcopy(module).eval()
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made


#: CPython's flag of types that are made by a class statement.
_MADE_IN_PYTHON = 1 << 9

#: What types define whose objects are more than their attributes.
_STATED = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__")
