"""What a forward can write on: noted before each pass, and put back after it.

Both passes of an explanation start from the state that the model is in. What stands in
the attributes and containers of a private view is noted, which costs little. Arrays and
generators are given to each pass as copies of its own; so is the model's memory, but
only once a pass is about to write on it: till then it is shared.
"""

from __future__ import annotations

import copy
import operator
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from types import BuiltinMethodType, CellType, MemberDescriptorType, MethodType
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor


class State:
    """All of a private view that a forward can write on.

    Attributes:
        dicts: Its plain dicts, also those of its modules' attributes.
        quiet: What is nearly always empty: the dicts of its modules' hooks.
        places: Whatever else has contents: other containers, variables of closures,
            caches of functions.
        opaque: What has none that can be noted (arrays, generators), by id, with the
            function that copies it.
        memory: Its tensors, which lie in the model's memory.
        shared: What is the model's own all the same, with what tells whether it was
            written on, and what it is in words.
    """

    def __init__(self) -> None:
        self.dicts: list[dict[Any, Any]] = []
        self.quiet: list[Any] = []
        self.places: list[tuple[Any, _Take, _Put]] = []
        self.opaque: dict[int, tuple[Any, Callable[[Any], Any]]] = {}
        self.memory: list[Tensor] = []
        self.shared: list[tuple[Any, Callable[[Any], Any], str]] = []
        self._written: frozenset[int] = frozenset()
        self._addresses: dict[int, list[Tensor]] = {}

    def add(self, place: Any) -> Any:
        """Something with contents that is no plain dict."""
        self.places.append((place, *way(place)))
        return place

    def without(self, root: nn.Module) -> State:
        """The same but for the root's own, of which only :meth:`begin` is told.

        A root that holds its state, which held it, would wait for the collector.
        """
        roots = root.__dict__, root._forward_pre_hooks
        self.dicts = [each for each in self.dicts if each is not roots[0]]
        self.quiet = [each for each in self.quiet if each is not roots[1]]
        return self

    def begin(self, *roots: nn.Module) -> Callable[[], str]:
        """Note all of it, and put in the copies that one pass may use up.

        Returns:
            A function that puts everything back, and says what it cannot.
        """
        dicts = [*self.dicts, *(root.__dict__ for root in roots)]
        noted = list(map(dict.copy, dicts))
        quiet = [(each, each.copy()) for each in filter(None, self.quiet)]
        places = [(each, put, take(each)) for each, take, put in self.places]
        versions, shared = self._versions(), self._shared()
        if self.opaque or self._written:
            copies = self._copies()
            _fill(dicts, [_exchanged(content, copies) for content in noted])
            for place, put, content in places:
                put(place, _exchanged(content, copies))

        def end() -> str:
            if not _same(noted, dicts):
                _fill(dicts, noted)
            if any(self.quiet):
                for each in self.quiet:
                    each.clear()
                for each, content in quiet:
                    each.update(content)
            for place, put, content in places:
                put(place, content)
            return self._lasting(versions, shared)

        return end

    def must_copy(self, address: int) -> bool:
        """Whether memory is the model's own; if so, the next pass has a copy of it.

        The first time of this memory alone, then of all: a model that counts its calls
        is given a counter, one that prepares its weights all of them at once.
        """
        if not self._addresses:
            for tensor in self.memory:
                self._addresses.setdefault(address_of(tensor), []).append(tensor)
            self._addresses.pop(0, None)
        if address not in self._addresses or address in self._written:
            return False
        self._written = frozenset(self._addresses if self._written else (address,))
        return True

    def _copies(self) -> dict[int, Any]:
        with torch._C.DisableTorchFunction():  # it is no doing of the model's
            copies = {key: make(each) for key, (each, make) in self.opaque.items()}
            for address in self._written:
                copies.update(_copied(self._addresses[address]))
        return copies

    def _versions(self) -> int:
        """How often the model's memory has been written on."""
        with torch._C.DisableTorchFunction():
            return sum([tensor._version for tensor in self.memory])

    def _shared(self) -> list[Any]:
        return [look(each) for each, look, _ in self.shared]

    def _lasting(self, versions: int, shared: list[Any]) -> str:
        """What could not be put back, in words."""
        if self._versions() != versions:
            return (
                "the model's parameters or buffers were written on while it was "
                "explained: by its own forward where no torch call is seen, or by "
                "another thread"
            )
        for before, now, (*_, what) in zip(shared, self._shared(), self.shared):
            if not _same(before, now):
                return (
                    "the forward wrote on an attribute that is shared with the model: "
                    f"a {what}"
                )
        return ""


