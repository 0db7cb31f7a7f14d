"""Functions that are a few others one after the other, run as these.

Each takes torch's own arguments and returns what torch returns; the calls inside it
have rules of their own. One that does not serve its arguments says NotImplemented
before it calls anything.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..declarations import composite


@composite("glu")
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """Half the input, gated by the other half (Dauphin et al., 2017)."""
    a, b = input.chunk(2, dim)
    return a * torch.sigmoid(b)


@composite("clamp clip")
def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Bounds that are numbers, or tensors, which may be attributed themselves."""
    numbers = isinstance(min, (int, float)) and isinstance(max, (int, float))
    if numbers and input.is_floating_point() and min <= max:
        return F.hardtanh(input, min, max)  # of whole numbers it rounds the bounds
    if min is not None:
        input = torch.clamp_min(input, min)
    return input if max is None else torch.clamp_max(input, max)


@composite("gumbel_softmax")
def gumbel_softmax(
    logits: Tensor,
    tau: float = 1,
    hard: bool = False,
    eps: float = 1e-10,
    dim: int = -1,
) -> Tensor:
    """A softmax with Gumbel noise (Jang et al., 2017); hard picks the highest."""
    plain = torch.legacy_contiguous_format  # in which torch draws it
    noise = torch.empty_like(logits.detach(), memory_format=plain).exponential_()
    soft = torch.softmax((logits - noise.log()) / tau, dim)
    if not hard:
        return soft
    index = soft.argmax(dim, keepdim=True)
    return torch.zeros_like(soft).scatter(dim, index, 1.0)


@composite("prelu")
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Leaky ReLU with one slope, or one per channel."""
    if weight.numel() > 1 and input.dim() > 1:
        weight = weight.view(1, -1, *[1] * (input.dim() - 2))
    return torch.relu(input) - weight * torch.relu(-input)


@composite("rrelu", random=True)
def rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False
) -> Tensor:
    """Randomised leaky ReLU outside training: the mean of its slopes."""
    if training:
        return NotImplemented  # it draws a slope for every value
    return F.leaky_relu(input, (lower + upper) / 2)


@composite("norm")
def norm(
    input: Tensor,
    p: Any = "fro",
    dim: Any = None,
    keepdim: bool = False,
    out: Any = None,
    dtype: Any = None,
) -> Tensor:
    """torch.norm of vectors; the Frobenius norm is the 2-norm of all entries."""
    if p in ("nuc", 0):
        return NotImplemented
    order = 2.0 if p in ("fro", None) else p
    return torch.linalg.vector_norm(input, order, dim, keepdim, dtype=dtype)


@composite("linalg_norm")
def linalg_norm(
    A: Tensor,
    ord: Any = None,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Tensor:
    """torch.linalg.norm where it is a vector's."""
    single = isinstance(dim, int) or len(dim or A.shape) == 1
    if ord == 0 or isinstance(ord, str) or not (ord is None or single):
        return NotImplemented
    order = 2 if ord is None else ord
    return torch.linalg.vector_norm(A, order, dim, keepdim, dtype=dtype)


@composite("normalize")
def normalize(
    input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None
) -> Tensor:
    """A vector over its norm."""
    return input / torch.linalg.vector_norm(input, p, dim, True).clamp_min(eps)


@composite("cosine_similarity")
def cosine_similarity(
    x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8
) -> Tensor:
    """The product of two normalised vectors, of which one may be broadcast."""
    dtype = torch.promote_types(x1.dtype, x2.dtype)
    x1, x2 = (x if x.is_floating_point() else x.to(dtype) for x in (x1, x2))
    x1, x2 = torch.broadcast_tensors(x1, x2)
    return (normalize(x1, 2, dim, eps) * normalize(x2, 2, dim, eps)).sum(dim)


@composite("aminmax")
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """The least and the greatest."""
    dims = tuple(range(input.dim())) if dim is None else dim
    ends = torch.amin(input, dims, keepdim), torch.amax(input, dims, keepdim)
    return torch.return_types.aminmax(ends)


def _logaddexp(input: Tensor, other: Tensor) -> Tensor:
    like = input + other  # of two dtypes, or one a number on another device
    both = torch.broadcast_tensors(input.to(like), other.to(like))
    return torch.logsumexp(torch.stack(both), 0)


def _logit(input: Tensor, eps: float | None = None) -> Tensor:
    p = input if eps is None else input.clamp(eps, 1 - eps)
    return p.log() - (-p).log1p()


#: What a line says; x·tanh(softplus(x)) is by Misra, 2019.
LINES = (
    composite("mish", lambda input: input * torch.tanh(F.softplus(input))),
    composite("hardsigmoid", lambda input: torch.clamp(input / 6 + 0.5, 0, 1)),
    composite("hardswish", lambda input: input * torch.clamp(input / 6 + 0.5, 0, 1)),
    composite("softshrink", lambda x, lambd=0.5: x - torch.clamp(x, -lambd, lambd)),
    composite("tanhshrink", lambda input: input - torch.tanh(input)),
    composite(
        "softmin",
        lambda x, dim=None, _stacklevel=3, dtype=None: F.softmax(-x, dim, dtype=dtype),
    ),
    composite("addcdiv", lambda x, a, b, *, value=1: x + value * (a / b)),
    composite("frac", lambda input: input - torch.trunc(input)),
    composite("msort", lambda input: torch.sort(input, 0).values),
    composite("logit", _logit),
    composite("logaddexp", _logaddexp),
    composite(
        "logaddexp2",
        lambda a, b: _logaddexp(a * math.log(2), b * math.log(2)) / math.log(2),
    ),
    composite("dist", lambda a, b, p=2: torch.linalg.vector_norm(a - b, p)),
    composite(  # the norm of each row's difference, moved off 0 by eps
        "pairwise_distance",
        lambda a, b, p=2.0, eps=1e-6, keepdim=False: torch.linalg.vector_norm(
            a - b + eps, p, -1, keepdim
        ),
    ),
    composite(  # the norm of the difference of every two rows
        "cdist",
        lambda a, b, p=2.0, compute_mode=None: torch.linalg.vector_norm(
            a.unsqueeze(-2) - b.unsqueeze(-3), p, -1
        ),
    ),
    # with two names in torch
    *(
        composite(f"arc{name}", getattr(torch, f"a{name}"))
        for name in "sin cos tan sinh cosh tanh".split()
    ),
)
