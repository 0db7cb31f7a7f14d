"""No trace of a run that broke off: at any call, for any reason, on any way in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from cohort_cases import assert_same, dataset, held, mlp
from faults import ERRORS, Broken, Functions, Kernels, Net, calls_of, spread
from snapshots import snapshot
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR, DeepLiftShapEHR, Evaluation, explain_cohort
from captum_ehr.datasets import tiny_model
from captum_ehr.propagation import recording
from captum_ehr.propagation.program import PlanChanged

COMPLETE = pytest.mark.complete

#: The ways in to an explanation: of an explainer of the model, and of a batch.
WAYS: dict[str, Callable[[DeepLiftEHR, Any], Any]] = {
    "attribute": lambda explainer, batch: explainer.attribute(batch),
    "explain": lambda explainer, batch: explainer.explain(batch),
    "interactions": lambda explainer, batch: explainer.interactions(batch),
    "what_if": lambda explainer, batch: explainer.what_if(batch, remove="I10"),
    "segments": lambda explainer, batch: DeepLiftEHR(
        explainer.model, segments=2, internal_batch_size=3
    ).explain(batch),
    "several references": lambda explainer, batch: DeepLiftShapEHR(
        explainer.model
    ).explain(batch, batch),
    "evaluate": lambda explainer, batch: explainer.evaluate(
        batch, methods=("InputXGradient",), budget=200, show_progress=False
    ),
}


@pytest.fixture(scope="module")
def patients() -> tuple[nn.Module, Any]:
    """A model in training, with gradients, some of it frozen; and a batch."""
    model, batch = tiny_model()
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    next(model.parameters()).requires_grad_(False)
    return model, batch


def tensors_of(result: Any) -> list[Tensor]:
    """The numbers of whatever an explainer answers."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        return [t for value in result.values() for t in tensors_of(value)]
    if isinstance(result, (list, tuple)):
        return [t for value in result for t in tensors_of(value)]
    return tensors_of(vars(result)) if hasattr(result, "__dict__") else []


def assert_equal(found: Any, expected: Any) -> None:
    ours, theirs = tensors_of(found), tensors_of(expected)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs):
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))


