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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .diagnostics import Diagnostics, Operation
from .operations import label
from .pairs import Multiplier, Pair
from .registry import NATIVE, NEUTRAL, Entry, Kind, Table
from .rules.integral import path_integral
from .structure import structural_value

#: Nodes of the quadrature that serves operations without a rule.
FALLBACK_NODES = 32


class DivergenceError(RuntimeError):
    """The model ran other operations on the reference than on the input."""


class Call:
    """One recorded call: what went in and came out at the input, then the rule's
    multiplier. Nothing of it outlives the backward pass."""

    __slots__ = (
        *("args", "entry", "exact", "function", "kwargs", "multiplier", "output"),
        "used",
    )

    def __init__(
        self,
        entry: Entry,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> None:
        self.entry = entry
        self.function = function
        self.args: Any = args
        self.kwargs: Any = kwargs
        self.output = output
        self.multiplier: Multiplier | None = None
        self.exact = True
        self.used = False

    def resolve(self, args: Any, kwargs: Any, output: Any) -> None:
        """Meet the reference's side: from now on there is a multiplier."""
        slots = iter(range(1 << 30))
        paired = [_pair(a, b, slots) for a, b in zip(self.args, args)]
        named = {k: _pair(a, kwargs[k], slots) for k, a in self.kwargs.items()}
        result = _pair_outputs(self.output, output)
        served = NotImplemented
        if self.entry.rule is not None:
            served = self.entry.rule(result, *paired, **named)
        if served is NotImplemented:
            self.exact = False
            rule = path_integral(self.function, FALLBACK_NODES)
            served = rule(result, *paired, **named)
        self.multiplier = served
        self.args = self.kwargs = self.output = None

    def tensors(self) -> Iterator[tuple[list[Any] | dict[str, Any], Any, Tensor]]:
        """Every recorded tensor, with where it is kept."""
        self.args = list(self.args)
        for box in (self.args, self.kwargs):
            keys = range(len(box)) if isinstance(box, list) else list(box)
            for key in keys:
                if isinstance(box[key], Tensor):
                    yield box, key, box[key]


class _Node(torch.autograd.Function):
    """A call's place in autograd's graph: its backward is the rule's multiplier."""

    @staticmethod
    def forward(ctx: Any, call: Call, output: list[Any], *attributed: Tensor) -> Any:
        ctx.call = call
        return output[0]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        call: Call = ctx.call
        if call.multiplier is None:
            raise DivergenceError(
                f"{label(call.function)} ran on the input but not on the reference."
            )
        call.used = True
        shares: list[Tensor | None] = [None] * (len(ctx.needs_input_grad) - 2)
        for pair, share in call.multiplier(*upstream):
            if pair.slot >= 0:
                earlier = shares[pair.slot]
                shares[pair.slot] = share if earlier is None else earlier + share
        return (None, None, *shares)


class Tape:
    """What the input pass leaves for the reference pass: the calls, in order."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.functions: list[Callable[..., Any]] = []
        self.calls: dict[int, Call] = {}
        self.messages: list[str] = []

    def diagnostics(self) -> Diagnostics:
        """The account of both passes, to be asked for after the backward pass: what
        the model computed besides, a loss for example, is not on the way."""
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
        return Diagnostics(operations, tuple(messages + self.messages))


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
        tape.functions.append(func)
        if entry is NATIVE:
            return func(*args, **kwargs)
        return self.dispatch(entry, func, args, kwargs)

    def dispatch(self, entry: Entry | None, func: Any, args: Any, kwargs: Any) -> Any:
        """A call that may need a rule."""
        attributed = _attributed(args, kwargs)
        if not attributed:
            return func(*args, **kwargs)
        if entry is None:
            return self._unknown(func, args, kwargs, attributed)
        if entry.kind is Kind.RULE or _is_product(entry, args, attributed):
            return self.record(entry, func, args, kwargs, attributed)
        if entry.kind is Kind.EXPAND and entry.rule is not None:
            self.tape.calls[len(self.tape.functions) - 1] = Call(
                entry, func, (), {}, None
            )
            with self:
                return entry.rule(*args, **kwargs)
        if entry.kind is Kind.STRUCTURE:
            return self._structure(entry, func, args, kwargs)
        if entry.kind is Kind.IDENTITY:
            return args[0].view_as(args[0])
        if entry.kind is Kind.OVERWRITE or entry.inplace is not None:
            self._shelter(args[0])
        return func(*args, **kwargs)

    def record(
        self,
        entry: Entry,
        func: Any,
        args: Any,
        kwargs: Any,
        attributed: list[Tensor],
    ) -> Any:
        """Run the call, and put its rule where autograd would have its derivative."""
        func, kwargs, overwrites = _out_of_place(entry, func, kwargs)
        with torch.no_grad():
            output = func(*args, **kwargs)
        call = Call(entry, func, args, kwargs, _detached(output))
        self.tape.calls[len(self.tape.functions) - 1] = call
        with torch.enable_grad():
            result = _Node.apply(call, [output], *attributed)
        if overwrites:
            self._shelter(args[0])
            return args[0].copy_(result)
        return result

    def _unknown(
        self, func: Any, args: Any, kwargs: Any, attributed: list[Tensor]
    ) -> Any:
        """A call that no rule names: integrated, if it is differentiable at all."""
        with torch.enable_grad():
            trial = func(*args, **kwargs)
        live = [t for t in _flat(trial) if t.requires_grad]
        if not live:
            return self._structure(NATIVE, func, args, kwargs, trial)
        if label(func).endswith("_"):
            self.tape.messages.append(
                f"{label(func)}: writes in place and has no rule; its gradient at "
                "the input was used"
            )
            return trial
        return self.record(Entry(Kind.RULE), func, args, kwargs, attributed)

    def _structure(
        self, entry: Entry, func: Any, args: Any, kwargs: Any, output: Any = None
    ) -> Any:
        with torch.no_grad():
            args, kwargs = _detached(args), _detached(kwargs)
            output = func(*args, **kwargs) if output is None else output
        call = Call(Entry(Kind.STRUCTURE), func, args, kwargs, _detached(output))
        self.tape.calls[len(self.tape.functions) - 1] = call
        return output

    def _shelter(self, target: Any) -> None:
        """Copy what is recorded in memory that is about to be overwritten."""
        if not isinstance(target, Tensor):
            return
        memory = target.untyped_storage().data_ptr()
        for call in self.tape.calls.values():
            if call.args is None:
                continue
            for box, key, tensor in call.tensors():
                if tensor.untyped_storage().data_ptr() == memory:
                    box[key] = tensor.clone()
            if isinstance(call.output, Tensor):
                if call.output.untyped_storage().data_ptr() == memory:
                    call.output = call.output.clone()


class ReferencePass(TorchFunctionMode):
    """Runs the model on the reference and completes the recorded calls."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self.position = -1

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        tape = self.tape
        kwargs = kwargs or {}
        if tape.table.get(func) is NEUTRAL:
            return func(*args, **kwargs)
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
        if call is None:
            return func(*args, **kwargs)
        return self._meet(call, func, args, kwargs)

    def _meet(self, call: Call, func: Any, args: Any, kwargs: Any) -> Any:
        entry = call.entry
        if entry.kind is Kind.EXPAND and entry.rule is not None:
            with self:
                return entry.rule(*args, **kwargs)
        if entry.kind is Kind.STRUCTURE:
            value, crossed = structural_value(call, args, kwargs)
            if crossed:
                self.tape.messages.append(
                    f"{label(func)}: a threshold on attributed values differs between "
                    f"input and reference ({crossed} values); the change that it makes"
                    " is not attributed"
                )
            return value
        plain, kwargs, overwrites = _out_of_place(entry, func, kwargs)
        output = plain(*args, **kwargs)
        _check_shapes(call, output)
        call.resolve(args, kwargs, output)
        return args[0].copy_(output) if overwrites else output


def call_module(table_entry: Entry, module: nn.Module) -> Callable[..., Any]:
    """A module's forward that the passes see as one call, for module-level rules."""
    forward = module.forward
    entry = table_entry._replace(rule=_with_module(table_entry, module))

    def run(*args: Any, **kwargs: Any) -> Any:
        mode = _active_pass()
        if mode is None:
            return forward(*args, **kwargs)
        with _without_modes():
            if isinstance(mode, InputPass):
                mode.tape.functions.append(forward)
                return mode.dispatch(entry, forward, args, kwargs)
            return mode.__torch_function__(forward, (), args, kwargs)

    return run


def _with_module(entry: Entry, module: nn.Module) -> Callable[..., Any] | None:
    rule = entry.rule
    if rule is None:
        return None

    def bound(*args: Any, **kwargs: Any) -> Multiplier:
        return rule(module, *args, **kwargs)

    bound.__name__ = getattr(rule, "__name__", "module rule")
    return bound


def _active_pass() -> InputPass | ReferencePass | None:
    for mode in reversed(torch.overrides._get_current_function_mode_stack()):
        if isinstance(mode, (InputPass, ReferencePass)):
            return mode
    return None


def _without_modes() -> Any:
    return torch._C.DisableTorchFunction()


def _out_of_place(
    entry: Entry, func: Any, kwargs: Any
) -> tuple[Any, dict[str, Any], bool]:
    """The same call without its side effect, and whether it had one."""
    if entry.inplace is not None:
        return entry.inplace, kwargs, True
    if "inplace" in kwargs:
        rest = {key: value for key, value in kwargs.items() if key != "inplace"}
        return func, rest, bool(kwargs["inplace"])
    return func, kwargs, False


def _check_shapes(call: Call, output: Any) -> None:
    for ours, theirs in zip(_flat(call.output), _flat(output)):
        if ours.shape != theirs.shape:
            raise DivergenceError(
                f"{label(call.function)} gave shape {tuple(theirs.shape)} on the "
                f"reference and {tuple(ours.shape)} on the input."
            )


def _is_product(entry: Entry, args: Any, attributed: list[Tensor]) -> bool:
    """Whether a product has two attributed factors, a quotient a divisor."""
    if entry.kind is Kind.PRODUCT:
        return len(attributed) > 1
    if entry.kind is Kind.QUOTIENT:
        return len(attributed) > 1 or attributed[0] is not args[0]
    return False


def _attributed(args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors of a call that depend on the attributed inputs, in order."""
    found = [t for t in _flat(args) if _depends(t)]
    if kwargs:
        found += [t for t in _flat(tuple(kwargs.values())) if _depends(t)]
    return found


def _depends(tensor: Tensor) -> bool:
    """Whether a tensor comes from the attributed inputs. The model gets these as
    copies, so a leaf that requires a gradient is a parameter met outside a view."""
    return tensor.requires_grad and not tensor.is_leaf


def _flat(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _detached(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_detached(item) for item in value)
    return value


def _pair(ours: Any, theirs: Any, slots: Iterator[int]) -> Any:
    """The two sides of an argument; pairs for what is attributed."""
    if isinstance(ours, Tensor):
        return Pair(ours.detach(), theirs, next(slots)) if _depends(ours) else ours
    if type(ours) in (list, tuple):
        return type(ours)(_pair(a, b, slots) for a, b in zip(ours, theirs))
    return ours


def _pair_outputs(ours: Any, theirs: Any) -> Any:
    if isinstance(ours, Tensor):
        return Pair(ours, theirs)
    return [_pair_outputs(a, b) for a, b in zip(ours, theirs)]

