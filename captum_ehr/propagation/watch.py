"""What a model's answer depends on beside its inputs, so that a change is seen.

A plan is what a model did once. It may be run again as long as the model would do the
same: modules, parameters, hooks, flags and plain attributes, the methods of its
classes, and what the user's own code reads of closures and globals have to be what
they were. The values *in* tensors may change, since a plan reads them where they are.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .state import take_cell


class UnwatchableError(Exception):
    """The model holds what no change can be seen of."""


class Watched(NamedTuple):
    """A model at one time.

    Args:
        facts: Equal for the same model, as long as nothing of it was exchanged.
        held: The objects that these speak of, which so keep their identity.
        tensors: Those among them that are tensors.
    """

    facts: list[Any]
    held: list[Any]
    tensors: list[Tensor]


def watched(*roots: Any, apart: Iterable[Any] = ()) -> Watched:
    """All that a model is made of.

    Args:
        roots: The model, and whatever else the answer depends on.
        apart: What is looked at no closer, such as its dataset.

    Raises:
        UnwatchableError: If there is too much of it, or a generator of random numbers.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
        >>> before = watched(model)
        >>> _ = nn.init.zeros_(model[0].weight)
        >>> watched(model).facts == before.facts
        True
        >>> model[1] = nn.Tanh()
        >>> watched(model).facts == before.facts
        False
    """
    walk = _Walk(apart)
    walk.todo += roots
    while walk.todo:
        if len(walk.facts) > MOST:
            raise UnwatchableError(f"the model consists of more than {MOST} values")
        walk.see(walk.todo.pop())
    return Watched(walk.facts, walk.held, walk.tensors)


class _Walk:
    """A walk over objects, in the same order for the same ones."""

    def __init__(self, apart: Iterable[Any]) -> None:
        self.facts: list[Any] = []
        self.held: list[Any] = []
        self.tensors: list[Tensor] = []
        self.todo: list[Any] = []
        self.seen = set(map(id, apart))

    def see(self, value: Any) -> None:
        """Take a value's facts, and put what it leads to on the list."""
        kind = type(value)
        if kind in _PLAIN:
            self.facts.append(value)
            return
        look = _look(kind)  # type: ignore[arg-type]
        self.facts.append(kind if look in _CONTENTS else id(value))
        if id(value) not in self.seen:
            self.seen.add(id(value))
            self.held.append(value)
            if look is not None:
                look(self, value)

    def tensor(self, value: Tensor) -> None:
        self.tensors.append(value)
        self.facts += (value.shape, value.dtype, value.device)
        if value.layout is torch.strided and not value.is_meta:
            self.facts += (value.data_ptr(), value.stride())

    def array(self, value: np.ndarray) -> None:
        if value.nbytes > LARGEST or value.dtype == object:
            raise UnwatchableError(f"it holds a NumPy array of {value.nbytes} bytes")
        self.facts += (value.shape, value.dtype, value.tobytes())

    def mapping(self, value: dict[Any, Any]) -> None:
        self.items(value)
        self.items(value.values())

    def items(self, value: Any) -> None:
        facts, later = self.facts, self.todo
        facts.append(len(value))
        facts += map(type, value)  # 1, 1.0 and True are equal
        for item in value:
            (facts if type(item) in _PLAIN else later).append(item)

    def module(self, value: nn.Module) -> None:
        content = value.__dict__
        for hooks in ("_forward_hooks", "_forward_pre_hooks"):
            if content[hooks]:
                raise UnwatchableError(f"a {type(value).__name__} has forward hooks")
        for name in ("_parameters", "_buffers", "_modules"):
            if content[name]:
                self.mapping(content[name])
        self.mapping({k: v for k, v in content.items() if k not in _OF_ALL_MODULES})
        self.todo.append(type(value))

    def plain(self, value: Any) -> None:
        """An object of a class that is written in Python."""
        if hasattr(value, "__dict__"):
            self.mapping(vars(value))
        slots = (vars(base).get("__slots__", ()) for base in type(value).__mro__)
        for names in slots:
            for name in (names,) if isinstance(names, str) else names:
                self.todo.append(getattr(value, name, None))
        self.todo.append(type(value))

    def kind(self, value: type) -> None:
        for base in value.__mro__:
            fixed = base is object or base.__module__.startswith("torch.")
            if fixed or (id(base) in self.seen and base is not value):
                continue
            self.seen.add(id(base))
            content = list(vars(base).values())
            if _installed(base.__module__):  # where methods may be exchanged
                self.held += content
                self.facts += map(id, content)
            else:
                self.todo += content

    def function(self, value: FunctionType) -> None:
        self.todo += (take_cell(cell) for cell in value.__closure__ or ())
        if _installed(value.__module__):
            return
        self.todo += (value.__code__, value.__defaults__, value.__kwdefaults__)
        names, space = _names_of(value.__code__), value.__globals__
        found = [space[name] for name in names if name in space]
        self.todo += found
        for each in found:
            if isinstance(each, ModuleType) and not _installed(each.__name__):
                self.todo += [vars(each)[n] for n in names if n in vars(each)]

    def method(self, value: MethodType) -> None:
        self.todo += (value.__func__, value.__self__)

    def partial(self, value: partial[Any]) -> None:
        self.todo += (value.func, value.args, value.keywords)

    def wrapper(self, value: Any) -> None:
        self.todo.append(value.__func__)

    def property(self, value: Any) -> None:
        self.todo.append(value.fget)

    def generator(self, value: Any) -> None:
        raise UnwatchableError(f"it holds a {type(value).__name__} of its own")


@cache
def _look(kind: type) -> Callable[[_Walk, Any], None] | None:
    """How to look at objects of a type; None: of these it only counts which one."""
    for base, look in _BY_BASE.items():
        if issubclass(kind, base):
            return look
    root = kind.__module__.partition(".")[0]
    settled = root in sys.stdlib_module_names or root in ("torch", "numpy")
    return None if settled and root != "__main__" else _Walk.plain


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


#: So many facts at most, which take some milliseconds.
MOST = 50_000

#: Bytes of a NumPy array that are compared each time.
LARGEST = 1 << 16

_PLAIN = frozenset(
    {type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device}
)

#: What every module has, and what is looked at by itself; a class's default is not.
_OF_ALL_MODULES = frozenset(vars(nn.Module())) - {"training"}

_BY_BASE: dict[type, Callable[[_Walk, Any], None] | None] = {
    Tensor: _Walk.tensor,
    nn.Module: _Walk.module,
    dict: _Walk.mapping,
    list: _Walk.items,
    tuple: _Walk.items,
    set: _Walk.items,
    frozenset: _Walk.items,
    type: _Walk.kind,
    FunctionType: _Walk.function,
    MethodType: _Walk.method,
    partial: _Walk.partial,
    staticmethod: _Walk.wrapper,
    classmethod: _Walk.wrapper,
    property: _Walk.property,
    np.ndarray: _Walk.array,
    np.random.Generator: _Walk.generator,
    np.random.RandomState: _Walk.generator,
    torch.Generator: _Walk.generator,
    random.Random: _Walk.generator,
}

#: What is compared by what is in it, not by which one it is.
_CONTENTS = frozenset({_Walk.mapping, _Walk.items})
