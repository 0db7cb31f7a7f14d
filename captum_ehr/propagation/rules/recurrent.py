r"""GRU, LSTM and simple RNN: unrolled into linear maps, gates and products.

A recurrent layer is cut into *scans*, one per layer and direction, over packed rows
(step after step, the sequences that still run; ``sizes[t]`` rows at step t). Because
a scan's own outputs are all its hidden states, the gates of every step follow from
two matrix products without a loop; only the multipliers of the state need one, and
every factor that they meet on the way is known before it starts. In the usual
notation, with bars for means over input and reference and σ', τ' for the secants of
sigmoid and tanh:

GRU, :math:`h' = n + z(h - n),\; n = \tanh(a_n + r\,b_n)`:

.. math:: M_z = M(\bar h - \bar n)\,σ'_z,\; M_n = M(1 - \bar z)\,τ'_n,\;
          M_r = M_n \bar b_n\,σ'_r,\; M_{b_n} = M_n \bar r,\; M_h = M \bar z + \dots

LSTM, :math:`c' = fc + ig,\; h' = o \tanh c'`:

.. math:: M_o = M\,\overline{\tanh c'}\,σ'_o,\; M_{c'} = M \bar o\,τ'_{c'} + \dots,\;
          M_f = M_{c'}\bar c\,σ'_f,\; M_i = M_{c'}\bar g\,σ'_i,\;
          M_g = M_{c'}\bar i\,τ'_g

(Rescale rule: Shrikumar et al. 2017; gates: Cho et al. 2014, Hochreiter &
Schmidhuber 1997, in the arrangement of :class:`torch.nn.GRU` and LSTM.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..pairs import Multiplier, Pair, Shares
from .elementwise import relu, sigmoid, tanh

Sizes = tuple[int, ...]


# The rules, one per cell ---------------------------------------------------------


def gru(
    y: Pair, data: Pair, sizes: Sizes, state: Pair | Tensor, *weights: Any
) -> Multiplier:
    """One scan of a GRU; the formulas above."""
    if _attributed(weights):
        return NotImplemented
    w_ih, w_hh, b_ih, b_hh, _ = weights
    data, state = _pair(data), _pair(state)
    h = _before(state, y, sizes)
    a = _linear(data, w_ih, b_ih).chunk(3)
    b = _linear(h, w_hh, b_hh).chunk(3)
    (pre_r, pre_z), (a_n, b_n) = [a[k] + b[k] for k in (0, 1)], (a[2], b[2])
    r, z = pre_r.map(torch.sigmoid), pre_z.map(torch.sigmoid)
    pre_n = a_n + r * b_n
    n = pre_n.map(torch.tanh)

    keep = z.mean
    to_n = (1 - keep) * tanh(pre_n.pair, n.pair)
    to_r = to_n * b_n.mean * sigmoid(pre_r.pair, r.pair)
    to_z = (h.mean - n.mean) * sigmoid(pre_z.pair, z.pair)
    recurrent = torch.stack([to_r, to_z, to_n * r.mean], dim=1)
    direct = torch.stack([to_r, to_z, to_n], dim=1)

    def multiplier(upstream: Tensor) -> Shares:
        carry = upstream.new_zeros(sizes[0], upstream.shape[1])
        total = torch.empty_like(upstream)
        for start, stop in _steps_backward(sizes):
            live = stop - start
            m = torch.add(upstream[start:stop], carry[:live], out=total[start:stop])
            gates = (m.unsqueeze(1) * recurrent[start:stop]).view(live, -1)
            carry[:live] = torch.addmm(m * keep[start:stop], gates, w_hh)
        yield data, (total.unsqueeze(1) * direct).flatten(1) @ w_ih
        yield state, carry

    return multiplier


def lstm(
    ys: Sequence[Pair],
    data: Pair,
    sizes: Sizes,
    hidden: Pair | Tensor,
    cell: Pair | Tensor,
    *weights: Any,
) -> Multiplier:
    """One scan of an LSTM, with its final cell state as the second output."""
    if _attributed(weights):
        return NotImplemented
    w_ih, w_hh, b_ih, b_hh, project = weights
    data, hidden, cell = _pair(data), _pair(hidden), _pair(cell)
    h = _before(hidden, ys[0], sizes)
    pre = (_linear(data, w_ih, b_ih) + _linear(h, w_hh, b_hh)).chunk(4)
    i, f, o = (pre[k].map(torch.sigmoid) for k in (0, 1, 3))
    g = pre[2].map(torch.tanh)
    before, after = _cells(cell, i * g, f, sizes)
    tanh_c = after.map(torch.tanh)

    keep = f.mean
    to_o = tanh_c.mean * sigmoid(pre[3].pair, o.pair)
    to_c = o.mean * tanh(after.pair, tanh_c.pair)
    gates_c = torch.stack(
        [
            g.mean * sigmoid(pre[0].pair, i.pair),
            before.mean * sigmoid(pre[1].pair, f.pair),
            i.mean * tanh(pre[2].pair, g.pair),
        ],
        dim=1,
    )

    def multiplier(upstream: Tensor, upstream_cell: Tensor) -> Shares:
        carry_h = upstream.new_zeros(sizes[0], upstream.shape[1])
        carry_c = upstream_cell.clone()
        gates = upstream.new_empty(upstream.shape[0], 4, keep.shape[1])
        for start, stop in _steps_backward(sizes):
            live = stop - start
            m = upstream[start:stop] + carry_h[:live]
            if project is not None:
                m = m @ project
            m_c = torch.addcmul(carry_c[:live], m, to_c[start:stop])
            step = gates[start:stop]
            torch.mul(m_c.unsqueeze(1), gates_c[start:stop], out=step[:, :3])
            torch.mul(m, to_o[start:stop], out=step[:, 3])
            carry_h[:live] = step.flatten(1) @ w_hh
            carry_c[:live] = m_c * keep[start:stop]
        yield data, gates.flatten(1) @ w_ih
        yield hidden, carry_h
        yield cell, carry_c

    return multiplier


def rnn_tanh(y: Pair, data: Pair, sizes: Sizes, state: Any, *w: Any) -> Multiplier:
    """One scan of h' = tanh(W x + U h + b)."""
    return _rnn(tanh, y, data, sizes, state, *w)


