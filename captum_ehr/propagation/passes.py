"""The two passes: one over the input that records, one over the reference.

A :class:`torch.overrides.TorchFunctionMode` sees every torch call of an unmodified
model, whichever module, function or operator it comes from. In the input pass each
call that needs a rule becomes one node of autograd's graph; in the reference pass
the same calls come in the same order, and each node's rule is told both sides and
gives its multiplier. Autograd's own backward pass is then the chain rule.

Modes are local to their thread, and nothing is written on the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level
from torch.overrides import TorchFunctionMode

from .calls import (
    FALLBACK_NODES,
    Call,
    DivergenceError,
    Node,
    attributed_tensors,
    check_shapes,
    detached,
    hides,
    is_product,
    out_of_place,
    positional,
    replaying,
    rewrapped,
    tensors_in,
    without_writing,
)
from .diagnostics import Diagnostics, Operation
from .operations import label
from .pairs import Multiplier
from .registry import NATIVE, NEUTRAL, Entry, Kind, Table
from .structure import structural_value


class Tape:
    """What the input pass leaves for the reference pass: the calls, in order.

    Args:
        table: The rules.
        lasting: Whether several references are run against one input.
    """

    def __init__(self, table: Table, lasting: bool = False) -> None:
        self.table = table
        self.lasting = lasting
        self.functions: list[Callable[..., Any]] = []
        self.calls: dict[int, Call] = {}
        self.generators: list[tuple[str, Tensor]] = []
        self.messages: list[str] = []

    def note(
        self, entry: Entry, function: Any, args: Any, kwargs: Any, output: Any
    ) -> Call:
        """Record the call that came last."""
        call = Call(entry, function, args, kwargs, output)
        self.calls[len(self.functions) - 1] = call
        return call

    def draws(self, args: Any) -> None:
        """Remember where the generators stand, before the first random number."""
        if not self.generators:
            self.generators.append(("cpu", torch.get_rng_state()))
            for device in {t.device for t in tensors_in(args) if t.is_cuda}:
                state = torch.cuda.get_rng_state(device)
                self.generators.append((str(device), state))

    def rewind(self) -> None:
        """Put the generators back, where the model has used them at all."""
        for device, state in self.generators:
            if device == "cpu":
                torch.set_rng_state(state)
            else:
                torch.cuda.set_rng_state(state, device)

    def diagnostics(self) -> Diagnostics:
        """The account of both passes, to be asked for after the backward pass.

        What the model computed besides, a loss for example, is not on the way.
        """
        counts = Counter(
            (label(c.function), c.entry.name if c.exact else "path_integral", c.exact)
            for c in self.calls.values()
            if c.used
        )
        operations = tuple(
            Operation(name, rule, calls, exact)
            for (name, rule, exact), calls in sorted(counts.items())
        )
        fallbacks = [op for op in operations if not op.exact]
        messages = [
            f"{op.name}: no exact rule; integrated along the straight line with "
            f"{FALLBACK_NODES} nodes ({op.calls} calls)"
            for op in fallbacks
        ]
        return Diagnostics(operations, tuple(dict.fromkeys(messages + self.messages)))


class InputPass(TorchFunctionMode):
    """Runs the model on the input and records every call that needs a rule."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        tape = self.tape
        entry = tape.table.get(func)
        kwargs = kwargs or {}
        if entry is NEUTRAL:
            return func(*args, **kwargs)
        if entry is not None and entry.kind is Kind.IGNORE:
            return None
        tape.functions.append(func)
        if entry is NATIVE:
            return func(*args, **kwargs)
        return self.dispatch(entry, func, args, kwargs)

    def dispatch(self, entry: Entry | None, func: Any, args: Any, kwargs: Any) -> Any:
        """A call that may need a rule."""
        if maybe_current_level() is not None:
            return self._transformed(entry, func, args, kwargs)
        args, kwargs = positional(args, kwargs)
        attributed = attributed_tensors(args, kwargs)
        if entry is not None and entry.random and kwargs.get("training", True):
            self.tape.draws((*args, *kwargs.values()))
        if entry is None:
            if not attributed:
                return func(*args, **kwargs)
            return self._unknown(func, args, kwargs, attributed)
        plain, rest, overwrites = out_of_place(entry, func, kwargs)
        if overwrites and args:
            self._shelter(args[0])
        if not attributed:
            return func(*args, **kwargs)
        if entry.kind is Kind.RULE or is_product(entry, args, kwargs, attributed):
            return self.record(entry, plain, args, rest, attributed, overwrites)
        if entry.kind is Kind.EXPAND:
            return self._expand(entry, plain, args, rest, attributed, overwrites)
        if entry.kind is Kind.STRUCTURE:
            return self._structure(func, args, kwargs)
        if entry.kind is Kind.IDENTITY:
            return args[0].view_as(args[0])
        output = func(*args, **kwargs)
        if entry.kind is Kind.CAST and isinstance(output, Tensor):
            if output.requires_grad:
                return output
            return self._structure(func, args, kwargs, output)
        return output

    def _expand(
        self,
        entry: Entry,
        plain: Any,
        args: Any,
        kwargs: Any,
        attributed: list[Tensor],
        overwrites: bool,
    ) -> Any:
        """Run a function's parts instead of the function."""
        assert entry.rule is not None
        position = len(self.tape.functions) - 1
        with self:
            result = entry.rule(*args, **kwargs)
        if result is NotImplemented:
            return self._unknown(plain, args, kwargs, attributed)
        self.tape.calls[position] = Call(entry, plain, (), {}, None)
        if overwrites:
            self._shelter(args[0])
            return args[0].copy_(result)
        return result

    def record(
        self,
        entry: Entry,
        plain: Any,
        args: Any,
        kwargs: Any,
        attributed: list[Tensor],
        overwrites: bool = False,
    ) -> Any:
        """Run the call, and put its rule where autograd would have its derivative."""
        with torch.no_grad():
            output = plain(*args, **kwargs)
            if isinstance(output, Tensor) and output._is_view():
                output = output.clone()  # a node's views may not be written on
        call = self.tape.note(entry, plain, args, kwargs, detached(output))
        with torch.enable_grad():
            result = rewrapped(output, Node.apply(call, [output], *attributed))
        if overwrites:
            self._shelter(args[0])
            return args[0].copy_(result)
        return result

    def _unknown(
        self, func: Any, args: Any, kwargs: Any, attributed: list[Tensor]
    ) -> Any:
        """A call that no rule names: integrated, if it is differentiable at all."""
        plain = without_writing(func)
        before = torch.get_rng_state()
        with torch.enable_grad():
            trial = plain(*args, **kwargs)
        overwrites = plain is not func
        if not any(t.requires_grad for t in tensors_in(trial)):
            self._structure(plain, args, kwargs, trial, overwrites)
            if overwrites:
                self._shelter(args[0])
            return args[0].copy_(trial) if overwrites else trial
        if not torch.equal(before, torch.get_rng_state()):
            plain = replaying(plain, before)
            if not self.tape.generators:
                self.tape.generators.append(("cpu", before))
        entry = Entry(Kind.RULE, None, plain if overwrites else None)
        return self.record(entry, plain, args, kwargs, attributed, overwrites)

    def _transformed(
        self, entry: Entry | None, func: Any, args: Any, kwargs: Any
    ) -> Any:
        """A call inside torch.func (vmap, grad), whose tensors no rule can serve."""
        hidden = [t for t in tensors_in((*args, *kwargs.values())) if hides(t)]
        if hidden and (
            entry is None
            or entry.kind in (Kind.RULE, Kind.EXPAND, Kind.STRUCTURE)
            or is_product(entry, args, kwargs, hidden)
        ):
            self.tape.messages.append(
                f"{label(func)}: inside torch.vmap or torch.func, where no rule can "
                "serve; its derivative at the input was used"
            )
        return func(*args, **kwargs)

    def _structure(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        output: Any = None,
        overwrites: bool = False,
    ) -> Any:
        with torch.no_grad():
            args, kwargs = detached(args), detached(kwargs)
            output = func(*args, **kwargs) if output is None else output
        entry = Entry(Kind.STRUCTURE, None, func if overwrites else None)
        self.tape.note(entry, func, args, kwargs, detached(output))
        return output

    def _shelter(self, target: Any) -> None:
        """Copy what is recorded in memory that is about to be overwritten."""
        if not isinstance(target, Tensor):
            return
        memory = target.untyped_storage().data_ptr()
        for call in self.tape.calls.values():
            call.shelter(memory)


