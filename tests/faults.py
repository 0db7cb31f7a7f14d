"""Errors at a chosen call of torch's, and models to have them in."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch._dynamo  # with the first dispatch mode, and it sets filters and loggers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Broken(Exception):
    """What no library raises."""


#: What a run may break off with, the user's doing or the machine's.
ERRORS: tuple[type[BaseException], ...] = (
    Broken,
    KeyboardInterrupt,
    MemoryError,
    torch.OutOfMemoryError,
    SystemExit,
    StopIteration,
    GeneratorExit,
    RecursionError,
)


class _Counting:
    """Counts calls, and raises at one of them."""

    def __init__(
        self, at: int = 0, error: type[BaseException] = Broken, **_: Any
    ) -> None:
        super().__init__()
        self.at, self.error, self.calls = at, error, 0

    def counted(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise self.error("of the test")


class Functions(_Counting, TorchFunctionMode):
    """At a call of torch's, as the model makes it."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.counted()
        return func(*args, **(kwargs or {}))


class Kernels(_Counting, TorchDispatchMode):
    """At an aten call: of a pass, of the chain rule or between them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.counted()
        return func(*args, **(kwargs or {}))


def calls_of(mode: type[Any], way: Callable[[], Any]) -> int:
    """How many there are."""
    with mode() as counting:
        way()
    return int(counting.calls)


def spread(calls: int, count: int, seed: float = 0.0) -> list[int]:
    """So many of 1 to ``calls``, early and late ones, no two runs of them alike."""
    golden = 0.6180339887498949
    places = ((seed + k * golden) % 1.0 for k in range(count))
    return [1 + int(place * calls) for place in places]


class Net(nn.Module):
    """Frozen, shared and sparse parameters, a norm, a buffer, draws of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(4, 4), nn.Linear(4, 4)
        self.again.weight = self.first.weight
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.last = nn.Linear(4, 1)
        self.last.bias.requires_grad_(False)
        table = torch.eye(4).to_sparse()
        self.table = nn.Parameter(table, requires_grad=False)
        self.register_buffer("calls", torch.zeros(()))
        self.history: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.history.append(1)
        drawn = torch.rand(4) * random.random() * np.random.rand()
        x = x * (1 + drawn.to(x))
        h = self.drop(self.norm(torch.tanh(self.first(x))))
        h = h + torch.sparse.mm(self.table.float(), torch.ones(4, 4))[0].to(h)
        return self.last(nn.functional.gelu(self.again(h)).softmax(-1) * h)
