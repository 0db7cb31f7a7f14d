"""Steps of generated models, by kind of construct."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from generated_parts import WIDTH, Piece, Visits
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def _each(module: Any, h: Tensor) -> Tensor:
    """A module of two dimensions, on every visit."""
    found: Tensor = module(h.flatten(0, 1)).view(h.shape)
    return found


def _before(h: Tensor) -> Tensor:
    """The visit before, 0 for the first."""
    return F.pad(h, (0, 0, 1, 0))[:, :-1]


# Gates, norms, arithmetic -------------------------------------------------------

POINTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "elu": F.elu,
    "softplus": F.softplus,
    "leaky_relu": F.leaky_relu,
    "tanh": torch.tanh,
    "sin": torch.sin,
    "abs": torch.abs,
    "square": torch.square,
    "erf": torch.erf,
    "hardtanh": F.hardtanh,
    "sqrt": lambda h: (h.abs() + 1).sqrt(),
    "log1p": lambda h: h.square().log1p(),
    "exp": lambda h: (-h.abs()).exp(),
    "clamp": lambda h: h.clamp(-0.5, 2.0),
    "__rdiv__": lambda h: 1 / (1 + h * h),
    "div": lambda h: h / (1 + h.abs()),
    "pow": lambda h: h**3,
    "logit": lambda h: h.sigmoid().clamp(0.01, 0.99).logit(),
}

GATES = {
    "sigmoid times tanh": Piece(
        "sigmoid tanh mul",
        lambda m, h, v: torch.sigmoid(m.lin1(h)) * torch.tanh(m.lin2(h)),
        "lin1 lin2",
    ),
    "GLU": Piece("glu", lambda m, h, v: F.glu(m.wide(h)), "wide"),
    "highway": Piece(
        "sigmoid __rsub__",
        lambda m, h, v: (g := m.lin1(h).sigmoid()) * m.lin2(h).relu() + (1 - g) * h,
        "lin1 lin2",
    ),
    "squeeze and excite": Piece(
        "mean sigmoid",
        lambda m, h, v: h * m.lin(h).mean(-1, keepdim=True).sigmoid(),
        "lin",
    ),
    "einsum": Piece(
        "einsum", lambda m, h, v: torch.einsum("btd,btd->btd", h, m.lin(h)), "lin"
    ),
    "features among features": Piece(
        "matmul",
        lambda m, h, v: torch.matmul(
            (h[..., :, None] * h[..., None, :]).tanh(), m.lin(h)[..., None]
        ).squeeze(-1),
        "lin",
    ),
    "dropout": Piece("dropout", lambda m, h, v: m.drop(m.lin(h)), "drop lin"),
    "memory": Piece("add_", lambda m, h, v: m.counter(h), "counter"),
}

NORMS = {
    "layer norm": Piece("layer_norm", lambda m, h, v: m.layer(h), "layer"),
    "rms norm": Piece("rms_norm", lambda m, h, v: m.rms(h), "rms"),
    "group norm": Piece("group_norm", lambda m, h, v: _each(m.group, h), "group"),
    "batch norm": Piece("batch_norm", lambda m, h, v: _each(m.batch, h), "batch"),
    "instance norm": Piece(
        "instance_norm",
        lambda m, h, v: m.instance(h.flatten(0, 1)[:, None]).view(h.shape),
        "instance",
    ),
    "unit length": Piece("normalize", lambda m, h, v: F.normalize(h, dim=-1)),
    "z-scores": Piece(
        "std",
        lambda m, h, v: (
            (h - h.mean(-1, keepdim=True)) / (h.std(-1, keepdim=True) + 0.1)
        ),
    ),
}

# Attention -----------------------------------------------------------------------


def _attend(m: Any, h: Tensor, nothing: float, v: Visits) -> Tensor:
    scores = 5 * torch.tanh(m.lin1(h) @ m.lin2(h).transpose(1, 2) / 2)
    weights = torch.softmax(scores.masked_fill(~v.mask[:, None], nothing), -1)
    return torch.bmm(weights, m.lin3(h))


def _fused(m: Any, h: Tensor, **mask: Any) -> Tensor:
    return F.scaled_dot_product_attention(m.lin1(h), m.lin2(h), m.lin3(h), **mask)


def _added(v: Visits) -> Tensor:
    """A mask of numbers to be added to scores."""
    mask = torch.zeros(v.mask.shape, dtype=torch.float64)
    return mask.masked_fill(~v.mask, -torch.inf)[:, None]


QKV = "lin1 lin2 lin3"
ATTENTION = {
    "softmax, -inf": Piece(
        "softmax bmm", lambda m, h, v: _attend(m, h, -torch.inf, v), QKV
    ),
    "softmax, -1e9": Piece("softmax bmm", lambda m, h, v: _attend(m, h, -1e9, v), QKV),
    "SDPA": Piece(
        "scaled_dot_product_attention",
        lambda m, h, v: _fused(m, h, attn_mask=v.mask[:, None]),
        QKV,
    ),
    "SDPA, added mask": Piece(
        "scaled_dot_product_attention",
        lambda m, h, v: _fused(m, h, attn_mask=_added(v)),
        QKV,
    ),
    "SDPA, causal": Piece(
        "scaled_dot_product_attention",
        lambda m, h, v: _fused(m, h, is_causal=True),
        QKV,
    ),
    "MultiheadAttention": Piece(
        "multi_head_attention_forward",
        lambda m, h, v: m.heads(h, h, h, key_padding_mask=~v.mask)[0],
        "heads",
    ),
    "encoder layer": Piece(
        "multi_head_attention_forward layer_norm",
        lambda m, h, v: m.encoder(h, src_key_padding_mask=~v.mask),
        "encoder",
    ),
    "log_softmax": Piece(
        "log_softmax", lambda m, h, v: m.lin(h).log_softmax(-1), "lin"
    ),
    "softmax of features": Piece("softmax", lambda m, h, v: h * F.softmax(h, dim=-1)),
}

# Recurrence ----------------------------------------------------------------------


def packed(rnn: Any, h: Tensor, v: Visits) -> tuple[Tensor, Any]:
    bundle = pack_padded_sequence(h, v.lengths, True, enforce_sorted=False)
    outputs, state = rnn(bundle)
    padded, _ = pad_packed_sequence(outputs, True, total_length=h.shape[1])
    return padded, state


def _looped(cell: nn.Module, h: Tensor, v: Visits) -> Tensor:
    """A cell, step by step, that stands still behind the last visit."""
    state: Any = h.new_zeros(len(h), WIDTH)
    state = (state, state) if isinstance(cell, nn.LSTMCell) else state
    outputs = []
    for t in range(h.shape[1]):
        new = cell(h[:, t], state)
        if isinstance(new, tuple):
            state = new
        else:
            state = torch.where(v.mask[:, t, None], new, state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(outputs, 1)


def _own_cell(m: Any, h: Tensor, v: Visits) -> Tensor:
    state, outputs = torch.zeros_like(h[:, 0]), []
    for row in h.unbind(1):
        forget = torch.sigmoid(m.lin1(row))
        state = forget * state + (1 - forget) * torch.tanh(m.lin2(row))
        outputs.append(state)
    return torch.stack(outputs, dim=1)


RECURRENCE = {
    "GRU": Piece("gru", lambda m, h, v: m.gru(h)[0], "gru"),
    "LSTM": Piece("lstm", lambda m, h, v: m.lstm(h)[0], "lstm"),
    "RNN": Piece("rnn_relu", lambda m, h, v: m.rnn(h)[0], "rnn"),
    "GRU, packed": Piece("gru", lambda m, h, v: packed(m.gru, h, v)[0], "gru"),
    "LSTM, packed": Piece("lstm", lambda m, h, v: packed(m.lstm, h, v)[0], "lstm"),
    "both ways, packed": Piece("gru", lambda m, h, v: packed(m.deep, h, v)[0], "deep"),
    "both ways": Piece("gru", lambda m, h, v: m.deep(h)[0], "deep", True),
    "GRUCell": Piece("gru_cell", lambda m, h, v: _looped(m.grucell, h, v), "grucell"),
    "LSTMCell": Piece(
        "lstm_cell", lambda m, h, v: _looped(m.lstmcell, h, v), "lstmcell"
    ),
    "RNNCell": Piece(
        "rnn_tanh_cell", lambda m, h, v: _looped(m.rnncell, h, v), "rnncell"
    ),
    "a cell of its own": Piece("unbind stack", _own_cell, "lin1 lin2"),
}

# Over time -----------------------------------------------------------------------


def _conv(m: Any, h: Tensor, *pad: int) -> Tensor:
    found: Tensor = m.conv(F.pad(h.transpose(1, 2), pad)).transpose(1, 2)
    return found


def _pooled(pool: Any, h: Tensor) -> Tensor:
    found: Tensor = pool(h.transpose(1, 2), 3, 1, 1).transpose(1, 2)
    return found


TIME = {
    "causal convolution": Piece("conv1d", lambda m, h, v: _conv(m, h, 2, 0), "conv"),
    "convolution": Piece("conv1d", lambda m, h, v: _conv(m, h, 1, 1), "conv", True),
    "max pool": Piece("max_pool1d", lambda m, h, v: _pooled(F.max_pool1d, h), "", True),
    "average pool": Piece(
        "avg_pool1d", lambda m, h, v: _pooled(F.avg_pool1d, h), "", True
    ),
    "cumsum": Piece("cumsum", lambda m, h, v: h.cumsum(1)),
    "cummax": Piece("cummax", lambda m, h, v: h.cummax(1).values),
    "differences": Piece("sub pad", lambda m, h, v: h - _before(h)),
    "flip": Piece("flip", lambda m, h, v: h.flip(1), "", True),
    "centred by the masked mean": Piece(
        "masked_fill sum",
        lambda m, h, v: (
            h
            - h.masked_fill(v.blank, 0.0).sum(1, keepdim=True)
            / v.mask.sum(1).clamp(min=1)[:, None, None]
        ),
    ),
}

# Slices, gathers, writes ---------------------------------------------------------

ORDER = torch.tensor([2, 0, 3, 1])


def _assigned(m: Any, h: Tensor, v: Visits) -> Tensor:
    out = torch.zeros_like(h)
    out[:, :, 1:3] = h[..., :2].tanh()
    out[..., 0] = h[..., 2] * h[..., 3]
    out[:, 0, 3] += h[:, 0, 1]
    return out


def _written(m: Any, h: Tensor, v: Visits) -> Tensor:
    out = m.lin(h)
    out.mul_(h).add_(0.1).clamp_(min=-1)
    out[..., 1].abs_()
    return out.masked_fill_(v.blank, 0.0)


def _overwritten(m: Any, h: Tensor, v: Visits) -> Tensor:
    """An operand that is written on after its use."""
    inside = m.lin(h)
    used = inside.abs() + torch.tanh(inside)
    inside *= 3
    return used + inside


PLACES = {
    "slices": Piece(
        "__getitem__ cat", lambda m, h, v: torch.cat([h[..., 1:], h[..., :1]], -1)
    ),
    "index_select": Piece("index_select", lambda m, h, v: h.index_select(2, ORDER)),
    "gather": Piece(
        "gather", lambda m, h, v: h.gather(2, ORDER.expand(*h.shape[:2], -1))
    ),
    "scatter_add": Piece(
        "scatter_add",
        lambda m, h, v: h.scatter_add(2, (ORDER // 2).expand_as(h), h.tanh()),
    ),
    "roll": Piece("roll", lambda m, h, v: h.roll(1, -1)),
    "assignments": Piece("__setitem__", _assigned),
    "writes": Piece("mul_ add_ clamp_ abs_ masked_fill_", _written, "lin"),
    "an operand overwritten": Piece("mul_", _overwritten, "lin"),
    "relu in place": Piece("relu", lambda m, h, v: m.inplace(m.lin(h)), "lin inplace"),
    "a masked write": Piece(
        "__setitem__ clone",
        lambda m, h, v: torch.Tensor.__setitem__(w := h.clone(), ~v.mask, 0.0) or w,
    ),
}

# Thresholds -----------------------------------------------------------------------


def _branch(m: Any, h: Tensor, v: Visits) -> Tensor:
    """A question of the whole batch, so of no patient's alone."""
    found: Tensor = m.lin1(h) if h.detach().abs().max() > 0.3 else m.lin2(h)
    return found


