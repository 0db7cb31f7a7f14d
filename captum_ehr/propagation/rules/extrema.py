r"""Maxima and pools, and order statistics.

A maximum's change goes in two parts, to where the input has it and to where the
reference has it (Shrikumar et al. 2017, section 3.5, as Captum does for pools):

.. math:: \Delta y = \underbrace{\max(y, y_0) - y_0}_{\text{to } \mathrm{argmax}\, x}
                   + \underbrace{y - \max(y, y_0)}_{\text{to } \mathrm{argmax}\, x_0}

one of which is 0. The multiplier is that part over its Δx and lies in [0, 1];
windows that overlap add up.

The k-th smallest of several values is piecewise linear along the straight line from
the reference to the input: its multipliers are the shares of the line on which each
value holds rank k. The pieces end where two of the values cross.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..declarations import rule
from ..pairs import Multiplier, Pair, Rule, apart, paired, reduced_dims, together
from ..recording import opaque, written_down
from .elementwise import hard, secant_rule
from .quotients import bounded

#: Values along the sorted dimension up to which all crossings are computed.
MAX_RANKED = 96


def _extremum(name: str, largest: bool, missing: float = math.nan) -> Rule:
    """The greatest, or least: of all, over some dimensions, or of two tensors.

    Of two, NaN is taken for what ``missing`` says.
    """

    def extremum(y: Any, x: Any, *args: Any, **kwargs: Any) -> Multiplier:
        second = args[0] if args else kwargs.get("other", kwargs.get("dim", ()))
        if isinstance(second, (Pair, Tensor)) or not isinstance(x, Pair):
            return _of_two(y, x, second, largest, missing)
        return _reduced(x, second, largest)

    extremum.__name__ = name
    return extremum


amax, amin = _extremum("amax", largest=True), _extremum("amin", largest=False)
EXTREMA = (
    rule("amax", amax, tags="reduces"),
    rule("amin", amin, tags="reduces"),
    rule("max maximum", _extremum("maximum", largest=True), tags="reduces"),
    rule("min minimum", _extremum("minimum", largest=False), tags="reduces"),
    rule("fmax", _extremum("fmax", largest=True, missing=-math.inf)),
    rule("fmin", _extremum("fmin", largest=False, missing=math.inf)),
)


def _bound(name: str, largest: bool) -> Rule:
    """A bound: most often a number, else the greater or lesser of two."""
    by_number = secant_rule(hard)

    def bound(y: Any, x: Any, limit: Any) -> Multiplier:
        constant = isinstance(x, Pair) and not isinstance(limit, Pair)
        return by_number(y, x, limit) if constant else _of_two(y, x, limit, largest)

    bound.__name__ = name
    return bound


BOUNDS = (
    rule("clamp_min", _bound("clamp_min", largest=True)),
    rule("clamp_max", _bound("clamp_max", largest=False)),
)


def _of_two(
    y: Pair, a: Any, b: Any, largest: bool, missing: float = math.nan
) -> Multiplier:
    """The greater of two values at each place: a maximum over a stack of two.

    They may be of two dtypes, or one of them a number on another device.
    """

    def stacked(*both: Tensor) -> Tensor:
        alike = (s.to(y.input).nan_to_num(missing, math.inf, -math.inf) for s in both)
        return torch.stack(torch.broadcast_tensors(*alike))

    high, low = map(stacked, paired(a).sides, paired(b).sides)
    share = _reduced(Pair(high, low), 0, largest)

    def multiplier(upstream: Tensor) -> Any:
        ((_, both),) = share(upstream)
        for operand, part in zip((a, b), both):
            if isinstance(operand, Pair):
                yield operand, part.sum_to_size(operand.input.shape)

    return multiplier


def _reduced(x: Pair, dim: Any, largest: bool) -> Multiplier:
    """The formula above over some dimensions, moved together to the end."""
    dims = reduced_dims(x, dim)

    def flat(side: Tensor) -> Tensor:
        side = together(side, dims)
        return side if largest else -side

    high, low = x.each(flat).sides
    (y, at), (y0, at0) = high.max(-1, keepdim=True), low.max(-1, keepdim=True)
    where = torch.where(y >= y0, at, at0)
    slope = _part(Pair(y, y0), Pair(high.gather(-1, where), low.gather(-1, where)))

    def multiplier(upstream: Tensor, *_: Any) -> tuple[tuple[Pair, Tensor]]:
        share = upstream.new_zeros(high.shape)
        share.scatter_(-1, where, upstream.reshape(slope.shape) * slope)
        return ((x, apart(share, x.input.shape, dims)),)

    return multiplier


def _part(y: Pair, x: Pair) -> Tensor:
    """Δy/Δx of where a maximum is; 1 where nothing changes, be it infinite."""
    dtype, same = x.input.dtype, x.input == x.reference
    y, x = y.each(bounded), x.each(bounded)
    slope = torch.where(same, 1.0, y.delta / x.delta.masked_fill(same, 1.0))
    return slope.to(dtype)


def _running(name: str, largest: bool) -> Rule:
    """The extremum so far: of each place, as of a window that ends there."""

    def running(y: Any, x: Pair, dim: int) -> Multiplier:
        (top, top0), (at, at0) = y[0].sides, y[1].sides
        where = torch.where(top >= top0 if largest else top <= top0, at, at0)
        slope = _part(y[0], x.each(lambda side: side.gather(dim, where)))

        def multiplier(upstream: Tensor, *_: Any) -> tuple[tuple[Pair, Tensor]]:
            share = torch.zeros_like(x.input).scatter_add_(dim, where, upstream * slope)
            return ((x, share),)

        return multiplier

    running.__name__ = name
    return running


RUNNING = (
    rule("cummax", _running("cummax", largest=True)),
    rule("cummin", _running("cummin", largest=False)),
)


def max_pool(pool: Callable[..., Any], spatial: int) -> Rule:
    """A rule for a max-pool, from torch's function that also returns indices."""

    def pooled(y: Any, x: Pair, *args: Any, **kwargs: Any) -> Multiplier:
        kwargs.pop("return_indices", None)
        (top, at), (top0, at0) = (pool(s, *args, **kwargs) for s in x.sides)
        where = torch.where(top >= top0, at, at0).flatten(-spatial)
        ends = x.each(lambda side: side.flatten(-spatial).gather(-1, where))
        slope = _part(Pair(top.flatten(-spatial), top0.flatten(-spatial)), ends)

        def multiplier(upstream: Tensor, *_: Any) -> tuple[tuple[Pair, Tensor]]:
            share = upstream.new_zeros(x.input.flatten(-spatial).shape)
            share.scatter_add_(-1, where, upstream.flatten(-spatial) * slope)
            return ((x, share.view(x.input.shape)),)

        return multiplier

    pooled.__name__ = "max_pool"
    return pooled


