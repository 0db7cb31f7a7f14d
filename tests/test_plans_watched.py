"""What a model's answer depends on, however it is held: a change of it is seen.

A plan that does not see it gives an answer whose sum is right, and which is wrong.
"""

from __future__ import annotations

import argparse
import contextvars
import ctypes
import enum
import functools
import importlib
import itertools
import random
import sys
import types
import weakref
from array import array
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict
from collections import deque as Deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR
from captum_ehr.datasets import tiny_model


class Thing:
    """An object of the user's."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain


@dataclass(slots=True)
class Slots:
    gain: float = 1.0


class Private:
    """Whose slot has another name in its class."""

    __slots__ = ("__gain",)

    def __init__(self) -> None:
        self.__gain = 1.0

    def set(self, gain: float) -> None:
        self.__gain = gain

    def get(self) -> float:
        return self.__gain


class Named(NamedTuple):
    parts: list[float]


class Attributed(dict[str, float]):
    gain = 1.0


class Level(enum.Enum):
    LOW = 1.0


class Cached(Thing):
    @functools.cached_property
    def late(self) -> float:
        return LATE[0]


LATE, CONTEXT = [1.0], contextvars.ContextVar("gain", default=1.0)


def act(x: float) -> float:
    return x


def put(**values: Any) -> Callable[[Any], Any]:
    return lambda thing: [setattr(thing, k, v) for k, v in values.items()]


def item(place: Any, value: Any = 3.0) -> Callable[[Any], Any]:
    return lambda thing: thing.__setitem__(place, value)


def gain(thing: Any) -> float:
    return thing.gain


def first(thing: Any) -> float:
    return float(thing[0])


def by_key(thing: Any) -> float:
    return thing["a"]


def made(value: Any, **attributes: Any) -> Any:
    put(**attributes)(value)
    return value


#: What is held, how it is read, how it changes.
HELD: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], Any]]]
HELD = {
    "Namespace": (lambda: argparse.Namespace(gain=1.0), gain, put(gain=3.0)),
    "SimpleNamespace": (lambda: types.SimpleNamespace(gain=1.0), gain, put(gain=3.0)),
    "a new __dict__": (Thing, gain, put(__dict__={"gain": 3.0})),
    "slots": (Slots, gain, put(gain=3.0)),
    "private slots": (Private, Private.get, lambda t: t.set(3.0)),
    "UserDict": (lambda: UserDict(a=1.0), by_key, item("a")),
    "UserList": (lambda: UserList([1.0]), first, item(0)),
    "OrderedDict": (lambda: OrderedDict(a=1.0), by_key, item("a")),
    "Counter": (lambda: Counter(a=1), by_key, item("a", 3)),
    "ChainMap": (lambda: ChainMap({"a": 1.0}), by_key, item("a")),
    "deque": (lambda: Deque([1.0]), first, item(0)),
    "default": (
        lambda: defaultdict(lambda: 1.0),
        lambda t: t.copy()["a"],
        put(default_factory=lambda: 3.0),
    ),
    "proxy": (
        lambda: [d := {"a": 1.0}, types.MappingProxyType(d)],
        lambda t: t[1]["a"],
        lambda t: t[0].update(a=3.0),
    ),
    "namedtuple": (
        lambda: Named([1.0]),
        lambda t: t.parts[0],
        lambda t: t.parts.append(t.parts.insert(0, 3.0)),
    ),
    "attributes of a dict": (lambda: Attributed(a=1.0), gain, put(gain=3.0)),
    "attributes of a function": (lambda: made(lambda: 0, gain=1.0), gain, put(gain=3)),
    "enum": (lambda: Level, lambda t: t.LOW.value, lambda t: put(_value_=3.0)(t.LOW)),
    "partial": (
        lambda: functools.partial(lambda a: a, a=1.0),
        lambda t: t(),
        lambda t: t.keywords.update(a=3.0),
    ),
    "cached property": (
        lambda: LATE.__setitem__(0, 1.0) or Cached(),
        lambda t: t.late,
        lambda t: LATE.__setitem__(0, 3.0),
    ),
    "weak": (
        lambda: [t := Thing(), weakref.ref(t)],
        lambda t: gain(t[1]()),
        lambda t: put(gain=3.0)(t[0]),
    ),
    "a bound method": (
        lambda: [d := {"a": 1.0}, d.get],
        lambda t: t[1]("a"),
        lambda t: t[0].update(a=3.0),
    ),
    "array": (lambda: array("d", [1.0]), first, item(0)),
    "bytearray": (lambda: bytearray([1]), first, item(0, 3)),
    "memory": (lambda: memoryview(bytearray([1])), first, item(0, 3)),
    "function's own defaults": (
        lambda: made(lambda *, a: a, __kwdefaults__={"a": 1.0}),
        lambda t: t(),
        lambda t: t.__kwdefaults__.update(a=3.0),
    ),
    "context": (lambda: CONTEXT, lambda t: t.get(), lambda t: t.set(3.0)),
    "a module": (
        lambda: made(types.ModuleType("settings"), gain=1.0),
        gain,
        put(gain=3.0),
    ),
    "beside global generators": (
        lambda: [1.0, random.random, random.choice, np.random.rand],
        first,
        item(0),
    ),
    "another class": (
        lambda: nn.Tanh(),
        lambda t: t(torch.ones(())),
        put(__class__=nn.Sigmoid),
    ),
}

REFUSED: dict[str, Callable[[], Any]] = {
    "count": lambda: itertools.count(1),
    "generator": lambda: (i for i in [1.0, 3.0]),
    "RandomState": lambda: np.random.RandomState(4).rand,
    "PCG64": lambda: np.random.PCG64(4),
    "CallableProxyType": lambda: weakref.proxy(act),
    "NumpyBlock": lambda: pd.Series([1.0]),
    "c_double": lambda: ctypes.c_double(1.0),
    "ndarray": lambda: np.array([act]),
    "RecursiveScriptModule": lambda: torch.jit.script(nn.Tanh()),
}


class Net(nn.Module):
    """A model that holds something, and reads it."""

    def __init__(self, held: Any, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self.held, self.read = held, read

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.read(self.held)).tanh().sum(1)


def assert_seen(net: nn.Module, change: Callable[[], Any]) -> None:
    """A change of the model changes the answer, as it does without plans."""
    explainer, x = DeepLiftEHR(net), torch.linspace(0.1, 1, 8).view(2, 4)
    for _ in range(4):
        before = explainer.attribute(x)
    assert explainer.plans[0].replays, explainer.plans[0]
    change()
    fresh = DeepLiftEHR(net).attribute(x)
    assert not torch.allclose(fresh, before)
    torch.testing.assert_close(explainer.attribute(x), fresh)


@pytest.fixture(autouse=True)
def plans_are_never_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captum_ehr.propagation.plans._Entry.slow", False)


@pytest.mark.parametrize("name", HELD)
def test_a_change_is_seen(name: str) -> None:
    def check() -> None:
        make, read, change = HELD[name]
        thing = make()
        assert_seen(Net(thing, read), lambda: change(thing))

    contextvars.copy_context().run(check)  # one of them is changed


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_change_can_be_seen_of_is_refused(name: str) -> None:
    explainer = DeepLiftEHR(Net([REFUSED[name]()], lambda held: len(held)))
    for _ in range(3):
        explainer.attribute(torch.ones(2, 4))
    (plan,) = explainer.plans
    assert plan.state == "refused" and f"it holds a {name} of" in plan.reason


SETTINGS = "ALPHA, BETA = 1.0, 1.0"
NET = """
{top}
from torch import nn

