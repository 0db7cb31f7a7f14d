"""Copies of what a model is made of, for a private view."""

from __future__ import annotations

import copy
import random
import sys
import types
import weakref
from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Collection
from functools import lru_cache, partial, partialmethod
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

from .state import (
    State,
    attributes,
    blank,
    has_attributes,
    is_plain,
    put_slots,
    rebuilt,
    scripted,
    slots_of,
    take_cell,
    take_slots,
    way,
)

#: Given each copied module; what it returns, if anything, becomes its ``forward``.
type Wrap = Callable[[nn.Module], Callable[..., Any] | None]


class Copier:
    """Copies each thing once, however often it stands in the tree."""

    def __init__(self, wrap: Wrap | None = None, backward_hooks: bool = True) -> None:
        self.wrap = wrap
        self.left_out = None if backward_hooks else OrderedDict[int, Any]()
        self.state = State()
        self.seen: dict[int, Any] = {}
        self.alive: list[Any] = []  # or ids might come again
        self.methods: dict[Any, Any] = dict.fromkeys(_PLAIN)
        self.methods[dict] = Copier._dict  # or it would hold itself
        self.hooks: list[tuple[nn.Module, dict[Any, Any]]] = []
        self.hooked: nn.Module | None = None
        self.facts: dict[int, bool] = OrderedDict()
        dynamo = sys.modules.get("torch._dynamo")
        self.compiled = getattr(dynamo, "OptimizedModule", ())

    def value(self, value: Any) -> Any:
        """The view's own of whatever a module may hold."""
        kind = type(value)
        try:
            method = self.methods[kind]
        except KeyError:
            name = next((how for base, how in _KINDS if issubclass(kind, base)), "")
            name = name or ("_thing" if is_plain(kind) else "")
            name = name or ("_shared" if has_attributes(kind) else "")
            method = self.methods[kind] = getattr(Copier, name) if name else None
        if method is None:
            return value
        known = self.seen.get(id(value))
        return method(self, value) if known is None else known

    def _keep(self, value: Any, copied: Any) -> Any:
        self.seen[id(value)] = copied
        self.alive.append(value)
        return copied

    # Modules -------------------------------------------------------------------------

    def _module(self, module: nn.Module) -> nn.Module:
        kind = type(module)
        copied: nn.Module = self._keep(module, blank(kind))
        state = copied.__dict__
        state.update(module.__dict__)
        for name in _PARTS:
            state[name] = private = state[name].copy()
            self.state.dicts.append(private)
            for key, item in private.items():
                if item is not None:
                    private[key] = self.value(item)
        for name in _QUIET:
            state[name] = private = state[name].copy()
            self.state.quiet.append(private)
        self._take_hooks(module, state)
        for name in state.keys() - _STANDARD:
            if type(value := state[name]) not in _PLAIN:
                state[name] = self.value(value)
        state["training"] = False
        # What torch.compile made is bound to the model's modules, in their mode and
        # with their gradients, and would trace the passes too: the copy runs its own.
        state.pop("_compiled_call_impl", None)
        if isinstance(module, self.compiled):
            state["forward"] = state["_modules"]["_orig_mod"]
        self._slots(module, copied)
        self._own_caches(kind, copied)
        forward = self.wrap(copied) if self.wrap is not None else None
        if forward is not None:
            state["forward"] = forward
        self.state.dicts.append(state)
        return copied

    def _own_caches(self, kind: type, copied: nn.Module) -> None:
        """Caches of methods, which lie on the class and are filled by all models."""
        for base in kind.__mro__:
            if base.__module__.startswith("torch."):
                return
            for name, method in base.__dict__.items():
                if type(method) is _CACHE and getattr(kind, name) is method:
                    private = types.MethodType(method.__wrapped__, copied)
                    copied.__dict__.setdefault(name, self._cache_like(method, private))

    def _take_hooks(self, module: nn.Module, state: dict[str, Any]) -> None:
        """The user's hooks, if need be without those of the backward pass."""
        if self.left_out is None:
            for name in ("_backward_hooks", "_backward_pre_hooks"):
                state[name] = private = state[name].copy()
                self.state.quiet.append(private)
        else:
            state["_backward_hooks"] = state["_backward_pre_hooks"] = self.left_out
            if _module._global_backward_hooks or _module._global_backward_pre_hooks:
                state["_get_backward_hooks"] = lambda: ([], [])
                state["_get_backward_pre_hooks"] = list
        if state["_forward_hooks"] or state["_forward_pre_hooks"]:
            for name in ("_forward_hooks", "_forward_pre_hooks"):
                self.hooks.append((module, state[name]))
            for name in _FACTS:
                self.facts.update(state[name])
        for name in _FACTS:
            state[name] = self.facts

    def finish_hooks(self) -> None:
        """Hooks see the view in the model's place; what else they know is the user's.

        What a hook writes for its user, on a list for example, it still does. Its own
        module, of which it is told anyway, may be its user's key to that (Captum's).
        """
        for module, hooks in self.hooks:
            self.hooked = module
            hooks.update({key: self._hook(value) for key, value in hooks.items()})

    def _hook(self, value: Any) -> Any:
        if value is self.hooked:
            return value
        if id(value) in self.seen:
            return self.seen[id(value)]
        kind = type(value)
        if issubclass(kind, nn.Module):
            return self.value(value)
        if kind is types.FunctionType:
            return self._function(value, self._hook)
        if kind is types.MethodType:
            return self._method(value, self._hook)
        return self._partial(value, self._hook) if kind is partial else value

    # Tensors, and what else is opaque ------------------------------------------------

    def _tensor(self, value: Tensor) -> Tensor:
        copied = value.detach()
        if copied.is_inference():
            copied = copied.clone()
        self.state.memory.append(copied)
        return self._keep(value, copied)

    def _opaque(self, value: Any, make: Callable[..., Any] = copy.deepcopy) -> Any:
        copied = self._keep(value, make(value))
        self.state.opaque[id(copied)] = copied, make
        return copied

    _generator = partialmethod(_opaque, make=torch.Generator.clone_state)
    _script = partialmethod(_opaque, make=scripted)

    # Containers ----------------------------------------------------------------------

    def _dict(self, value: dict[Any, Any]) -> Any:
        copied = value.copy()
        if self._is_table(value, copied.values()):
            return value
        self._keep(value, copied)
        self.state.dicts.append(copied)
        for key, item in copied.items():
            if type(item) not in _PLAIN:
                copied[key] = self.value(item)
        if not _PLAIN.issuperset(map(type, copied)):
            items = [(self.value(key), item) for key, item in copied.items()]
            copied.clear()
            copied.update(items)
        return copied

    def _container(self, value: Any) -> Any:
        """By the builtin type's own methods, whatever a subclass makes of them."""
        take, put = way(value)
        content = take(value)
        if type(content) is list and self._is_table(value, content):
            return value
        bounded = isinstance(value, deque)  # by a length that is given at birth
        copied = self._keep(value, copy.copy(value) if bounded else blank(type(value)))
        if isinstance(value, defaultdict):
            copied.default_factory = self.value(value.default_factory)
        if isinstance(value, dict):
            items = content.items()
            put(copied, {self.value(key): self.value(item) for key, item in items})
        else:
            put(copied, list(map(self.value, content)))
        self.state.add(copied)
        self._attributes(value, copied)
        return copied

    def _is_table(self, value: Any, items: Collection[Any]) -> bool:
        """Whether it is plain, and so large that it is no state: a vocabulary, say."""
        if len(items) <= _LARGE or not _PLAIN.issuperset(map(type, islice(items, 99))):
            return False
        what = f"{type(value).__name__} of {len(value)} plain values"
        self.state.shared.append((value, len, what))
        return True

    def _tuple(self, value: tuple[Any, ...]) -> Any:
        items = [self.value(item) for item in value]
        if all(a is b for a, b in zip(items, value)):
            return value
        return self._keep(value, rebuilt(value, items))

    def _frozenset(self, value: frozenset[Any]) -> Any:
        return self._keep(value, type(value)(map(self.value, value)))

    def _thing(self, value: Any) -> Any:
        """An object that is no more than its attributes."""
        copied = self._keep(value, blank(type(value)))
        self._attributes(value, copied)
        return copied

    def _attributes(self, value: Any, copied: Any) -> None:
        if hasattr(value, "__dict__"):
            state = copied.__dict__
            for name, item in value.__dict__.copy().items():
                state[name] = self.value(item)
            self.state.dicts.append(state)
        self._slots(value, copied)

    def _slots(self, value: Any, copied: Any) -> None:
        """What stands in no dict."""
        if slots_of(type(value)):  # type: ignore[arg-type]
            content = take_slots(value).items()
            put_slots(copied, {slot: self.value(item) for slot, item in content})
            self.state.places.append((copied, take_slots, put_slots))

    def _shared(self, value: Any) -> Any:
        """An object of which only its class could make another one."""
        what = f"{type(value).__name__}, which only its class can copy"
        self.state.shared.append((value, attributes, what))
        return self._keep(value, value)

    # What leads to them --------------------------------------------------------------

    def _weak(self, value: weakref.ref[Any]) -> Any:
        target = value()
        return value if target is None else weakref.ref(self.value(target))

    def _method(self, value: Any, inner: Callable[[Any], Any] | None = None) -> Any:
        owner = (inner or self.value)(value.__self__)
        if owner is value.__self__:
            return value
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, owner)
        return getattr(owner, value.__name__)

    def _partial(self, value: Any, inner: Callable[[Any], Any] | None = None) -> Any:
        private = inner or self.value
        named = {key: private(item) for key, item in value.keywords.items()}
        return partial(private(value.func), *map(private, value.args), **named)

    def _function(self, value: Any, inner: Callable[[Any], Any] | None = None) -> Any:
        """The same function with other variables: those of its closure, its defaults.

        For a hook, ``inner`` finds the view's own of a variable, if it has one.
        """
        private = inner or self.value
        compiled = getattr(value, "_torchdynamo_orig_callable", None)
        if compiled is not None:
            return private(compiled)
        closure, defaults = value.__closure__ or (), value.__defaults__ or ()
        module = value.__module__ or ""  # None of what is made of text
        if module.startswith("torch.") or not (closure or defaults):
            return value
        self._keep(value, value)  # it may stand in its own closure
        cells = tuple([self._cell(cell, inner) for cell in closure])
        private_defaults = tuple(map(private, defaults))
        if all(
            a is b for a, b in zip((*cells, *private_defaults), (*closure, *defaults))
        ):
            return value
        code, scope = value.__code__, value.__globals__
        copied = types.FunctionType(
            code, scope, value.__name__, private_defaults or None, cells
        )
        copied.__kwdefaults__ = value.__kwdefaults__
        copied.__dict__.update(value.__dict__)
        self._keep(value, copied)
        if inner is None:
            for cell, theirs in zip(cells, closure):
                for content in take_cell(theirs):
                    cell.cell_contents = self.value(content)
        return copied

    def _cell(self, cell: Any, inner: Callable[[Any], Any] | None) -> Any:
        if id(cell) in self.seen:
            return self.seen[id(cell)]
        if inner is None:
            return self.state.add(self._keep(cell, types.CellType()))
        for content in take_cell(cell):
            private = inner(content)
            if private is not content:
                return self._keep(cell, types.CellType(private))
        return cell

    def _cached(self, value: Any) -> Any:
        return self._keep(value, self._cache_like(value, self.value(value.__wrapped__)))

    def _cache_like(self, cache: Any, function: Callable[..., Any]) -> Any:
        return self.state.add(lru_cache(**cache.cache_parameters())(function))


