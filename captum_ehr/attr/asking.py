"""A model's outputs and multipliers, without an explanation around them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..propagation import Tape, recorded
from .contributions import Parts
from .engine import Engine
from .inputs import Prepared
from .result import joined
from .slicing import sliced
from .targets import Chosen


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
