"""A computation for batches of all shapes, traced once and compiled by Inductor.

The calls that a plan writes down (:mod:`.recording`), traced with symbolic shapes by
:func:`torch.fx.experimental.proxy_tensor.make_fx`, below autograd. What was asked of
values is answered as on the traced batch, and the answers are guards; so are the
relations of shapes that the trace depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import (
    SYMPY_INTERP,
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.overrides import TorchFunctionMode

from .program import PlanChanged, Program
from .recording import Traced


class CompileError(Exception):
    """Why a computation was not compiled."""


def compiled_program(
    function: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor]
) -> Program:
    """Trace a function of tensors for all their shapes, and compile it.

    Args:
        function: Of the tensors alone; nothing else that it reads may change, but the
            values of tensors.
        tensors: Its arguments, an example. A size that is 0 or 1 stays so.

    Returns:
        A program that raises :class:`PlanChanged` for what it does not serve.

    Raises:
        CompileError: If it cannot be traced or compiled.
    """
    with _Asked() as real, Traced():
        function(*tensors)
    shapes = ShapeEnv(duck_shape=False)
    fake = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    symbolic = [_symbolic(fake, x) for x in tensors]

    def traced(*given: Tensor) -> list[Tensor]:
        with _Asked(real.answers) as asked, Traced():
            outputs = list(function(*given))
        return [*outputs, asked.unchanged(given[0])]

    try:
        graph: GraphModule = make_fx(
            traced, tracing_mode="symbolic", _allow_non_fake_inputs=True
        )(*symbolic)
        fast = torch.compile(graph, dynamic=True, fullgraph=True)
        with torch.no_grad():
            fast(*tensors)
    except Exception as error:  # torch's, of many kinds
        raise CompileError(f"{type(error).__name__}: {_first(error)}") from error
    fit = _fit(shapes, symbolic)

    def run(*given: Tensor) -> list[Tensor]:
        if not fit(given):
            raise PlanChanged("its shapes")
        *outputs, unchanged = fast(*given)
        if not unchanged:
            raise PlanChanged("what was asked of values")
        return outputs

    return Program(run, len(graph.graph.nodes), len(real.answers))


class _Asked(TorchFunctionMode):
    """Keeps what is asked of values; or answers it, if it is given the answers."""

    def __init__(self, given: Sequence[Any] | None = None) -> None:
        super().__init__()
        self.given = given
        self.answers: list[Any] = []
        self.tensors: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.equal:
            if args[0].shape != args[1].shape:
                return False
            func, args = torch.Tensor.__bool__, ((args[0] == args[1]).all(),)
        if func not in _ASKING:
            return func(*args, **(kwargs or {}))
        tensor = args[0].detach()
        answer = func(tensor) if self.given is None else self.given[len(self.answers)]
        self.answers.append(answer)
        self.tensors.append(tensor)
        return answer

    def unchanged(self, like: Tensor) -> Tensor:
        """Whether all answers are what they were."""
        same = [t.reshape(()) == a for t, a in zip(self.tensors, self.answers)]
        return torch.stack([like.new_ones((), dtype=torch.bool), *same]).all()


def _symbolic(fake: FakeTensorMode, x: Tensor) -> Tensor:
    """A tensor of any size in each of its dimensions."""
    sizes: Any = StatelessSymbolicContext([DimDynamic.DYNAMIC] * x.dim())
    return fake.from_tensor(x.detach(), symbolic_context=sizes)


def _fit(
    shapes: ShapeEnv, symbolic: Sequence[Any]
) -> Callable[[Sequence[Tensor]], bool]:
    """Whether tensors have shapes for which the trace holds."""
    guards = shapes.produce_guards_expression(symbolic, ignore_static=False) or "True"
    code = compile(guards, "<shapes>", "eval")
    names = [f"t{k}" for k in range(len(symbolic))]  # as torch calls them
    return lambda given: eval(code, SYMPY_INTERP, {"L": dict(zip(names, given))})


def _first(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


_ASKING = frozenset(
    getattr(torch.Tensor, name)
    for name in "__bool__ __int__ __float__ __index__ item".split()
)