class ReferencePass(TorchFunctionMode):
    """Runs the model on the reference and completes the recorded calls."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self.position = -1
        self.indices: dict[int, tuple[Tensor, str]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        tape = self.tape
        kwargs = kwargs or {}
        entry = tape.table.get(func)
        if entry is NEUTRAL:
            return func(*args, **kwargs)
        if entry is not None and entry.kind is Kind.IGNORE:
            return None
        self.position = position = self.position + 1
        try:
            recorded = tape.functions[position]
        except IndexError:
            recorded = None
        if recorded is not func and recorded != func:
            raise DivergenceError(
                f"The model called {label(func)} on the reference where it called "
                f"{label(recorded) if recorded else 'nothing more'} on the input "
                f"(call {position}). It takes another path for the reference; choose "
                "a reference of the same structure, e.g. baselines='unk'."
            )
        call = tape.calls.get(position)
        if self.indices:
            self._watch(func, args, kwargs)
        if call is None:
            return func(*args, **kwargs)
        return self._meet(call, func, args, kwargs)

    def _meet(self, call: Call, func: Any, args: Any, kwargs: Any) -> Any:
        entry = call.entry
        args, kwargs = positional(args, kwargs)
        _, kwargs, overwrites = out_of_place(entry, func, kwargs)
        if entry.kind is Kind.EXPAND and entry.rule is not None:
            with self:
                output = entry.rule(*args, **kwargs)
            return args[0].copy_(output) if overwrites else output
        if entry.kind is Kind.STRUCTURE:
            value, crossed = structural_value(call, args, kwargs)
            if crossed:
                self.tape.messages.append(_crossing(label(func), value, crossed))
            return args[0].copy_(value) if overwrites else value
        output = call.function(*args, **kwargs)
        check_shapes(call, output)
        ours = call.output
        call.resolve(args, kwargs, output, self.tape.lasting)
        if isinstance(output, tuple):
            output = self._with_indices(func, ours, output)
        return args[0].copy_(output) if overwrites else output

    def _with_indices(self, func: Any, ours: Any, theirs: Any) -> Any:
        """An operation's values at the reference, with the input's own indices."""
        kept = []
        for a, b in zip(ours, theirs):
            if isinstance(b, Tensor) and b.dtype == torch.int64:
                if not torch.equal(a, b):
                    self.indices[id(a)] = (a, label(func))
                kept.append(a)
            else:
                kept.append(b)
        return rewrapped(theirs, kept)

    def _watch(self, func: Any, args: Any, kwargs: Any) -> None:
        """Report indices that differ between the sides, where they are used."""
        for tensor in tensors_in((*args, *kwargs.values())):
            _, source = self.indices.get(id(tensor), (None, ""))
            if source:
                self.tape.messages.append(
                    f"{source}: its indices differ between input and reference, and "
                    f"{label(func)} uses them; the input's are kept for both"
                )


def _crossing(name: str, value: Any, count: int) -> str:
    """What to say of a structural call that answers differently on both sides."""
    if isinstance(value, Tensor) and value.dtype == torch.bool:
        return (
            f"{name}: a threshold on attributed values differs between input and "
            f"reference ({count} values); the change that it makes is not attributed"
        )
    return (
        f"{name}: differs between input and reference; the input's is kept for both, "
        "so f(x0) is the model's output with the input's structure"
    )


def call_module(table_entry: Entry, module: nn.Module) -> Callable[..., Any]:
    """A module's forward that the passes see as one call, for module-level rules."""
    forward = module.forward
    entry = table_entry._replace(rule=_with_module(table_entry, module))

    def run(*args: Any, **kwargs: Any) -> Any:
        mode = _active_pass() if torch._C._is_torch_function_mode_enabled() else None
        if mode is None:
            return forward(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if isinstance(mode, InputPass):
                mode.tape.functions.append(forward)
                return mode.dispatch(entry, forward, args, kwargs)
            return mode.__torch_function__(forward, (), args, kwargs)

    return run


def _with_module(entry: Entry, module: nn.Module) -> Callable[..., Any]:
    rule = entry.rule
    assert rule is not None

    def bound(*args: Any, **kwargs: Any) -> Multiplier:
        return rule(module, *args, **kwargs)

    bound.__name__ = getattr(rule, "__name__", "module rule")
    return bound


def _active_pass() -> InputPass | ReferencePass | None:
    for mode in reversed(torch.overrides._get_current_function_mode_stack()):
        if isinstance(mode, (InputPass, ReferencePass)):
            return mode
    return None
