"""What a model's answer depends on beside its inputs, so that a change is seen.

A plan is what a model did once. It may be run again as long as the model would do the
same: modules, parameters, hooks, flags and plain attributes, the methods of its
classes, and what the user's own code reads of closures and globals have to be what
they were. The values *in* tensors may change, since a plan reads them where they are.

The model is walked once; then it is only seen whether each place still holds the same
object, which takes microseconds.
"""

from __future__ import annotations

import dis
import logging
import random
import sys
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import cache, partial
from operator import attrgetter, is_
from pathlib import PurePath
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
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
        UnwatchableError: If there is too much of it, a module with forward hooks, or
            what changes unseen: a generator of random numbers, an iterator, an object
            that a library keeps in C.

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
        self._arrays: list[Callable[[], bytes]] = []
        self._objects: list[Any] = []
        self._slots: list[tuple[Any, tuple[str, ...]]] = []
        self._pointers: list[Callable[[], Any]] = []
        self._functions: list[FunctionType] = []
        self._cells: list[CellType] = []
        self._globals: list[tuple[dict[str, Any], list[str]]] = []
        self._already: set[tuple[int, tuple[str, ...]]] = set()
        self._todo: list[Any] = list(roots)
        self._seen = {id(each): each for each in (*apart, *_OF_ALL)}
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
            found.append(function.__code__)
            found += (function.__defaults__, function.__kwdefaults__)
        for cell in self._cells:
            found += take_cell(cell)
        for space, names in self._globals:
            found += map(space.get, names)
        found += map(type, self._objects)
        found += map(vars, self._objects)
        for value, slots in self._slots:
            found += [getattr(value, name, None) for name in slots]
        found += [point() for point in self._pointers]
        sizes = *map(len, self._mappings), *map(len, self._collections), len(found)
        layouts = [
            (x.data_ptr(), x.shape, x.dtype) if x.layout is torch.strided else x.layout
            for x in self.tensors
        ]
        return found, [sizes, layouts, [take() for take in self._arrays]]

    def _see(self, value: Any) -> None:
        kind = type(value)
        if kind in _PLAIN or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        for look in _looks(kind):  # type: ignore[arg-type]
            look(self, value)

    def _tensor(self, value: Tensor) -> None:
        self.tensors.append(value)

    def _array(self, value: Any) -> None:
        """Memory that is written on in its place."""
        own = isinstance(value, np.ndarray)
        size = value.nbytes if own else memoryview(value).nbytes
        if size > LARGEST or (own and value.dtype.hasobject):
            raise UnwatchableError(f"it holds a {type(value).__name__} of {size} bytes")
        self._arrays.append(value.tobytes if own else partial(bytes, value))

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
        self._objects.append(value)
        self._todo += (v for k, v in content.items() if k not in _HOOKS)
        self._todo.append(type(value))

    def _plain(self, value: Any) -> None:
        """An object with attributes."""
        if hasattr(value, "__dict__"):
            self._objects.append(value)
            self._mapping(vars(value))
        self._members(value)
        self._todo.append(type(value))

    def _members(self, value: Any) -> None:
        """What stands in an object's slots."""
        if names := _members_of(type(value)):  # type: ignore[arg-type]
            self._slots.append((value, names))
            self._todo += (getattr(value, name, None) for name in names)

    def _class(self, value: type) -> None:
        for base in value.__mro__:
            if _settled(base):
                continue
            if id(base) in self._seen and base is not value:
                continue
            self._seen[id(base)] = base
            self._mappings.append(vars(base))  # whose methods may be exchanged
            if not installed(str(base.__module__)):
                self._todo += vars(base).values()

    def _function(self, value: FunctionType) -> None:
        for cell in value.__closure__ or ():
            self._cells.append(cell)
            self._todo += take_cell(cell)
        if installed(str(value.__module__)):
            return
        self._functions.append(value)
        self._todo += (value.__defaults__, value.__kwdefaults__)
        self._mapping(vars(value))
        space, names = value.__globals__, _names_of(value.__code__)
        self._read(space, names)
        package = space.get("__package__")
        imports = [
            name
            for each in _imports_of(value.__code__)
            for name in (each, f"{package}.{each}".rstrip("."))
        ]
        if imports:
            self._read(sys.modules, names, imports)

    def _read(
        self,
        space: dict[str, Any],
        names: tuple[str, ...],
        there: list[str] | None = None,
    ) -> None:
        """What code reads of a module's globals, and of modules among these.

        Args:
            space: The globals.
            names: All names in the code.
            there: Those that it looks up here, if not all that are there.
        """
        if there is None:
            if (id(space), names) in self._already:
                return
            self._already.add((id(space), names))
            there = [name for name in names if name in space]
        self._globals.append((space, there))
        for value in map(space.get, there):
            if not isinstance(value, ModuleType):
                self._todo.append(value)
            elif not installed(value.__name__):
                self._read(vars(value), names)

    def _whole_module(self, value: ModuleType) -> None:
        """A module of the user's that stands in an attribute: all of it."""
        if not installed(value.__name__):
            names = (name for name in vars(value) if not name.startswith("__"))
            self._read(vars(value), tuple(names))

    def _bound(self, value: Any) -> None:
        self._todo.append(value.__self__)

    def _weak(self, value: weakref.ref[Any]) -> None:
        self._pointer(partial(weakref.ref.__call__, value))

    def _context(self, value: ContextVar[Any]) -> None:
        self._pointer(partial(value.get, None))

    def _pointer(self, point: Callable[[], Any]) -> None:
        self._pointers.append(point)
        self._todo.append(point())

    def _unseen(self, value: Any) -> None:
        raise UnwatchableError(f"it holds a {type(value).__name__} of its own")


