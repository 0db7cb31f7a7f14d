"""What a model's answer depends on beside its inputs, so that a change is seen.

A plan is what a model did once. It may be run again as long as the model would do the
same: modules, parameters, hooks, flags and plain attributes, the methods of its
classes, and what the user's own code reads of closures and globals have to be what
they were. The values *in* tensors may change, since a plan reads them where they are.

The model is walked once; then it is only seen whether each place still holds the same
object, which takes microseconds.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from operator import is_
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .state import take_cell


class UnwatchableError(Exception):
    """The model holds what no change can be seen of."""


class Watched:
    """All that a model is made of, at one time.

    Args:
        roots: The model, and whatever else the answer depends on.
        apart: What is looked at no closer, such as its dataset.

    Attributes:
        tensors: All tensors of it.

    Raises:
        UnwatchableError: If there is too much of it, a generator of random numbers, or
            a module with forward hooks.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
        >>> seen = Watched([model])
        >>> _ = nn.init.zeros_(model[0].weight)
        >>> seen.same([model])
        True
        >>> model[1] = nn.Tanh()
        >>> seen.same([model])
        False
    """

    def __init__(self, roots: Sequence[Any], apart: Iterable[Any] = ()) -> None:
        self.tensors: list[Tensor] = []
        self._empty: list[Any] = []
        self._mappings: list[Mapping[Any, Any]] = []
        self._collections: list[Any] = []
        self._arrays: list[np.ndarray] = []
        self._functions: list[FunctionType] = []
        self._cells: list[CellType] = []
        self._globals: list[tuple[dict[str, Any], list[str]]] = []
        self._todo: list[Any] = list(roots)
        self._seen = {id(each): each for each in apart}
        while self._todo:
            self._see(self._todo.pop())
            if len(self._seen) > MOST:
                raise UnwatchableError(f"the model consists of more than {MOST} parts")
        self._state = self._now(roots)

    def same(self, roots: Sequence[Any]) -> bool:
        """Whether the model is still made of the same."""
        if any(self._empty):
            return False
        objects, facts = self._now(roots)
        then, facts_then = self._state
        return facts == facts_then and all(map(is_, objects, then))

    def _now(self, roots: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """What has to be identical, and what equal."""
        found = list(roots)
        for mapping in self._mappings:
            found += mapping
            found += mapping.values()
        for items in self._collections:
            found += items
        for function in self._functions:
            found += (function.__code__, function.__defaults__)
        for cell in self._cells:
            found += take_cell(cell)
        for space, names in self._globals:
            found += map(space.get, names)
        sizes = *map(len, self._mappings), *map(len, self._collections), len(found)
        layouts = [
            (x.data_ptr(), x.shape, x.dtype) if x.layout is torch.strided else x.layout
            for x in self.tensors
        ]
        return found, [sizes, layouts, [a.tobytes() for a in self._arrays]]

    def _see(self, value: Any) -> None:
        kind = type(value)
        if kind in _PLAIN or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        look = _look(kind)  # type: ignore[arg-type]
        if look is not None:
            look(self, value)

    def _tensor(self, value: Tensor) -> None:
        self.tensors.append(value)

    def _array(self, value: np.ndarray) -> None:
        if value.nbytes > LARGEST or value.dtype == object:
            raise UnwatchableError(f"it holds a NumPy array of {value.nbytes} bytes")
        self._arrays.append(value)

    def _mapping(self, value: Mapping[Any, Any]) -> None:
        (self._mappings if value else self._empty).append(value)
        self._todo += value.values()

    def _items(self, value: Any) -> None:
        (self._collections if value else self._empty).append(value)
        self._todo += value

    def _module(self, value: nn.Module) -> None:
        content = value.__dict__
        for hooks in ("_forward_hooks", "_forward_pre_hooks"):
            if content[hooks]:
                raise UnwatchableError(f"a {type(value).__name__} has forward hooks")
            self._empty.append(content[hooks])
        self._mappings.append(content)
        self._todo += (v for k, v in content.items() if k not in _HOOKS)
        self._todo.append(type(value))

    def _plain(self, value: Any) -> None:
        """An object of a class that is written in Python."""
        if hasattr(value, "__dict__"):
            self._mapping(vars(value))
        slots = (vars(base).get("__slots__", ()) for base in type(value).__mro__)
        for names in slots:
            for name in (names,) if isinstance(names, str) else names:
                self._todo.append(getattr(value, name, None))
        self._todo.append(type(value))

    def _class(self, value: type) -> None:
        for base in value.__mro__:
            if base is object or base.__module__.startswith("torch."):
                continue
            if id(base) in self._seen and base is not value:
                continue
            self._seen[id(base)] = base
            self._mappings.append(vars(base))  # whose methods may be exchanged
            if not _installed(base.__module__):
                self._todo += vars(base).values()

    def _function(self, value: FunctionType) -> None:
        for cell in value.__closure__ or ():
            self._cells.append(cell)
            self._todo += take_cell(cell)
        if _installed(value.__module__):
            return
        self._functions.append(value)
        self._todo += value.__defaults__ or ()
        self._todo += (value.__kwdefaults__ or {}).values()
        self._read(value.__globals__, _names_of(value.__code__))

    def _read(self, space: dict[str, Any], names: Iterable[str]) -> None:
        """What code reads of a module's globals, and of modules among these."""
        there = [name for name in names if name in space]
        self._globals.append((space, there))
        for value in map(space.get, there):
            self._todo.append(value)
            if isinstance(value, ModuleType) and not _installed(value.__name__):
                if id(value) not in self._seen:
                    self._seen[id(value)] = value
                    self._read(vars(value), names)

    def _method(self, value: MethodType) -> None:
        self._todo += (value.__func__, value.__self__)

    def _partial(self, value: partial[Any]) -> None:
        self._todo += (value.func, value.args, value.keywords)

    def _wrapper(self, value: Any) -> None:
        self._todo.append(value.__func__)

    def _property(self, value: Any) -> None:
        self._todo.append(value.fget)

    def _generator(self, value: Any) -> None:
        raise UnwatchableError(f"it holds a {type(value).__name__} of its own")


