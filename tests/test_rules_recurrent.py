"""GRU, LSTM, RNN and attention against scalar loops, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from calls import (
    assert_close,
    assert_complete,
    check,
    examples,
    run_call,
    seeds,
    sides,
)
from hypothesis import given
from oracles import oracle
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from captum_ehr.propagation import attributions, private_view, with_rules
from captum_ehr.propagation.rules import cells, recurrent, scans

LENGTHS = [2, 3, 1]

#: Each class with its options.
LAYERS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "GRU": (nn.GRU, {}),
    "GRU without bias": (nn.GRU, {"bias": False}),
    "GRU stacked, both ways": (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    "LSTM": (nn.LSTM, {}),
    "LSTM without bias": (nn.LSTM, {"bias": False}),
    "LSTM stacked, both ways": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "LSTM projected": (nn.LSTM, {"proj_size": 1}),
    "LSTM projected, without bias": (nn.LSTM, {"proj_size": 1, "bias": False}),
    "LSTM projected, both ways": (nn.LSTM, {"proj_size": 1, "bidirectional": True}),
    "RNN": (nn.RNN, {}),
    "RNN, relu": (nn.RNN, {"nonlinearity": "relu"}),
    "RNN without bias": (nn.RNN, {"bias": False}),
    "RNN stacked, both ways": (nn.RNN, {"num_layers": 2, "bidirectional": True}),
}


#: The rules of the scans themselves, each from end to end.
UNHALVED = with_rules(
    {
        recurrent.gru_scan: scans.scan_rule(cells.GRU, "gru"),
        recurrent.lstm_scan: scans.scan_rule(cells.LSTM, "lstm"),
        recurrent.rnn_tanh_scan: scans.scan_rule(cells.RNN_TANH, "rnn_tanh"),
        recurrent.rnn_relu_scan: scans.scan_rule(cells.RNN_RELU, "rnn_relu"),
    }
)


def layer(name: str, **more: Any) -> Any:
    """A layer of two features and two units, in float64."""
    kind, options = LAYERS[name]
    torch.manual_seed(5)
    return private_view(kind(2, 2, **options, **more).double())


def reference_layer(
    module: Any, x: Any, lengths: list[int], states: list[Any] | None = None
) -> tuple[list[Any], list[Any], list[Any]]:
    """Outputs (per sequence, per step), final h and final c, by loops.

    ``x`` is (batch, time, features); ``states`` holds h and, for LSTM, c, each
    (layers * directions, batch, size).
    """
    directions = 2 if module.bidirectional else 1
    h_size = module.proj_size or module.hidden_size
    rows = [[x[b, t] for t in range(n)] for b, n in enumerate(lengths)]
    finals_h, finals_c = [], []
    for k in range(module.num_layers):
        found: list[list[list[Any]]] = []
        for d in range(directions):
            suffix = f"l{k}" + ("_reverse" if d else "")
            names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"]
            w = [_array(getattr(module, f"{n}_{suffix}", None)) for n in names]
            steps, hs, cs = [], [], []
            for b, n in enumerate(lengths):
                h = (
                    np.zeros(h_size)
                    if states is None
                    else states[0][k * directions + d, b]
                )
                c = (
                    np.zeros(module.hidden_size)
                    if states is None
                    else states[-1][k * directions + d, b]
                )
                outputs: list[Any] = [None] * n
                for t in reversed(range(n)) if d else range(n):
                    if isinstance(module, nn.GRU):
                        h = oracles.gru_step(rows[b][t], h, w)
                    elif isinstance(module, nn.LSTM):
                        h, c = oracles.lstm_step(rows[b][t], h, c, w)
                    else:
                        unit = getattr(oracles, module.nonlinearity)
                        h = oracles.rnn_step(rows[b][t], h, w, unit)
                    outputs[t] = h
                steps.append(outputs)
                hs.append(h)
                cs.append(c)
            found.append(steps)
            finals_h.append(np.stack(hs))
            finals_c.append(np.stack(cs))
        rows = [
            [
                np.concatenate([found[d][b][t] for d in range(directions)])
                for t in range(n)
            ]
            for b, n in enumerate(lengths)
        ]
    return rows, finals_h, finals_c


def _array(weight: Tensor | None) -> Any:
    return None if weight is None else weight.numpy()


def _all(*parts: Any) -> Any:
    """Everything that a layer gives, as one row of numbers."""
    return np.concatenate([np.asarray(p).reshape(-1) for p in parts])


def _states(out: Any) -> list[Tensor]:
    return list(out) if isinstance(out, tuple) else [out]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_dense_layers(name: str, batch_first: bool) -> None:
    module = layer(name, batch_first=batch_first)
    x, x0 = sides((2, 3, 2), 3)

    def call(x: Tensor) -> Tensor:
        y, states = module(x if batch_first else x.transpose(0, 1))
        y = y if batch_first else y.transpose(0, 1)
        return torch.cat([t.reshape(-1) for t in (y, *_states(states))])

    def formula(x: Any) -> Any:
        rows, h, c = reference_layer(module, x, [3, 3])
        cells = c if isinstance(module, nn.LSTM) else []
        return _all(*(r for row in rows for r in row), *h, *cells)

    check(call, formula, (x,), (x0,), table=UNHALVED)
    assert_complete(run_call(call, (x,), (x0,)), (x,), (x0,))


@pytest.mark.parametrize("name", LAYERS)
def test_packed_layers_of_unsorted_lengths_from_attributed_states(name: str) -> None:
    module = layer(name, batch_first=True)
    directions = module.num_layers * (2 if module.bidirectional else 1)
    is_lstm = isinstance(module, nn.LSTM)
    x, x0 = sides((3, 3, 2), 3)
    h, h0 = sides((directions, 3, module.proj_size or 2), 4)
    c, c0 = sides((directions, 3, 2), 5)

    def call(x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            x, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
        )
        y, states = module(packed, (h, c) if is_lstm else h)
        assert isinstance(y, PackedSequence)
        y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
        kept = [y[b, :n].reshape(-1) for b, n in enumerate(LENGTHS)]
        rest = [s.reshape(-1) for s in _states(states)]
        return torch.cat([*kept, *rest, c.reshape(-1)])

    def formula(x: Any, h: Any, c: Any) -> Any:
        rows, hs, cs = reference_layer(module, x, LENGTHS, [h, c])
        return _all(*(r for row in rows for r in row), *hs, *(cs if is_lstm else []), c)

    check(call, formula, (x, h, c), (x0, h0, c0), table=UNHALVED)
    ran = run_call(call, (x, h, c), (x0, h0, c0))
    assert_complete(ran, (x, h, c), (x0, h0, c0))
    pad = torch.arange(3) >= torch.tensor(LENGTHS)[:, None]
    assert (ran.multipliers[0][pad] == 0).all()


@pytest.mark.parametrize("name", ["GRU", "LSTM", "RNN"])
@examples
@given(seed=seeds)
def test_last_states_alone(name: str, seed: int) -> None:
    module = layer(name, batch_first=True)
    x, x0 = sides((1, 4, 2), seed, scale=3.0)

    def call(x: Tensor) -> Tensor:
        states = _states(module(x)[1])
        return states[-1].reshape(-1)

    def formula(x: Any) -> Any:
        _, h, c = reference_layer(module, x, [4])
        return _all(*(c if isinstance(module, nn.LSTM) else h))

    check(call, formula, (x,), (x0,), table=UNHALVED)
    ran, middle = run_call(call, (x,), (x0,)), (x + x0) / 2
    ends = ((x,), (middle,)), ((middle,), (x0,))
    halves = [oracle(formula, *both, ran.upstream)[0][0] for both in ends]
    assert_close(ran.multipliers[0], (halves[0] + halves[1]) / 2, 1e-9)


@pytest.mark.parametrize("name", ["GRU", "LSTM", "RNN"])
def test_halves_are_nearer_to_the_path_integral_than_the_whole(name: str) -> None:
    module = layer(name, batch_first=True)
    x, x0 = sides((6, 12, 2), 1, scale=1.5)

    def call(x: Tensor) -> Tensor:
        return _states(module(x)[1])[0].reshape(-1)

    ran = run_call(call, (x,), (x0,))
    whole = run_call(call, (x,), (x0,), table=UNHALVED)
    total = torch.zeros_like(x)
    for step in (torch.arange(256) + 0.5) / 256:
        at = torch.lerp(x0, x, float(step)).requires_grad_()
        total += torch.autograd.grad(call(at), at, ran.upstream)[0]
    missed, before = (
        float(((r.multipliers[0] - total / 256) * (x - x0)).norm())
        for r in (ran, whole)
    )
    assert missed < 0.6 * before


@pytest.mark.parametrize("name", LAYERS)
def test_float32_layers(name: str) -> None:
    kind, options = LAYERS[name]
    torch.manual_seed(5)
    module = private_view(kind(3, 4, **options))
    x, x0 = sides((9, 2, 3), 3, torch.float32)
    ran = run_call(lambda x: module(x)[0], (x,), (x0,))
    assert_complete(ran, (x,), (x0,))


CELLS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "GRUCell": (nn.GRUCell, oracles.gru_step),
    "RNNCell": (nn.RNNCell, oracles.rnn_step),
    "RNNCell, relu": (
        lambda *a, **k: nn.RNNCell(*a, nonlinearity="relu", **k),
        lambda x, h, w: oracles.rnn_step(x, h, w, oracles.relu),
    ),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_cells(name: str, bias: bool) -> None:
    make, step = CELLS[name]
    torch.manual_seed(3)
    cell = private_view(make(2, 3, bias=bias).double())
    (x, x0), (h, h0) = sides((2, 2), 1), sides((2, 3), 2)
    w = [_array(getattr(cell, n)) for n in _NAMES]
    check(cell, lambda x, h: step(x, h, w), (x, h), (x0, h0), table=UNHALVED)


_NAMES = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]


@pytest.mark.parametrize("bias", [True, False])
def test_lstm_cell(bias: bool) -> None:
    torch.manual_seed(3)
    cell = private_view(nn.LSTMCell(2, 3, bias=bias).double())
    (x, x0), (h, h0), (c, c0) = sides((2, 2), 1), sides((2, 3), 2), sides((2, 3), 3)
    w = [_array(getattr(cell, n)) for n in _NAMES]
    check(
        lambda x, h, c: torch.cat(cell(x, (h, c)), 1),
        lambda x, h, c: np.concatenate(oracles.lstm_step(x, h, c, w), axis=1),
        (x, h, c),
        (x0, h0, c0),
        table=UNHALVED,
    )


def test_attributed_weights_fall_back_and_are_reported() -> None:
    x, x0 = sides((2, 2), 1)
    w, w0 = sides((6, 2), 2)
    h = torch.zeros(2, 2, dtype=torch.float64)
    ran = run_call(lambda x, w: torch.gru_cell(x, h, w, w), (x, w), (x0, w0))
    assert_complete(ran, (x, w), (x0, w0), slack=1e4)
    assert ran.tape.diagnostics().fallbacks == ("gru",)


# Attention ------------------------------------------------------------------------

MASK = torch.tensor([[True, False, True], [True, True, True]])


@pytest.mark.parametrize("masked", ["none", "bool", "float", "causal", "scale"])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_scaled_dot_product_attention(masked: str, batch: tuple[int, ...]) -> None:
    options: dict[str, Any] = {}
    added: Any = None
    factor = 1.0
    if masked == "bool":
        options["attn_mask"] = MASK
        added = np.where(MASK.numpy(), 0.0, -np.inf)
    elif masked == "float":
        added = np.array([[0.0, -1e9, 0.5], [1.0, 0.0, -2.0]])
        options["attn_mask"] = torch.from_numpy(added)
    elif masked == "causal":
        options["is_causal"] = True
        added = np.where(np.tril(np.ones((2, 3))), 0.0, -np.inf)
    elif masked == "scale":
        options["scale"] = 0.25
        factor = 0.25 * np.sqrt(2.0)
    (q, q0), (k, k0), (v, v0) = (
        sides((*batch, n, d), n) for n, d in ((2, 2), (3, 2), (3, 1))
    )
    check(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options),
        lambda q, k, v: oracles.attention(q * factor, k, v, added),
        (q, k, v),
        (q0, k0, v0),
        1e-6 if masked == "float" else None,
    )


def test_grouped_query_attention() -> None:
    (q, q0), (k, k0), (v, v0) = (
        sides((1, heads, 2, 2), heads + 1) for heads in (4, 2, 2)
    )
    check(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        lambda q, k, v: oracles.attention(q, k.repeat(2, axis=1), v.repeat(2, axis=1)),
        (q, k, v),
        (q0, k0, v0),
    )


def test_a_query_that_may_see_nothing_gets_zeros_as_in_torch() -> None:
    """The kernel of scaled_dot_product_attention is safe where softmax is not."""
    q, q0 = sides((1, 2, 2), 1)
    mask = torch.tensor([[True, True], [False, False]])

    def call(q: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, q.tanh(), q * 2, attn_mask=mask)

    plain = call(q)
    ran = run_call(call, (q,), (q0,))
    torch.testing.assert_close(ran.output, plain)
    assert_complete(ran, (q,), (q0,))


def _heads(module: Any, x: Any, mask: Any) -> Any:
    """nn.MultiheadAttention of one sequence with itself, head by head."""
    w, b = module.in_proj_weight.numpy(), module.in_proj_bias.numpy()
    q, k, v = np.split(x @ w.T + b, 3, axis=-1)
    size = q.shape[-1] // module.num_heads
    parts = [slice(s, s + size) for s in range(0, q.shape[-1], size)]
    found = [oracles.attention(q[:, s], k[:, s], v[:, s], mask) for s in parts]
    out = np.concatenate(found, axis=-1) @ module.out_proj.weight.numpy().T
    return out + module.out_proj.bias.numpy()


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("mask", ["none", "padding", "attention", "both"])
def test_multihead_attention(mask: str, need_weights: bool) -> None:
    torch.manual_seed(0)
    module = private_view(nn.MultiheadAttention(4, 2, batch_first=True).double())
    x, x0 = sides((1, 3, 4), 4)
    padding, causal = None, None
    blocked = np.zeros((3, 3), dtype=bool)
    if mask in ("padding", "both"):
        padding = torch.tensor([[False, False, True]])
        blocked |= padding.numpy()
    if mask in ("attention", "both"):
        causal = torch.ones(3, 3, dtype=torch.bool).triu(1)
        blocked |= causal.numpy()

    def call(x: Tensor) -> Tensor:
        y, _ = module(x, x, x, padding, need_weights=need_weights, attn_mask=causal)
        return y

    added = np.where(blocked, -np.inf, 0.0)
    check(call, lambda x: _heads(module, x[0], added)[None], (x,), (x0,))


def test_scans_work_under_autocast() -> None:
    torch.manual_seed(0)
    module = nn.GRU(4, 5)
    x = torch.randn(3, 7, 4)

    def last(rows: Tensor) -> Tensor:
        return module(rows.transpose(0, 1))[0][-1].sum(1)

    with torch.autocast("cpu", torch.bfloat16):
        run = attributions(last, (x,), (torch.zeros_like(x),))
    change = run.f_input - run.f_reference
    assert (run.delta.abs() < 0.02 * change.abs().clamp(min=1)).all()
