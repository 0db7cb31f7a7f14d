"""Models that mix patients or draw random numbers, and sparsemax as one operation."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import zoo
from test_promises import assert_within

from captum_ehr import (
    AttributionWarning,
    CompletenessError,
    DeepLiftEHR,
    PyHealthAdapter,
)
from captum_ehr.propagation import attributions, sparsemax

CONFIGS = zoo.mixing()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_each_patient_with_the_others_held_fixed(config: zoo.Config) -> None:
    model, batch = zoo.build(config)
    with pytest.warns(AttributionWarning, match="with the others held fixed"):
        exp = DeepLiftEHR(model, completeness="raise").explain(batch)
    assert not exp.diagnostics.fallbacks
    kept = [structure.message for structure in exp.diagnostics.structure]
    assert len(set(exp.diagnostics.messages) - set(kept)) == 1
    assert_within(exp, 1e-5, roundings=4)
    with torch.no_grad():
        torch.testing.assert_close(exp.f_input, model(**batch)["logit"].squeeze(1))
    if config.schema == "timeseries":
        return  # its mask comes from the values, and is kept for the reference
    row = 4  # f(x0) of one patient, the others as they are
    adapter = PyHealthAdapter(model)
    enc, ref = adapter.encode(batch), adapter.baseline(batch)
    changed = [x.clone() for x in enc.inputs]
    for x, b in zip(changed, ref):
        x[row] = b[row]
    alone = adapter(*changed, *enc.additional_forward_args)[row, 0]
    torch.testing.assert_close(exp.f_baseline[row], alone)


def test_together_adds_up_over_the_batch() -> None:
    model, batch = zoo.build(CONFIGS[0])
    dl = DeepLiftEHR(model, mixing="together", completeness="check")
    with pytest.warns(AttributionWarning, match="over the batch alone"):
        exp = dl.explain(batch)
    change = (exp.f_input - exp.f_baseline).sum().double()
    torch.testing.assert_close(exp.total.sum(), change, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="'apart' or 'together'"):
        DeepLiftEHR(model, mixing="both")  # type: ignore[arg-type]


DRAWING = zoo.drawing()


@pytest.mark.parametrize("config", DRAWING, ids=str)
def test_both_passes_draw_the_same_numbers(config: zoo.Config) -> None:
    model, batch = zoo.build(config)
    dl = DeepLiftEHR(model, completeness="raise")
    state, python = torch.get_rng_state(), random.getstate()
    kept = "multinomial" if config.model == "Agent" else "others held fixed"
    with pytest.warns(AttributionWarning, match=kept):
        first = dl.explain(batch)
    assert torch.equal(state, torch.get_rng_state()) and python == random.getstate()
    assert not first.diagnostics.fallbacks
    with pytest.warns(AttributionWarning):
        again = dl.explain(batch)
    torch.testing.assert_close(first.f_input, again.f_input)
    with torch.no_grad():  # the same numbers give the model's own answer
        theirs = model(**batch)["logit"].squeeze(1)
    torch.set_rng_state(state)
    random.setstate(python)
    torch.testing.assert_close(first.f_input, theirs)
    assert_within(first, 1e-5, roundings=4)


class Rows(torch.nn.Module):
    """Sparsemax by its definition, a sort and a threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = -1

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        ordered = z.sort(-1, descending=True).values
        k = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
        inside = 1 + k * ordered > ordered.cumsum(-1)
        size = inside.sum(-1, keepdim=True)
        tau = ((ordered * inside).sum(-1, keepdim=True) - 1) / size
        return (z - tau).clamp_min(0)


@pytest.mark.parametrize("seed", range(4))
def test_sparsemax_is_the_straight_lines_integral(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, z0, w = (
        torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    model: Any = torch.nn.Sequential(Rows())

    class Weighted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = Rows()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.rows(x) * w).sum(1)

    run = attributions(Weighted(), (z,), (z0,), rules={Rows: sparsemax})
    assert run.diagnostics.exact and float(run.delta.abs().max()) < 1e-12
    steps = 20_000  # midpoint rule of the gradient, which jumps at a few points
    total = torch.zeros_like(z)
    for t in torch.linspace(0.5 / steps, 1 - 0.5 / steps, steps).double().split(2000):
        points = (z0 + t.view(-1, 1, 1) * (z - z0)).requires_grad_()
        total += torch.autograd.grad((model(points) * w).sum(), points)[0].sum(0)
    torch.testing.assert_close(
        run.attributions[0], total / steps * (z - z0), rtol=0, atol=2e-3
    )


class Mixed(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = x[:, :1].tanh() * x[:, 1].tanh().mean()
        return 0.7 * x.sum(1, keepdim=True) + mixed


def test_a_patient_who_does_not_add_up_apart_is_said_too() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 4)
    x[0] = torch.tensor([0.001, 0.3, 333.3, -333.6])  # shares that cancel
    with pytest.warns(AttributionWarning) as said:
        DeepLiftEHR(Mixed(), completeness="check").attribute(x)
    words = [str(one.message) for one in said]
    assert len(words) == 2 and "with the others held fixed" in words[0]
    assert r"patient(s) [0] cancel" in words[1]
    with pytest.raises(CompletenessError, match=r"patient\(s\) \[0\]"):
        DeepLiftEHR(Mixed(), completeness="raise").attribute(x)
