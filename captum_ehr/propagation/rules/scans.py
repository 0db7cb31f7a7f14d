r"""A scan's multipliers, through the midpoint and from the last step to the first.

Each gate gives its operands the mean of the others over both ends. Over many steps
these means compound, and what was one straight path at the start of a scan is none at
its end. One more run of the scan at :math:`\bar x = (x + x_0)/2` brings it back:

.. math:: y - y_0 = (y - \bar y) + (\bar y - y_0), \qquad
          m = \tfrac12\,(m_{x, \bar x} + m_{\bar x, x_0}),

which adds up exactly, as both pieces do. (The trapezoidal rule on two intervals
instead of one, for the integral of Sundararajan et al., Axiomatic Attribution for Deep
Networks, 2017, eq. 1.)

All of it is left to the backward pass, which wants a scan's steps last to first and
one scan at a time: so many steps as fit the cache have their factors worked out, are
gone through, and are forgotten. Till then only W x at both ends and the states are
kept. Nobody else can write on these: W x and the outputs are the scan's own
(:func:`.recurrent.layers` hands out copies), and of the first states there is a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from .. import tuning
from ..pairs import Multiplier, Pair, Rule, Shares, paired, widened, without_autocast
from .cells import Cell, Weights

Sizes = tuple[int, ...]


def unrolled(
    cell: Cell, data: Iterable[Tensor], states: Sequence[Tensor], weights: Weights
) -> Iterator[tuple[Tensor, Sequence[Tensor]]]:
    """Run a cell step by step.

    It takes W x of every step, of sequences that end early the fewer rows, and yields
    what met the gates, and the states after the step.
    """
    for a in data:
        if a.shape[0] < states[0].shape[0]:
            states = [state[: a.shape[0]] for state in states]
        z = cell.meet(a, linear(states[0], weights.hidden, weights.bias))
        states = cell.step(a, z, states, weights)
        yield z, states


def scanned(
    cell: Cell, data: Tensor, sizes: Sizes, states: Sequence[Tensor], weights: Weights
) -> list[Tensor]:
    """Every state after every step, one row after the other."""
    states = [state.to(data.dtype) for state in states]  # autocast's W x is its own
    steps = unrolled(cell, data.split(sizes), states, weights)
    return [torch.cat(rows) for rows in zip(*(after for _, after in steps))]


def scan_rule(cell: Cell, name: str, pieces: int = 1) -> Rule:
    """The rule for a cell's scans.

    The way from input to reference is cut into pieces; two go through the midpoint.
    """

    def rule(y: Any, data: Any, sizes: Sizes, *rest: Any) -> Multiplier:
        if any(isinstance(w, Pair) for w in rest[-3:]):
            return NotImplemented
        ys, data, weights = y if isinstance(y, list) else [y], paired(data), rest[-3:]
        states = [
            Pair(s.input.clone(), s.reference.clone(), s.slot)
            for s in map(paired, rest[:-3])
        ]

        def multiplier(*upstream: Tensor) -> Shares:
            """Share the gradients of all states out, block by block."""
            dtype = torch.promote_types(upstream[0].dtype, torch.float32)
            with without_autocast(upstream[0].device.type):
                scan = _Scan(cell, pieces, sizes, data, states, ys, weights, dtype)
                share, carry = scan.back([m.to(dtype) for m in upstream])
            yield data, share.to(upstream[0].dtype)
            for state, m in zip(states, carry):
                yield state, m.sum(1).to(upstream[0].dtype)

        return multiplier

    rule.__name__ = name
    return rule


class _Scan:
    """One scan's way from input to reference, cut into pieces; in float32 at least."""

    def __init__(
        self,
        cell: Cell,
        pieces: int,
        sizes: Sizes,
        data: Pair,
        states: Sequence[Pair],
        ys: Sequence[Pair],
        weights: Sequence[Tensor | None],
        dtype: torch.dtype,
    ) -> None:
        self.cell, self.pieces, self.sizes = cell, pieces, sizes
        self.offsets = (0, *accumulate(sizes))
        self.data = widened(data)
        self.weights = Weights(*(w if w is None else w.to(dtype) for w in weights))  # type: ignore[arg-type]
        #: Of each point of the way, of each state: before each step.
        ends = [
            [
                (s, *y.split(sizes))
                for s, y in zip(widened(state).sides, widened(output).sides)
            ]
            for state, output in zip(states, ys)
        ]
        self.paths = [list(path) for path in zip(*ends)]
        #: Of each inner point, of each step: what met the gates.
        self.gate_inputs: list[list[Tensor]] = []
        for k in range(1, pieces):
            self._run(k / pieces)

    def _run(self, alpha: float) -> None:
        """The scan at an inner point, the nearer to the reference the larger alpha."""
        ours, theirs = (side.split(self.sizes) for side in self.data.sides)
        data = (torch.lerp(a, b, alpha) for a, b in zip(ours, theirs))
        ends = [path[0] for path in self.paths[0]], [path[0] for path in self.paths[-1]]
        states = [torch.lerp(a, b, alpha) for a, b in zip(*ends)]
        steps = list(unrolled(self.cell, data, states, self.weights))
        self.gate_inputs.append([z for z, _ in steps])
        after = zip(*(states for _, states in steps))
        self.paths.insert(-1, [(s, *rows) for s, rows in zip(states, after)])

    def back(self, upstream: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The gradients of W x, and of the first states as ``(rows, pieces, size)``."""
        offsets, pieces = self.offsets, self.pieces
        hidden = self.cell.transposed(self.weights.hidden)
        weights = self.weights._replace(hidden=hidden)
        share = torch.empty_like(self.data.input)
        carry = [m.new_zeros(self.sizes[0], pieces, m.shape[1]) for m in upstream]
        for first, last in self.blocks():
            start, stop = offsets[first], offsets[last]
            factors = self.factors(first, last)
            for a, b in zip(offsets[first:last][::-1], offsets[: last + 1][::-1]):
                live = [c[: b - a] for c in carry]
                m = [
                    torch.add(c, u[a:b].unsqueeze(1), alpha=1 / pieces)
                    for c, u in zip(live, upstream)
                ]
                self.cell.back(m, factors[a - start : b - start], weights, live)
            part = factors[:, :, self.cell.data]
            torch.sum(part, 1, out=share[start:stop].view_as(part[:, 0]))
        return share, carry

    def blocks(self) -> list[tuple[int, int]]:
        """Steps to be taken at once, the last first."""
        rows, count = self.data.input, len(self.sizes)
        wanted = tuning.PORTION * torch.get_num_threads()
        if rows.device.type != "cpu":
            wanted *= tuning.DEVICE_PORTIONS
        steps = wanted * self.cell.gates // (rows.shape[1] * self.sizes[0])
        steps = max(min(steps, -(-count // tuning.LEAST_PORTIONS)), 1)
        return [(max(end - steps, 0), end) for end in range(count, 0, -steps)]

    def factors(self, first: int, last: int) -> Tensor:
        """Those of some steps; the gates of the two ends are worked out again."""
        rows = slice(self.offsets[first], self.offsets[last])
        ends = self.data.each(lambda side: side[rows])
        states = [self._before(k, first, last) for k in range(len(self.paths[0]))]
        z = ends.input.new_empty(len(self.paths), *ends.input.shape)
        for k, gate_inputs in enumerate(self.gate_inputs):
            torch.cat(gate_inputs[first:last], out=z[k + 1])
        for k, a in ((0, ends.input), (-1, ends.reference)):
            h, weight, bias = states[0][k], self.weights.hidden.t(), self.weights.bias
            if bias is None:
                torch.mm(h, weight, out=z[k])
            else:
                torch.addmm(bias, h, weight, out=z[k])
            self.cell.meet(a, z[k])
        return self.cell.factors(ends, z, states)

    def _before(self, state: int, first: int, last: int) -> Tensor:
        """A state before each row, at all points."""
        rows = [
            before[:size]
            for path in self.paths
            for before, size in zip(path[state][first:last], self.sizes[first:last])
        ]
        return torch.cat(rows).unflatten(0, (len(self.paths), -1))
