"""The promises, on generated models and generated batches, in float64.

Every case: the scores are the model's own on both sides, the attributions add up,
padding gets nothing, and there is no trace. And one promise more, drawn for each.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import hypothesis
import pytest
import torch
from generated_models import (
    JOINS,
    MISSING,
    OUTPUTS,
    POOLS,
    PRESENCE,
    REFERENCES,
    STEPS,
    Batch,
    Blueprint,
    Generated,
    Node,
    Patients,
    blueprints,
    patients,
)
from generated_parts import Piece
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from snapshots import snapshot
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_ehr import DeepLiftEHR
from captum_ehr.propagation import Attributions, attributions
from captum_ehr.propagation.declarations import label

TARGET = 1
EPS = torch.finfo(torch.float64).eps


class Noise(TorchFunctionMode):
    """Other last digits of everything that torch's functions return."""

    def __init__(self) -> None:
        super().__init__()
        self.draws = torch.Generator().manual_seed(0)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        fresh = type(found) is Tensor and found.dtype == torch.float64
        if not fresh or found._base is not None or any(found is a for a in args):
            return found
        rand = torch.rand(found.shape, generator=self.draws, dtype=found.dtype)
        last = found.abs() + (label(func) == "log_softmax")  # of sums near to 1
        noise = 2 * EPS * (2 * rand - 1) * last
        return torch.where(noise.isfinite(), found + noise, found)


@dataclass(frozen=True)
class Case:
    """A model, its patients, and whether it is in train mode."""

    blueprint: Blueprint
    patients: Patients
    training: bool = False

    @cached_property
    def batch(self) -> Batch:
        return self.patients.batch(self.blueprint)

    @cached_property
    def model(self) -> Generated:
        return Generated(self.blueprint).train(self.training)


def own(case: Case, inputs: Any, lengths: Tensor) -> Tensor:
    """The model's own scores."""
    model = copy.deepcopy(case.model).eval()
    with torch.no_grad():
        return model(*inputs, lengths)[:, TARGET]


def explained(case: Case, batch: Batch) -> Attributions:
    args = (batch.lengths,)
    return attributions(case.model, batch.inputs, batch.references, args, TARGET)


def last_digits(case: Case) -> Tensor:
    """``(patients,)``, how far rounding alone moves both scores."""
    batch = case.batch
    moved = []
    for inputs in (batch.inputs, batch.references):
        plain = own(case, inputs, batch.lengths)
        with Noise():
            runs = [own(case, inputs, batch.lengths) - plain for _ in range(4)]
        moved.append(torch.stack(runs).abs().amax(0))
    return torch.stack(moved).sum(0)


def assert_within(error: Tensor, bound: Tensor, case: Case) -> None:
    """An error of each patient is within its bound, or is the model's own rounding."""
    if bool((error.abs() <= bound).all()):
        return
    rounding = 64 * last_digits(case)
    assert bool((error.abs() <= bound + rounding).all()), (error, bound, rounding)