THRESHOLDS = {
    "a flag's value": Piece("gt", lambda m, h, v: h + 3 * (h > 0.5)),
    "where": Piece("where", lambda m, h, v: torch.where(h > 0.2, h.tanh(), h - 1)),
    "was it measured": Piece("ne", lambda m, h, v: h * (h != 0) + (h == 0).to(h)),
    "filled by value": Piece(
        "masked_fill", lambda m, h, v: h.masked_fill(h < -0.3, -0.3)
    ),
    "within a range": Piece(
        "__and__ __invert__",
        lambda m, h, v: h + ((h > -1) & ~(h > 1)).double() * m.lin(h),
        "lin",
    ),
    "steps": Piece(
        "heaviside round",
        lambda m, h, v: torch.heaviside(h, h.new_ones(())) + (h / 4).round(),
    ),
    "a write by value": Piece(
        "__setitem__",
        lambda m, h, v: torch.Tensor.__setitem__(w := h * 1, w > 1, 1.0) or w,
    ),
    "a branch": Piece("__bool__", _branch, "lin1 lin2"),
}

# Order -----------------------------------------------------------------------------

STATISTICS = {
    "sort": Piece("sort", lambda m, h, v: h.sort(-1).values),
    "largest two": Piece(
        "topk", lambda m, h, v: h - h.topk(2, -1).values.sum(-1, keepdim=True)
    ),
    "median": Piece("median", lambda m, h, v: h - h.median(-1, keepdim=True).values),
    "maximum": Piece("maximum", lambda m, h, v: torch.maximum(h, m.lin(h)), "lin"),
    "maxout": Piece("max", lambda m, h, v: h + m.wide(h).max(-1, True).values, "wide"),
    "order over time": Piece("sort", lambda m, h, v: h.sort(1).values, "", True),
}

STEPS: dict[str, Piece] = {
    **{name: Piece(name, lambda m, h, v, f=f: f(h)) for name, f in POINTWISE.items()},
    "linear": Piece("linear", lambda m, h, v: m.lin(h), "lin"),
    **GATES,
    **NORMS,
    **ATTENTION,
    **RECURRENCE,
    **TIME,
    **PLACES,
    **THRESHOLDS,
    **STATISTICS,
}

#: Steps that are linear whatever their input is.
LINEAR = frozenset(
    "linear|dropout|batch norm|causal convolution|convolution|average pool|cumsum|"
    "differences|flip|slices|index_select|gather|roll|a masked write|memory|"
    "centred by the masked mean".split("|")
)
