"""Captum's gradient and perturbation classes on the adapter."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from captum import attr as captum_attr
from captum._utils.models.linear_model import SkLearnLinearRegression
from captum.attr import (
    FeatureAblation,
    FeaturePermutation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Lime,
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValues,
    ShapleyValueSampling,
)
from captum_cases import INTEGRALS_KEEP_DTYPE, MODELS, Case, case, close, total
from torch import Tensor
from versions import CAPTUM, before

from captum_ehr import DeepLiftEHR


@pytest.fixture(autouse=True)
def _quiet_captum() -> Any:
    """Captum warns of its hooks, and that KernelShap takes a patient at a time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")
        warnings.filterwarnings("ignore", module=__name__)
        yield


@pytest.mark.parametrize("name", MODELS)
def test_integrated_gradients_add_up_in_slices_too(name) -> None:
    c = case(name)
    found, delta = IntegratedGradients(c.adapter).attribute(
        c.enc.inputs,
        c.reference,
        n_steps=300,
        internal_batch_size=256,
        return_convergence_delta=True,
        **c.given(),
    )
    tolerance = 2e-2 if name == "MLP" else 1e-4  # ReLUs have kinks on the path
    dtype = {"check_dtype": INTEGRALS_KEEP_DTYPE}
    torch.testing.assert_close(
        total(found), c.change, rtol=tolerance, atol=tolerance, **dtype
    )
    torch.testing.assert_close(
        delta, total(found) - c.change, rtol=0, atol=1e-5, **dtype
    )
    for a, mask in zip(found, c.enc.masks):
        assert torch.equal(a[~mask], torch.zeros_like(a[~mask]))
    whole = IntegratedGradients(c.adapter).attribute(
        c.enc.inputs, c.reference, n_steps=300, **c.given()
    )
    close(found, whole)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_autograds(name) -> None:
    c = case(name)
    slopes = c.gradients(c.enc.inputs)
    close(Saliency(c.adapter).attribute(c.enc.inputs, **c.given()), map(abs, slopes))
    signed = Saliency(c.adapter).attribute(c.enc.inputs, abs=False, **c.given())
    close(signed, slopes)
    found = InputXGradient(c.adapter).attribute(c.enc.inputs, **c.given())
    close(found, (g * x for g, x in zip(slopes, c.enc.inputs)))


def test_gradient_shap_of_a_linear_model_is_exact() -> None:
    c = case("LogisticRegression")
    one = tuple(torch.zeros_like(x[:1]) for x in c.enc.inputs)
    found, delta = GradientShap(c.adapter).attribute(
        c.enc.inputs,
        one,
        n_samples=3,
        stdevs=0.0,
        return_convergence_delta=True,
        **c.given(),
    )
    slopes = c.gradients(c.enc.inputs)
    close(found, (g * x for g, x in zip(slopes, c.enc.inputs)))
    assert delta.shape == (3 * len(c.enc),) and delta.abs().max() < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_a_tunnel_without_noise_is_the_method_itself(name) -> None:
    c = case(name)
    for method in (
        IntegratedGradients(c.adapter),
        DeepLiftEHR(c.adapter, completeness="off"),
    ):
        alone = method.attribute(c.enc.inputs, c.reference, **c.given())
        tunnel = NoiseTunnel(method).attribute(
            c.enc.inputs,
            nt_samples=2,
            nt_samples_batch_size=1,
            stdevs=0.0,
            baselines=c.reference,
            **c.given(),
        )
        close(tunnel, alone)


def test_a_tunnel_draws_around_the_input() -> None:
    c = case("StageNet")
    torch.manual_seed(0)
    found = NoiseTunnel(DeepLiftEHR(c.adapter, completeness="off")).attribute(
        c.enc.inputs, nt_samples=3, stdevs=0.1, baselines=c.reference, **c.given()
    )
    alone = DeepLiftEHR(c.adapter).attribute(c.enc.inputs, c.reference, **c.given())
    for a, b in zip(found, alone):
        assert a.shape == b.shape and bool(a.isfinite().all())
        assert not torch.allclose(a, b)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("at_once", [1, 4])
def test_ablation_of_a_code_is_the_model_without_it(name, at_once) -> None:
    c = case(name)
    mask = c.adapter.feature_mask(c.enc)
    found = FeatureAblation(c.adapter).attribute(
        c.enc.inputs,
        c.reference,
        feature_mask=mask,
        perturbations_per_eval=at_once,
        **c.given(),
    )
    whole, seen = c.score(c.enc.inputs), 0
    for number in range(max(map(len, mask.players))):
        less = whole - c.mixed(lambda k, x, n=number: (mask[k] == n).expand_as(x))
        for a, part in zip(found, mask):
            here = (part == number).expand_as(a)
            rows = here.nonzero()[:, 0]
            torch.testing.assert_close(a[here], less[rows], rtol=1e-3, atol=1e-5)
            seen += int(here.sum())
    assert seen == sum(int(m.sum()) * x[m][0].numel() for m, x in _real(c))


def _real(c: Case) -> list[tuple[Tensor, Tensor]]:
    return list(zip(c.enc.masks, c.enc.inputs))