@cache
def _look(kind: type) -> Callable[[Watched, Any], None] | None:
    """How to look at objects of a type; None: of these it only counts which one."""
    for base, look in _BY_BASE.items():
        if issubclass(kind, base):
            return look
    root = kind.__module__.partition(".")[0]
    settled = root in sys.stdlib_module_names or root in ("torch", "numpy")
    return None if settled and root != "__main__" else Watched._plain


@cache
def _names_of(code: CodeType) -> tuple[str, ...]:
    """The names that a function may look up in its globals, with those inside it."""
    names = dict.fromkeys(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names.update(dict.fromkeys(_names_of(inner)))
    return tuple(names)


@cache
def _installed(module: str) -> bool:
    """Whether code is of a package that is installed, not of the user's own files."""
    root = module.partition(".")[0]
    if root in (*sys.stdlib_module_names, __name__.partition(".")[0]):
        return root != "__main__"
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return "site-packages" in file


#: So many parts at most.
MOST = 50_000

#: Bytes of a NumPy array that are compared each time.
LARGEST = 1 << 16

_PLAIN = frozenset(
    {type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device}
)

#: The attributes of every module that are dicts of hooks.
_HOOKS = frozenset(name for name in vars(nn.Module()) if name.endswith("_hooks"))

_BY_BASE: dict[type, Callable[[Watched, Any], None] | None] = {
    Tensor: Watched._tensor,
    nn.Module: Watched._module,
    dict: Watched._mapping,
    list: Watched._items,
    tuple: Watched._items,
    set: Watched._items,
    frozenset: Watched._items,
    deque: Watched._items,
    type: Watched._class,
    FunctionType: Watched._function,
    MethodType: Watched._method,
    partial: Watched._partial,
    staticmethod: Watched._wrapper,
    classmethod: Watched._wrapper,
    property: Watched._property,
    np.ndarray: Watched._array,
    np.random.Generator: Watched._generator,
    np.random.RandomState: Watched._generator,
    torch.Generator: Watched._generator,
    random.Random: Watched._generator,
}
