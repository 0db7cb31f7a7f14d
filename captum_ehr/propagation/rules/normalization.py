r"""Layer, RMS, group and instance normalisation in one step.

With :math:`c = x - \mathrm{mean}(x)` (linear; c = x for RMS norm),
:math:`v = \mathrm{mean}(c^2)` and :math:`r = 1/\sqrt{v + \epsilon}`, the chain
centre → square → mean → rsqrt → product gives

.. math::
    m_c = \bar r M + 2 k\, \bar c\, \mathrm{mean}\!\left(\bar c M\right), \qquad
    k = -\frac{(r r_0)^2}{r + r_0},

where the means run over the normalised values, and k is the secant of the inverse
root. Plain gradients, as elsewhere, hold r constant or take it at the input alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..pairs import Multiplier, Operand, Pair, Rule, wide


def layer_norm(
    y: Pair,
    x: Pair,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Multiplier:
    """F.layer_norm with constant weight and bias."""
    if isinstance(weight, Pair) or isinstance(bias, Pair):
        return NotImplemented
    dims = tuple(range(-len(normalized_shape), 0))
    share = _standardise(wide(x), dims, eps, centred=True)
    return _scaled(x, weight, share)


def rms_norm(
    y: Pair,
    x: Pair,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Multiplier:
    """F.rms_norm with a constant weight."""
    if isinstance(weight, Pair):
        return NotImplemented
    dims = tuple(range(-len(normalized_shape), 0))
    values = wide(x)  # torch takes the eps of these
    eps = torch.finfo(values.input.dtype).eps if eps is None else eps
    share = _standardise(values, dims, eps, centred=False)
    return _scaled(x, weight, share)


def group_norm(
    y: Pair,
    x: Pair,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Multiplier:
    """F.group_norm: layer norm over the channels of a group and all positions."""
    if isinstance(weight, Pair) or isinstance(bias, Pair):
        return NotImplemented
    shape = x.input.shape
    grouped = (shape[0], num_groups, -1)
    flat = Pair(x.input.reshape(grouped), x.reference.reshape(grouped))
    share = _standardise(wide(flat), (-1,), eps, True)
    per_channel = None if weight is None else weight.view(-1, *[1] * (len(shape) - 2))
    return _scaled(x, per_channel, lambda m: share(m.reshape(grouped)).reshape(shape))


def batch_norm(
    y: Pair,
    x: Pair,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Multiplier:
    """F.batch_norm: linear with running statistics, else standardised over rows."""
    if isinstance(weight, Pair) or isinstance(bias, Pair):
        return NotImplemented
    shape = (1, -1, *[1] * (x.input.dim() - 2))
    scale = None if weight is None else weight.view(shape)
    if not training and running_var is not None:
        slope = torch.rsqrt(running_var.view(shape) + eps)
        return _scaled(x, slope if scale is None else slope * scale, lambda m: m)
    dims = tuple(d for d in range(x.input.dim()) if d != 1)
    return _scaled(x, scale, _standardise(wide(x), dims, eps, centred=True))


def instance_norm(
    y: Pair,
    x: Pair,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Multiplier:
    """F.instance_norm on the statistics of its input: a group for each channel."""
    if not use_input_stats:
        return NotImplemented
    return group_norm(y, x, x.input.shape[1], weight, bias, eps)


def weights_first(rule: Rule) -> Rule:
    """The rule for torch's own function, which takes its arguments in another order."""

    def reordered(
        y: Pair, x: Any, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any
    ) -> Multiplier:
        options = rest[:3]  # and whether it may use cuDNN
        return rule(y, x, mean, var, weight, bias, *options)

    reordered.__name__ = rule.__name__
    return reordered


def _scaled(
    x: Pair, weight: Tensor | None, share: Callable[[Tensor], Tensor]
) -> Multiplier:
    operand = x.operand

    def multiplier(upstream: Tensor) -> tuple[tuple[Operand, Tensor]]:
        m = upstream if weight is None else upstream * weight
        return ((operand, share(m).to(operand.dtype)),)

    return multiplier


def _standardise(
    x: Pair, dims: tuple[int, ...], eps: float, centred: bool
) -> Callable[[Tensor], Tensor]:
    """The formula above: from M to m_x, over ``dims``."""
    sides = [s - s.mean(dims, keepdim=True) if centred else s for s in x.sides]
    r, r0 = (torch.rsqrt((c * c).mean(dims, keepdim=True) + eps) for c in sides)
    halfway = torch.Tensor.lerp_ if centred else torch.lerp  # not on what is x itself
    c_mean = halfway(sides[0], sides[1], 0.5)
    r_mean = (r + r0) / 2
    both = r * r0
    k = -2 / math.prod(x.input.shape[d] for d in dims) * both * (both / (r + r0))

    def share(m: Tensor) -> Tensor:
        m = m.to(c_mean.dtype)
        inner = (c_mean * m).sum(dims, keepdim=True) * k
        out = m - m.mean(dims, keepdim=True) if centred else m.clone()
        return out.mul_(r_mean).addcmul_(c_mean, inner)  # c_mean's own mean is 0

    return share