def rnn_relu(y: Pair, data: Pair, sizes: Sizes, state: Any, *w: Any) -> Multiplier:
    """One scan of h' = max(W x + U h + b, 0)."""
    return _rnn(relu, y, data, sizes, state, *w)


def _rnn(
    secant: Any, y: Pair, data: Pair, sizes: Sizes, state: Any, *weights: Any
) -> Multiplier:
    if _attributed(weights):
        return NotImplemented
    w_ih, w_hh, b_ih, b_hh, _ = weights
    data, state = _pair(data), _pair(state)
    h = _before(state, y, sizes)
    pre = _linear(data, w_ih, b_ih) + _linear(h, w_hh, b_hh)
    slope = secant(pre.pair, y)

    def multiplier(upstream: Tensor) -> Shares:
        carry = upstream.new_zeros(sizes[0], upstream.shape[1])
        total = torch.empty_like(upstream)
        for start, stop in _steps_backward(sizes):
            live = stop - start
            m = (upstream[start:stop] + carry[:live]) * slope[start:stop]
            total[start:stop] = m
            carry[:live] = m @ w_hh
        yield data, total @ w_ih
        yield state, carry

    return multiplier


# Both sides at once --------------------------------------------------------------


class _Both(NamedTuple):
    """Input rows above, reference rows below, in one tensor: half the calls."""

    rows: Tensor

    @property
    def pair(self) -> Pair:
        above, below = self.rows.chunk(2)
        return Pair(above, below)

    @property
    def mean(self) -> Tensor:
        return self.pair.mean

    def map(self, function: Any) -> _Both:
        return _Both(function(self.rows))

    def chunk(self, parts: int) -> list[_Both]:
        return [_Both(c) for c in self.rows.chunk(parts, dim=1)]

    def __add__(self, other: _Both) -> _Both:  # type: ignore[override]
        return _Both(self.rows + other.rows)

    def __mul__(self, other: _Both) -> _Both:  # type: ignore[override]
        return _Both(self.rows * other.rows)


