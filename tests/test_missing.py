"""Missing values (NaN), and patients for whom the model has no answer."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from captum_ehr import AttributionWarning, DeepLiftEHR
from captum_ehr.propagation import attributions


class Decay(nn.Module):
    """A GRU that takes NaN for what was not measured, and carries the last value on.

    (Che et al., Recurrent Neural Networks for Multivariate Time Series with Missing
    Values, 2018, in short.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(8, 6), nn.Linear(6, 1)
        self.mean = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        h, last = x.new_zeros(len(x), 6), self.mean.expand(len(x), 4)
        for t in range(x.shape[1]):
            seen = ~torch.isnan(x[:, t])
            last = torch.where(seen, x[:, t], last * 0.9 + 0.1 * self.mean)
            h = self.cell(torch.cat([last, seen.to(x.dtype)], 1), h)
        return self.out(h)


class Filled(nn.Module):
    """Means in the places of what is missing, and a flag beside."""

    def forward(self, x: Tensor) -> Tensor:
        flag = x.isnan().to(x.dtype)
        return (torch.nan_to_num(x, 0.3).tanh() + 0.2 * flag).sum((1, 2))[:, None]


MODELS = {"decay": Decay, "filled": Filled}


def sides(missing: str) -> tuple[Tensor, Tensor, Tensor]:
    """Input, reference, and where one of them is missing."""
    torch.manual_seed(0)
    x, x0 = torch.randn((2, 3, 5, 4), dtype=torch.float64)
    places = torch.rand(3, 5, 4) < 0.3
    if missing in ("input", "both"):
        x = x.masked_fill(places, torch.nan)
    if missing in ("reference", "both"):
        x0 = x0.masked_fill(places, torch.nan)
    return x, x0, places


@pytest.mark.parametrize("missing", ["input", "reference", "both"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("segments", [1, 3])
def test_a_missing_place_gets_nothing_and_the_rest_is_exact(
    name: str, missing: str, segments: int
) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    x, x0, places = sides(missing)
    kept = torch.where(places, x, x0)  # missing or not belongs to the patient
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", AttributionWarning)
        found, delta = DeepLiftEHR(model, segments=segments).attribute(
            x, x0, return_convergence_delta=True
        )
    assert bool((found[places] == 0).all())
    with torch.no_grad():
        change, own = (model(x) - model(kept))[:, 0], (model(x) - model(x0))[:, 0]
    torch.testing.assert_close(found.sum((1, 2)), change, rtol=1e-9, atol=1e-9)
    assert bool((delta.abs() < 1e-9).all())
    expected = DeepLiftEHR(model, segments=segments).attribute(x, kept)
    torch.testing.assert_close(found, expected)
    moved = not torch.allclose(change, own)
    assert moved is any("missing values" in str(w.message) for w in said)


def test_the_calculus_alone_does_the_same() -> None:
    torch.manual_seed(0)
    model = Decay().double()
    x, x0, places = sides("input")
    run = attributions(model, (x,), (x0,))
    assert bool((run.attributions[0][places] == 0).all())
    assert bool((run.delta.abs() < 1e-12).all())
    (kept,) = run.diagnostics.structure
    assert kept.operation.startswith("missing") and kept.places == int(places.sum())
    off = (model(x0)[:, 0] - run.f_reference).abs().max().item()
    assert kept.shift == pytest.approx(off)


@pytest.mark.parametrize("multiply", [True, False])
def test_multipliers_of_missing_places_are_0(multiply: bool) -> None:
    torch.manual_seed(0)
    x, x0, places = sides("input")
    dl = DeepLiftEHR(Decay().double(), multiply_by_inputs=multiply)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttributionWarning)
        found = dl.attribute(x, x0)
        own = dl.attribute(x, x0, custom_attribution_func=lambda m, a, b: m)
    assert bool((found[places] == 0).all()) and bool(torch.isfinite(found).all())
    assert bool((own[places] == 0).all()) and bool(torch.isfinite(own).all())


def test_a_patient_without_an_answer_has_no_attributions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    x = torch.randn(3, 4)
    x[1, 2] = torch.nan
    with pytest.warns(AttributionWarning, match=r"not finite.* \[1\]"):
        found, delta = DeepLiftEHR(model).attribute(x, return_convergence_delta=True)
    assert bool(found[1].isnan().all()) and bool(delta[1].isnan())
    expected = DeepLiftEHR(model).attribute(x[[0, 2]])
    torch.testing.assert_close(found[[0, 2]], expected)


class MeanOfHigh(nn.Module):
    """The mean of a patient's high values, 0 for one who has none."""

    def forward(self, x: Tensor) -> Tensor:
        high = x > 0.5
        count = high.sum(1)
        return torch.where(count > 0, (x * high).sum(1) / count, 0.0)


def test_a_guarded_division_by_nothing_is_exact() -> None:
    model, x = MeanOfHigh(), torch.tensor([[1.0, 2.0, 0.3], [0.7, 0.1, -2.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error", AttributionWarning)
        found = DeepLiftEHR(model).attribute(x, torch.zeros_like(x))
    torch.testing.assert_close(found.sum(1), model(x))
