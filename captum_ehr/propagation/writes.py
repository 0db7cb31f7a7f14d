"""Which calls write on what they are given, where the table of rules does not tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .operations import label

#: Options with which a call writes on another argument than its first.
BESIDE = frozenset({"out", "max_norm", "training", "use_input_stats"})


def writes(func: Callable[..., Any]) -> bool:
    """Whether a call of a function with no entry writes on its first argument.

    Example:
        >>> writes(torch._foreach_mul_), writes(torch.Tensor.data.__set__)
        (True, True)
    """
    if getattr(func, "__self__", None) is torch.Tensor.data:
        return True
    name = label(func)
    return name.endswith("_") and not name.endswith("__")


def written_beside(args: Any, kwargs: Any) -> Iterator[Tensor]:
    """Tensors that a call's options have it write on.

    A table of embeddings that renormalises its rows (``max_norm``), the statistics of
    a normalisation in training. Others that have an option of this name are suspected
    in vain, which costs a copy.
    """
    out = kwargs.get("out")
    yield from _tensors(out if isinstance(out, (list, tuple)) else [out])
    if kwargs.get("max_norm") is not None:
        yield from _tensors(args[1:2])
    if kwargs.get("training") or kwargs.get("use_input_stats"):
        yield from _tensors(args[1:3])


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in values if isinstance(value, Tensor))
