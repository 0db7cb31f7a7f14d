"""Attention in its fused forms, expanded into matmul, softmax and linear maps.

(Vaswani et al., Attention Is All You Need, 2017, eq. 1.)
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """F.scaled_dot_product_attention, step by step: softmax(QKᵀ·s + mask)V."""
    if enable_gqa:
        groups = query.size(-3) // key.size(-3)
        key = key.repeat_interleave(groups, -3)
        value = value.repeat_interleave(groups, -3)
    scale = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = torch.matmul(query, key.transpose(-2, -1)) * scale
    if is_causal:
        shape = scores.shape[-2:]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, float("-inf"))
        else:
            scores = scores + attn_mask
    weights = _blind_to_zero(torch.softmax(scores, dim=-1), attn_mask)
    if dropout_p:
        weights = F.dropout(weights, dropout_p)
    return torch.matmul(weights, value)


def _blind_to_zero(weights: Tensor, mask: Tensor | None) -> Tensor:
    """A query that may see nothing gets zeros, as in torch's fused attention."""
    if mask is None:
        return weights
    shut = ~mask if mask.dtype == torch.bool else mask == float("-inf")
    return weights.masked_fill(shut.all(-1, keepdim=True), 0.0)


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
    for bias, name in ((p["bias_k"], "k"), (p["bias_v"], "v")):
        if bias is not None:
            row = bias.expand(1, k.size(1), -1)
            k, v = (torch.cat([k, row]), v) if name == "k" else (k, torch.cat([v, row]))
    if p["bias_k"] is not None and mask is not None:
        mask = F.pad(mask, (0, 1))
    q, k, v = (_heads(t, heads) for t in (q, k, v))
    if p["static_k"] is not None or p["static_v"] is not None or p["add_zero_attn"]:
        raise NotImplementedError(
            "multi_head_attention_forward with static_k, static_v or add_zero_attn"
            " has no expansion; build the attention from torch functions instead."
        )
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.size(-1))
    if mask is not None:
        scores = scores + mask
    weights = torch.softmax(scores, dim=-1)
    if not p["need_weights"]:
        weights = _blind_to_zero(weights, mask)
    if p["training"] and p["dropout_p"]:
        weights = F.dropout(weights, p["dropout_p"])
    out = torch.matmul(weights, v).permute(2, 0, 1, 3).flatten(2)
    out = F.linear(out, p["out_proj_weight"], p["out_proj_bias"])
    shown = weights.mean(1) if p["average_attn_weights"] else weights
    if not batched:
        out, shown = out.squeeze(1), shown.squeeze(0)
    return out, shown if p["need_weights"] else None


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
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


_SIGNATURE = inspect.signature(F.multi_head_attention_forward)
