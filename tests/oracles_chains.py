"""The cases that are chains of rules: softmax, norms, cells, attention and pools."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mpmath as mp
import numpy as np
import oracles
import torch
import torch.nn.functional as F
from oracles import Array, Number
from oracles_more import Case, D, greatest, over_rows, ranked, windows
from torch import Tensor

WEIGHT = (0.5, -1.5, 2.0, 0.25)
GUMBEL_SEED = 5


def _norm(order: float) -> Callable[[Array], Array]:
    """A vector norm along the last dimension."""
    if order == 2:
        return lambda x: oracles.each(mp.sqrt)((x * x).sum(-1))
    inner = oracles.each(lambda v: abs(v) ** order)
    return lambda x: oracles.each(lambda v: v ** (D(1) / order))(inner(x).sum(-1))


def _variance(x: Array) -> Array:
    centred = x - x.sum(-1, keepdims=True) * (D(1) / x.shape[-1])
    return (centred * centred).sum(-1) * (D(1) / (x.shape[-1] - 1))


def _unit(x: Array, eps: float) -> Array:
    length = oracles.each(lambda v: max(v, D(eps)))(_norm(2)(x))
    return oracles.quotient(x, length[..., None])


def _noise(shape: tuple[int, ...]) -> Array:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(GUMBEL_SEED)
        return -torch.empty(shape, dtype=torch.float64).exponential_().log().numpy()


def _gumbel(x: Tensor) -> Tensor:
    torch.manual_seed(GUMBEL_SEED)
    return F.gumbel_softmax(x.double(), tau=0.5)


def _tournament(row: Sequence[Number]) -> Number:
    """Products in pairs, the products in pairs again, whoever is left over last."""
    while len(row) > 1:
        half = len(row) // 2
        row = [a * b for a, b in zip(row[:half], row[half:])] + list(row[2 * half :])
    return row[0]


def _grouped(x: Array, groups: int) -> Array:
    flat = x.reshape(x.shape[0], groups, -1)
    return oracles.standardise(flat, (-1,), 1e-5, True).reshape(x.shape)


#: Of a batch norm by torch's own order, after its weight: those of the batch.
STATISTICS = (None, None, None, True, 0.1, 1e-5, False)


def _batch_normed(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, x.new_tensor(WEIGHT), training=True)


def _pool(name: str, *args: Any, **kwargs: Any) -> Callable[[Tensor], Any]:
    return lambda x: _first(getattr(F, name)(x, *args, **kwargs))


def _first(found: Any) -> Any:
    return found[0] if isinstance(found, tuple) else found


def _pools() -> dict[str, Case]:
    made: dict[str, Case] = {}
    for n, shape in ((1, (2, 5)), (2, (2, 3, 4)), (3, (1, 3, 2, 4))):
        sizes = (2,) * n
        whole = shape[1:]
        for tail, more in (("", {}), ("_with_indices", {"return_indices": True})):
            made[f"max_pool{n}d{tail}"] = Case(
                _pool(f"max_pool{n}d", 2, 1, **more), windows(sizes), (shape,)
            )
            made[f"adaptive_max_pool{n}d{tail}"] = Case(
                _pool(f"adaptive_max_pool{n}d", 1, **more), windows(whole), (shape,)
            )
    return made


_rows, _order = over_rows(greatest), over_rows(ranked)
_lows = over_rows(partial(greatest, sign=-1))
_small = (1e-30, 1e-6, 1.0, 1e2)
_mild = (1e-30, 1e-6, 1.0, 3.0)
_squares = (1e-6, 1.0, 1e6, 1e30)

#: Everything else, by label.
CHAINS: dict[str, Case] = {
    "div": Case(torch.div, oracles.quotient, ((2, 3), (3,)), (0.1, 3)),
    "pow": Case(torch.pow, oracles.power, ((2, 3), (3,)), (0.1, 3), scales=(1e-2, 1.0)),
    "amax": Case(lambda x: x.amax(1), _rows),
    "amin": Case(lambda x: x.amin(1), _lows),
    "max": Case(lambda x: x.max(1).values, _rows),
    "min": Case(lambda x: x.min(1).values, _lows),
    **_pools(),
    "sort": Case(lambda x: x.sort(1).values, _order, line=True),
    "topk": Case(lambda x: x.topk(2)[0], lambda x: _order(x)[:, :1:-1], line=True),
    "median": Case(lambda x: x.median(1)[0], lambda x: _order(x)[:, 1], line=True),
    "kthvalue": Case(lambda x: x.kthvalue(3)[0], lambda x: _order(x)[:, 2], line=True),
    "softmax": Case(
        lambda x: x.softmax(1), lambda x: oracles.softmax(x, 1), scales=_small
    ),
    "softmin": Case(
        lambda x: F.softmin(x, 1), lambda x: oracles.softmax(-x, 1), scales=_small
    ),
    "log_softmax": Case(
        lambda x: x.log_softmax(1), lambda x: oracles.log_softmax(x, 1), scales=_small
    ),
    "logsumexp": Case(
        lambda x: x.logsumexp(1, True),
        lambda x: oracles.log_sum_exp(x, 1),
        scales=_small,
    ),
    "logsumexp, two dimensions": Case(
        lambda x: x.view(3, 2, 2).logsumexp((0, 2)),
        lambda x: oracles.log_sum_exp(
            np.swapaxes(x.reshape(3, 2, 2), 0, 1).reshape(2, 6), 1
        )[:, 0],
        scales=_small,
    ),
    "logaddexp": Case(
        torch.logaddexp,
        lambda a, b: oracles.log_sum_exp(np.stack([a, b]), 0)[0],
        ((2, 3), (2, 3)),
        scales=_small,
    ),
    "gumbel_softmax": Case(
        _gumbel, lambda x: oracles.softmax((x + _noise(x.shape)) * 2, -1), scales=(1.0,)
    ),
    "layer_norm": Case(
        lambda x: F.layer_norm(x, (4,), x.new_tensor(WEIGHT)),
        lambda x: oracles.standardise(x, (-1,), 1e-5, True) * np.array(WEIGHT),
    ),
    "rms_norm": Case(
        lambda x: F.rms_norm(x, (4,), x.new_tensor(WEIGHT), 1e-6),
        lambda x: oracles.standardise(x, (-1,), 1e-6, False) * np.array(WEIGHT),
    ),
    "group_norm": Case(
        lambda x: F.group_norm(x, 2), lambda x: _grouped(x, 2), ((2, 4, 2),)
    ),
    "instance_norm": Case(F.instance_norm, lambda x: _grouped(x, 2), ((2, 2, 3),)),
    "instance_norm, in eval": Case(
        lambda x: F.instance_norm(
            x, *x.new_tensor([[1, 2], [3, 4]]), use_input_stats=False, eps=0.0
        ),
        lambda x: x * np.array([3**-0.5, 0.5])[:, None],
        ((2, 2, 3),),
    ),
    "batch_norm": Case(
        _batch_normed,
        lambda x: oracles.standardise(x, (0,), 1e-5, True) * np.array(WEIGHT),
    ),
    "torch.batch_norm": Case(
        lambda x: torch.batch_norm(x, x.new_tensor(WEIGHT), *STATISTICS),
        lambda x: oracles.standardise(x, (0,), 1e-5, True) * np.array(WEIGHT),
    ),
    "torch.instance_norm": Case(
        lambda x: torch.instance_norm(x, None, *STATISTICS),
        lambda x: _grouped(x, 2),
        ((2, 2, 3),),
    ),
    "glu": Case(
        F.glu, lambda x: x[:, :2] * oracles.sigmoid(x[:, 2:]), scales=(1e-30, 1.0, 30.0)
    ),
    "var": Case(lambda x: x.var(1), _variance),
    "std": Case(
        lambda x: x.std(1),
        lambda x: oracles.each(mp.sqrt)(_variance(x)),
        scales=_squares,
    ),
    "norm": Case(lambda x: torch.norm(x, dim=1), _norm(2), scales=_squares),
    "linalg_norm": Case(
        lambda x: torch.linalg.norm(x, 3, dim=1), _norm(3), scales=_squares
    ),
    "linalg_vector_norm": Case(
        lambda x: torch.linalg.vector_norm(x, 3, dim=1), _norm(3), scales=_squares
    ),
    "normalize": Case(F.normalize, lambda x: _unit(x, 1e-12), scales=_squares),
    "cosine_similarity": Case(
        F.cosine_similarity,
        lambda a, b: (_unit(a, 1e-8) * _unit(b, 1e-8)).sum(1),
        ((2, 3), (2, 3)),
        scales=_squares,
    ),
    "addcdiv": Case(
        lambda a, b, c: torch.addcdiv(a, b, c, value=2),
        lambda a, b, c: a + 2 * oracles.quotient(b, c),
        ((2, 3), (2, 3), (3,)),
        (0.1, 3),
    ),
    "cumprod": Case(
        lambda x: x.cumprod(1),
        over_rows(lambda r: list(itertools.accumulate(r, operator.mul))),
    ),
    "prod": Case(lambda x: x.prod(1), over_rows(_tournament), ((2, 5),)),
}


# Cells and attention ------------------------------------------------------------------

_made = torch.Generator().manual_seed(0)
_units = {"gru": 3, "lstm": 4, "rnn_tanh": 1, "rnn_relu": 1}


def _weights(rows: int) -> list[Tensor]:
    """Input, recurrent and two bias weights, of two features and two units."""
    shapes = ((2 * rows, 2), (2 * rows, 2), (2 * rows,), (2 * rows,))
    return [torch.randn(s, generator=_made) for s in shapes]


def _step(cell: str, w: Sequence[Array]) -> Callable[..., tuple[Array, ...]]:
    """One step of a cell, from the input and the states to the states."""
    if cell == "gru":
        return lambda x, h: (oracles.gru_step(x, h, w),)
    if cell == "lstm":
        return lambda x, h, c: oracles.lstm_step(x, h, c, w)
    unit = oracles.tanh if cell == "rnn_tanh" else oracles.relu
    return lambda x, h: (oracles.rnn_step(x, h, w, unit),)


def _cell(cell: str) -> Case:
    """One step; every state is attributed too."""
    weights = _weights(_units[cell])
    step = _step(cell, [w.double().numpy() for w in weights])
    torchs = getattr(torch, f"{cell}_cell")

    def call(x: Tensor, *states: Tensor) -> Tensor:
        given = states if cell == "lstm" else states[0]
        found = torchs(x, given, *(w.to(x) for w in weights))
        return torch.cat(found, 1) if cell == "lstm" else found

    shapes = ((2, 2),) * (3 if cell == "lstm" else 2)
    return Case(call, lambda *a: np.concatenate(step(*a), 1), shapes, scales=_mild)


def _layer(cell: str) -> Case:
    """Three steps of one layer, from states of zero."""
    weights = _weights(_units[cell])
    step = _step(cell, [w.double().numpy() for w in weights])
    count = 2 if cell == "lstm" else 1

    def call(x: Tensor) -> Tensor:
        zeros = tuple(x.new_zeros(1, 2, 2) for _ in range(count))
        given = zeros if cell == "lstm" else zeros[0]
        own = [w.to(x) for w in weights]
        options = (True, 1, 0.0, False, False, False)
        return getattr(torch, cell)(x, given, own, *options)[0]

    def formula(x: Array) -> Array:
        states: tuple[Array, ...] = (np.zeros((2, 2)),) * count
        steps = []
        for row in x:
            states = step(row, *states)
            steps.append(states[0])
        return np.stack(steps)

    return Case(call, formula, ((3, 2, 2),), scales=_mild)


_IN, _OUT = (torch.randn(n, 4, generator=_made) for n in (12, 4))


def _multi_head(x: Tensor) -> Tensor:
    weights = (_IN.to(x), None, None, None, False, 0.0, _OUT.to(x), None)
    return F.multi_head_attention_forward(x, x, x, 4, 2, *weights, training=False)[0]


def _heads(x: Array) -> Array:
    """One sequence with itself, head by head."""
    q, k, v = np.split(x[:, 0] @ _IN.double().numpy().T, 3, axis=-1)
    parts = (slice(0, 2), slice(2, 4))
    found = [oracles.attention(q[:, s], k[:, s], v[:, s]) for s in parts]
    return (np.concatenate(found, axis=-1) @ _OUT.double().numpy().T)[:, None]


CELLS: dict[str, Case] = {
    **{f"{cell}_cell": _cell(cell) for cell in _units},
    **{cell: _layer(cell) for cell in _units},
    "scaled_dot_product_attention": Case(
        F.scaled_dot_product_attention,
        oracles.attention,
        ((2, 2), (3, 2), (3, 1)),
        scales=(1e-30, 1e-6, 1.0, 10.0),
    ),
    "scaled_dot_product_attention with an attributed mask": Case(
        F.scaled_dot_product_attention,
        oracles.attention,
        ((2, 2), (3, 2), (3, 1), (2, 3)),
    ),
    "multi_head_attention_forward": Case(
        _multi_head, _heads, ((3, 1, 4),), scales=(1e-30, 1e-6, 1.0)
    ),
}
