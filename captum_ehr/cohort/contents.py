"""What things are made of, hashed: two of one content have one digest in any process.

Of a function the content is its code and what that uses: defaults, closures, what a
method is bound to, and the globals that it names, in the user's own files. What is
installed is known by its name.
"""

from __future__ import annotations

import dis
import hashlib
import pickle
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from functools import partial
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..propagation.watch import installed

PLAIN = (bool, int, float, str, type(None))
"""Types of what a line of text can say."""

_TOLD = (
    *(*PLAIN, bytes, date, Mapping, list, tuple, set, frozenset, Tensor, nn.Module),
    *(np.ndarray, np.generic, pd.DataFrame, pd.Series, pd.Index),
    *(FunctionType, MethodType, BuiltinMethodType, partial),
)
"""Types of globals that are hashed, besides the user's own."""

#: Functions, classes and objects in the order in which they were met; they may form
#: circles.
type _Met = dict[int, int]


def digest(content: Any) -> str:
    """16 characters that change with the content, whatever it is made of.

    Raises:
        TypeError: If there is something in it of which that cannot be told.

    Example:
        >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)})
        True
        >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(3)})
        False
    """
    return _hashed(content, {}).hex()[:16]


def name_of(thing: Any) -> str:
    """The qualified name of a function or class; of an object, that of its class."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}"


def _hashed(content: Any, met: _Met) -> bytes:
    hashed = hashlib.sha256()
    for piece in _pieces(content, met):
        hashed.update(len(piece).to_bytes(8, "little"))
        hashed.update(piece)
    return hashed.digest()


def _pieces(content: Any, met: _Met) -> Iterator[bytes]:
    """Bytes that tell one content from another."""
    if isinstance(content, Tensor):
        array = content.detach().cpu().contiguous()
        yield f"{array.dtype} {tuple(array.shape)}".encode()
        yield array.flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(content, np.ndarray) and not content.dtype.hasobject:
        yield from _array(content)
    elif isinstance(content, Mapping):
        yield f"mapping {len(content)}".encode()
        for pair in content.items():
            yield from _each(pair, met)
    elif isinstance(content, (list, tuple)):
        yield f"sequence {len(content)}".encode()
        yield from _each(content, met)
    elif isinstance(content, (set, frozenset)):
        yield f"set {len(content)}".encode()
        yield from sorted(_hashed(value, {**met}) for value in content)
    elif isinstance(content, PLAIN):
        yield repr(content).encode()
    elif isinstance(content, CodeType):
        names = [*content.co_names, *content.co_varnames]
        yield from _each([content.co_code, names, content.co_consts], met)
    elif isinstance(content, ModuleType):
        yield content.__name__.encode()
    elif callable(content) or _is_own(type(content)):
        yield name_of(content).encode()
        yield from _object(content, met)
    else:
        yield _pickled(content)


def _each(contents: Iterable[Any], met: _Met) -> Iterator[bytes]:
    for content in contents:
        yield from _pieces(content, met)


def _array(array: np.ndarray) -> Iterator[bytes]:
    """Of numbers as of a tensor."""
    array = np.ascontiguousarray(array)
    try:
        tensor = torch.from_numpy(array)
    except TypeError:  # words, dates
        yield f"{array.dtype} {array.shape}".encode()
        yield array.tobytes()
    else:
        yield from _pieces(tensor, {})


def _object(thing: Any, met: _Met) -> Iterator[bytes]:
    """What is in a function, class or object; where it comes again, that it does."""
    if isinstance(thing, (MethodType, BuiltinMethodType)):  # made anew at each look
        owner = thing.__self__
        yield from _pieces(name_of(owner) if isinstance(owner, type) else owner, met)
        yield from _pieces(getattr(thing, "__func__", None), met)
    elif id(thing) in met:
        yield f"again {met[id(thing)]}".encode()
    else:
        met[id(thing)] = len(met)
        yield from _each(_inside(thing), met)


def _inside(thing: Any) -> Iterator[Any]:
    """What tells it from another one of its name."""
    if isinstance(thing, FunctionType):
        yield from (thing.__code__, thing.__defaults__, thing.__kwdefaults__)
        yield [cell.cell_contents for cell in thing.__closure__ or ()]
        if _is_own(thing):
            yield [*_globals(thing)]
    elif isinstance(thing, type):
        yield [*map(_members, filter(_is_own, thing.__mro__))]
    elif isinstance(thing, partial):
        yield from (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, nn.Module):
        yield from (type(thing), plain_attributes(thing), thing.state_dict())
    elif hasattr(thing, "__dict__"):
        yield from (type(thing), vars(thing))
    elif not hasattr(thing, "__qualname__"):
        yield _pickled(thing)


def _globals(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function names outside of itself, also in modules of the user's own."""
    codes = [*_codes(function.__code__)]
    loads = (one for code in codes for one in dis.get_instructions(code))
    named = {one.argval for one in loads if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    attributes = {name for code in codes for name in code.co_names}
    spaces = [(function.__globals__, named)]
    for space, names in spaces:
        for name in sorted(names & space.keys()):
            value = space[name]
            if isinstance(value, ModuleType) and _is_own(value):
                if all(vars(value) is not known for known, _ in spaces):
                    spaces.append((vars(value), attributes))
            elif _is_told(value):
                yield name, value


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's, and those of the functions within."""
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const)


def _members(kind: type) -> dict[str, Any]:
    """What a class has of methods and values."""
    held = {
        name: getattr(member, "__func__", getattr(member, "fget", member))
        for name, member in vars(kind).items()
    }
    return {
        name: member
        for name, member in held.items()
        if isinstance(member, FunctionType)
        or (_is_told(member) and not name.startswith("__"))
    }


def _is_told(value: Any) -> bool:
    """Whether it is hashed where a function uses it."""
    is_own_class = isinstance(value, type) and _is_own(value)
    return is_own_class or isinstance(value, _TOLD) or _is_own(type(value))


def _is_own(thing: Any) -> bool:
    """Whether a function, class or module is the user's: of no installed package."""
    name = thing.__name__ if isinstance(thing, ModuleType) else str(thing.__module__)
    return not installed(name)


def plain_attributes(owner: Any) -> dict[str, Any]:
    """Plain public attributes, but for what is set in passing."""
    return {
        name: value
        for name, value in sorted(vars(owner).items())
        if isinstance(value, PLAIN) and not name.startswith("_") and name != "training"
    }


def _pickled(content: Any) -> bytes:
    """Of what is known in no other way.

    Raises:
        TypeError: If it cannot be pickled.
    """
    try:
        return pickle.dumps(content)
    except Exception as error:
        raise TypeError(
            f"Of a {name_of(type(content))} it cannot be told whether it is the same "
            f"when a cohort is gone on with: {error}. Give tensors, arrays, mappings, "
            "or a function of these."
        ) from error