class Block(nn.Module):
    def forward(self, x):
        {inside}
        return x * {name}.BETA

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.late = Block(), lambda x: x * {name}.ALPHA
        {inside}

    def forward(self, x):
        {inside}
        return self.block((x * {name}.ALPHA).tanh()).sum(1)
"""
IMPORTED = {
    "at the top": dict(top="import settings_of_a_test as s", inside="", name="s"),
    "inside": dict(top="", inside="import settings_of_a_test as s", name="s"),
    "of a package": dict(
        top="", inside="from . import settings_of_a_test as s", name="s"
    ),
}


@pytest.mark.parametrize("where", IMPORTED)
@pytest.mark.parametrize("setting", ["ALPHA", "BETA"])
def test_settings_of_a_module(
    where: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each function reads others of them."""
    folder = tmp_path / "package_of_a_test"
    folder.mkdir()
    source = NET.format(**IMPORTED[where])
    inside = where == "of a package"
    settings = (folder if inside else tmp_path) / "settings_of_a_test.py"
    settings.write_text(SETTINGS)
    (folder / "net.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    net = importlib.import_module("package_of_a_test.net").Net()
    name = f"package_of_a_test.{settings.stem}" if inside else settings.stem
    try:
        assert_seen(net, lambda: setattr(sys.modules[name], setting, 3.0))
    finally:
        for each in [m for m in sys.modules if "of_a_test" in m]:
            del sys.modules[each]


def test_vocabularies_are_not_walked() -> None:
    """They are large, and asked for no answer."""
    model, batch = tiny_model()
    explainer = DeepLiftEHR(model)
    explainer.explain(batch)
    seen = explainer._plans._model
    tables = [feature.ids for feature in explainer.model.features if feature.ids]
    assert tables and seen is not None
    assert not any(each is table for each in seen._mappings for table in tables)


def test_autocast_of_another_device_is_in_the_key() -> None:
    explainer, x = DeepLiftEHR(nn.Linear(4, 1)), torch.ones(2, 4)
    try:
        for on in (False, True):
            torch.set_autocast_enabled("cuda", on)
            explainer.attribute(x)
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert len(explainer.plans) == 2
