"""A model's outputs and multipliers, without an explanation around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..adapter import EncodedBatch, PyHealthAdapter
from ..propagation import Tape, recorded
from .classes import is_all
from .contributions import Parts
from .engine import Engine
from .inputs import Prepared
from .result import joined
from .slicing import sliced
from .targets import Chosen, Target


def asked_model(
    engine: Engine, batch: Any, target: Target, who: str, why: str
) -> tuple[PyHealthAdapter, EncodedBatch]:
    """The model, of which something is asked for one output, and the encoded batch.

    Messages say ``who`` asks, and ``why`` that needs attributions.

    Raises:
        TypeError: If the model is not PyHealth's, or the batch no batch.
        ValueError: If the explainer returns multipliers, or every output is meant.
    """
    model = engine.model
    if not isinstance(model, PyHealthAdapter):
        raise TypeError(f"{who} takes a batch, and a PyHealth model.")
    if not engine.multiplies_by_inputs:
        raise ValueError(f"{who} needs multiply_by_inputs=True: {why}.")
    if is_all(target):
        names = ", ".join(map(repr, model.target_names or ())) or "the indices"
        raise ValueError(
            f"{who} asks about one output at a time; target='all' is every one: name "
            f"one of {names}."
        )
    return model, batch if isinstance(batch, EncodedBatch) else model.encode(batch)


def answers(engine: Engine, prepared: Prepared) -> Tensor:
    """All outputs for each patient, as an explanation's input pass has them."""
    parts = []
    step = engine.internal_batch_size or len(prepared.inputs[0])
    for _, piece in sliced(prepared, step, engine._output):
        view, tape = engine.forward_view(), Tape(engine.table)
        inputs = [x.detach() for x in piece.inputs]  # nothing is attributed
        with recorded(view.forward, inputs, piece.args, tape) as (output, _):
            parts.append(output.detach())
    return torch.cat(parts)


def multipliers_at(
    engine: Engine, prepared: Prepared, index: Tensor, apart: bool
) -> Parts:
    """The multipliers of these outputs, of each patient alone if apart."""

    def bare(multipliers: Parts, *_: Parts) -> Parts:
        return multipliers

    step = engine.internal_batch_size or len(index)
    parts = []
    for k, piece in sliced(prepared, step, engine._output):
        chosen = Chosen(index[k : k + len(piece.inputs[0])])
        parts.append(engine._slice(piece, chosen, bare, False, apart))
    return joined(parts).attributions
