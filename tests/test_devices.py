"""Where tensors are: on the meta device, which holds no values, and on a CUDA card.

What reads a value to decide something waits for the device, and on the meta device it
raises; the passes must not, but where the model itself does. With a card, every model
is explained on it too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import test_torch_calls
import torch
import torch.nn.functional as F
import zoo
from test_torch_calls import EXACT, weighed
from torch import Tensor

from benchmarks.data import on
from captum_ehr import AttributionWarning, DeepLiftEHR, PyHealthAdapter
from captum_ehr.propagation import (
    attributions,
    default_table,
    multipliers,
    structure,
    two_passes,
)
from captum_ehr.propagation.registry import Table

CONFIGS = [*zoo.configs(), *zoo.mixing()]

#: These cast their input, or a part of themselves, to float32.
SINGLE_PRECISION = ("CNN", "Deepr", "ConCare", "MedFuse", "EHRMambaCEHR", "GAMENet")

#: Waits of a loop that ends when all of its rows are done.
LOOPS = {"AdaCare-sequence-binary-activation=sparsemax": 40}

every_model = zoo.each(CONFIGS)

#: Calls that torch has not got on the meta device.
SPARSE = {name for name in EXACT if "COO" in name or "CSR" in name or name == "spmm"}

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

Forward = Callable[..., Tensor]


def moved(
    config: zoo.Config, device: str
) -> tuple[DeepLiftEHR, Forward, tuple[Any, Any, Any]]:
    """An explainer, its model's forward, and inputs, references and arguments."""
    model, batch = zoo.build(config)
    adapter = PyHealthAdapter(model)
    encoded = adapter.encode(batch)
    given = (
        encoded.inputs,
        adapter.baseline(encoded, "unk"),
        encoded.additional_forward_args,
    )
    explainer = DeepLiftEHR(model.to(device))
    forward = explainer.forward_view().forward
    return explainer, forward, on(device, given)


def passes(
    forward: Forward, table: Table, given: tuple[Any, Any, Any]
) -> tuple[Tensor, ...]:
    """The multipliers of all inputs."""
    inputs, references, args = given
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    run = two_passes(forward, inputs, references, args, table)
    return multipliers(run.output, inputs)


@every_model
def test_the_passes_read_no_values(config) -> None:
    explainer, forward, given = moved(config, "meta")
    try:
        with torch.no_grad():
            forward(*given[0], *given[2])
    except (RuntimeError, ValueError) as error:  # the model itself reads values
        pytest.skip(str(error).splitlines()[0])
    found = passes(forward, explainer.table, given)
    assert [m.shape for m in found] == [x.shape for x in given[0]]
    assert all(m.device.type == "meta" for m in found)


@pytest.mark.parametrize("name", sorted(EXACT.keys() - SPARSE))
def test_no_rule_reads_a_value(name, monkeypatch) -> None:
    x, x0 = torch.randn((2, 4, 4), dtype=torch.float64, device="meta")
    found = of_one_call(name, x, x0, monkeypatch)
    assert found.shape == x.shape and found.is_meta


def crossing(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, -2 * x).sum(1)


def shifting(x: Tensor) -> Tensor:
    return x[0].expand(3, 50).roll(int(x.detach().argmax()), 1)[:, 0] * x[:, 0]


def choosing(x: Tensor) -> Tensor:
    return x.gather(1, x.max(1, keepdim=True).indices)[:, 0]


#: Functions that take another way on the reference.
TELLING = (crossing, shifting, choosing)


@pytest.mark.parametrize("function", TELLING)
def test_what_differs_is_counted_without_waiting(function, monkeypatch) -> None:
    x, x0 = torch.randn((2, 3, 50), dtype=torch.float64)
    at_once = attributions(function, (x,), (x0,))
    monkeypatch.setattr(structure, "on_cpu", lambda tensor: False)
    later = attributions(function, (x,), (x0,))
    assert later.diagnostics == at_once.diagnostics
    assert later.diagnostics.messages or later.diagnostics.operations
    assert torch.equal(later.attributions[0], at_once.attributions[0])
    same = attributions(function, (x,), (x,))
    assert not same.diagnostics.messages


