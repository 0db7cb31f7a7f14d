"""The calculus put to work on any function of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .calls import DivergenceError, RuleNode
from .diagnostics import Diagnostics
from .flagging import FlaggedInputPass
from .missing import missing, nan_without_answer, references_where_known, where_known
from .pairs import Rule
from .passes import InputPass
from .reference import ReferencePass
from .registry import Table, default_table, module_types, with_rules
from .runs import Runs, memory_of
from .state import address_of
from .tape import Tape
from .view import call_module, private_view


class TwoSided(NamedTuple):
    """Both passes' outputs.

    Args:
        output: f(x), attached to the inputs: its "gradient" by autograd is the
            multiplier of each input.
        reference_output: f(x0).
        tape: What was recorded; ``tape.diagnostics()`` is the account of it.
    """

    output: Tensor
    reference_output: Tensor
    tape: Tape


class Attributions(NamedTuple):
    """One explanation in plain tensors.

    Args:
        attributions: One per input, shaped like it.
        f_input: ``(batch,)``, the explained output at the input.
        f_reference: ``(batch,)``, the same at the reference.
        delta: ``(batch,)``, the sum of the attributions minus the difference of
            the outputs; 0 but for rounding where every rule is exact.
        diagnostics: What ran, by which rule.
    """

    attributions: tuple[Tensor, ...]
    f_input: Tensor
    f_reference: Tensor
    delta: Tensor
    diagnostics: Diagnostics


def two_passes(
    forward: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    references: Sequence[Tensor],
    args: Sequence[Any] = (),
    table: Table | None = None,
    tape: Tape | None = None,
) -> TwoSided:
    """Run ``forward(*inputs, *args)`` on the inputs, then on the references.

    The inputs of which multipliers are wanted must require gradients. Random
    numbers are the same in both passes, and the generators are left as they were.
    The rules are captum_ehr's own, or the table's, or those of a tape of your own.

    Raises:
        DivergenceError: If the function runs other operations on the reference.
    """
    tape = Tape(default_table() if table is None else table) if tape is None else tape

    def attempt() -> TwoSided:
        with recorded(forward, inputs, args, tape) as (output, at_reference):
            return TwoSided(output, at_reference(references), tape)

    return settled(tape, attempt)


@contextmanager
def recorded(
    forward: Callable[..., Tensor], inputs: Sequence[Tensor], args: Any, tape: Tape
) -> Iterator[tuple[Tensor, Callable[[Sequence[Tensor]], Tensor]]]:
    """Run the input pass once, for any number of reference passes.

    The inputs require gradients; several references need ``tape.lasting``.

    Yields:
        f(x), and a function from references to f(x0). Each reference's multipliers
        are to be had (retaining the graph) before the next reference is run; and once,
        if the tape is not lasting. Between the passes, and in a pass within them,
        random numbers start where they did.
    """
    tape.clear()
    runs = Runs(forward, args, tape)
    with runs.kept():
        output = runs.first(inputs, FlaggedInputPass if tape.flagged else InputPass)
        if address_of(output) in tape.borrowed:
            output = output.clone()

        def at_reference(references: Sequence[Tensor]) -> Tensor:
            reference_pass = ReferencePass(tape)
            known = references_where_known(inputs, references, tape)
            try:
                f_reference = runs.next(known, reference_pass)
                reference_pass.finish()
            except Exception:
                if tape.crossed():  # which may have led to it
                    raise Crossed from None
                raise
            if tape.crossed():
                raise Crossed
            if tape.kept:
                shift = partial(_shift, runs, references, f_reference.detach())
                tape.own_outputs.append(shift)
            ours = address_of(f_reference) in memory_of(known)
            return f_reference.detach().clone() if ours else f_reference.detach()

        yield output, at_reference


class Crossed(Exception):
    """Flags differ between input and reference: the passes are to be run again."""


def settled[T](tape: Tape, attempt: Callable[[], T]) -> T:
    """What passes lead to that know which flags differ.

    They are attempted anew while they meet flags that differ; and once more where they
    diverge, as it may be that the first one has filled a cache which is not the
    model's own.
    """
    diverged = False
    while True:
        try:
            return attempt()
        except Crossed:
            tape.flagged |= tape.crossed()
        except DivergenceError:
            if diverged:
                raise
            diverged = True


def _shift(runs: Runs, references: Sequence[Tensor], output: Tensor) -> float | str:
    """How far f(x0) with the input's structure is from the model's own."""
    try:
        direct = runs.aside(references)
    except Exception as error:
        return f"the only one: the model itself cannot run on the reference ({error})"
    if direct.shape != output.shape or not bool(torch.isfinite(direct).all()):
        return "the only one: the model's own at the reference is not finite"
    roundings = 64 if direct.dtype in (torch.float32, torch.float64) else 4
    gap = (direct - output).abs()
    rounding = roundings * torch.finfo(direct.dtype).eps * (direct.abs() + output.abs())
    return float(torch.where(gap > rounding, gap, 0.0).max())


def attributions(
    model: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    references: Sequence[Tensor],
    args: Sequence[Any] = (),
    target: int | None = None,
    rules: Mapping[Any, Rule] | None = None,
) -> Attributions:
    r"""Attribute a module's output to its inputs: :math:`m\,(x - x_0)`.

    Args:
        model: Any module or function of tensors; not changed.
        inputs: Floating-point tensors, batch first.
        references: Of the inputs' shapes.
        args: Further arguments of the model, the same for both passes.
        target: Column of a two-dimensional output; None where the output has one
            value per row.
        rules: From torch function or module type to a rule of your own.

    Raises:
        ValueError: If the output is not one value per row and no target is given.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1))
        >>> x = torch.randn(2, 3)
        >>> run = attributions(model, (x,), (torch.zeros_like(x),))
        >>> total = run.attributions[0].sum(1)
        >>> torch.allclose(total, run.f_input - run.f_reference, atol=1e-6)
        True
    """
    table = with_rules(rules)
    with torch.inference_mode(False):
        view = viewed(model, table) if isinstance(model, nn.Module) else model
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        bases = [x.detach().clone() for x in references]
        run = two_passes(view, leaves, bases, args, table)
        chosen = [_column(side, target) for side in run[:2]]
        gradients = multipliers(chosen[0], leaves)
    with torch.no_grad():
        sides = zip(gradients, leaves, bases)
        shares = tuple(
            where_known(g * (x - b), 0.0, missing(x, b)) for g, x, b in sides
        )
        f_input, f_reference = chosen[0].detach(), chosen[1]
        shares = nan_without_answer(shares, f_input, f_reference)
        total = torch.stack([s.flatten(1).sum(1) for s in shares]).sum(0)
        delta = total - (f_input - f_reference)
        report = run.tape.diagnostics()
        for name in foreign_functions(run.output):
            message = f"{name}: came past no rule; its derivative at the input was used"
            report = replace(report, messages=(*report.messages, message))
    return Attributions(shares, f_input, f_reference, delta, report)


def multipliers(
    value: Tensor, inputs: Sequence[Tensor], again: bool = False
) -> tuple[Tensor, ...]:
    """The chain rule from an explained value into the inputs, and into nothing else.

    Zeros for an input that the value does not depend on. ``again`` keeps the graph for
    another reference, or another value, of a lasting tape.

    Raises:
        NotImplementedError: If the model has reentrant checkpoints.
    """
    if not value.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    try:
        return torch.autograd.grad(
            value.sum(),
            inputs,
            retain_graph=again,
            allow_unused=True,
            materialize_grads=True,
        )
    except RuntimeError as error:
        if "CheckpointFunction" not in foreign_functions(value):
            raise
        raise NotImplementedError(
            "The model uses torch.utils.checkpoint with use_reentrant=True, which runs "
            "its part again where no pass can see it; say use_reentrant=False."
        ) from error


def viewed(
    model: nn.Module, table: Table, types: tuple[type[nn.Module], ...] | None = None
) -> Any:
    """A private view of the model in which the table's module rules are in place.

    The table's module types need not be looked for if they are known.
    """
    types = module_types(table) if types is None else types
    if not types:
        return private_view(model, backward_hooks=False)

    def wrap(module: nn.Module) -> Callable[..., Any] | None:
        for kind in types:
            if isinstance(module, kind):
                return call_module(table[kind], module)
        return None

    return private_view(model, wrap, backward_hooks=False)


def _column(output: Tensor, target: int | None) -> Tensor:
    if target is None:
        if math.prod(output.shape[1:]) != 1:
            raise ValueError(
                f"The output has shape {tuple(output.shape)}; say which column to "
                "explain with target=."
            )
        return output.reshape(output.shape[0])
    return output[:, target]


def foreign_functions(output: Tensor) -> tuple[str, ...]:
    """Names of what a result depends on that came past no rule.

    Custom autograd functions, whose backward passes are derivatives that no rule can
    replace, and non-linear operations inside TorchScript, which no function mode sees.
    """
    names: dict[str, None] = {}
    stack, seen = [output.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = type(node).__name__
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            if not isinstance(node, RuleNode._backward_cls):
                names[name.removesuffix("Backward")] = None
        elif "jit::" in node.name():
            names["TorchScript"] = None
        elif (name := name.rstrip("0123456789").removesuffix("Backward")) in _UNRULED:
            names[name] = None
        stack.extend(next_node for next_node, _ in node.next_functions)
    return tuple(names)


#: autograd's names of operations that never stand in a graph under their own name
#: when a pass has seen them.
_UNRULED = frozenset(
    "Tanh Sigmoid Relu Exp Log Softmax LogSoftmax Gelu Silu Elu Pow Sqrt Rsqrt Abs "
    "LeakyRelu Softplus Threshold Hardtanh Clamp Reciprocal NativeLayerNorm".split()
)
