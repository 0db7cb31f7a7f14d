r"""The straight line from reference to input in several pieces, each exact.

One piece is DeepLIFT: each operation's own Aumann-Shapley values, joined by the chain
rule. With :math:`z_k = x + \frac{k}{n}(x_0 - x)` and m(z, z') the multipliers of z
against z',

.. math:: m = \frac{1}{n} \sum_{k=0}^{n-1} m(z_k, z_{k+1}),

adds up to f(x) - f(x0) as well, as long as the structure that is kept for each
reference is the same along the line (else it is reported), and comes nearer to the
Aumann-Shapley values of the whole model, Integrated Gradients' limit, the more pieces
there are.
(Sundararajan et al., Axiomatic Attribution for Deep Networks, 2017, eq. 1.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..propagation import (
    Diagnostics,
    Tape,
    multipliers,
)
from ..propagation.explain import settled
from ..propagation.missing import missing, where_known
from ..propagation.registry import Table
from .result import Run
from .targets import select_again


def point(
    inputs: Sequence[Tensor], references: Sequence[Tensor], part: float
) -> list[Tensor]:
    """The point of the line that lies so far from the input; at 1 the reference.

    What is missing at one of the ends is, or is not, as at the input.
    """
    if part == 1:
        return list(references)
    with torch.no_grad():
        line = ((x.detach(), x0, missing(x, x0)) for x, x0 in zip(inputs, references))
        return [where_known(torch.lerp(x, x0, part), x, gap) for x, x0, gap in line]


def averaged_over(
    count: int,
    run: Run,
    table: Table,
    inputs: Sequence[Tensor],
    references: Sequence[Tensor],
    first: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """The mean multipliers of all pieces of the line.

    Args:
        count: How many pieces.
        run: The first piece's passes, which is told the others' accounts and f(x0).
        table: The rules.
        inputs: x.
        references: x0.
        first: The multipliers of the first piece, that of the input.
    """
    found = first
    for k in range(1, count):
        start = [z.requires_grad_() for z in point(inputs, references, k / count)]
        end = point(inputs, references, (k + 1) / count)
        tape = Tape(table, seeks_missing=run.tape.seeks_missing)
        piece = partial(_piece, run, start, end, tape)
        value, f_end = settled(tape, piece)
        if _unmet(run.f_baseline, value.detach()):
            run.reports.append(Diagnostics(messages=(_UNMET,)))
        run.f_baseline = f_end
        value = value if run.row is None else value[run.row]
        found = tuple(a + b for a, b in zip(found, multipliers(value, start)))
        run.reports.append(tape.diagnostics())
    return tuple(m / count for m in found)


def _piece(
    run: Run, start: Sequence[Tensor], end: Sequence[Tensor], tape: Tape
) -> tuple[Tensor, Tensor]:
    """The explained values where a piece of the line starts and where it ends."""
    with run.record(start, tape=tape) as (output, against):
        return select_again(output, run.index), select_again(against(end), run.index)


def _unmet(end: Tensor, start: Tensor) -> bool:
    """Whether f differs, by more than rounding, where one piece ends and one starts."""
    size = torch.maximum(end.abs(), start.abs()).max()
    return bool(((end - start).abs() > 1e-3 * size + 1e-5).any())


_UNMET = (
    "segments: structure that is kept for the reference differs along the line, so "
    "that its pieces do not meet and the sum is missed; take one segment"
)
