"""Models that hide their modules, and models that write while they run."""

from __future__ import annotations

import functools
from collections import OrderedDict, UserDict, UserList, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Base(nn.Module):
    """A small network with dropout and batch norm, in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.out = nn.Linear(4, 5), nn.Linear(5, 1)
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(5)
        self.setup()

    def setup(self) -> None:
        """What a case needs besides."""

    def body(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(self.drop(torch.tanh(self.lin(x))))
        return found


class Helper:
    """A plain object that leads to a module, and counts."""

    def __init__(self, model: Base) -> None:
        self.model, self.calls, self.seen = model, 0, [0]

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(self.calls)
        return self.model.body(x) * sum(self.seen)


class Slots:
    """An object whose attributes stand in no dict, one of them under its own name."""

    __slots__ = ("__calls", "late", "seen")

    def __init__(self) -> None:
        self.__calls, self.seen = 0, [0]

    def count(self) -> int:
        if not self.__calls:
            self.late = 1
        self.__calls += self.late
        self.seen.append(self.__calls)
        return sum(self.seen)


@dataclass(frozen=True, slots=True)
class Parts:
    """An object that cannot be written on, and leads to a module."""

    module: nn.Module


class SlottedLayer(nn.Linear):
    """A module with a slot."""

    __slots__ = ("calls",)

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.calls = 1

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


class MethodCache(Base):
    """Caches of methods, one on the class and one in the instance."""

    @functools.lru_cache  # noqa: B019 - it is what is tested
    def table(self, size: int) -> Tensor:
        return torch.linspace(0, 1, size).cos().double()

    @functools.cached_property
    def late(self) -> Tensor:
        return torch.full((4,), 2.0).exp()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x * self.table(4) * self.late))


class PropertyCache(Base):
    """A cache that no view can have for its own."""

    @property
    @functools.lru_cache  # noqa: B019
    def table(self) -> Tensor:
        return torch.linspace(0, 1, 4).cos().double()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x * self.table))


def case(setup: Callable[[Any], Any], forward: Callable[[Any, Tensor], Any]) -> type:
    """A network made of two small functions."""

    def last(self: Any, x: Tensor) -> Tensor:
        found = forward(self, x)
        return found[-1] if isinstance(found, tuple) else found

    return type("Case", (Base,), {"setup": setup, "forward": last})


def held(make: Callable[[Any], Any], use: Callable[[Any, Tensor], Any]) -> type:
    """A network that runs what one of its attributes leads to."""
    return case(
        lambda self: setattr(self, "held", make(self)),
        lambda self, x: self.out(use(self, x)),
    )


def _nonlocal(self: Any) -> Any:
    calls = 0

    def run(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return self.body(x) * calls

    return run


def _features(self: Any) -> dict[str, Tensor]:
    def save(module: Any, args: Any, output: Tensor) -> None:
        self.held["h"] = output

    self.lin.register_forward_hook(save)
    return {}


def _hook_inside(self: Any, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    hook = self.lin.register_forward_hook(lambda *args: found.append(args[-1]))
    self.lin(x)
    hook.remove()
    return found[0].tanh()


def _hook_left(self: Any, x: Tensor) -> Tensor:
    self.lin.register_forward_hook(lambda module, args, output: output * 2)
    return self.lin(x).tanh()


def _hook_on_gradients(self: Any, x: Tensor) -> Tensor:
    h = self.lin(x).tanh()
    if h.requires_grad:
        h.register_hook(lambda gradient: gradient * 7).remove()
        h.register_hook(lambda gradient: gradient * 7)
        h.retain_grad()
    return h


Pair = namedtuple("Pair", "module number")

#: Modules that hide from a walk along the tree.
HIDDEN = {
    "closure": held(lambda s: lambda x: s.body(x), lambda s, x: s.held(x)),
    "default": held(lambda s: lambda x, s=s: s.body(x), lambda s, x: s.held(x)),
    "bound": held(lambda s: s.body, lambda s, x: s.held(x)),
    "partial": held(lambda s: functools.partial(Base.body, s), lambda s, x: s.held(x)),
    "in a partial": held(
        lambda s: functools.partial(lambda x, m: m.body(x), m=s),
        lambda s, x: s.held(x),
    ),
    "cache": held(
        lambda s: functools.lru_cache(lambda n: s.drop(torch.ones(n).double())),
        lambda s, x: s.lin(x).tanh() * s.held(5),
    ),
    "object": held(Helper, lambda s, x: s.held(x)),
    "OrderedDict": held(
        lambda s: OrderedDict(a=nn.Dropout(0.5)), lambda s, x: s.held["a"](s.body(x))
    ),
    "UserDict": held(
        lambda s: UserDict(a=nn.Dropout(0.5)), lambda s, x: s.held["a"](s.body(x))
    ),
    "UserList": held(
        lambda s: UserList([nn.Dropout(0.5)]), lambda s, x: s.held[0](s.body(x))
    ),
    "set": held(
        lambda s: {nn.Dropout(0.5)}, lambda s, x: next(iter(s.held))(s.body(x))
    ),
    "frozenset": held(
        lambda s: frozenset({nn.Dropout(0.5)}),
        lambda s, x: next(iter(s.held))(s.body(x)),
    ),
    "key": held(
        lambda s: {nn.Dropout(0.5): 2.0},
        lambda s, x: next(iter(s.held))(s.body(x)) * s.held[next(iter(s.held))],
    ),
    "deque": held(
        lambda s: deque([nn.Dropout(0.5)], 3), lambda s, x: s.held[0](s.body(x))
    ),
    "namedtuple": held(
        lambda s: Pair(nn.Dropout(0.5), 1), lambda s, x: s.held.module(s.body(x))
    ),
    "namespace": held(
        lambda s: SimpleNamespace(a=nn.Dropout(0.5)), lambda s, x: s.held.a(s.body(x))
    ),
    "frozen slots": held(
        lambda s: Parts(nn.Dropout(0.5)), lambda s, x: s.held.module(s.body(x))
    ),
    "nested": held(
        lambda s: {"a": [({nn.Dropout(0.5)},)]},
        lambda s, x: next(iter(s.held["a"][0][0]))(s.body(x)),
    ),
    "script": held(
        lambda s: torch.jit.script(nn.Dropout(0.5)), lambda s, x: s.held(s.body(x))
    ),
    "own forward": case(
        lambda s: setattr(
            s.drop, "forward", functools.partial(nn.Dropout.forward, s.drop)
        ),
        lambda s, x: s.out(s.body(x)),
    ),
}

#: What a forward may write on.
WRITES = {
    "nonlocal": held(_nonlocal, lambda s, x: s.held(x)),
    "attribute": case(
        lambda s: setattr(s, "calls", 0),
        lambda s, x: (setattr(s, "calls", s.calls + 1), s.out(s.body(x)) * s.calls),
    ),
    "attribute of a layer": case(
        lambda s: setattr(s.lin, "calls", 0),
        lambda s, x: (
            setattr(s.lin, "calls", s.lin.calls + 1),
            s.out(s.body(x)) * s.lin.calls,
        ),
    ),
    "list": case(
        lambda s: setattr(s, "kept", [1]),
        lambda s, x: (s.kept.append(2), s.out(s.body(x)) * sum(s.kept)),
    ),
    "dict, renamed": case(
        lambda s: setattr(s, "kept", {0: s.lin.bias}),
        lambda s, x: (
            s.kept.update({max(s.kept) + 1: s.kept.pop(max(s.kept))}),
            s.out(s.body(x)) * max(s.kept),
        ),
    ),
    "set": case(
        lambda s: setattr(s, "kept", set()),
        lambda s, x: (s.kept.add(len(s.kept)), s.out(s.body(x)) * len(s.kept)),
    ),
    "namespace": case(
        lambda s: setattr(s, "kept", SimpleNamespace(n=0)),
        lambda s, x: (setattr(s.kept, "n", s.kept.n + 1), s.out(s.body(x)) * s.kept.n),
    ),
    "slots": held(lambda s: Slots(), lambda s, x: s.body(x) * s.held.count()),
    "slots of a layer": case(
        lambda s: setattr(s, "lin", SlottedLayer(4, 5)), lambda s, x: s.out(s.body(x))
    ),
    "state": case(
        lambda s: setattr(s, "state", torch.zeros(3, 5).double()),
        lambda s, x: (
            setattr(s, "state", torch.tanh(s.lin(x) + s.state)),
            s.out(s.state),
        ),
    ),
    "late table": case(
        lambda s: None,
        lambda s, x: (
            hasattr(s, "pe") or s.register_buffer("pe", torch.arange(4.0).sin(), False),
            s.out(s.body(x + s.pe)),
        ),
    ),
    "encoding": case(
        lambda s: setattr(s, "kept", None),
        lambda s, x: (
            setattr(s, "kept", s.body(x) if s.kept is None else s.kept),
            s.out(s.kept),
        ),
    ),
    "counter": case(
        lambda s: s.register_buffer("n", torch.zeros(())),
        lambda s, x: (s.n.add_(1), s.out(s.body(x)) * s.n),
    ),
    "running mean": case(
        lambda s: s.register_buffer("mean", torch.zeros(5)),
        lambda s, x: (
            s.mean.mul_(0.5).add_(s.lin(x).sum(0) * 0.5),
            s.out(s.body(x) + s.mean.detach() * 0),
        ),
    ),
    "array": case(
        lambda s: setattr(s, "kept", np.zeros(4)),
        lambda s, x: (
            s.kept.__iadd__(1),
            s.out(s.body(x + torch.from_numpy(s.kept.copy()))),
        ),
    ),
    "buffer through NumPy": case(
        lambda s: s.register_buffer("kept", torch.zeros(4).double()),
        lambda s, x: (s.kept.numpy().__iadd__(1), s.out(s.body(x + s.kept))),
    ),
    "statistics": case(
        lambda s: None,
        lambda s, x: s.out(
            s.body(x)
            + nn.functional.batch_norm(
                torch.ones(2, 5).double(),
                s.norm.running_mean,
                s.norm.running_var,
                training=True,
            ).sum(0)
            + s.norm.running_mean
        ),
    ),
    "norm of rows": case(
        lambda s: setattr(s, "table", nn.Embedding(4, 5, max_norm=0.1)),
        lambda s, x: s.out(s.body(x) + s.table(torch.arange(1)) + s.table.weight[0]),
    ),
    "requires_grad_": case(
        lambda s: s.register_buffer("kept", torch.ones(4)),
        lambda s, x: (s.kept.requires_grad_(), s.out(s.body(x + s.kept))),
    ),
    "spectral norm": case(
        lambda s: setattr(s, "lin", nn.utils.spectral_norm(s.lin)),
        lambda s, x: s.out(s.body(x)),
    ),
    "weight norm": case(
        lambda s: setattr(s, "lin", nn.utils.parametrizations.weight_norm(s.lin)),
        lambda s, x: s.out(s.body(x)),
    ),
    "caches of methods": MethodCache,
    "cache of a property": PropertyCache,
}

#: Hooks that a model sets for itself.
HOOKS = {
    "to its own features": held(_features, lambda s, x: (s.lin(x), s.held["h"])[1]),
    "in a forward": case(lambda s: None, lambda s, x: s.out(_hook_inside(s, x))),
    "left by a forward": case(lambda s: None, lambda s, x: s.out(_hook_left(s, x))),
    "on gradients": case(lambda s: None, lambda s, x: s.out(_hook_on_gradients(s, x))),
}

#: Parameters prepared in the first forward, each once more in every forward.
PREPARED: dict[str, Callable[[Any], Any]] = {
    "mul_": lambda s: s.lin.weight.mul_(2),
    "copy_": lambda s: s.lin.weight.copy_(s.lin.weight * 2),
    "an element": lambda s: s.lin.weight.__setitem__((0, 0), 7.0),
    "through .data": lambda s: s.lin.weight.data.mul_(2),
    "new .data": lambda s: setattr(s.lin.weight, "data", s.lin.weight.data * 2),
    "new": lambda s: setattr(s.lin, "weight", nn.Parameter(s.lin.weight * 2)),
    "a row": lambda s: s.lin.weight.detach()[0].mul_(3),
    "several": lambda s: torch._foreach_mul_([s.lin.weight, s.lin.bias], 2),
    "out=": lambda s: torch.add(s.lin.weight, 1, out=s.lin.weight.data),
    "layer by layer": lambda s: [
        p.mul_(2) for p in (*s.lin.parameters(), s.out.weight)
    ],
    "init": lambda s: nn.init.constant_(s.lin.weight, 0.3),
}


def prepared(write: Callable[[Any], Any]) -> type:
    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            write(self)
        return self.out(self.body(x))

    return case(lambda self: None, forward)