def address_of(tensor: Tensor) -> int:
    """Where a tensor's memory begins; 0 if it has none, or none that is told.

    Where there are only shapes, what stands for the memory.
    """
    try:
        storage = tensor.untyped_storage()
        return storage._cdata if isinstance(tensor, FakeTensor) else storage.data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


def _copied(tensors: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Copies of tensors that share memory, which share theirs; by the tensors' ids."""
    if len(tensors) == 1:
        yield id(tensors[0]), tensors[0].clone()
        return
    memory: Any = tensors[0].untyped_storage().clone()
    for each in tensors:
        layout = each.storage_offset(), each.size(), each.stride()
        yield id(each), each.new_empty(0).set_(memory, *layout)


def _exchanged(content: Any, copies: dict[int, Any]) -> Any:
    """What stood in a place, with copies in place of what they were made of."""
    if isinstance(content, dict):
        return {key: _other(value, copies) for key, value in content.items()}
    if isinstance(content, (list, set, deque)):
        return [_other(value, copies) for value in content]
    return _other(content, copies)


def _other(value: Any, copies: dict[int, Any]) -> Any:
    if id(value) in copies:
        return copies[id(value)]
    kind = type(value)
    if kind is ref:
        target = value()
        return ref(copies[id(target)]) if id(target) in copies else value
    if kind in (MethodType, BuiltinMethodType) and id(value.__self__) in copies:
        return getattr(copies[id(value.__self__)], value.__name__)
    if kind is partial:
        named = {key: _other(each, copies) for key, each in value.keywords.items()}
        args = [_other(each, copies) for each in value.args]
        return partial(_other(value.func, copies), *args, **named)
    if isinstance(value, tuple):
        items = [_other(each, copies) for each in value]
        return value if all(map(operator.is_, items, value)) else rebuilt(value, items)
    return value


def rebuilt(like: Any, items: list[Any]) -> Any:
    """A tuple of the same type, named or torch's own, with other items."""
    kind = type(like)
    return kind(items) if hasattr(kind, "n_fields") else tuple.__new__(kind, items)


# Objects made without their classes' help, and which of them may be -----------------


def blank(kind: type) -> Any:
    """An instance that nothing has been done to, whatever its class does at birth."""
    try:
        return object.__new__(kind)
    except TypeError:  # its memory is another builtin type's
        born = next(b for b in kind.__mro__ if not b.__flags__ & _MADE_IN_PYTHON)
        return born.__new__(kind)  # type: ignore[call-overload]


def has_attributes(kind: type) -> bool:
    """Whether objects of this type have attributes that may be written on."""
    if not kind.__flags__ & _MADE_IN_PYTHON or issubclass(kind, type):
        return False
    if str(kind.__module__).split(".")[0] in ("torch", "numpy"):
        return False
    return bool(kind.__dictoffset__ or slots_of(kind))  # type: ignore[arg-type]


def is_plain(kind: type) -> bool:
    """Whether objects of this type are their attributes, and no more."""
    if not has_attributes(kind) or hasattr(kind, "__del__"):
        return False
    try:
        object.__new__(kind)
    except TypeError:  # a number's or a word's, say, which they are too
        return False
    # Slots had to be named for pickle, which says no more of them.
    stated = _STATED if kind.__dictoffset__ else _STATED[:-1]
    return all(
        getattr(kind, name, None) is getattr(object, name, None) for name in stated
    )


def scripted(module: Any) -> Any:
    """A TorchScript module in full, in eval mode: no pass sees what it writes."""
    with torch.no_grad():  # else it copies parameters as results of a computation
        copied = copy.deepcopy(module).eval()
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied


#: CPython's flag of types that are made by a class statement.
_MADE_IN_PYTHON = 1 << 9

#: What types define whose objects are more than their attributes.
_STATED = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__")


# Many dicts at once, of which a pass changes hardly any -------------------------------


def _same(noted: Any, found: Any) -> bool:
    """Whether nothing has changed; what is identical is equal, and not looked into."""
    try:
        return bool(noted == found)
    except Exception:  # what has changed cannot be compared, as tensors cannot
        return False


def _fill(dicts: list[dict[Any, Any]], contents: list[dict[Any, Any]]) -> None:
    for each, content in zip(dicts, contents):
        each.clear()
        each.update(content)


# Places: how to take what stands in them, and how to put it back ----------------------

type _Take = Callable[[Any], Any]
type _Put = Callable[[Any, Any], None]


def way(place: Any) -> tuple[_Take, _Put]:
    """How to take what stands in a place, and how to put it back."""
    access = _WAYS.get(type(place))
    return access or next(a for kind, a in _WAYS.items() if isinstance(place, kind))


def _refill(kind: Any, fill: str) -> _Put:
    """The way that the builtin type has, whatever a subclass makes of it."""

    def put(place: Any, content: Any) -> None:
        kind.clear(place)
        getattr(kind, fill)(place, content)

    return put


def _put_ordered(place: Any, content: Any) -> None:
    OrderedDict.clear(place)
    for key, value in content.items():
        OrderedDict.__setitem__(place, key, value)


def take_cell(cell: CellType) -> tuple[Any, ...]:
    """The variable of a closure, if it has a value yet."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _put_cell(cell: CellType, content: tuple[Any, ...]) -> None:
    if content:
        (cell.cell_contents,) = content
    else:
        del cell.cell_contents


@cache
def slots_of(kind: type) -> tuple[MemberDescriptorType, ...]:
    """Where objects of a type have the attributes of ``__slots__``."""
    bases = (vars(base) for base in kind.__mro__ if "__slots__" in vars(base))
    found = (value for base in bases for value in base.values())
    return tuple(value for value in found if isinstance(value, MemberDescriptorType))


def take_slots(thing: Any) -> dict[MemberDescriptorType, Any]:
    """The attributes of an object that stand in no dict, as far as they are set."""
    found = {}
    for slot in slots_of(type(thing)):  # type: ignore[arg-type]
        with suppress(AttributeError):
            found[slot] = slot.__get__(thing)
    return found


def put_slots(thing: Any, content: dict[MemberDescriptorType, Any]) -> None:
    """Set these, and no others; whatever the class makes of that."""
    for slot in take_slots(thing).keys() - content.keys():
        slot.__delete__(thing)
    for slot, value in content.items():
        slot.__set__(thing, value)


def attributes(thing: Any) -> dict[Any, Any]:
    """All attributes of an object."""
    return {**getattr(thing, "__dict__", {}), **take_slots(thing)}


#: By type, the more special ones first; whatever has none is a cache of a function.
_WAYS: dict[type, tuple[_Take, _Put]] = {
    OrderedDict: (lambda place: dict(OrderedDict.items(place)), _put_ordered),
    dict: (dict.copy, _refill(dict, "update")),
    list: (list.copy, _refill(list, "extend")),
    set: (set.copy, _refill(set, "update")),
    deque: (deque.copy, _refill(deque, "extend")),
    CellType: (take_cell, _put_cell),
    object: (lambda cache: None, lambda cache, _: cache.cache_clear()),
}
