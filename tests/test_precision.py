"""Attributions in lower precision against those in float64, of the same weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable

import pytest
import torch
import zoo
from generated_models import Blueprint, Generated, Node, Patients
from torch import Tensor

from captum_ehr import DeepLiftEHR, Explanation
from captum_ehr.propagation import attributions

#: As in docs/promises.md: of the largest attribution of each patient.
BOUNDS = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}
SINGLE, WIDE = (torch.float32,), (torch.float32, torch.bfloat16)

#: Models of PyHealth, and the dtypes that they run in themselves.
CONFIGS: dict[str, tuple[zoo.Config, tuple[torch.dtype, ...]]] = {
    "MLP": (zoo.Config("MLP", options=zoo.HIDDEN), SINGLE),
    "GRU": (zoo.Config("RNN", options={**zoo.HIDDEN, "rnn_type": "GRU"}), (*BOUNDS,)),
    "LSTM": (
        zoo.Config("RNN", "nested", options={**zoo.HIDDEN, "rnn_type": "LSTM"}),
        (*BOUNDS,),
    ),
    "Transformer": (zoo.Config("Transformer", options=zoo.SMALL), WIDE),
    "StageNet": (zoo.Config("StageNet", "stagenet", options=zoo.STAGES), (*BOUNDS,)),
}

#: Of plain torch, each in all of them.
STEPS = ("gelu", "GLU", "encoder layer", "LSTM", "layer norm", "softmax, -inf")


def explained(name: str, dtype: torch.dtype, weights: torch.dtype) -> Explanation:
    """A model computing in a dtype, with weights and records that another one holds."""
    model, batch = zoo.shared(CONFIGS[name][0])
    memo = {id(model.dataset): model.dataset}
    model = copy.deepcopy(model, memo).to(weights).to(dtype)
    batch = zoo.converted(zoo.converted(batch, weights), dtype)
    with zoo.default_dtype(dtype), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a half's shares that cancel
        return DeepLiftEHR(model, completeness="check").explain(batch)


def assert_near(ours: Iterable[Tensor], exact: Iterable[Tensor], bound: float) -> None:
    """The same, but for a part of each patient's largest attribution."""
    pairs = [(a.double().flatten(1), b.flatten(1)) for a, b in zip(ours, exact)]
    largest = torch.stack([b.abs().amax(1) for _, b in pairs]).amax(0)
    error = torch.stack([(a - b).abs().amax(1) for a, b in pairs]).amax(0)
    assert (largest > 0).all()
    assert (error <= bound * largest).all(), error / largest


@pytest.mark.parametrize(
    "name, dtype",
    [(name, dtype) for name, (_, dtypes) in CONFIGS.items() for dtype in dtypes],
)
def test_lower_precision_is_near_float64(name: str, dtype: torch.dtype) -> None:
    ours = explained(name, dtype, dtype)
    exact = explained(name, torch.float64, dtype)
    assert ours.f_input.dtype is dtype
    found = ours.attributions.values(), exact.attributions.values()
    assert_near(*found, BOUNDS[dtype])


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("step", STEPS)
def test_a_step_in_lower_precision_is_near_float64(
    step: str, dtype: torch.dtype
) -> None:
    nodes = (Node(0, 0, "residual"),)
    plan = Blueprint(True, (step,), nodes, "masked mean", "logits", "lengths", "", 5)
    batch = Patients((3, 1, 4), "random", 1.0, False, False, 3).batch(plan)
    shares = []
    for precision in (dtype, torch.float64):
        model = Generated(plan).eval().to(dtype).to(precision)
        sides = [
            [x.to(dtype).to(precision) for x in side]
            for side in (batch.inputs, batch.references)
        ]
        run = attributions(model, *sides, (batch.lengths,), 1)
        assert run.diagnostics.exact
        shares.append(run.attributions)
    assert_near(*shares, BOUNDS[dtype])
