"""Captum's classes that change what modules do, on the adapter."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import zoo
from captum.attr import (
    LRP,
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    GuidedBackprop,
    GuidedGradCam,
)
from captum_cases import case, close, total
from pyhealth.datasets import create_sample_dataset, get_dataloader
from pyhealth.models import LogisticRegression
from snapshots import model_state
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR, PyHealthAdapter


@pytest.fixture(autouse=True)
def _quiet_captum() -> Any:
    """Captum warns of its hooks, and that KernelShap takes a patient at a time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")
        warnings.filterwarnings("ignore", module=__name__)
        yield


@pytest.mark.parametrize("method", [GuidedBackprop, Deconvolution])
def test_modified_gradients_need_relu_modules(method) -> None:
    smooth = case("RNN")
    found = method(smooth.adapter).attribute(smooth.enc.inputs, **smooth.given())
    close(found, smooth.gradients(smooth.enc.inputs))
    c = case("CNN")
    before = model_state(c.model)
    found = method(c.adapter).attribute(c.enc.inputs, **c.given())
    slopes = c.gradients(c.enc.inputs)
    assert not all(torch.allclose(a, b) for a, b in zip(found, slopes))
    assert model_state(c.model) == before


def test_guided_backprop_is_that_of_a_model_with_guided_relus() -> None:
    """A ReLU that passes back what is positive, put in by hand."""
    c = case("CNN")
    found = GuidedBackprop(c.adapter).attribute(c.enc.inputs, **c.given())
    private = c.adapter.private()
    for module in private.model.modules():
        if isinstance(module, nn.ReLU):
            module.__dict__["forward"] = _guided
    leaves = [x.clone().requires_grad_() for x in c.enc.inputs]
    output = private(*leaves, *c.rest)[:, 0].sum()
    close(found, torch.autograd.grad(output, leaves))


def _guided(x: Tensor) -> Tensor:
    y = torch.relu(x)
    if y.requires_grad:
        y = y.clone()
        y.register_hook(torch.relu)
    return y


def test_captums_deep_lift_takes_what_it_can_and_says_what_it_cannot() -> None:
    linear = case("LogisticRegression")
    found, delta = DeepLift(linear.adapter).attribute(
        linear.enc.inputs,
        linear.reference,
        return_convergence_delta=True,
        **linear.given(),
    )
    torch.testing.assert_close(total(found), linear.change, rtol=1e-4, atol=1e-5)
    assert delta.abs().max() < 1e-5
    for name, module in (("MLP", "ReLU"), ("StageNet", "Tanh")):
        c = case(name)
        for method in (DeepLift, DeepLiftShap):
            with pytest.raises(RuntimeError, match=rf"A Module {module}\(\) was det"):
                method(c.adapter).attribute(c.enc.inputs, c.reference, **c.given())
        ours = DeepLiftEHR(c.adapter, completeness="off")
        exact = ours.attribute(c.enc.inputs, c.reference, **c.given())
        torch.testing.assert_close(total(exact), c.change, rtol=1e-4, atol=1e-5)


def test_deep_lift_shap_of_a_linear_model_is_the_mean_over_references() -> None:
    c = case("LogisticRegression")
    references = tuple(x[:3] for x in c.enc.inputs)
    found = DeepLiftShap(c.adapter).attribute(c.enc.inputs, references, **c.given())
    slopes = c.gradients(c.enc.inputs)
    expected = (
        g * (x - x0.mean(0)) for g, x, x0 in zip(slopes, c.enc.inputs, references)
    )
    close(found, expected)


def test_lrp_has_no_rule_for_embeddings() -> None:
    c = case("RNN")
    private = c.adapter.private()  # it leaves its rules behind when it raises
    before = model_state(c.model)
    with pytest.raises(TypeError, match=r"Module of type .*Embedding'> has no rule"):
        LRP(private).attribute(c.enc.inputs, **c.given())
    assert model_state(c.model) == before


def test_lrp_of_linear_layers_shares_out_the_score() -> None:
    model, batch = _labs_alone()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    before = copy.deepcopy(model.state_dict())
    private = PyHealthAdapter(model).private()
    enc = private.encode(batch)
    found = LRP(private).attribute(
        enc.inputs, target=0, additional_forward_args=enc.additional_forward_args
    )
    with torch.no_grad():
        score = model(**batch)["logit"][:, 0]
    torch.testing.assert_close(total(found), score, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def _labs_alone() -> tuple[Any, Any]:
    """A model of nothing but linear layers."""
    samples = [
        {"patient_id": f"p{n}", "labs": [n / 2, 2.0 - n, 0.5], "label": n % 2}
        for n in range(4)
    ]
    data = create_sample_dataset(
        samples, {"labs": "tensor"}, {"label": "binary"}, dataset_name="labs"
    )
    torch.manual_seed(0)
    model = LogisticRegression(data, **zoo.SMALL).eval()
    return model, next(iter(get_dataloader(data, batch_size=4)))


def test_guided_grad_cam_looks_at_a_convolution() -> None:
    c = case("CNN")
    convolutions = [m for m in c.model.modules() if isinstance(m, nn.Conv1d)]
    found = GuidedGradCam(c.adapter, convolutions[-1]).attribute(
        c.enc.inputs, **c.given()
    )
    guided = GuidedBackprop(c.adapter).attribute(c.enc.inputs, **c.given())
    for a, g, x in zip(found, guided, c.enc.inputs):
        assert a.shape == x.shape
        assert torch.equal(a[g == 0], torch.zeros_like(a[g == 0]))
    assert any(a.abs().max() > 0 for a in found)