def _linear(x: Pair, weight: Tensor, bias: Tensor | None) -> _Both:
    return _Both(torch.nn.functional.linear(torch.cat(x.sides), weight, bias))


def _pair(operand: Pair | Tensor) -> Pair:
    return operand if isinstance(operand, Pair) else Pair(operand, operand)


def _attributed(weights: Sequence[Any]) -> bool:
    return any(isinstance(w, Pair) for w in weights)


def _steps_backward(sizes: Sizes) -> list[tuple[int, int]]:
    return list(pairwise((0, *accumulate(sizes))))[::-1]


def _before(state: Pair, output: Pair, sizes: Sizes) -> Pair:
    """Both sides of the hidden state that each row starts from."""
    return Pair(
        _previous(state.input, output.input, sizes),
        _previous(state.reference, output.reference, sizes),
    )


def _previous(state: Tensor, output: Tensor, sizes: Sizes) -> Tensor:
    """The hidden state that each row starts from."""
    if len(sizes) == 1:
        return state
    steps = list(pairwise((0, *accumulate(sizes))))
    if sizes[0] == sizes[-1]:
        return torch.cat([state, output[: steps[-1][0]]])
    earlier = [output[a : a + n] for (a, _), n in zip(steps, sizes[1:])]
    return torch.cat([state, *earlier])


def _cells(cell: Pair, update: _Both, forget: _Both, sizes: Sizes) -> tuple[Any, Any]:
    """The cell state before and after each row: c' = f·c + i·g."""
    sides = []
    for start, u, f in zip(cell[:2], update.rows.chunk(2), forget.rows.chunk(2)):
        before, after, c = torch.empty_like(u), torch.empty_like(u), start
        for a, b in pairwise((0, *accumulate(sizes))):
            before[a:b] = c[: b - a]
            c = torch.addcmul(u[a:b], f[a:b], before[a:b], out=after[a:b])
        sides.append((before, after))
    (before, after), (before0, after0) = sides
    return _Both(torch.cat([before, before0])), _Both(torch.cat([after, after0]))


# The scans, and the layers made of them ------------------------------------------


def overridable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let torch's function modes see a function of ours as one call."""

    @wraps(function)
    def public(*args: Any) -> Any:
        tensors = [a for a in args if isinstance(a, Tensor)]
        if has_torch_function(tensors):
            return handle_torch_function(public, tensors, *args)
        return function(*args)

    return public


@overridable
def gru_scan(data: Tensor, sizes: Sizes, state: Tensor, *weights: Any) -> Tensor:
    """The fused kernel on one layer and direction; ``(rows, hidden)``."""
    return _fused(torch.gru, data, sizes, state.unsqueeze(0), weights)[0]


@overridable
def lstm_scan(
    data: Tensor, sizes: Sizes, hidden: Tensor, cell: Tensor, *weights: Any
) -> tuple[Tensor, Tensor]:
    """As gru_scan, with the final cell states ``(sequences, hidden)``."""
    states = (hidden.unsqueeze(0), cell.unsqueeze(0))
    output, _, cells = _fused(torch.lstm, data, sizes, states, weights)
    return output, cells.squeeze(0).clone()


@overridable
def rnn_tanh_scan(data: Tensor, sizes: Sizes, state: Tensor, *weights: Any) -> Tensor:
    """As gru_scan, for tanh units."""
    return _fused(torch.rnn_tanh, data, sizes, state.unsqueeze(0), weights)[0]


