"""The line from reference to input in several pieces."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from captum.attr import IntegratedGradients
from torch import nn

from captum_ehr import (
    AttributionWarning,
    DeepLiftEHR,
    DeepLiftShapEHR,
    LayerDeepLiftEHR,
    PyHealthAdapter,
)
from captum_ehr.datasets import tiny_model

#: A model of each kind of path: products of gates, attention, scans, convolutions.
MODELS = ("RETAIN", "StageNet", "Transformer", "EHRMamba", "CNN", "MLP")
CONFIGS = [
    next(c for c in zoo.configs() if c.model == name and c.mode == "binary")
    for name in MODELS
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_pieces_add_up_and_approach_the_path_integral(config: zoo.Config) -> None:
    model, batch = zoo.build(config, trained=True)
    adapter = PyHealthAdapter(model)
    enc = adapter.encode(batch)
    inputs, reference = enc.inputs, adapter.baseline(enc)
    args = enc.additional_forward_args
    rest = {"target": 0, "additional_forward_args": args}
    integral = IntegratedGradients(adapter).attribute(
        inputs, reference, n_steps=400, method="gausslegendre", **rest
    )

    def miss(segments: int) -> float:
        dl = DeepLiftEHR(adapter, segments=segments, completeness="raise")
        return _distance(dl.attribute(inputs, reference, **rest), integral)

    one, two, many = miss(1), miss(2), miss(16)
    size = _distance(integral, tuple(torch.zeros_like(x) for x in integral))
    assert many < 0.02 * size  # and 1e-3 is the integral's own error at a kink
    assert one < 1e-3 * size or many < two < one


def _distance(ours: Any, theirs: Any) -> float:
    return float(sum((a - b).square().sum() for a, b in zip(ours, theirs)) ** 0.5)


def test_pieces_by_hand() -> None:
    model, batch = tiny_model()
    adapter = PyHealthAdapter(model)
    enc = adapter.encode(batch)
    x, x0 = enc.inputs, adapter.baseline(enc)
    middle = tuple((a + b) / 2 for a, b in zip(x, x0))
    given = {"target": 0, "additional_forward_args": enc.additional_forward_args}
    dl = DeepLiftEHR(adapter)
    parts = [dl.attribute(*sides, **given) for sides in ((x, middle), (middle, x0))]
    whole = DeepLiftEHR(adapter, segments=2).attribute(x, x0, **given)
    for ours, a, b in zip(whole, *parts):
        torch.testing.assert_close(ours, a + b)


def test_every_way_to_ask() -> None:
    model, batch = tiny_model()
    exp = DeepLiftEHR(model, segments=3, completeness="raise").explain(batch)
    once = DeepLiftEHR(model).explain(batch)
    torch.testing.assert_close(exp.f_input, once.f_input)
    torch.testing.assert_close(exp.f_baseline, once.f_baseline)
    calls = {op.name: op.calls for op in exp.diagnostics.operations}
    assert calls == {op.name: 3 * op.calls for op in once.diagnostics.operations}

    half = DeepLiftEHR(model, segments=3, internal_batch_size=1)
    for key, whole in exp.attributions.items():
        torch.testing.assert_close(half.explain(batch).attributions[key], whole)

    multipliers = DeepLiftEHR(model, False, segments=3, sum_tokens=False)
    x, x0 = half.model.encode(batch).inputs, half.model.baseline(batch)
    for k, m in enumerate(multipliers.attribute(batch).values()):
        share = m * (x[k] - x0[k])
        shaped = list(exp.attributions.values())[k]
        share = share.sum(-1) if share.dim() > shaped.dim() else share
        torch.testing.assert_close(share, shaped, atol=1e-6, rtol=1e-4)


class Drawing(nn.Module):
    """Draws from all three generators, whatever its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(6, 32), nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.dropout(torch.tanh(self.wide(x)), 0.5, training=True)
        factor = random.random() + float(np.random.rand()) + torch.rand(1)
        return self.narrow(torch.sigmoid(h) * factor)


def test_every_piece_draws_the_same_numbers() -> None:
    torch.manual_seed(0)
    model, x, x0 = Drawing(), torch.randn(4, 6), torch.randn(4, 6)
    dl = DeepLiftEHR(model, segments=3, completeness="raise")
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    dl.attribute(x, x0, target=0)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()


def test_pieces_that_do_not_meet_are_reported() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

    class Strongest(nn.Module):
        """Reads the largest value alone: which that is, is structure."""

        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x * F.one_hot(x.argmax(-1), 6).to(x.dtype))

    x, x0 = torch.randn(4, 6), torch.randn(4, 6)
    with pytest.warns(AttributionWarning, match="segments: .* take one segment"):
        DeepLiftEHR(Strongest(), segments=2).attribute(x, x0)


def test_with_a_model_that_mixes_its_patients() -> None:
    model, batch = zoo.build(next(c for c in zoo.mixing() if c.mode == "binary"))
    with pytest.warns(AttributionWarning, match="others held fixed"):
        exp = DeepLiftEHR(model, segments=2).explain(batch)
    change = (exp.f_input - exp.f_baseline).abs()
    assert float((exp.delta.abs() / change.clamp_min(1e-3)).max()) < 1e-4


def test_with_several_references() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Softmax(1))
    x, references = torch.randn(5, 3), torch.randn(2, 3)
    mean = DeepLiftShapEHR(model, segments=2).attribute(x, references, target=1)
    dl = DeepLiftEHR(model, segments=2)
    each = [dl.attribute(x, r.expand(5, 3), target=1) for r in references]
    torch.testing.assert_close(mean, (each[0] + each[1]) / 2)


@pytest.mark.parametrize("segments", [0, -1, 1.5])
def test_a_number_that_is_none(segments: Any) -> None:
    with pytest.raises(ValueError, match="segments="):
        DeepLiftEHR(tiny_model()[0], segments=segments)


def test_a_layer_has_no_pieces() -> None:
    model, _ = tiny_model()
    with pytest.raises(ValueError, match="straight line"):
        LayerDeepLiftEHR(model, model.fc, segments=2)