POOLS = tuple(
    rule(f"{pool} {pool}_with_indices", max_pool(getattr(F, f"{pool}_with_indices"), n))
    for n in (1, 2, 3)
    for pool in (f"max_pool{n}d", f"adaptive_max_pool{n}d")
)


# Order statistics ----------------------------------------------------------------


@rule("sort")
def sort(
    y: Any, x: Pair, dim: int = -1, descending: bool = False, stable: Any = None
) -> Any:
    """torch.sort: every rank."""
    ranks = range(_length(x, dim))
    return _ranked(x, dim, ranks[::-1] if descending else ranks)


@rule("topk")
def topk(
    y: Any, x: Pair, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> Any:
    """torch.topk: the k highest, or lowest, ranks.

    Not in order they can be shared out if both sides have them in the same.
    """
    size = _length(x, dim)
    ranks = range(size - 1, size - 1 - k, -1) if largest else range(k)
    if sorted:
        return _ranked(x, dim, ranks)
    order, order0 = (v.argsort(dim, descending=largest) for v in y[0].sides)
    if not torch.equal(order, order0):
        return NotImplemented
    share = _ranked(x, dim, ranks)
    return _rewired(share, x, lambda m: m.gather(dim, order))


def _length(x: Pair, dim: int) -> int:
    return x.input.shape[dim] if x.input.dim() else 1


@rule("median")
def median(y: Any, x: Pair, dim: int | None = None, keepdim: bool = False) -> Any:
    """torch.median: the lower middle rank."""
    if dim is None:
        flat = Pair(x.input.flatten(), x.reference.flatten())
        share = _ranked(flat, 0, _middle(flat.input.numel()))
        return _rewired(share, x, lambda m: m.reshape(1))
    share = _ranked(x, dim, _middle(_length(x, dim)))
    return _rewired(share, x, lambda m: m if keepdim else m.unsqueeze(dim))


def _middle(size: int) -> range:
    return range((size - 1) // 2, (size + 1) // 2)


@rule("kthvalue")
def kthvalue(y: Any, x: Pair, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """torch.kthvalue: rank k."""
    share = _ranked(x, dim, range(k - 1, k))
    return _rewired(share, x, lambda m: m if keepdim else m.unsqueeze(dim))


def _rewired(share: Any, x: Pair, reshape: Callable[[Tensor], Tensor]) -> Any:
    if share is NotImplemented:
        return share

    def multiplier(upstream: Tensor, *_: Any) -> Any:
        ((_, part),) = share(reshape(upstream))
        return ((x, part.reshape(x.input.shape)),)

    return multiplier


def _ranked(x: Pair, dim: int, ranks: range) -> Any:
    """Shares of the line on which each value holds each of some ranks."""
    if _length(x, dim) > MAX_RANKED:
        return NotImplemented
    # Where values differ by their last digits only, halfway between them is none left
    high, low = (torch.atleast_1d(s).movedim(dim, -1).double() for s in x.sides)
    held = opaque(partial(_held, ranks), high, low).to(x.input.dtype)

    def multiplier(upstream: Tensor, *_: Any) -> tuple[tuple[Pair, Tensor]]:
        m = torch.atleast_1d(upstream).movedim(dim, -1).unsqueeze(-2)
        share = (held * m).sum(-1).movedim(-1, dim)
        return ((x, share.reshape(x.input.shape)),)

    return multiplier


def _held(ranks: range, high: Tensor, low: Tensor) -> Tensor:
    """``(..., values, ranks)``: on which part of the line each value holds each."""
    cuts = _crossings(high, low)
    ends = high.new_zeros(*high.shape[:-1], 1)
    edges = torch.cat([ends, cuts], -1)
    lengths = torch.diff(edges, append=ends + 1)
    held = high.new_zeros(*high.shape, len(ranks))
    wanted = torch.arange(ranks.start, ranks.stop, ranks.step, device=high.device)
    for piece in range(edges.shape[-1]):
        width = lengths[..., piece : piece + 1]
        known = width.device.type == "cpu" and not written_down()
        if known and not bool((width > 0).any()):
            continue
        at = edges[..., piece : piece + 1] + width / 2
        # which is infinite where an end is; lerp has no number for that
        between = (1 - at) * low + at * high
        holder = between.argsort(dim=-1, stable=True)[..., wanted]
        held.scatter_add_(
            -2,
            holder.unsqueeze(-2),
            width.unsqueeze(-1).expand(*holder.shape[:-1], 1, len(ranks)),
        )
    return held


def _crossings(high: Tensor, low: Tensor) -> Tensor:
    """Where on the line two of the values meet, sorted; 1 where they do not."""
    size = high.shape[-1]
    i, j = torch.triu_indices(size, size, 1, device=high.device)
    gap, gap0 = high[..., i] - high[..., j], low[..., i] - low[..., j]
    crosses = gap.sign() * gap0.sign() < 0
    at = torch.where(crosses, gap0 / (gap0 - gap).masked_fill(~crosses, 1.0), 1.0)
    return at.nan_to_num_(nan=1.0).sort(-1).values  # where a reference is infinite