#: What needs no copy, most of what modules hold.
_PLAIN = frozenset({bool, float, int, str, type(None)})

#: What a module consists of.
_PARTS = ("_parameters", "_buffers", "_modules")

#: Nearly always empty: hooks, and names of buffers.
_QUIET = ("_forward_hooks", "_forward_pre_hooks", "_non_persistent_buffers_set")

#: How a hook is called, by its number, which no other hook has.
_FACTS = (
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)

#: Attributes that are not looked into. Of these a view shares with the model what is
#: asked when parameters are loaded and saved, and PyHealth's dataset, which is large
#: and never written.
_STANDARD = {
    *(*_PARTS, *_QUIET, *_FACTS, "_backward_hooks", "_backward_pre_hooks", "dataset"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
}

#: So many plain values are data.
_LARGE = 1000

_CACHE: Any = type(lru_cache(len))

#: How each type is copied, by the name of the method; what has "" is no state.
_KINDS: tuple[tuple[Any, str], ...] = (
    (Tensor, "_tensor"),
    (torch.jit.ScriptModule, "_script"),
    (nn.Module, "_module"),
    (torch.utils.data.Dataset, ""),
    ((dict, list, set, deque), "_container"),
    (tuple, "_tuple"),
    (frozenset, "_frozenset"),
    (weakref.ref, "_weak"),
    (types.FunctionType, "_function"),
    ((types.MethodType, types.BuiltinMethodType), "_method"),
    (partial, "_partial"),
    (_CACHE, "_cached"),
    ((types.SimpleNamespace, UserDict, UserList), "_thing"),
    (torch.Generator, "_generator"),
    (random.SystemRandom, ""),
    ((random.Random, np.ndarray), "_opaque"),
    ((np.random.Generator, np.random.RandomState, np.random.BitGenerator), "_opaque"),
)