def assert_no_trace(model: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(model)
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == []


def assert_said(
    error: type[BaseException], run: Callable[[], Any], expected: Any
) -> None:
    """The error comes out.

    Or, an error that programs catch, in the words of an evaluation, whose methods may
    fail; or, where it came while it was asked whether something has changed, the answer
    is what it was.
    """
    kinds = (error, RuntimeError) if error is StopIteration else error
    try:
        result = run()
    except kinds as came:
        assert "of the test" in f"{came} {came.__cause__}"
    else:
        assert issubclass(error, Exception)
        if not isinstance(result, Evaluation):
            assert_equal(result, expected)
        elif "of the test" not in str(result.notes):
            assert_equal(result.scores, expected.scores)


def assert_breaks_off_cleanly(
    model: nn.Module,
    run: Callable[[], Any],
    mode: type[Any] = Functions,
    places: int = 4,
    seed: float = 0.0,
) -> None:
    """Break a run off at some of its calls; it leaves nothing, and goes as before."""
    expected = run()
    before = snapshot(model)
    for place, at in enumerate(spread(calls_of(mode, run), places, seed)):
        error = ERRORS[(place + int(seed * 7)) % len(ERRORS)]
        with mode(at, error) as counting:
            assert_said(error, run, expected)
        assert counting.calls >= at
        assert_no_trace(model, before)
    assert_equal(run(), expected)
    assert_no_trace(model, before)


@pytest.mark.parametrize("mode", [Functions, Kernels])
@pytest.mark.parametrize("places", [2, pytest.param(16, marks=COMPLETE)])
@pytest.mark.parametrize("name", WAYS)
def test_at_any_call(name: str, places: int, mode: type[Any], patients: Any) -> None:
    model, batch = patients
    run = partial(WAYS[name], DeepLiftEHR(model), batch)
    assert_breaks_off_cleanly(model, run, mode, places, seed=len(name) / 7)


# The callers' own modes and settings -----------------------------------------------


@contextmanager
def default_dtype() -> Iterator[None]:
    """Another default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "a function mode": Functions,
    "a dispatch mode": Kernels,
    "meta": lambda: torch.device("meta"),
    "float64": default_dtype,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "saved tensors": torch.autograd.graph.save_on_cpu,
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", CONTEXTS)
def test_within_what_the_caller_has_set(name: str, patients: Any) -> None:
    model, batch = patients
    run = partial(DeepLiftEHR(model).explain, batch)
    expected, outside = run(), snapshot(model)
    with CONTEXTS[name]():
        assert_breaks_off_cleanly(model, run, Functions, 2, seed=len(name) / 9)
    assert_no_trace(model, outside)
    assert_equal(run(), expected)


# Parameters of all kinds -----------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", [Functions, Kernels])
def test_frozen_shared_sparse_and_half_parameters(
    dtype: torch.dtype, mode: type[Any]
) -> None:
    torch.manual_seed(0)
    model = Net().to(dtype).train()
    x, x0 = torch.randn(2, 3, 4, dtype=dtype)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    run = partial(DeepLiftEHR(model).attribute, x, x0)
    assert_breaks_off_cleanly(model, run, mode, 4, seed=0.3)
    assert model.history == [] and model.calls == 0


# What users hang in ----------------------------------------------------------------


def _raising(at: int) -> Callable[..., None]:
    calls = count(1)

    def hook(*_: Any) -> None:
        if next(calls) == at:
            raise Broken("of the test")

    return hook


EVERYWHERE = nn.modules.module
HOOKS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "forward": lambda module, hook: module.register_forward_hook(hook),
    "pre": lambda module, hook: module.register_forward_pre_hook(hook),
    "all": lambda _, hook: EVERYWHERE.register_module_forward_hook(hook),
    "all pre": lambda _, hook: EVERYWHERE.register_module_forward_pre_hook(hook),
}
BACKWARD: dict[str, Callable[[nn.Module, Any], Any]] = {
    "full": lambda module, hook: module.register_full_backward_hook(hook),
    "full pre": lambda module, hook: module.register_full_backward_pre_hook(hook),
    "all": lambda _, hook: EVERYWHERE.register_module_full_backward_hook(hook),
}


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("name", HOOKS)
def test_hooks_that_raise_in_either_pass(name: str, at: int, patients: Any) -> None:
    model, batch = patients
    explainer = DeepLiftEHR(model)
    expected, plain = explainer.explain(batch), snapshot(model)
    handle = HOOKS[name](model.fc, _raising(at))
    try:
        before = snapshot(model)
        with pytest.raises(Broken):
            explainer.explain(batch)
        assert_no_trace(model, before)
    finally:
        handle.remove()
    assert_no_trace(model, plain)
    assert_equal(explainer.explain(batch), expected)


@pytest.mark.parametrize("name", BACKWARD)
def test_backward_hooks_that_raise_are_not_called(name: str, patients: Any) -> None:
    model, batch = patients
    explainer = DeepLiftEHR(model)
    expected = explainer.explain(batch)
    handle = BACKWARD[name](model.fc, _raising(1))
    try:
        before = snapshot(model)
        assert_equal(explainer.explain(batch), expected)
        assert_no_trace(model, before)
    finally:
        handle.remove()


@pytest.mark.parametrize("when", ["served", "chain rule"])
@pytest.mark.parametrize("of", [torch.nn.functional.relu, nn.Linear])
def test_rules_that_raise(of: Any, when: str, patients: Any) -> None:
    model, batch = patients
    run = partial(DeepLiftEHR(model).explain, batch)
    expected, before = run(), snapshot(model)

    def rule(y: Any, x: Any, *_: Any, **__: Any) -> Any:
        if when == "served":
            raise Broken

        def multiplier(m: Tensor) -> Any:
            raise Broken

        return multiplier

    with pytest.raises(Broken):
        DeepLiftEHR(model, rules={of: rule}).explain(batch)
    assert_no_trace(model, before)
    assert_equal(run(), expected)


# Plans -----------------------------------------------------------------------------


def _with_plans(model: nn.Module, batch: Any, seen: int) -> DeepLiftEHR:
    explainer = DeepLiftEHR(model)
    for _ in range(seen):
        explainer.explain(batch)
    return explainer


@pytest.mark.parametrize("error", ERRORS)
def test_while_a_plan_is_recorded(
    error: type[BaseException], patients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = patients
    explainer = _with_plans(model, batch, seen=1)
    before, own, calls = snapshot(model), recording.Recorder.__torch_dispatch__, count()

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == 40:
            raise error("of the test")
        return own(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(recording.Recorder, "__torch_dispatch__", broken)
        if issubclass(error, Exception):  # the passes, which have none, serve the batch
            explainer.explain(batch)
        else:
            with pytest.raises(error):
                explainer.explain(batch)
    assert next(calls) > 40
    assert_no_trace(model, before)
    _goes_on_with_a_plan(explainer, model, batch)


@pytest.mark.parametrize("error", ERRORS)
def test_while_a_plan_runs(error: type[BaseException], patients: Any) -> None:
    model, batch = patients
    explainer = _with_plans(model, batch, seen=4)
    assert explainer.plans[-1].replays > 0
    before, (entry,) = snapshot(model), explainer._plans._entries.values()
    code = entry.made[0].run.__globals__
    name = [n for n, held in code.items() if isinstance(held, torch._ops.OpOverload)][9]

    def broken(*_: Any, **__: Any) -> Any:
        raise error("of the test")

    code[name], own = broken, code[name]
    if issubclass(error, (RuntimeError, PlanChanged)):  # as of shapes by values
        explainer.explain(batch)
    else:
        with pytest.raises(error):
            explainer.explain(batch)
    code[name] = own
    assert_no_trace(model, before)
    _goes_on_with_a_plan(explainer, model, batch)


def _goes_on_with_a_plan(explainer: DeepLiftEHR, model: nn.Module, batch: Any) -> None:
    """A fault of once is no reason against a plan, nor in one."""
    expected = DeepLiftEHR(model).explain(batch)
    served = sum(plan.replays for plan in explainer.plans)
    for _ in range(4):
        found = explainer.explain(batch)
        for key, attribution in expected.attributions.items():
            torch.testing.assert_close(found.attributions[key], attribution)
        assert found.diagnostics == expected.diagnostics
    (plan,) = explainer.plans
    assert plan.state == "ready" and plan.replays > served


# Cohorts ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> Any:
    return dataset(16)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_cohort_is_gone_on_with(
    error: type[BaseException], data: Any, tmp_path: Path
) -> None:
    model = mlp(data).train()
    before = snapshot(model)
    sizes: dict[str, int] = {"batch_size": 4, "partition": 8}
    whole, out = tmp_path / "whole", tmp_path / "out"
    write = partial(explain_cohort, model, data, **sizes)
    calls = calls_of(Functions, partial(write, whole))
    for at in spread(calls, 3, seed=0.4):
        with Functions(at, error), pytest.raises(error):
            write(out)
        assert_no_trace(model, before)
        assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]
    write(out)
    assert_no_trace(model, before)
    assert_same(held(out), held(whole))


def test_a_fault_of_once_costs_a_cohort_nobody(data: Any, tmp_path: Path) -> None:
    """A batch that fails is halved, and each half explained anew."""
    model = mlp(data)
    write = partial(explain_cohort, model, data, batch_size=4, partition=8)
    whole, out = tmp_path / "whole", tmp_path / "out"
    calls = calls_of(Functions, partial(write, whole))
    before = snapshot(model)
    with Functions(int(calls * 0.7), Broken):
        cohort = write(out)
    assert len(cohort) == len(data) and cohort.failed.empty
    assert_no_trace(model, before)
    assert_same(held(out), held(whole))
