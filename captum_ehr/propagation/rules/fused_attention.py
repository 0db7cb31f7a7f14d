r"""Attention as one operation, in memory that grows with the length, not its square.

With :math:`S = s\,QK^\top + \mathrm{mask}`, :math:`W = \mathrm{softmax}(S)` and
:math:`Y = WV`, the rules of products and of softmax (:mod:`.softmax`) one after the
other are

.. math::
    m_V = \bar W^\top M, \qquad m_W = M \bar V^\top, \qquad
    m_Q = s\,m_S \bar K, \qquad m_K = s\,m_S^\top \bar Q

and :math:`m_S` from :math:`m_W` as in softmax. Both passes run the fused kernel, and
what is kept is Q, K and V. The backward pass works scores and weights out again for
some queries at a time, as the kernel's own does (Dao et al., FlashAttention, 2022,
algorithm 4).

A query that may see nothing gives 0, as in torch: here it sees all, and M is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import tuning
from ..pairs import (
    Multiplier,
    Pair,
    Rule,
    Shares,
    float32_at_least,
    paired,
    sum_to,
    without_autocast,
)
from ..recording import compiled, opaque
from .attention_masks import Mask, mask_of
from .blocks import laid_out, reached_positions
from .softmax import less_their_sum, logarithmic_means, weights_of


def as_one(
    live: Sequence[Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *_: object,
    **__: object,
) -> Rule | None:
    """The rule of a call, but for an attributed mask and weights that are dropped."""
    masked = any(tensor is attn_mask for tensor in live)
    return None if masked or dropout_p else attention


def attention(
    y: Pair,
    query: Pair | Tensor,
    key: Pair | Tensor,
    value: Pair | Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Multiplier:
    """Y = softmax(QKᵀ·s + mask) V."""
    q, k, v = map(paired, (query, key, value))
    scale = 1 / math.sqrt(q.input.shape[-1]) if scale is None else scale
    groups = q.input.shape[-3] // k.input.shape[-3] if enable_gqa else 1

    def multiplier(upstream: Tensor) -> Shares:
        lead, dtype = upstream.shape[:-2] or (1,), float32_at_least(q.input).dtype

        def heads(x: Tensor, repeats: int = 1) -> Tensor:
            x = x.to(dtype)
            x = x if repeats == 1 else x.repeat_interleave(repeats, -3)
            return x.expand(*lead, *x.shape[-2:]).flatten(0, -3)

        with without_autocast(upstream.device.type):
            mask = mask_of(attn_mask, is_causal, lead, q.input)
            present = mask and tuple(part is not None for part in mask)
            shares = opaque(
                partial(_of_tensors, present),
                *q.each(lambda side: heads(side) * scale).sides,
                *k.each(lambda side: heads(side, groups)).sides,
                v.each(lambda side: heads(side, groups)).mean,
                heads(upstream),
                *(part for part in mask or () if part is not None),
            )
        shares[0].mul_(scale)
        for pair, share, repeats in zip((q, k, v), shares, (1, groups, groups)):
            if pair.slot >= 0:
                share = share.unflatten(0, lead)
                if repeats > 1:
                    share = share.unflatten(-3, (-1, repeats)).sum(-3)
                yield pair.operand, sum_to(share, pair.operand).to(pair.input.dtype)

    return multiplier


def _of_tensors(
    present: Sequence[bool] | None,
    q: Tensor,
    q0: Tensor,
    k: Tensor,
    k0: Tensor,
    v: Tensor,
    m: Tensor,
    *of_mask: Tensor,
) -> tuple[Tensor, ...]:
    """The shares, from all that they depend on; of a mask parts are ``present``."""
    parts = iter(of_mask)
    masks: Any = [next(parts) if there else None for there in present or ()]
    mask = Mask(*masks) if masks else None
    return tuple(_shares(Pair(q, q0), Pair(k, k0), v, mask, m))


def _shares(
    query: Pair, key: Pair, value: Tensor, mask: Mask | None, upstream: Tensor
) -> list[Tensor]:
    """What M comes to at queries, keys and values, each ``(heads, length, width)``.

    The queries are scaled, the values the mean of both sides.
    """
    rows, count = reached_positions(upstream), upstream.shape[1]
    if rows is not None:
        query = query.each(lambda side: side.index_select(1, rows))
        upstream = upstream.index_select(1, rows)
        mask = mask and mask.of_queries(rows)
    behind = mask is not None and mask.given is None and rows is None
    means = query.mean, key.mean, value
    shares = [torch.zeros_like(mean) for mean in means]
    for queries, portions in _blocks(means[0], means[1]):
        keys = slice(queries.stop if behind else None)  # that any of them may see
        added = mask and mask.added(queries, means[1][:, keys])
        for some in portions:
            at, on = (some, queries), (some, keys)
            m, bias = upstream[at], None
            if mask and added:
                bias, blind = (mask.of_heads(each, some) for each in added)
                m = m.masked_fill(blind, 0.0)
            scores, scores0 = (
                torch.bmm(q[at], k[on].mT) for q, k in zip(query.sides, key.sides)
            )
            m_scores, twice = _block(Pair(scores, scores0), value[on], m, bias)
            shares[0][at] = torch.bmm(m_scores, means[1][on])
            shares[1][on].baddbmm_(m_scores.mT, means[0][at])
            shares[2][on].baddbmm_(twice.mT, m, alpha=0.5)
    if rows is not None:
        shares[0] = laid_out(shares[0], rows, count, 1)
    return shares


def _block(
    scores: Pair, value: Tensor, m: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """m_S of some queries, and their weights' sum over both sides."""
    if bias is not None:
        scores = scores.each(lambda side: side.add_(bias))
    means, twice = logarithmic_means(scores, -1)
    s = torch.bmm(m, value.mT).mul_(means)
    return less_their_sum(s, weights_of(means, -1), -1), twice


def _blocks(query: Tensor, key: Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Some queries at a time, and with them some heads at a time."""
    (heads, queries, _), keys = query.shape, key.shape[1]
    wanted = tuning.SCORES * torch.get_num_threads()
    if query.device.type != "cpu":
        wanted *= tuning.DEVICE_PORTIONS
    if compiled():
        yield slice(0, queries), [slice(0, heads)]
        return
    if not queries * keys:
        return
    rows = min(max(wanted // keys, 1), queries)
    step = max(wanted // (rows * keys), 1)
    portions = [slice(first, first + step) for first in range(0, heads, step)]
    for first in range(0, queries, rows):
        yield slice(first, min(first + rows, queries)), portions
