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


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """Half the input, gated by the other half (Dauphin et al., 2017)."""
    a, b = input.chunk(2, dim)
    return a * torch.sigmoid(b)


def softmin(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    """The softmax of the negative."""
    return F.softmax(-input, dim, dtype=dtype)


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Bounds that are numbers, or tensors, which may be attributed themselves."""
    numbers = not isinstance(min, Tensor) and not isinstance(max, Tensor)
    if numbers and min is not None and max is not None and min <= max:
        return F.hardtanh(input, min, max)
    if min is not None:
        bounded = isinstance(min, Tensor)
        input = torch.maximum(input, min) if bounded else torch.clamp_min(input, min)
    if max is not None:
        bounded = isinstance(max, Tensor)
        input = torch.minimum(input, max) if bounded else torch.clamp_max(input, max)
    return input


def gumbel_softmax(
    logits: Tensor,
    tau: float = 1,
    hard: bool = False,
    eps: float = 1e-10,
    dim: int = -1,
) -> Tensor:
    """A softmax with Gumbel noise (Jang et al., 2017); hard picks the highest."""
    noise = -torch.empty_like(logits.detach()).exponential_().log()
    soft = torch.softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    index = soft.argmax(dim, keepdim=True)
    return torch.zeros_like(soft).scatter(dim, index, 1.0)


def mish(input: Tensor) -> Tensor:
    """x·tanh(softplus(x)) (Misra, 2019)."""
    return input * torch.tanh(F.softplus(input))


def hardsigmoid(input: Tensor) -> Tensor:
    """clamp(x/6 + 1/2, 0, 1)."""
    return torch.clamp(input / 6 + 0.5, 0, 1)


def hardswish(input: Tensor) -> Tensor:
    """x·hardsigmoid(x)."""
    return input * torch.clamp(input / 6 + 0.5, 0, 1)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """X without its middle: x - clamp(x, -λ, λ)."""
    return input - torch.clamp(input, -lambd, lambd)


def tanhshrink(input: Tensor) -> Tensor:
    """X - tanh(x)."""
    return input - torch.tanh(input)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Leaky ReLU with one slope, or one per channel."""
    if weight.numel() > 1 and input.dim() > 1:
        weight = weight.view(1, -1, *[1] * (input.dim() - 2))
    return torch.relu(input) - weight * torch.relu(-input)


def rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False
) -> Tensor:
    """Randomised leaky ReLU outside training: the mean of its slopes."""
    if training:
        return NotImplemented  # it draws a slope for every value
    return F.leaky_relu(input, (lower + upper) / 2)


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


def linalg_norm(
    A: Tensor,
    ord: Any = None,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Tensor:
    """torch.linalg.norm where it is a vector's."""
    one = isinstance(dim, int) or len(dim or A.shape) == 1
    if ord == 0 or isinstance(ord, str) or not (ord is None or one):
        return NotImplemented
    order = 2 if ord is None else ord
    return torch.linalg.vector_norm(A, order, dim, keepdim, dtype=dtype)


def normalize(
    input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None
) -> Tensor:
    """A vector over its norm."""
    return input / torch.linalg.vector_norm(input, p, dim, True).clamp_min(eps)


def cosine_similarity(
    x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8
) -> Tensor:
    """The product of two normalised vectors, of which one may be broadcast."""
    dtype = torch.promote_types(x1.dtype, x2.dtype)
    x1, x2 = (x if x.is_floating_point() else x.to(dtype) for x in (x1, x2))
    x1, x2 = torch.broadcast_tensors(x1, x2)
    return (normalize(x1, 2, dim, eps) * normalize(x2, 2, dim, eps)).sum(dim)


def addcdiv(
    input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1
) -> Tensor:
    """Input + value·tensor1/tensor2."""
    return input + value * (tensor1 / tensor2)


def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """The log-odds, ln p - ln(1 - p)."""
    p = input if eps is None else input.clamp(eps, 1 - eps)
    return p.log() - (-p).log1p()


def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """ln(e^a + e^b)."""
    return torch.logsumexp(torch.stack(torch.broadcast_tensors(input, other)), 0)


def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """The least and the greatest."""
    dims = tuple(range(input.dim())) if dim is None else dim
    ends = torch.amin(input, dims, keepdim), torch.amax(input, dims, keepdim)
    return torch.return_types.aminmax(ends)


def msort(input: Tensor) -> Tensor:
    """Sorted along the first dimension."""
    return torch.sort(input, 0).values


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The norm of the difference."""
    return torch.linalg.vector_norm(input - other, p)


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The norm of each row's difference, moved off 0 by eps."""
    return torch.linalg.vector_norm(x1 - x2 + eps, p, -1, keepdim)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    """The norm of the difference of every two rows."""
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def frac(input: Tensor) -> Tensor:
    """X without its integer part."""
    return input - torch.trunc(input)


def logaddexp2(input: Tensor, other: Tensor) -> Tensor:
    """log₂(2^a + 2^b)."""
    return logaddexp(input * math.log(2), other * math.log(2)) / math.log(2)


#: Have two names in torch.
_INVERSES = "sin cos tan sinh cosh tanh".split()

#: Names of torch functions, and the composite that each is run as.
COMPOSITES: tuple[tuple[str, Any], ...] = (
    ("clamp", clamp),
    ("clip", clamp),
    ("glu", glu),
    ("gumbel_softmax", gumbel_softmax),
    ("softmin", softmin),
    ("mish", mish),
    ("hardsigmoid", hardsigmoid),
    ("hardswish", hardswish),
    ("softshrink", softshrink),
    ("tanhshrink", tanhshrink),
    ("prelu", prelu),
    ("rrelu", rrelu),
    ("norm", norm),
    ("linalg_norm", linalg_norm),
    ("normalize", normalize),
    ("cosine_similarity", cosine_similarity),
    ("addcdiv", addcdiv),
    ("logaddexp", logaddexp),
    ("logit", logit),
    ("aminmax", aminmax),
    ("msort", msort),
    ("dist", dist),
    ("pairwise_distance", pairwise_distance),
    ("cdist", cdist),
    ("frac", frac),
    ("logaddexp2", logaddexp2),
    *((f"arc{name}", getattr(torch, f"a{name}")) for name in _INVERSES),
)
