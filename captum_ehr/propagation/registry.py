"""The table of rules: which torch function or module type is served by which rule.

A table is a plain mapping made anew for every explainer that adds rules; nothing
here is global state.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from .declarations import Declaration, Entry, Kind, named, overwrites
from .pairs import Rule
from .rules import (
    attention,
    composites,
    cumulative,
    elementwise,
    extrema,
    flags,
    linear,
    normalization,
    norms,
    products,
    recurrent,
    softmax,
    structural,
)
from .rules.handlers import captum_handler, is_captum_handler

#: From torch function, or nn.Module type, to its entry.
type Table = Mapping[Any, Entry]

#: Where rules are declared.
_MODULES = (
    *(structural, linear, elementwise, products, softmax, normalization, norms),
    *(cumulative, extrema, attention, recurrent, composites, flags),
)


def declarations(modules: Iterable[Any] = _MODULES) -> Iterator[Declaration]:
    """All that modules of rules say of themselves."""
    for module in modules:
        for value in vars(module).values():
            if getattr(value, "__module__", "") == module.__name__:  # not imported
                value = getattr(value, "declaration", value)
            some = value if type(value) is tuple else (value,)
            yield from (each for each in some if isinstance(each, Declaration))


@cache
def default_table() -> Table:
    """The rules that captum_ehr brings, read-only.

    Example:
        >>> default_table()[torch.softmax].name
        'softmax'
    """
    table: dict[Any, Entry] = dict.fromkeys(properties(), Entry(Kind.NEUTRAL))
    single: dict[Any, Entry] = {}  # of functions, which a name may stand for as well
    for declaration in declarations():
        for name in declaration.names:
            alike = list(named(name)) if isinstance(name, str) else [name]
            entry = declaration.entry
            if declaration.make is not None and alike:
                entry = entry._replace(rule=declaration.make(alike[0]))
            if not isinstance(name, str):
                single[name] = entry
                continue
            inplace = entry
            if entry.kind in (Kind.NATIVE, Kind.CAST):
                inplace = entry._replace(kind=Kind.OVERWRITE, rule=None)
            table.update(dict.fromkeys(alike, inplace if overwrites(name) else entry))
            if declaration.twins:
                table.update(_in_place(name, inplace))
    return types.MappingProxyType(table | single)


def _in_place(name: str, entry: Entry) -> Iterator[tuple[Callable[..., Any], Entry]]:
    """The functions that do the same in place, with what does it elsewhere."""
    if name in ("__imul__", "__itruediv__", "__ipow__"):
        method = getattr(torch.Tensor, name)
        plain = getattr(torch.Tensor, name.replace("__i", "__"))
        yield method, entry._replace(inplace=plain)
    for function in named(name + "_"):
        home = getattr(function, "__objclass__", None)
        plain = next(named(name)) if home is None else getattr(torch.Tensor, name)
        ruled = entry.kind is not Kind.OVERWRITE
        yield function, entry._replace(inplace=plain) if ruled else entry


def properties() -> Iterator[Any]:
    """Getters of tensor attributes (shape, T, device …)."""
    for name in dir(torch.Tensor):
        attribute = getattr(torch.Tensor, name, None)
        getter = getattr(attribute, "__get__", None)
        if getter is not None and not callable(attribute):
            yield getter


def with_rules(rules: Mapping[Any, Rule] | None, table: Table | None = None) -> Table:
    """A table with a user's rules on top.

    Args:
        rules: From torch function or ``nn.Module`` type to rule; handlers of module
            types may also have the signature of Captum's DeepLift.
        table: The table to extend; captum_ehr's own by default.

    Raises:
        TypeError: If a key is neither a function nor a module type, or a rule is
            not callable.
    """
    table = default_table() if table is None else table
    if not rules:
        return table
    if isinstance(table, types.MappingProxyType):
        extended = table.copy()  # ten times as fast as dict(table)
    else:
        extended = dict(table)
    for key, rule in rules.items():
        if not callable(key) or not callable(rule):
            raise TypeError(
                "rules maps torch functions or nn.Module types to rules; got "
                f"{key!r}: {rule!r}. See captum_ehr.propagation.elementwise."
            )
        rule = captum_handler(rule) if is_captum_handler(rule) else rule
        tags = table[key].tags if key in table else frozenset[str]()
        extended[key] = Entry(Kind.RULE, rule, tags=tags)
    return types.MappingProxyType(extended)


def module_types(table: Mapping[Any, Any]) -> tuple[type[nn.Module], ...]:
    """The nn.Module types that a table, or rules, treat as one operation."""
    return tuple(
        key for key in table if isinstance(key, type) and issubclass(key, nn.Module)
    )
