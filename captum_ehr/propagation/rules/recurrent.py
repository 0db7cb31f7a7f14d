r"""GRU, LSTM and simple RNN: unrolled into linear maps and scans.

A recurrent layer is one linear map of all its rows, W x, and then a *scan* over steps,
one per layer and direction. Rows are packed: step after step, the sequences that still
run, ``sizes[t]`` of them at step t. What the cells do is in :mod:`.cells`, the rule for
scans in :mod:`.scans`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import handle_torch_function, has_torch_function

from ..declarations import Declaration, composite, rule
from .cells import GRU, LSTM, RNN_RELU, RNN_TANH, Cell, Weights
from .scans import Sizes, scan_rule, scanned


def _scan(cell: Cell, name: str) -> Callable[..., Any]:
    """A cell's scan, a function of ours that torch's function modes see as one call.

    From W x, the sizes of the steps, the first states and three weights it gives the
    states of all rows: hidden ones, and an LSTM's cell states beside them.
    """

    def scan(*args: Any) -> Any:
        tensors = [a for a in args if isinstance(a, Tensor)]
        if has_torch_function(tensors):
            return handle_torch_function(scan, tensors, *args)
        data, sizes, *states = args[:-3]
        outputs = scanned(cell, data, sizes, states, Weights(*args[-3:]))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    scan.__name__ = scan.__qualname__ = f"{name}_scan"
    return scan


gru_scan, lstm_scan = _scan(GRU, "gru"), _scan(LSTM, "lstm")
rnn_tanh_scan, rnn_relu_scan = _scan(RNN_TANH, "rnn_tanh"), _scan(RNN_RELU, "rnn_relu")


def _five(params: Sequence[Tensor], biased: bool) -> list[Any]:
    """W, U, their biases and an LSTM's projection, None where there is none."""
    w_ih, w_hh, *rest = params
    biases: list[Any] = rest[:2] if biased else [None, None]
    project: list[Any] = rest[2:] if biased else rest
    return [w_ih, w_hh, *biases, *(project or [None])]


def _layout(sizes: Sizes, device: torch.device) -> list[Tensor]:
    """Where the rows of each sequence's mirror image are, and its last step's."""
    counts, steps = torch.tensor(sizes, device="cpu"), len(sizes)
    offsets = counts.cumsum(0) - counts
    step = torch.repeat_interleave(torch.arange(steps, device="cpu"), counts)
    sequence = torch.arange(len(step), device="cpu") - offsets[step]
    lengths = torch.bincount(sequence)
    mirror = offsets[lengths[sequence] - 1 - step] + sequence
    last = offsets[lengths - 1] + torch.arange(len(lengths), device="cpu")
    return [t.to(device, non_blocking=True) for t in (mirror, last)]


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
    mirror, last = _layout(sizes, data.device)
    directions = 2 if both else 1
    per_cell = len(params) // (depth * directions)
    finals: list[tuple[Tensor, ...]] = []
    for layer in range(depth):
        if layer and train and dropout:
            data = torch.nn.functional.dropout(data, dropout, True)
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            w_ih, w_hh, b_ih, b_hh, project = _five(
                params[k * per_cell : (k + 1) * per_cell], biased
            )
            rows = data[mirror] if direction else data
            first = (state[k] for state in states)
            out = scan(linear(rows, w_ih, b_ih), sizes, *first, w_hh, b_hh, project)
            hidden, *cells = (out,) if isinstance(out, Tensor) else out
            finals.append(tuple(s[last] for s in (hidden, *cells)))
            outputs.append(hidden[mirror] if direction else hidden)
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
    return scan(linear(input, w_ih, b_ih), (input.shape[0],), *states, w_hh, b_hh, None)


def _declared(name: str, scan: Any, cell: Cell) -> tuple[Declaration, ...]:
    """A kind of unit: its scan, through the midpoint, and torch's two functions."""
    return (
        rule(scan, scan_rule(cell, name, 2)),
        composite(name, partial(layers, scan), twins=False),
        composite(f"{name}_cell", partial(one_step, scan), twins=False),
    )


UNITS = (
    *_declared("gru", gru_scan, GRU),
    *_declared("lstm", lstm_scan, LSTM),
    *_declared("rnn_tanh", rnn_tanh_scan, RNN_TANH),
    *_declared("rnn_relu", rnn_relu_scan, RNN_RELU),
)
