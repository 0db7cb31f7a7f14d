"""How a call's arguments are read: by the signature of what is called.

Rules take a call's operands by place, as the model most often gives them; a model may
as well name them, and torch has several names for some. Here they come into order.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.overrides import get_testing_overrides


class Names(NamedTuple):
    """A function's parameters that can be given by place, in order.

    Those that a rule takes by place, the same with the function's options, and other
    names that it takes for some.
    """

    operands: tuple[str, ...]
    all: tuple[str, ...]
    aliases: Mapping[str, str] = types.MappingProxyType({})


#: torch's builtins take these names for those, most of them as NumPy does.
_ALIASES = {
    **dict.fromkeys(("self", "x", "a", "x1"), "input"),
    **dict.fromkeys(("x2", "tensor"), "other"),
    **{"axis": "dim", "keepdims": "keepdim"},
}


def positional(
    function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The same call with its operands by place, however they were named.

    Of torch's functions these are the arguments that have no default; of others all
    that may be given by place.

    Example:
        >>> import torch
        >>> positional(torch.addmm, (1,), {"mat2": 3, "mat1": 2, "beta": 0.5})
        ((1, 2, 3), {'beta': 0.5})
        >>> positional(torch.amax, (1,), {"axis": 0})
        ((1,), {'dim': 0})
    """
    if not kwargs:
        return args, kwargs
    names = names_of(function)
    rest = names.operands[len(args) :]
    if rest or not names.aliases.keys().isdisjoint(kwargs):
        kwargs = {
            key if key in names.all else names.aliases.get(key, key): value
            for key, value in kwargs.items()
        }
        for name in rest:
            if name not in kwargs:
                break
            args = (*args, kwargs.pop(name))
    return args, kwargs


def argument(
    function: Callable[..., Any],
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    default: Any = None,
) -> Any:
    """One argument of a call, given by place, by name or not at all."""
    names = names_of(function).all
    place = names.index(name) if name in names else len(args)
    return args[place] if place < len(args) else kwargs.get(name, default)


def names_of(function: Callable[..., Any]) -> Names:
    """The names of a function's parameters."""
    known = _torchs_own().get(function)
    if known is not None:
        return known
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin that torch does not describe
        return Names(("input",), ("input",), _ALIASES)
    names = _names(signature)
    return Names(names.all, names.all) if inspect.ismethod(function) else names


@cache
def _torchs_own() -> dict[Callable[..., Any], Names]:
    """What torch says of its functions for those who override them."""
    table = {}
    for function, stand_in in get_testing_overrides().items():
        names = Names((), ())
        if inspect.isfunction(function):  # in Python: it knows best itself
            names = _names(inspect.signature(function, follow_wrapped=False))
        if not names.all:
            names = _names(inspect.signature(stand_in))._replace(aliases=_ALIASES)
            if names.operands[:1] in _FIRST:
                operands, every = (("input", *n[1:]) for n in names[:2])
                names = Names(operands, every, _ALIASES)
        table[function] = names
    return table | {f: Names(n, n, _ALIASES) for f, n in _MISTOLD.items()}


def _names(signature: inspect.Signature) -> Names:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    placed = [p for p in signature.parameters.values() if p.kind in kinds]
    required = tuple(p.name for p in placed if p.default is p.empty)
    return Names(required, tuple(p.name for p in placed))


#: Functions of which torch's list has other names, or fewer, than they take.
_MISTOLD = {
    torch.where: ("condition", "input", "other"),
    torch.Tensor.where: ("input", "condition", "other"),
    **dict.fromkeys((torch.dot, torch.Tensor.dot), ("input", "tensor")),
    torch.linalg.vecdot: ("x", "y"),
    torch.instance_norm: (
        *("input", "weight", "bias", "running_mean", "running_var"),
        *("use_input_stats", "momentum", "eps", "cudnn_enabled"),
    ),
}

#: What torch's list has for the first argument of builtins that take ``input``.
_FIRST = {("self",), ("inputs",), ("tensor",)}
