"""Attributions change continuously as the reference moves to the input.

The reference is x - t(x - z) for t from 1 to 1e-6. Three things hold on the way: in
float32 the multipliers are those of float64, whatever the step, so that no switch to
a derivative shows; they approach the gradient in proportion to t; and the model as a
whole does what its operations do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import zoo
from oracles_chains import CELLS, CHAINS
from oracles_more import ELEMENTWISE, MULTILINEAR, Case
from torch import Tensor

from captum_ehr import DeepLiftEHR, PyHealthAdapter
from captum_ehr.propagation import two_passes

STEPS = [10.0**-k for k in range(7)]

#: Of multipliers, relative to the largest.
SINGLE = 1e-4

CASES: dict[str, Case] = {
    **{
        f"elementwise {name}": Case(function, domain=domain)
        for name, (function, _, domain) in ELEMENTWISE.items()
    },
    **{f"linear {name}": case for name, case in MULTILINEAR.items()},
    **{f"chain {name}": case for name, case in CHAINS.items()},
    **{f"cell {name}": case for name, case in CELLS.items()},
}


def two_points(case: Case, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Two values for every operand, float32, a percent or more off every kink."""
    generator = torch.Generator().manual_seed(seed)
    low, high = case.domain
    points = [torch.rand((2, *s), generator=generator) for s in case.shapes]
    points = [low + (high - low) * p for p in points]
    return [p[0] for p in points], [p[1] for p in points]


def moved(inputs: Sequence[Tensor], others: Sequence[Tensor], t: float) -> list[Tensor]:
    return [x - t * (x - z) for x, z in zip(inputs, others)]


def of_call(
    function: Callable[..., Any], inputs: Sequence[Tensor], references: Sequence[Tensor]
) -> Tensor:
    """The multipliers of all operands in one row, in float64."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    output = two_passes(lambda *xs: function(*xs).clone(), leaves, references).output
    generator = torch.Generator().manual_seed(1)
    upstream = torch.rand(output.shape, generator=generator) + 0.5
    return row(torch.autograd.grad(output, leaves, upstream.to(output.dtype)))


def row(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in parts])


def doubles(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [x.double() for x in tensors]


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest multiplier."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-9))


def assert_in_proportion(errors: Sequence[float]) -> None:
    """Error(t) = O(t), for t from STEPS but the first, down to float64's noise."""
    rate = max(error / t for error, t in zip(errors[1:4], STEPS[1:4]))
    for error, t in zip(errors[1:], STEPS[1:]):
        assert error <= 2 * rate * t + 1e-9, (errors, t)
    assert errors[-1] <= 1e-4, errors


#: Whose result has lost as many digits itself, of a large operand or next to a jump.
COARSE = {f"elementwise {name}" for name in ("fmod", "remainder", "frac")}


@pytest.mark.parametrize("name", [n for n in CASES if n not in COARSE])
def test_a_rule_in_float32_is_the_rule_in_float64(name: str) -> None:
    case = CASES[name]
    for seed in (10, 11):
        inputs, others = two_points(case, seed)
        for t in STEPS:
            references = moved(inputs, others, t)
            single = of_call(case.function, inputs, references)
            double = of_call(case.function, doubles(inputs), doubles(references))
            assert apart(single, double) <= SINGLE, (name, seed, t)


#: Where an offset leaves operands their digits and the result some of its own.
MOVABLE = [
    f"chain {name}"
    for name in (
        *("layer_norm", "group_norm", "instance_norm", "batch_norm", "softmax"),
        *("log_softmax", "logsumexp", "amax", "sort", "topk", "median", "kthvalue"),
    )
]


@pytest.mark.parametrize("name", MOVABLE)
def test_a_large_number_that_is_added_to_all_takes_no_digits(name: str) -> None:
    case = CASES[name]
    for seed in (10, 11):
        inputs, others = ([x + 1e6 for x in side] for side in two_points(case, seed))
        single = of_call(case.function, inputs, others)
        double = of_call(case.function, doubles(inputs), doubles(others))
        assert apart(single, double) <= SINGLE, seed