def of_one_call(name: str, x: Tensor, x0: Tensor, monkeypatch: Any) -> Tensor:
    """The multiplier of one of the calls, its constants beside its input."""
    for key, value in vars(test_torch_calls).items():
        if isinstance(value, Tensor):
            monkeypatch.setattr(test_torch_calls, key, value.to(x.device))
    with torch.device(x.device):
        function = EXACT[name]
        given = ((x,), (x0,), ())
        return passes(lambda t: weighed(function(t)), default_table(), given)[0]


# On a card ----------------------------------------------------------------------------


@on_cuda
@pytest.mark.parametrize("name", sorted(EXACT))
def test_a_rule_is_the_same_on_a_card(name, monkeypatch) -> None:
    x, x0 = torch.randn((2, 4, 4), dtype=torch.float64)
    here = of_one_call(name, x, x0, monkeypatch)
    there = of_one_call(name, x.cuda(), x0.cuda(), monkeypatch)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-9, atol=1e-10)


@on_cuda
@every_model
def test_a_card_finds_what_the_cpu_finds(config) -> None:
    single = config.model in SINGLE_PRECISION
    dtype = torch.float32 if single else torch.float64
    model, batch = zoo.build(config, dtype=dtype)
    with zoo.default_dtype(dtype):
        here = DeepLiftEHR(model, completeness="off").explain(batch)
        there = DeepLiftEHR(model.cuda(), completeness="off").explain(batch)
    near: Any = {"rtol": 5e-3, "atol": 5e-4} if single else {"rtol": 1e-7, "atol": 1e-9}
    for name in ("f_input", "f_baseline", "delta"):
        assert getattr(there, name).is_cuda
        torch.testing.assert_close(
            getattr(there, name).cpu(), getattr(here, name), **near
        )
    for key, attribution in there.attributions.items():
        assert attribution.is_cuda and there.features[key].mask.is_cuda
        torch.testing.assert_close(attribution.cpu(), here.attributions[key], **near)


@on_cuda
@zoo.each(zoo.configs())
def test_it_adds_up_on_a_card(config, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # 10 bits, not 23
    model, batch = zoo.build(config)
    explainer = DeepLiftEHR(model.cuda(), completeness="check")
    with warnings.catch_warnings():
        warnings.simplefilter("error", AttributionWarning)
        explainer.explain(batch)
        attributions = explainer.attribute(on("cuda", batch))
    assert all(a.is_cuda for a in attributions.values())


@on_cuda
@every_model
def test_the_passes_wait_for_a_card_where_the_model_does(config) -> None:
    explainer, forward, (inputs, references, args) = moved(config, "cuda")
    own = waits(lambda: forward(*inputs, *args))
    found = waits(lambda: passes(forward, explainer.table, (inputs, references, args)))
    assert found <= 2 * own + LOOPS.get(str(config), 0)


def waits(function: Callable[[], object]) -> int:
    """How often a function waits for the card; its second run, all being set up."""
    function()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA" in str(each.message) for each in caught)


@on_cuda
def test_a_card_s_random_numbers_are_the_same_on_both_sides() -> None:
    def noisy(x: Tensor) -> Tensor:
        noise = torch.rand(x.shape, device="cuda")
        return (F.dropout(x.tanh(), 0.5, True) * noise).sum(1)

    x, x0 = torch.randn((2, 3, 50), dtype=torch.float64, device="cuda")
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    found = attributions(noisy, (x,), (x0,))
    assert torch.equal(before, torch.cuda.get_rng_state())
    torch.testing.assert_close(found.f_input, noisy(x))
    torch.cuda.set_rng_state(before)
    torch.testing.assert_close(found.f_reference, noisy(x0))
    assert found.delta.abs().max() < 1e-12


@on_cuda
@pytest.mark.parametrize("function", TELLING)
def test_what_differs_is_said_on_a_card_too(function) -> None:
    x, x0 = torch.randn((2, 3, 50), dtype=torch.float64)
    here = attributions(function, (x,), (x0,)).diagnostics
    there = attributions(function, (x.cuda(),), (x0.cuda(),)).diagnostics
    assert there == here and here.messages
