"""Attention in its fused forms, expanded into matmul, softmax and linear maps.

(Vaswani et al., Attention Is All You Need, 2017, eq. 1.) In one step, in
:mod:`.fused_attention`, where no more than queries, keys and values are attributed.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..declarations import composite
from ..pairs import float32_at_least
from .fused_attention import as_one


@composite("scaled_dot_product_attention", whole=as_one)
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """F.scaled_dot_product_attention, step by step: softmax(QKᵀ·s + mask)V.

    In float32 at least, as torch has it.
    """
    dtype = query.dtype
    query, key, value = map(float32_at_least, (query, key, value))
    if enable_gqa:
        groups = query.size(-3) // key.size(-3)
        key, value = (t.repeat_interleave(groups, -3) for t in (key, value))
    scale = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if is_causal:
        shape = scores.shape[-2:]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + attn_mask
    weights = torch.softmax(scores, dim=-1)
    if attn_mask is not None:  # who may see nothing gets zeros, as torch has it
        shut = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask == -math.inf
        weights = weights.masked_fill(shut.all(-1, keepdim=True), 0.0)
    if dropout_p:
        weights = F.dropout(weights, dropout_p)
    return torch.matmul(weights, value).to(dtype)


@composite("multi_head_attention_forward")
def multi_head_attention(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """F.multi_head_attention_forward, step by step, with torch's arguments."""
    bound = _SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    p = bound.arguments
    query, key, value, heads = p["query"], p["key"], p["value"], p["num_heads"]
    batched = query.dim() == 3
    if not batched:
        query, key, value = (t.unsqueeze(1) for t in (query, key, value))
    q, k, v = _project(p, query, key, value)
    mask = _mask(p, query, key)
    if p["bias_k"] is not None:
        k, v = (
            torch.cat([t, p[bias].expand(1, t.size(1), -1)])
            for t, bias in ((k, "bias_k"), (v, "bias_v"))
        )
        mask = _longer(mask)
    q, k, v = (_heads(t, heads) for t in (q, k, v))
    k, v = (
        t if p[static] is None else p[static].unflatten(0, (-1, heads))
        for t, static in ((k, "static_k"), (v, "static_v"))
    )
    if p["add_zero_attn"]:
        k, v = (torch.cat([t, torch.zeros_like(t[:, :, :1])], 2) for t in (k, v))
        mask = _longer(mask)
    out, weights = _attend(p, q, k, v, mask)
    out = out.permute(2, 0, 1, 3).flatten(2)
    out = F.linear(out, p["out_proj_weight"], p["out_proj_bias"])
    if weights is not None and p["average_attn_weights"]:
        weights = weights.mean(1)
    if not batched:
        out, weights = out.squeeze(1), weights if weights is None else weights[0]
    return out, weights


def _attend(
    p: dict[str, Any], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Both ways in which torch goes on; they round differently, and see blind rows."""
    dropout = p["dropout_p"] if p["training"] else 0.0
    if not p["need_weights"]:
        causal = p["is_causal"] and p["key_padding_mask"] is None
        mask = None if causal else mask
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        return out, None
    scaled = q / math.sqrt(q.size(-1))
    scaled, k = float32_at_least(scaled), float32_at_least(k)
    scores = torch.matmul(scaled, k.transpose(-2, -1))
    scores = (scores if mask is None else scores + mask).to(q.dtype)
    weights = torch.softmax(scores, dim=-1)
    weights = F.dropout(weights, dropout) if dropout else weights
    return torch.matmul(weights, v), weights


def _longer(mask: Tensor | None) -> Tensor | None:
    """With a key more, which all may see."""
    return mask if mask is None else F.pad(mask, (0, 1))


def _project(
    p: dict[str, Any], query: Tensor, key: Tensor, value: Tensor
) -> list[Tensor]:
    if p["use_separate_proj_weight"]:
        weights = [p["q_proj_weight"], p["k_proj_weight"], p["v_proj_weight"]]
    else:
        weights = list(p["in_proj_weight"].chunk(3))
    bias = p["in_proj_bias"]
    biases = [None] * 3 if bias is None else list(bias.chunk(3))
    return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases)]


def _heads(x: Tensor, heads: int) -> Tensor:
    """(length, batch, width) to (batch, heads, length, width of a head)."""
    return x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)


def _mask(p: dict[str, Any], query: Tensor, key: Tensor) -> Tensor | None:
    """Both masks as one additive mask that broadcasts over (batch, heads, q, k)."""
    total: Tensor | None = None
    padding, attention = p["key_padding_mask"], p["attn_mask"]
    if padding is not None:
        padding = _additive(padding, query.dtype)
        total = (padding if padding.dim() == 2 else padding.unsqueeze(0))[:, None, None]
    if attention is not None:
        attention = _additive(attention, query.dtype)
        if attention.dim() == 3:
            attention = attention.unflatten(0, (query.size(1), p["num_heads"]))
        total = attention if total is None else total + attention
    return total


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)


_SIGNATURE = inspect.signature(F.multi_head_attention_forward)