@overridable
def rnn_relu_scan(data: Tensor, sizes: Sizes, state: Tensor, *weights: Any) -> Tensor:
    """As gru_scan, for rectified units."""
    return _fused(torch.rnn_relu, data, sizes, state.unsqueeze(0), weights)[0]


def _fused(kernel: Any, data: Tensor, sizes: Sizes, state: Any, weights: Any) -> Any:
    biased = weights[2] is not None
    given = [w for w in weights if w is not None]
    return kernel(data, torch.tensor(sizes), state, given, biased, 1, 0.0, False, False)


def _five(params: Sequence[Tensor], biased: bool) -> list[Tensor | None]:
    """W, U, their biases and an LSTM's projection, None where there is none."""
    w_ih, w_hh, *rest = params
    made: list[Tensor | None] = [w_ih, w_hh]
    made += rest[:2] if biased else [None, None]
    made += (rest[2:] if biased else rest) or [None]
    return made


class _Layout(NamedTuple):
    """Where a sequence's rows are: its mirror image and its last step."""

    sizes: Sizes
    mirror: Tensor
    last: Tensor

    @classmethod
    def of(cls, sizes: Sizes, device: torch.device) -> _Layout:
        counts = torch.tensor(sizes)
        offsets = counts.cumsum(0) - counts
        step = torch.repeat_interleave(torch.arange(len(sizes)), counts)
        sequence = torch.arange(int(counts.sum())) - offsets[step]
        lengths = torch.bincount(sequence)
        mirror = offsets[lengths[sequence] - 1 - step] + sequence
        last = offsets[lengths - 1] + torch.arange(len(lengths))
        return cls(sizes, mirror.to(device), last.to(device))


def layers(scan: Any, *args: Any) -> tuple[Tensor, ...]:
    """A torch recurrent call, dense or packed, as scans and index operations.

    Takes the arguments of ``torch.gru``, ``torch.lstm``, ``torch.rnn_tanh`` or
    ``torch.rnn_relu`` in either of their two forms and returns what they return.
    """
    packed = isinstance(args[1], Tensor) and not args[1].is_floating_point()
    if packed:
        data, counts, states, params, biased, depth, dropout, train, both = args
        sizes: Sizes = tuple(counts.tolist())
    else:
        x, states, params, biased, depth, dropout, train, both, batch_first = args
        x = x.transpose(0, 1) if batch_first else x
        data, sizes = x.reshape(-1, x.shape[-1]), (x.shape[1],) * x.shape[0]
    states = (states,) if isinstance(states, Tensor) else tuple(states)
    layout = _Layout.of(sizes, data.device)
    directions = 2 if both else 1
    per_cell = len(params) // (depth * directions)
    finals: list[tuple[Tensor, ...]] = []
    for layer in range(depth):
        if layer and train and dropout:
            data = torch.nn.functional.dropout(data, dropout, True)
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            weights = _five(params[k * per_cell : (k + 1) * per_cell], biased)
            rows = data[layout.mirror] if direction else data
            out = scan(rows, sizes, *(s[k] for s in states), *weights)
            hidden, *cells = (out,) if isinstance(out, Tensor) else out
            finals.append((hidden[layout.last], *cells))
            outputs.append(hidden[layout.mirror] if direction else hidden)
        data = torch.cat(outputs, dim=-1)
    if not packed:
        data = data.view(len(sizes), sizes[0], -1)
        data = data.transpose(0, 1) if batch_first else data
    return data, *(torch.stack(side) for side in zip(*finals))


def one_step(
    scan: Any,
    input: Tensor,
    hx: Any,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Any:
    """A recurrent cell is a scan of one step; arguments as ``torch.gru_cell``'s."""
    states = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    return scan(input, (input.shape[0],), *states, w_ih, w_hh, b_ih, b_hh, None)
