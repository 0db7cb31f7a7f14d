r"""Layer, RMS, group and instance normalisation in one step.

With :math:`c = x - \mathrm{mean}(x)` (linear; c = x for RMS norm) and
:math:`\sigma = \sqrt{\mathrm{mean}(c^2) + \epsilon}`, the output is what times
:math:`\sigma` gives c. That product's rule, :math:`\Delta c = \bar\sigma\,\Delta y +
\bar y\,\Delta\sigma`, and the chain :math:`\Delta\sigma = \mathrm{mean}(\bar c\,
\Delta c)/\bar\sigma` of square, mean and root, solved for :math:`\Delta y`, give

.. math::
    m_c = \frac{1}{\bar\sigma}\left(M - \frac{\bar c}{\bar\sigma}\,
          \mathrm{mean}(\bar y M)\right), \qquad
    \bar y = \tfrac12\left(\frac{c}{\sigma} + \frac{c_0}{\sigma_0}\right),

where the means run over the normalised values: the derivative of the norm, with the
mean of both sides for each quantity. All of it is bounded by the larger side. As c
times :math:`1/\sigma` it would add up too, but :math:`1/\sigma_0` of a flat reference,
a zero embedding say, is 300 times as large as any other, and the shares with it, to
cancel in the sum. Plain gradients, as elsewhere, hold :math:`\sigma` constant or take
it at the input alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..declarations import rule
from ..pairs import Multiplier, Operand, Pair, Rule, widened
from .elementwise import of_one
from .lazy import Lazy


@rule("layer_norm", make=of_one, keeps="operands")
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
    dims = tuple(range(-len(normalized_shape), 0))
    return _standardised(x, dims, eps, weight, centred=True)


@rule("rms_norm", make=of_one, keeps="operands")
def rms_norm(
    y: Pair,
    x: Pair,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Multiplier:
    """F.rms_norm with a constant weight."""
    dims = tuple(range(-len(normalized_shape), 0))
    values = widened(x)  # torch takes the eps of these
    eps = torch.finfo(values.input.dtype).eps if eps is None else eps
    return _standardised(x, dims, eps, weight, centred=False)


@rule("group_norm", make=of_one, keeps="operands")
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
    shape, operand = x.input.shape, x.operand
    grouped = (shape[0], num_groups, -1)
    flat = Pair(x.input.reshape(grouped), x.reference.reshape(grouped))
    factors = _factors(widened(flat), (-1,), eps, centred=True)
    per_channel = None if weight is None else weight.view(-1, *[1] * (len(shape) - 2))

    def multiplier(upstream: Tensor) -> tuple[tuple[Operand, Tensor]]:
        m = upstream if per_channel is None else upstream * per_channel
        share = _shared(m.reshape(grouped), *factors, (-1,), centred=True)
        return ((operand, share.reshape(shape).to(operand.dtype)),)

    return multiplier


@rule("batch_norm", make=of_one, keeps="operands")
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
    shape = (1, -1, *[1] * (x.input.dim() - 2))
    scale = None if weight is None else weight.view(shape)
    if not training and running_var is not None:
        slope = torch.rsqrt(running_var.view(shape) + eps)
        slope, operand = slope if scale is None else slope * scale, x.operand
        return lambda upstream: ((operand, (upstream * slope).to(operand.dtype)),)
    dims = tuple(d for d in range(x.input.dim()) if d != 1)
    return _standardised(x, dims, eps, scale, centred=True)


@rule("instance_norm", make=of_one, keeps="operands")
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
    """F.instance_norm: a group for each channel, or with running statistics linear."""
    if not use_input_stats:
        return batch_norm(y, x, running_mean, running_var, weight, bias, eps=eps)
    return group_norm(y, x, x.input.shape[1], weight, bias, eps)


def _weights_first(normalise: Rule) -> Rule:
    """The rule for torch's own function, which takes its arguments in another order."""

    def reordered(
        y: Pair, x: Any, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any
    ) -> Multiplier:
        options = rest[:3]  # and whether it may use cuDNN
        return normalise(y, x, mean, var, weight, bias, *options)

    return of_one(reordered, normalise.__name__)


TORCHS_OWN = (
    rule(torch.batch_norm, _weights_first(batch_norm), keeps="operands"),
    rule(torch.instance_norm, _weights_first(instance_norm), keeps="operands"),
)


def _standardised(
    x: Pair, dims: tuple[int, ...], eps: float, weight: Tensor | None, *, centred: bool
) -> Multiplier:
    """The multiplier of a norm over ``dims``, row by row if that is the last one."""
    operand = x.operand

    def parts(side: Tensor, side0: Tensor) -> tuple[Tensor, ...]:
        return _factors(widened(Pair(side, side0)), dims, eps, centred)

    def share(upstream: Tensor, y: Tensor, ratio: Tensor, slope: Tensor) -> Tensor:
        m = upstream if weight is None else upstream * weight
        return _shared(m, y, ratio, slope, dims, centred).to(operand.dtype)

    if dims == (-1,):
        kind = (_factors, eps, centred)
        return Lazy(x, parts, share, row=operand.shape[-1], kind=kind)
    factors = parts(*x.sides)
    return lambda upstream: ((operand, share(upstream, *factors)),)


def _factors(
    x: Pair, dims: tuple[int, ...], eps: float, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """2ȳ, c̄/σ̄ over twice the count of what is normalised, negative, and 1/σ̄."""
    c, c0 = (_centred(s, dims) if centred else s for s in x.sides)
    count = math.prod(c.shape[d] for d in dims)
    norms = (torch.linalg.vector_norm(s, dim=dims, keepdim=True) for s in (c, c0))
    sigma, sigma0 = (norm.square_().div_(count).add_(eps).sqrt_() for norm in norms)
    slope = 2 / (sigma + sigma0)
    y = (c * sigma.reciprocal_()).addcmul_(c0, sigma0.reciprocal_())
    halfway = torch.Tensor.lerp_ if centred else torch.lerp  # not on what is x itself
    return y, halfway(c, c0, 0.5).mul_(slope / (-2 * count)), slope


def _centred(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """What is left of x without its mean; the second time, what the first rounded."""
    part = 1 / math.prod(x.shape[d] for d in dims)
    c = torch.sub(x, x.sum(dims, keepdim=True), alpha=part)
    return c.sub_(c.sum(dims, keepdim=True), alpha=part)


def _shared(
    m: Tensor,
    y: Tensor,
    ratio: Tensor,
    slope: Tensor,
    dims: tuple[int, ...],
    centred: bool,
) -> Tensor:
    """From M to m_x, by the formula above."""
    m = m.to(y.dtype)
    inner = (y * m).sum(dims, keepdim=True)
    m = m - m.mean(dims, keepdim=True) if centred else m.clone()
    return m.addcmul_(ratio, inner).mul_(slope)  # the ratio's own mean is 0
