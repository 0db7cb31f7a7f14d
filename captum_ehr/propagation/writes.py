"""Which calls write on more than their first argument."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

#: Options with which a call writes on other arguments.
BESIDE = frozenset({"max_norm", "training", "use_input_stats"})


def written_beside(args: Any, kwargs: Any) -> Iterator[Tensor]:
    """Tensors that a call's options have it write on, beside its first argument.

    A table of embeddings that renormalises its rows (``max_norm``), the statistics of
    a normalisation in training. Others that have an option of this name are suspected
    in vain, which costs a copy.
    """
    suspects = args[1:2] if kwargs.get("max_norm") is not None else ()
    if kwargs.get("training") or kwargs.get("use_input_stats"):
        suspects = args[1:3]
    return (value for value in suspects if isinstance(value, Tensor))