def test_permutation_exchanges_patients_feature_by_feature() -> None:
    c = case("LogisticRegression")
    mask = c.adapter.feature_mask(c.enc, "feature")
    everywhere = tuple(torch.full_like(m[:1, :1], k) for k, m in enumerate(mask))

    def backwards(x: Tensor, chosen: Tensor) -> Tensor:
        return torch.where(chosen, x.flip(0), x)

    found = FeaturePermutation(c.adapter, perm_func=backwards).attribute(
        c.enc.inputs, feature_mask=everywhere, **c.given()
    )
    whole = c.score(c.enc.inputs)
    for k, a in enumerate(found):
        changed = list(c.enc.inputs)
        changed[k] = changed[k].flip(0)
        expected = whole - c.score(changed)
        torch.testing.assert_close(a[:, 0, 0], expected, rtol=1e-4, atol=1e-5)
    permuted = FeaturePermutation(c.adapter)
    given = {"inputs": c.enc.inputs, "feature_mask": mask, **c.given()}
    if before(CAPTUM, "0.9"):
        with pytest.raises(AssertionError, match="pass in one mask"):
            permuted.attribute(**given)
        return
    drawn = permuted.attribute(**given)
    frame = mask.to_frame(drawn)
    assert len(frame) == 2 * len(c.enc) and frame["attribution"].abs().max() > 0


@pytest.mark.parametrize("name", ["RNN", "StageNet"])
def test_occlusion_of_one_place_is_the_model_without_it(name) -> None:
    c = case(name)
    windows = tuple((1,) * (x.dim() - 2) + (x.shape[-1],) for x in c.enc.inputs)
    found = Occlusion(c.adapter).attribute(
        c.enc.inputs,
        baselines=c.reference,
        sliding_window_shapes=windows,
        perturbations_per_eval=5,
        **c.given(),
    )

    def first(k: int, x: Tensor) -> Tensor:
        chosen = torch.zeros_like(x, dtype=torch.bool)
        if k == 0:
            chosen.view(len(x), -1, x.shape[-1])[:, 0] = True
        return chosen

    expected = c.score(c.enc.inputs) - c.mixed(first)
    at = found[0].view(len(expected), -1, found[0].shape[-1])[:, 0, 0]
    torch.testing.assert_close(at, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_shapley_values_of_the_features_are_exact(name) -> None:
    c = case(name)
    mask = c.adapter.feature_mask(c.enc, "feature")
    found = ShapleyValues(c.adapter).attribute(
        c.enc.inputs, c.reference, feature_mask=mask, **c.given()
    )
    sums = mask.to_frame(found).groupby("patient_id", sort=False)["attribution"].sum()
    change = c.change.double().numpy()
    assert sums.to_numpy() == pytest.approx(change, rel=1e-4, abs=1e-5)
    if len(c.enc.inputs) == 2:
        whole = c.score(c.enc.inputs)
        none = c.score(c.reference)
        with_first = c.score((c.enc.inputs[0], c.reference[1]))
        with_second = c.score((c.reference[0], c.enc.inputs[1]))
        first = (with_first - none + whole - with_second) / 2
        row = [int(m.flatten().nonzero()[0]) for m in c.enc.masks[0]]
        at = found[0].flatten(1)
        width = found[0].shape[-1]
        picked = torch.stack([at[p, n * width] for p, n in enumerate(row)])
        torch.testing.assert_close(picked, first, rtol=1e-4, atol=1e-5)


def test_sampled_shapley_values_add_up() -> None:
    c = case("Transformer")
    mask = c.adapter.feature_mask(c.enc, "token")
    found = ShapleyValueSampling(c.adapter).attribute(
        c.enc.inputs,
        c.reference,
        feature_mask=mask,
        n_samples=2,
        perturbations_per_eval=6,
        **c.given(),
    )
    sums = mask.to_frame(found).groupby("patient_id", sort=False)["attribution"].sum()
    change = c.change.double().numpy()
    assert sums.to_numpy() == pytest.approx(change, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("surrogate", ["KernelShap", "Lime"])
def test_a_surrogate_of_a_linear_model_is_the_model(surrogate) -> None:
    c = case("LogisticRegression")
    mask = c.adapter.feature_mask(c.enc)
    row = slice(1, 2)
    made = (
        KernelShap(c.adapter)
        if surrogate == "KernelShap"
        else Lime(c.adapter, interpretable_model=SkLearnLinearRegression())
    )
    torch.manual_seed(0)
    found = made.attribute(
        tuple(x[row] for x in c.enc.inputs),
        tuple(x[row] for x in c.reference),
        target=0,
        additional_forward_args=tuple(x[row] for x in c.rest),
        feature_mask=tuple(m[row] for m in mask),
        n_samples=200,
        perturbations_per_eval=20,
        return_input_shape=False,
    )
    whole = c.score(c.enc.inputs)
    for number in range(len(mask.players[1])):
        less = whole - c.mixed(lambda k, x, n=number: (mask[k] == n).expand_as(x))
        assert float(found[0, number]) == pytest.approx(float(less[1]), abs=2e-4)


def test_every_class_that_takes_a_model_is_tried_somewhere() -> None:
    """A class that Captum adds shall not go unnoticed."""
    here = Path(__file__).parent
    tried = "".join(
        (here / f"test_captum_{name}").read_text()
        for name in ("classes.py", "rules.py", "layers.py")
    )
    base = captum_attr.Attribution
    other = {"LimeBase", "DataLoaderAttribution"}  # LimeBase is Lime's own engine
    abstract = {c.__name__ for c in _bases(captum_attr)}
    for name, found in vars(captum_attr).items():
        if isinstance(found, type) and issubclass(found, base) and "LLM" not in name:
            assert name in tried or name in other | abstract, name


def _bases(module: Any) -> list[type]:
    names = ("", "Gradient", "Perturbation", "Internal", "Layer", "Neuron")
    kinds = [getattr(module, f"{n}Attribution", None) for n in names]
    return [kind for kind in kinds if kind is not None]
