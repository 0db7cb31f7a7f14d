"""On which scale a model's score is explained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..adapter import PyHealthAdapter


def scored(
    model: nn.Module, forward: Callable[..., Tensor], output: str
) -> Callable[..., Tensor]:
    """The forward of a model, on the scale asked for.

    Args:
        model: The explained model; a :class:`PyHealthAdapter` knows what it returns.
        forward: The same, or a view of it.
        output: ``"logit"`` or ``"probability"``.
    """
    if not isinstance(model, PyHealthAdapter) or output == model.scale:
        return forward
    mode = model.mode

    def logit(*args: Tensor) -> Tensor:
        return torch.logit(forward(*args))

    def probability(*args: Tensor) -> Tensor:
        score = forward(*args)
        if mode == "multiclass":
            return torch.softmax(score, dim=-1)
        return score if mode == "regression" else torch.sigmoid(score)

    return logit if output == "logit" else probability
