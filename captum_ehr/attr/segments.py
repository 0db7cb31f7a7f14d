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

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..propagation import Diagnostics, Tape, multipliers
from ..propagation.explain import settled
from ..propagation.missing import missing, where_known
from .contributions import Parts
from .outputs import select_again

#: From references to the model's output.
type Against = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True, eq=False)
class Run:
    """One input pass, from which the input is explained against several references.

    Args:
        output: The model's output.
        value: ``(batch,)``, the explained one of each patient.
        index: ``(batch, ...)``, where each stands in the output.
        against: From references to the output there.
        record: Records an input pass over other inputs.
        again: Whether another reference, or another output, may follow.
        tape: What the input pass is recorded on.
        row: The only patient whose value counts, or None for all.
    """

    output: Tensor
    value: Tensor
    index: Tensor
    against: Against
    record: Callable[..., AbstractContextManager[tuple[Tensor, Callable[..., Tensor]]]]
    again: bool
    tape: Tape
    row: int | None = None

    def explained(self, value: Tensor) -> Tensor:
        """Of ``(batch,)`` values those that count."""
        return value if self.row is None else value[self.row]


def once(against: Against) -> Against:
    """The pass of a reference that is not repeated where it comes again next.

    What a tape holds is that of the last reference, so nothing older is known.
    """
    last: list[Tensor] = []
    outputs: list[Tensor] = []

    def at_reference(references: Sequence[Tensor]) -> Tensor:
        same = len(last) == len(references) > 0
        if not (same and all(x is known for x, known in zip(references, last))):
            outputs[:] = [against(references)]
            last[:] = references
        return outputs[0]

    return at_reference


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


def multipliers_along(
    run: Run, inputs: Parts, references: Parts, count: int
) -> tuple[Parts, Tensor, Diagnostics]:
    """The mean multipliers of all pieces of the line, the output at x0, an account.

    The run is that of the first piece, that of the input, whose account is not in it.
    """
    end = point(inputs, references, 1 / count)
    with torch.enable_grad():
        output = run.against(end)
        total = multipliers(run.explained(run.value), inputs, run.again)
        report = Diagnostics()
        for k in range(1, count):
            start = [z.requires_grad_() for z in point(inputs, references, k / count)]
            end = point(inputs, references, (k + 1) / count)
            tape = Tape(run.tape.table, seeks_missing=run.tape.seeks_missing)
            value, following = settled(tape, partial(_piece, run, start, end, tape))
            if _unmet(select_again(output, run.index), value.detach()):
                report += Diagnostics(messages=(_UNMET,))
            output = following
            more = multipliers(run.explained(value), start)
            total = tuple(a + b for a, b in zip(total, more))
            report += tape.diagnostics()
    mean = total if count == 1 else tuple(m / count for m in total)
    return mean, output, report


def _piece(
    run: Run, start: Sequence[Tensor], end: Sequence[Tensor], tape: Tape
) -> tuple[Tensor, Tensor]:
    """The explained values where a piece of the line starts, the output at its end."""
    with run.record(start, tape=tape) as (output, against):
        return select_again(output, run.index), against(end)


def _unmet(end: Tensor, start: Tensor) -> bool:
    """Whether f differs, by more than rounding, where one piece ends and one starts."""
    size = torch.maximum(end.abs(), start.abs()).max()
    return bool(((end - start).abs() > 1e-3 * size + 1e-5).any())


_UNMET = (
    "segments: structure that is kept for the reference differs along the line, so "
    "that its pieces do not meet and the sum is missed; take one segment"
)