@pytest.mark.complete
@pytest.mark.parametrize(
    "name", [n for n in CASES if n not in {*COARSE, "elementwise exp2"}]
)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_sides_of_different_sizes_take_no_digits(name: str, scale: float) -> None:
    case = CASES[name]
    inputs, others = two_points(case, 10)
    inputs = [scale * x for x in inputs]
    single = of_call(case.function, inputs, others)
    double = of_call(case.function, doubles(inputs), doubles(others))
    assert not double.isfinite().all() or apart(single, double) <= SINGLE


#: torch has no derivative of these.
UNDERIVED = ("elementwise floor_divide", "elementwise __floordiv__")


@pytest.mark.parametrize("name", [n for n in CASES if n not in UNDERIVED])
def test_a_rule_approaches_the_gradient_in_proportion(name: str) -> None:
    case = CASES[name]
    inputs, others = map(doubles, two_points(case, 10))
    gradient = of_call(case.function, inputs, inputs)
    leaves = [x.clone().requires_grad_() for x in inputs]
    output = case.function(*leaves)
    generator = torch.Generator().manual_seed(1)
    upstream = (torch.rand(output.shape, generator=generator) + 0.5).to(output.dtype)
    plain = row(
        torch.autograd.grad(
            output, leaves, upstream, allow_unused=True, materialize_grads=True
        )
        if output.requires_grad
        else [torch.zeros_like(x) for x in inputs]
    )
    # torch's own derivative of hardsigmoid has a sixth in float32
    assert apart(gradient, plain) <= (1e-7 if "hard" in name else 1e-12)
    on_the_way = [
        of_call(case.function, inputs, moved(inputs, others, t)) for t in STEPS
    ]
    assert_in_proportion([apart(m, gradient) for m in on_the_way])


# Whole models -------------------------------------------------------------------------

MODELS: dict[str, zoo.Config] = {
    "MLP": zoo.Config("MLP", "sequence", "binary", zoo.HIDDEN),
    "MLP, elu": zoo.Config(
        "MLP", "tensor", options={**zoo.HIDDEN, "activation": "elu"}
    ),
    "StageNet": zoo.Config("StageNet", "stagenet", options=zoo.STAGES),
    "Transformer": zoo.Config("Transformer", "sequence", options=zoo.SMALL),
    "GRU": zoo.Config("RNN", "sequence", options=zoo.HIDDEN),
    "LSTM": zoo.Config("RNN", "sequence", options={**zoo.HIDDEN, "rnn_type": "LSTM"}),
    "EHRMamba": zoo.Config("EHRMamba", "sequence", options=zoo.SMALL),
}


class Both:
    """A model of the zoo with the same weights in float32 and in float64."""

    def __init__(self, config: zoo.Config) -> None:
        model, batch = zoo.build(config, trained=True)
        self.adapter = PyHealthAdapter(model)
        self.encoded = self.adapter.encode(batch)
        self.baseline = self.adapter.baseline(batch, "unk")
        self.double = PyHealthAdapter(copy.deepcopy(model).double())

    def multipliers(self, references: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Of all inputs, at the float32 points."""
        adapter = self.adapter if dtype is torch.float32 else self.double
        with zoo.default_dtype(dtype):
            parts = DeepLiftEHR(
                adapter, multiply_by_inputs=False, completeness="off"
            ).attribute(
                tuple(x.to(dtype) for x in self.encoded.inputs),
                tuple(x.to(dtype) for x in references),
                target=0,
                additional_forward_args=self.rest(dtype),
            )
        return row(parts)

    def gradient(self) -> Tensor:
        """Plain autograd on the model, in float64."""
        leaves = [x.double().requires_grad_() for x in self.encoded.inputs]
        with zoo.default_dtype(torch.float64):
            output = self.double(*leaves, *self.rest(torch.float64))
            return row(torch.autograd.grad(output[:, 0].sum(), leaves))

    def rest(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return tuple(
            a.to(dtype) if a.is_floating_point() else a
            for a in self.encoded.additional_forward_args
        )


@pytest.mark.parametrize("name", MODELS)
def test_a_models_multipliers_move_to_its_gradient_without_a_jump(name: str) -> None:
    both = Both(MODELS[name])
    gradient, errors = both.gradient(), []
    for t in STEPS:
        references = moved(both.encoded.inputs, both.baseline, t)
        single = both.multipliers(references, torch.float32)
        double = both.multipliers(references, torch.float64)
        assert apart(single, double) <= SINGLE, t
        errors.append(apart(double, gradient))
    assert errors[0] > 1e-6
    assert_in_proportion(errors)