def per_patient(shares: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([s.flatten(1).sum(1) for s in shares]).sum(0)


# What holds of every case -----------------------------------------------------------


def holds(case: Case) -> Attributions:
    """One explanation, and all that is promised of it alone."""
    model, batch = case.model, case.batch
    f_input = own(case, batch.inputs, batch.lengths)
    before = snapshot(model)
    run = explained(case, batch)
    after = snapshot(model)
    assert [name for name, value in before.items() if after.get(name) != value] == []
    hypothesis.assume(bool((run.f_input - run.f_reference).isfinite().all()))
    assert not run.diagnostics.fallbacks
    kept = {structure.message for structure in run.diagnostics.structure}
    assert set(run.diagnostics.messages) <= kept, run.diagnostics.messages
    assert_own(case, run, f_input)
    assert_complete(case, run)
    for share, x, x0 in zip(run.attributions, batch.inputs, batch.references):
        assert (share[x.isnan() | x0.isnan()] == 0).all()
    if case.blueprint.presence == "lengths":
        beyond = torch.arange(batch.x.shape[1]) >= batch.lengths[:, None]
        assert (run.attributions[0][beyond] == 0).all()
    return run


def assert_own(case: Case, run: Attributions, f_input: Tensor) -> None:
    """f(x) is the model's own, and f(x0) is, or it is said by how much not."""
    batch = case.batch
    assert_within(run.f_input - f_input, 1e-12 * f_input.abs(), case)
    f_reference = own(case, batch.references, batch.lengths)
    shifts = [structure.shift for structure in run.diagnostics.structure]
    nowhere = not bool(f_reference.isfinite().all())  # as there are no positions
    assert run.diagnostics.structure or not nowhere
    if nowhere or any(kept.without for kept in run.diagnostics.structure):
        return
    off = run.f_reference - f_reference
    assert_within(off, max(shifts, default=0.0) + 1e-12 * f_reference.abs(), case)


def assert_complete(case: Case, run: Attributions) -> None:
    """|Σ - Δ| ≤ 1e-10 of the change, beside the last digits of what was summed."""
    change = (run.f_input - run.f_reference).abs()
    assert change.isfinite().all()
    assert all(s.isfinite().all() for s in run.attributions)
    gross = per_patient(tuple(s.abs() for s in run.attributions))
    size = run.f_input.abs() + run.f_reference.abs() + gross
    bound = 1e-10 * change.clamp_min(1e-3 * float(change.max())) + 16 * EPS * size
    assert_within(run.delta, bound, case)


# Promises of which one is drawn ------------------------------------------------------


def assert_same_shares(ours: Any, theirs: Any, case: Case, batch: Batch) -> None:
    """Equal shares, but for what rounding makes of them in this model."""
    for k, (a, b) in enumerate(zip(ours, theirs)):
        bound = 1e-9 * b.abs().amax() + 1e-14
        if not bool(((a - b).abs() <= bound).all()):
            with Noise():
                noisy = explained(case, batch).attributions[k]
            rounding = 64 * (noisy - explained(case, batch).attributions[k])
            assert ((a - b).abs() <= bound + rounding.abs().amax()).all(), (
                a - b,
                bound,
            )


def alone(case: Case, run: Attributions) -> None:
    """A patient alone, with no more padding than the model asks for, as in company."""
    batch = case.batch
    if "a branch" in case.blueprint.steps:
        return  # which asks all patients together
    for row, length in enumerate(case.patients.lengths):
        visits = batch.x.shape[1] if case.blueprint.leaks else length
        one = batch.of(row, visits)
        shares = explained(case, one).attributions
        company = (
            run.attributions[0][row : row + 1, :visits],
            run.attributions[1][row : row + 1],
        )
        assert_same_shares(shares, company, case, one)


def more_padding(case: Case, run: Attributions) -> None:
    """More visits that there are not change nothing."""
    if case.blueprint.leaks or case.blueprint.presence == "rows":
        return
    if "a branch" in case.blueprint.steps:
        return
    batch = case.batch.padded()
    x, labs = explained(case, batch).attributions
    assert (x[:, -2:] == 0).all()
    assert_same_shares((x[:, :-2], labs), run.attributions, case, batch)


def swapped(case: Case, run: Attributions) -> None:
    """From the reference to the input it is the way back."""
    batch = case.batch.swapped
    there = explained(case, batch)
    if run.diagnostics.structure or there.diagnostics.structure:
        return
    back = tuple(-share for share in there.attributions)
    assert_same_shares(back, run.attributions, case, batch)


def gradient(case: Case, run: Attributions) -> None:
    """Where both sides are equal, the multipliers are autograd's gradient."""
    batch, model = case.batch, case.model
    smooth = not (case.patients.zeros or case.patients.ties)
    if not smooth or case.blueprint.presence == "rows" or (batch.x == 0).any():
        return
    explainer = DeepLiftEHR(model, multiply_by_inputs=False)
    found = explainer.attribute(batch.inputs, batch.inputs, TARGET, batch.lengths)
    leaves = [x.clone().requires_grad_() for x in batch.inputs]
    output = copy.deepcopy(model).eval()(*leaves, batch.lengths)[:, TARGET]
    try:
        plain = torch.autograd.grad(output.sum(), leaves)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return
    for ours, theirs in zip(found, plain):
        known = ~theirs.isnan()
        torch.testing.assert_close(ours[known], theirs[known], rtol=1e-8, atol=1e-10)


def planned(case: Case, run: Attributions) -> None:
    """The third batch, by the plan of the second, is as by the passes."""
    model, batch = case.model, case.batch
    explainer = DeepLiftEHR(model, completeness="off")

    def attribute(batch: Batch) -> Any:
        return explainer.attribute(
            batch.inputs, batch.references, TARGET, batch.lengths
        )

    for _ in range(2):
        assert_same_shares(attribute(batch), run.attributions, case, batch)
    other = case.patients.batch(case.blueprint, seed=1)
    expected = explained(case, other).attributions
    assert_same_shares(attribute(other), expected, case, other)


MORE: dict[str, Callable[[Case, Attributions], None]] = {
    check.__name__: check for check in (alone, more_padding, swapped, gradient, planned)
}
cases = st.builds(Case, blueprints(), patients, st.booleans())


def check(case: Case, promise: str) -> None:
    run = holds(case)
    if case.blueprint.linear:
        leaves = [x.clone().requires_grad_() for x in case.batch.references]
        output = copy.deepcopy(case.model).eval()(*leaves, case.batch.lengths)[
            :, TARGET
        ]
        gradients = torch.autograd.grad(output.sum(), leaves)
        moves = zip(gradients, case.batch.inputs, case.batch.references)
        linear = tuple(g * (x - x0) for g, x, x0 in moves)
        assert_same_shares(run.attributions, linear, case, case.batch)
    MORE[promise](case, run)


def constructs(case: Case) -> Iterator[str]:
    """The names of all that a case has."""
    yield from case.blueprint.constructs()
    yield from (
        f"reference: {case.patients.reference}",
        f"scale: {case.patients.scale}",
    )
    for name in ("linear", "leaks"):
        if getattr(case.blueprint, name):
            yield name


EXPECTED = frozenset(
    [
        *(f"step: {name}" for name in STEPS),
        *(f"pool: {name}" for name in POOLS),
        *(f"join: {name}" for name in JOINS),
        *(f"outputs: {name}" for name in OUTPUTS),
        *(f"presence: {name}" for name in PRESENCE),
        *(f"missing: {name or 'none'}" for name in MISSING),
        *(f"reference: {name}" for name in REFERENCES),
        *(f"promise: {name}" for name in MORE),
        *("a module used twice", "a value used twice", "linear", "leaks"),
    ]
)


@settings(max_examples=100)
@hypothesis.given(cases, st.sampled_from(list(MORE)))
def test_a_generated_model_keeps_every_promise(case: Case, promise: str) -> None:
    check(case, promise)


@pytest.mark.complete
def test_generated_models_of_every_construct_keep_every_promise() -> None:
    found: Counter[str] = Counter()
    for seed in range(12):  # as Hypothesis repeats parts of its earlier examples

        @hypothesis.seed(seed)
        @settings(max_examples=250, suppress_health_check=list(HealthCheck))
        @hypothesis.given(cases, st.sampled_from(list(MORE)))
        def run(case: Case, promise: str) -> None:
            found.update([*constructs(case), f"promise: {promise}"])
            check(case, promise)

        run()
    few = {name: found[name] for name in EXPECTED if found[name] < 3}
    assert not few


# What is generated -------------------------------------------------------------------


class Seen(TorchFunctionMode):
    """The names of the torch functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.add(label(func))
        return func(*args, **(kwargs or {}))


def plain(step: str, pool: str) -> Case:
    blueprint = Blueprint(
        embedded=True,
        steps=(step,),
        nodes=(Node(0, 0, "residual"),),
        pool=pool,
        outputs="logits",
        presence="lengths",
        missing="",
        seed=5,
    )
    return Case(blueprint, Patients((3, 1, 4), "random", 1.0, False, False, 3))


@pytest.mark.parametrize(
    "case, piece",
    [
        *(pytest.param(plain(s, "masked mean"), STEPS[s], id=s) for s in STEPS),
        *(pytest.param(plain("tanh", p), POOLS[p], id=p) for p in POOLS),
    ],
)
def test_each_construct_calls_what_it_stands_for(case: Case, piece: Piece) -> None:
    model, batch = case.model.eval(), case.batch
    with Seen() as seen:
        model(*batch.inputs, batch.lengths)
    assert seen.names.issuperset(piece.calls.split()), seen.names
    holds(case)


def test_generation_does_not_go_empty() -> None:
    """In a hundred cases half of all constructs; in the complete tier, every one."""
    found: set[str] = set()

    @settings(max_examples=100, phases=[Phase.generate])
    @hypothesis.given(cases)
    def run(case: Case) -> None:
        found.update(constructs(case))

    run()
    assert len(found & EXPECTED) > len(EXPECTED) / 2
