"""Arguments and outputs: tensors, in lists, tuples and dicts, however nested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import torch
from torch import Tensor


def leaves[T](value: Any, kind: type[T]) -> Iterator[T]:
    """Everything of a kind in an argument or output, in order."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item, kind)
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item, kind)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in an argument or output, in order."""
    return leaves(value, Tensor)


def mapped(
    function: Callable[..., Any], value: Any, *others: Any, kind: Any = Tensor
) -> Any:
    """A function of every tensor in an argument or output, in the same containers.

    It is given what stands in a tensor's place in the others, of the same structure,
    too; and it may be one of another kind than tensors.

    Example:
        >>> import torch
        >>> mapped(torch.neg, {"h": [torch.ones(1), None]})
        {'h': [tensor([-1.]), None]}
    """
    if isinstance(value, kind):
        return function(value, *others)
    if value is None or isinstance(value, (int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        parts = zip(value, *others)
        return rewrapped(value, [mapped(function, *each, kind=kind) for each in parts])
    if isinstance(value, dict):
        filled = copy(value)
        for key, item in value.items():
            rest = (other[key] for other in others)
            filled[key] = mapped(function, item, *rest, kind=kind)
        return filled
    return value


def rewrapped(like: Any, parts: Any) -> Any:
    """Several values in the type that they came in, e.g. with names."""
    return like._make(parts) if hasattr(like, "_make") else type(like)(parts)


def detached(value: Any) -> Any:
    """The same without autograd's history."""
    if isinstance(value, Tensor):
        return value.detach()
    return mapped(Tensor.detach, value)


def same(first: Any, other: Any) -> bool:
    """Whether two outputs of one function have the same values."""
    return all(map(torch.equal, tensors_in(first), tensors_in(other)))