@cache
def _looks(kind: type) -> tuple[Callable[[Watched, Any], None], ...]:
    """How to look at objects of a type; if at all: else it only counts which one."""
    known = (base for base in _BY_BASE if issubclass(kind, base))
    base = next(known, object)
    looks = tuple(filter(None, [_BY_BASE.get(base)]))
    if kind is base or base in _WHOLE or _root(kind) == "torch":
        return looks
    opaque = [
        b
        for b in kind.__mro__
        if b not in base.__mro__ and not b.__dictoffset__ and "__slots__" not in vars(b)
    ]
    if not all(map(_settled, opaque)):
        return (Watched._unseen,)
    if kind not in opaque:
        return *looks, Watched._plain
    if not looks:
        return (Watched._unseen,) if hasattr(kind, "__next__") else ()
    return *looks, Watched._members


def _root(kind: type) -> str:
    return str(kind.__module__).partition(".")[0]


def _settled(kind: type) -> bool:
    """Whether a class is of those that nobody exchanges anything in."""
    return _root(kind) in _SETTLED


@cache
def _members_of(kind: type) -> tuple[str, ...]:
    """The names of an object's slots, as they are in its class."""
    return tuple(
        name
        for base in kind.__mro__
        for name, member in vars(base).items()
        if type(member) is MemberDescriptorType
        and ("__slots__" in vars(base) or name in _MEMBERS)
    )


@cache
def _imports_of(code: CodeType) -> tuple[str, ...]:
    """The modules that a function imports, with functions inside it."""
    names = [i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME"]
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names += _imports_of(inner)
    return tuple(names)


@cache
def _names_of(code: CodeType) -> tuple[str, ...]:
    """The names that a function may look up in its globals, with those inside it."""
    names = dict.fromkeys(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names.update(dict.fromkeys(_names_of(inner)))
    return tuple(names)


@cache
def installed(module: str) -> bool:
    """Whether code is of a package that is installed, not of the user's own files."""
    root = module.partition(".")[0]
    if root in _SETTLED | sys.stdlib_module_names | {__name__.partition(".")[0]}:
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return not {"site-packages", "dist-packages"}.isdisjoint(PurePath(file).parts)


#: So many parts at most.
MOST = 50_000

#: Bytes of an array that are compared each time.
LARGEST = 1 << 16

_PLAIN = frozenset(
    {type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device}
)

#: Packages of which classes are as they are, and objects made in C do not change.
_SETTLED = frozenset(
    {*sys.stdlib_module_names, "torch", "numpy", "pydantic_core"}
    - {"__main__", "_ctypes"}
)

#: The attributes of every module that are dicts of hooks.
_HOOKS = frozenset(name for name in vars(nn.Module()) if name.endswith("_hooks"))

#: The generators that are nobody's own, of which it is seen elsewhere if one is drawn
#: from; what is imported from their modules is bound to them.
_OF_ALL = (
    *map(attrgetter("__self__"), (random.random, np.random.rand)),
    torch.default_generator,
)

#: What of classes that are written in C is such a slot.
_MEMBERS = frozenset(
    "func args keywords __func__ __self__ fget default_factory".split()
)

#: Of which a look sees everything.
_WHOLE = (nn.Module, type)

_BY_BASE: dict[type, Callable[[Watched, Any], None] | None] = {
    Tensor: Watched._tensor,
    torch.jit.ScriptModule: Watched._unseen,
    nn.Module: Watched._module,
    **dict.fromkeys((dict, MappingProxyType), Watched._mapping),
    **dict.fromkeys((list, tuple, set, frozenset, deque), Watched._items),
    **dict.fromkeys((np.ndarray, array, bytearray, memoryview), Watched._array),
    type: Watched._class,
    ModuleType: Watched._whole_module,
    FunctionType: Watched._function,
    **dict.fromkeys((BuiltinMethodType, MethodWrapperType), Watched._bound),
    **dict.fromkeys(
        (MethodType, partial, staticmethod, classmethod, property), Watched._members
    ),
    weakref.ref: Watched._weak,
    ContextVar: Watched._context,
    **dict.fromkeys(
        (
            np.random.Generator,
            np.random.RandomState,
            np.random.BitGenerator,
            torch.Generator,
            random.Random,
            weakref.ProxyType,
            weakref.CallableProxyType,
        ),
        Watched._unseen,
    ),
    **dict.fromkeys((logging.Logger, PurePath)),
}
