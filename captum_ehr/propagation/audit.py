"""The books of one explanation, operation by operation: what came in, what went out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .calls import Call
from .declarations import Entry, label
from .pairs import Multiplier, pairs_in
from .registry import Table
from .tape import Tape


class Line(NamedTuple):
    """All calls of one operation in one module.

    Args:
        operation: The torch function's or module's name.
        module: Path of the module that called it; ``""`` for the model itself.
        calls: How many calls.
        rule: The name of the rule that gave their multipliers.
        exact: False for the path-integral fallback.
        carried: Σ M·Δout over the calls, in units of the explained value.
        missing: ``Σ |Σ M·m·Δin - Σ M·Δout|`` over the calls, in the same units.
    """

    operation: str
    module: str
    calls: int
    rule: str
    exact: bool
    carried: float
    missing: float


class AuditedCall(Call):
    """A call that measures its own completeness in the backward pass."""

    __slots__ = ("carried", "missing", "module")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.output = args[-1]  # in full: the account is of it
        self.carried = 0.0
        self.missing = 0.0
        self.module = ""

    def serve(self, result: Any, args: Any, kwargs: Any) -> Multiplier:
        """The rule's multiplier, and with it both sides of the account."""
        served = super().serve(result, args, kwargs)
        outputs = list(pairs_in(result))
        operands = {p.slot: p for p in pairs_in((*args, *kwargs.values()))}

        def measured(*upstream: Tensor) -> Any:
            shares = list(served(*upstream))
            went_out = sum(_dot(m, y.delta) for m, y in zip(upstream, outputs))
            came_in = sum(
                _dot(m, operands[x.slot].delta) for x, m in shares if x.slot >= 0
            )
            self.carried += went_out
            self.missing += came_in - went_out
            return shares

        return measured


class AuditTape(Tape):
    """A tape that weighs every call, and knows which module made it."""

    call_type = AuditedCall

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self.modules: list[str] = []

    def note(
        self, entry: Entry, function: Any, args: Any, kwargs: Any, output: Any
    ) -> Call:
        """Record the call that came last, and where it came from."""
        call = super().note(entry, function, args, kwargs, output)
        call.module = self.modules[-1] if self.modules else ""  # type: ignore[attr-defined]
        return call

    def follow(self, view: nn.Module) -> None:
        """Have the modules of a private view say when they run.

        But for tables that only look up, which are known by their forward.
        """
        for name, module in view.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            forward = module.forward
            if getattr(forward, "__func__", None) is not nn.Embedding.forward:
                module.__dict__["forward"] = self._announced(name, forward)

    def lines(self) -> list[Line]:
        """The account, to be asked for after the backward pass."""
        groups: dict[tuple[str, str, str, bool], list[AuditedCall]] = defaultdict(list)
        for call in self.calls.values():
            if isinstance(call, AuditedCall) and call.used:
                rule = call.entry.name if call.exact else "path_integral"
                key = (label(call.function), call.module, rule, call.exact)
                groups[key].append(call)
        return [
            Line(
                operation,
                module,
                len(calls),
                rule,
                exact,
                sum(c.carried for c in calls),
                sum(abs(c.missing) for c in calls),
            )
            for (operation, module, rule, exact), calls in groups.items()
        ]

    def net(self) -> float:
        """What all calls together miss, with its sign."""
        calls = self.calls.values()
        return sum(c.missing for c in calls if isinstance(c, AuditedCall))

    def _announced(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def announced(*args: Any, **kwargs: Any) -> Any:
            self.modules.append(name)
            try:
                return forward(*args, **kwargs)
            finally:
                self.modules.pop()

        return announced


def _dot(multiplier: Tensor | None, delta: Tensor) -> float:
    """Σ m·Δ in float64; what has no multiplier has no part, be it infinite."""
    if multiplier is None or not (delta.is_floating_point() or delta.is_complex()):
        return 0.0
    product = (multiplier.conj() * delta).real.double()
    return float(torch.where(multiplier == 0, 0.0, product).sum())
