"""A computation for batches of all shapes, traced once and compiled by Inductor.

The same calls that a plan writes down (:mod:`.recording`), traced with symbolic shapes
(:func:`torch.fx.experimental.proxy_tensor.make_fx`) below autograd. What the model asks
of values is answered as on the traced batch, and the answers are guards. The shapes on
which the trace depends are guards as well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .program import Program

_log = logging.getLogger(__name__)


class CompileError(Exception):
    """Why a computation was not compiled."""


def compiled_program(
    function: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor]
) -> Program:
    """Trace a function of tensors for all their shapes, and compile it.

    Args:
        function: Of the tensors alone; nothing else that it reads may change, but the
            values of tensors.
        tensors: Its arguments, an example.

    Returns:
        A program that raises :class:`PlanChanged` for what it was not compiled for.

    Raises:
        CompileError: If it cannot be traced or compiled.
    """
    with _Followed(), _asked() as real:
        function(*tensors)
    shapes = ShapeEnv(duck_shape=False)
    fake = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    symbolic = [_symbolic(fake, x) for x in tensors]

    def traced(*given: Tensor) -> list[Tensor]:
        with _asked(real.answers) as asked:
            outputs = list(function(*given))
        return [*outputs, asked.unchanged(given[0].device)]

    try:
        graph = make_fx(traced, tracing_mode="symbolic", _allow_non_fake_inputs=True)(
            *symbolic
        )
    except Exception as error:
        raise CompileError(f"it cannot be traced: {_first_line(error)}") from error
    return graph, shapes, symbolic


class _Followed(TorchDispatchMode):
    """Changes nothing, but that :func:`.recording.compiled` is true."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


class _Asked(TorchFunctionMode):
    """Keeps what was asked of values, or answers it as before."""

    def __init__(self, answers: list[Any] | None) -> None:
        super().__init__()
        self.given = answers
        self.answers: list[Any] = []
        self.tensors: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func not in _ASKING or not isinstance(args[0], Tensor):
            return func(*args, **(kwargs or {}))
        if func is torch.equal:
            if args[0].shape != args[1].shape:
                return False
            tensor, ask = (args[0] == args[1]).all(), torch.Tensor.__bool__
        else:
            tensor, ask = args[0].detach(), func
        value = self.given[len(self.answers)] if self.given is not None else ask(tensor)
        self.answers.append(value)
        self.tensors.append(tensor)
        return value

    def unchanged(self, device: torch.device) -> Tensor:
        """Whether all answers are what they were."""
        same = [
            (t.reshape(()) == value)
            for t, value in zip(self.tensors, self.answers, strict=True)
        ]
        return torch.stack(same).all() if same else torch.ones((), dtype=torch.bool)


@contextmanager
def _asked(answers: list[Any] | None = None) -> Iterator[_Asked]:
    with _Asked(answers) as mode:
        yield mode


def _symbolic(fake: FakeTensorMode, x: Tensor) -> Tensor:
    """A tensor of any size in each of its dimensions."""
    context = StatelessSymbolicContext([DimDynamic.DYNAMIC] * x.dim())
    return fake.from_tensor(x.detach(), symbolic_context=context)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


_ASKING = frozenset(
    {
        torch.Tensor.__bool__,
        torch.Tensor.__int__,
        torch.Tensor.__float__,
        torch.Tensor.__index__,
        torch.Tensor.item,
        torch.equal,
    }
)
