"""What steers a computation or asks about a tensor: calls that have no multiplier.

Of the structural ones, those whose answers are numbers that can be shared out are in
:mod:`.flags`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ..declarations import Kind, neutral, rule, structure

ANSWERS = structure(
    "isnan isinf isfinite isposinf isneginf isclose allclose equal item tolist __bool__"
    " __int__ __float__ __index__ __contains__ numpy __array__ is_nonzero"
)
INDICES = structure(
    "nonzero argwhere argmax argmin argsort searchsorted bucketize unique"
    " unique_consecutive histc bincount"
)
SAMPLES = structure("multinomial bernoulli poisson binomial normal", random=True)

QUERIES = neutral(
    "size dim ndimension numel nelement stride storage_offset is_contiguous"
    " is_floating_point is_complex is_tensor is_same_size data_ptr untyped_storage"
    " element_size __hash__ __repr__ __str__ __format__ result_type can_cast"
    " promote_types is_inference is_pinned is_shared has_names __dir__ is_signed"
    " is_conj is_neg __reduce_ex__"
)
NEW = neutral(
    "zeros_like ones_like empty_like full_like new_zeros new_ones new_full new_empty"
    " new zeros ones empty full arange linspace eye tril_indices triu_indices"
)

IDENTITIES = rule("detach detach_ .data", kind=Kind.IDENTITY, twins=False)


def _no_hook(*_: Any) -> RemovableHandle:
    """Hooks on gradients are not meant for multipliers."""
    return RemovableHandle(OrderedDict())


def _set_requires_grad(tensor: Tensor, requires_grad: bool = True) -> Tensor:
    """What is attributed keeps its place in the graph."""
    return tensor.requires_grad_(requires_grad) if tensor.is_leaf else tensor


GRADIENTS = (
    rule(torch._C._set_grad_enabled, kind=Kind.IGNORE),
    rule("retain_grad", kind=Kind.IGNORE),
    rule("register_hook", _no_hook, kind=Kind.IGNORE),
    rule("requires_grad_ .requires_grad=", _set_requires_grad, kind=Kind.IGNORE),
)
