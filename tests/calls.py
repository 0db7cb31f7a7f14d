"""One call put through both passes, and cases to try it on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from oracles import oracle
from torch import Tensor

from captum_ehr.propagation import Attributions, attributions, two_passes
from captum_ehr.propagation.registry import Table
from captum_ehr.propagation.tape import Tape

#: The same examples in every run: a failure is a defect, never bad luck.
examples = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)

seeds = st.integers(0, 2**31 - 1)
dtypes = st.sampled_from([torch.float64, torch.float32])

#: Of multipliers against the oracle, relative to the largest.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}

#: Of completeness, relative to the size of what is added up.
COMPLETE = {torch.float64: 1e-12, torch.float32: 1e-5}


class Ran(NamedTuple):
    """What one call gave: multipliers of the operands and both outputs."""

    multipliers: list[Tensor]
    output: Tensor
    reference: Tensor
    upstream: Tensor
    tape: Tape


def sides(
    shape: Sequence[int],
    seed: int,
    dtype: torch.dtype = torch.float64,
    scale: float = 1.0,
    positive: bool = False,
) -> tuple[Tensor, Tensor]:
    """Two random tensors; a fifth of the elements is the same in both."""
    generator = torch.Generator().manual_seed(seed)
    shape = tuple(shape)
    x, x0 = torch.randn((2, *shape), generator=generator, dtype=dtype)
    same = torch.rand(shape, generator=generator) < 0.2
    x0 = torch.where(same, x, x0)
    if positive:
        x, x0 = x.abs() + 0.05, x0.abs() + 0.05
    return x * scale, x0 * scale


def run_call(
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    references: Sequence[Tensor],
    seed: int = 0,
    table: Table | None = None,
) -> Ran:
    """The multipliers of one call for a random upstream gradient."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    output, reference, tape = two_passes(function, leaves, references, table=table)
    generator = torch.Generator().manual_seed(seed + 1)
    upstream = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    found = torch.autograd.grad(
        output, leaves, upstream, allow_unused=True, materialize_grads=True
    )
    return Ran(list(found), output.detach(), reference, upstream, tape)


def assert_close(
    found: Any, expected: Any, tolerance: float, floor: float = 0.0
) -> None:
    """Elementwise, relative to the largest expected value, or to the floor."""
    found = np.asarray(found, dtype=np.float64)
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    worst = np.abs(found - expected).max(initial=0.0)
    assert worst <= tolerance * max(np.abs(expected).max(initial=0.0), floor, 1e-30)


def assert_complete(
    ran: Ran, inputs: Sequence[Tensor], references: Sequence[Tensor], slack: float = 1.0
) -> None:
    """Σ m·Δin = Σ M·Δout, up to rounding of the terms."""
    terms = [
        m.double() * (x.double() - x0.double())
        for m, x, x0 in zip(ran.multipliers, inputs, references)
    ]
    out = ran.upstream.double() * (ran.output.double() - ran.reference.double())
    size = float(out.abs().sum() + sum(t.abs().sum() for t in terms))
    error = abs(float(sum(t.sum() for t in terms) - out.sum()))
    assert error <= slack * COMPLETE[ran.output.dtype] * size


def check(
    function: Callable[..., Tensor],
    formula: Callable[..., Any],
    inputs: Sequence[Tensor],
    references: Sequence[Tensor],
    tolerance: float | None = None,
    slack: float = 1.0,
    table: Table | None = None,
) -> Ran:
    """A call against its oracle and for completeness; every call by a closed rule."""
    ran = run_call(function, inputs, references, table=table)
    expected, _ = oracle(formula, inputs, references, ran.upstream)
    dtype = inputs[0].dtype
    for m, e in zip(ran.multipliers, expected):
        assert_close(m, e, TOLERANCE[dtype] if tolerance is None else tolerance)
    assert_complete(ran, inputs, references, slack)
    assert ran.tape.diagnostics().exact
    return ran


def explained(
    model: Callable[..., Tensor],
    x: Tensor,
    x0: Tensor,
    tolerance: float = 1e-10,
    **options: Any,
) -> Attributions:
    """One explanation; its attributions add up and the model's output is its own."""
    with torch.no_grad():
        plain = model(x, *options.get("args", ()))
    run = attributions(model, (x,), (x0,), **options)
    target = options.get("target")
    plain = plain.reshape(len(x)) if target is None else plain[:, target]
    torch.testing.assert_close(run.f_input, plain.detach(), rtol=1e-6, atol=1e-6)
    change = (run.f_input - run.f_reference).abs()
    assert run.attributions[0].isfinite().all()
    assert (run.delta.abs() <= tolerance * change.clamp_min(1e-3)).all(), run.delta
    return run


def in_turn(*axes: Iterable[Any]) -> list[Any]:
    """All combinations; in the default tier, of the last axis one after the other."""
    places = [list(enumerate(axis)) for axis in axes]
    params = []
    for combination in product(*places):
        *others, last = (place for place, _ in combination)
        more = sum(others) % len(places[-1]) != last
        marks = [pytest.mark.complete] if more else []
        params.append(pytest.param(*(value for _, value in combination), marks=marks))
    return params


def total(y: Tensor) -> Tensor:
    """One value per row."""
    return y.flatten(1).sum(1)
