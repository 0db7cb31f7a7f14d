"""Captum's layer and neuron classes hook the model's own modules.

The adapter runs the model on a private view of its modules; hooks of the modules are
the view's too, so Captum may be given any module of ``adapter.model``.
"""

from __future__ import annotations

import warnings
from typing import Any

import captum.attr
import pytest
import torch
from captum.attr import (
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    FeatureAblation,
    GradientShap,
    GuidedBackprop,
    IntegratedGradients,
    InternalInfluence,
    LayerActivation,
    LayerConductance,
    LayerDeepLift,
    LayerDeepLiftShap,
    LayerFeatureAblation,
    LayerGradCam,
    LayerGradientShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    LayerLRP,
    NeuronConductance,
    NeuronDeconvolution,
    NeuronDeepLift,
    NeuronDeepLiftShap,
    NeuronFeatureAblation,
    NeuronGradient,
    NeuronGradientShap,
    NeuronGuidedBackprop,
    NeuronIntegratedGradients,
)
from captum_cases import INTEGRALS_KEEP_DTYPE, MODELS, Case, case, close, total
from snapshots import model_state
from torch import Tensor

INTO = {"attribute_to_layer_input": True}


@pytest.fixture(autouse=True)
def _quiet_and_without_trace() -> Any:
    """Whatever a test does, the models of the cases are afterwards as before."""
    names = (*MODELS, "LogisticRegression", "CNN")
    before = {name: model_state(case(name).model) for name in names}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")
        warnings.filterwarnings("ignore", module=__name__)
        yield
    for name, found in before.items():
        assert model_state(case(name).model) == found


def hidden(c: Case, inputs: Any) -> Tensor:
    """What goes into the last layer, by a hook of our own."""
    seen: list[Tensor] = []
    handle = c.model.fc.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    c.score(inputs)
    handle.remove()
    return seen[0].detach()


def point(c: Case, rows: int) -> tuple[Tensor, ...]:
    """A reference that is the same for each patient; not 0, which would be padding."""
    return tuple(
        torch.full_like(x[:1], 0.01).expand(rows, *x.shape[1:]) for x in c.enc.inputs
    )


@pytest.mark.parametrize("name", MODELS)
def test_activations_are_those_of_the_model_itself(name) -> None:
    from captum_cases import CONFIGS
    from zoo import build

    c = case(name)
    found = LayerActivation(c.adapter, c.model.fc).attribute(
        c.enc.inputs, additional_forward_args=c.rest, **INTO
    )
    seen: list[Tensor] = []
    model, batch = build(CONFIGS[name], trained=True)
    model.fc.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    model(**batch)
    torch.testing.assert_close(found, seen[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_the_last_layer_is_linear_so_every_class_agrees_with_its_weights(name) -> None:
    c = case(name)
    weight = c.model.fc.weight[0].detach()
    h, h0 = (hidden(c, x) for x in (c.enc.inputs, c.reference))
    layer = (c.adapter, c.model.fc)
    change, product = [weight * (h - h0)], [weight * h]

    def attributed(method: Any, *more: Any, **options: Any) -> list[Tensor]:
        found = method(*layer).attribute(
            c.enc.inputs, *more, **c.given(**INTO, **options)
        )
        return [(found[0] if isinstance(found, tuple) else found).detach()]

    steps = {"n_steps": 8, "internal_batch_size": 32}
    dtype = {"check_dtype": INTEGRALS_KEEP_DTYPE}
    integrated = attributed(LayerIntegratedGradients, c.reference, **steps)
    close(integrated, change, **dtype)
    close(attributed(LayerDeepLift, c.reference), change)
    close(attributed(LayerGradientXActivation), product)
    close(attributed(LayerFeatureAblation, perturbations_per_eval=3), product)
    influence = attributed(InternalInfluence, c.reference, **steps)
    close(influence, [weight.expand_as(h)], **dtype)
    close(attributed(LayerGradCam), [product[0].sum(1, keepdim=True)])
    from_point = [weight * (h - hidden(c, point(c, len(h))))]
    close(attributed(LayerDeepLiftShap, point(c, 2)), from_point)


@pytest.mark.parametrize("name", MODELS)
def test_conductance_through_a_layer_adds_up(name) -> None:
    c = case(name)
    found = LayerConductance(c.adapter, c.model.fc).attribute(
        c.enc.inputs,
        c.reference,
        n_steps=500,
        internal_batch_size=512,
        **c.given(**INTO),
    )
    tolerance = 1e-2 if name == "MLP" else 1e-3  # a sum of differences along the path
    torch.testing.assert_close(total([found]), c.change, rtol=tolerance, atol=1e-4)


def test_gradient_shap_through_a_layer_of_a_linear_model() -> None:
    c = case("LogisticRegression")
    found = LayerGradientShap(c.adapter, c.model.fc).attribute(
        c.enc.inputs, point(c, 1), n_samples=4, stdevs=0.0, **c.given(**INTO)
    )
    h, h0 = hidden(c, c.enc.inputs), hidden(c, point(c, len(c.enc)))
    close([found], [c.model.fc.weight[0].detach() * (h - h0)])


@pytest.mark.parametrize("name", MODELS)
def test_an_embedding_table_is_a_layer_too(name) -> None:
    """Its output is the attributed input itself, as in Captum's own tutorials."""
    c = case(name)
    feature = c.adapter.features[0]
    table = c.model.get_submodule(feature.embedding)
    seen = LayerActivation(c.adapter, table).attribute(
        c.enc.inputs, additional_forward_args=c.rest
    )
    assert torch.equal(seen.flatten(), c.enc.inputs[0].flatten())
    found = LayerGradientXActivation(c.adapter, table).attribute(
        c.enc.inputs, **c.given()
    )
    expected = c.gradients(c.enc.inputs)[0] * c.enc.inputs[0]
    close([found.view_as(expected)], [expected])


@pytest.mark.parametrize("name", MODELS)
def test_the_output_neuron_is_the_score(name) -> None:
    c = case(name)
    neuron = {"neuron_selector": 0, "additional_forward_args": c.rest}
    layer = (c.adapter, c.model.fc)
    close(
        NeuronGradient(*layer).attribute(c.enc.inputs, **neuron),
        c.gradients(c.enc.inputs),
    )
    path = {"n_steps": 8, "baselines": c.reference}
    integrated = IntegratedGradients(c.adapter).attribute(
        c.enc.inputs, **path, **c.given()
    )
    found = NeuronIntegratedGradients(*layer).attribute(c.enc.inputs, **path, **neuron)
    close(found, integrated)
    found = NeuronConductance(*layer).attribute(
        c.enc.inputs, target=0, method="gausslegendre", **path, **neuron
    )
    close(found, integrated)
    mask = c.adapter.feature_mask(c.enc)
    options = {"baselines": c.reference, "feature_mask": mask}
    ablated = FeatureAblation(c.adapter).attribute(c.enc.inputs, **options, **c.given())
    found = NeuronFeatureAblation(*layer).attribute(c.enc.inputs, **options, **neuron)
    close(found, ablated)


def test_neurons_of_a_linear_model() -> None:
    c = case("LogisticRegression")
    neuron = {"neuron_selector": 0, "additional_forward_args": c.rest}
    layer = (c.adapter, c.model.fc)
    found = NeuronDeepLift(*layer).attribute(
        c.enc.inputs, baselines=c.reference, **neuron
    )
    close(found, DeepLift(c.adapter).attribute(c.enc.inputs, c.reference, **c.given()))
    found = NeuronDeepLiftShap(*layer).attribute(
        c.enc.inputs, baselines=point(c, 2), **neuron
    )
    shap = DeepLiftShap(c.adapter).attribute(c.enc.inputs, point(c, 2), **c.given())
    close(found, shap)
    drawn = {"baselines": point(c, 1), "n_samples": 3, "stdevs": 0.1}
    torch.manual_seed(0)
    found = NeuronGradientShap(*layer).attribute(c.enc.inputs, **drawn, **neuron)
    torch.manual_seed(0)
    close(found, GradientShap(c.adapter).attribute(c.enc.inputs, **drawn, **c.given()))


@pytest.mark.parametrize(
    ("of_neuron", "of_model"),
    [(NeuronGuidedBackprop, GuidedBackprop), (NeuronDeconvolution, Deconvolution)],
)
def test_modified_gradients_of_a_neuron(of_neuron, of_model) -> None:
    c = case("CNN")
    found = of_neuron(c.adapter, c.model.fc).attribute(
        c.enc.inputs, neuron_selector=0, additional_forward_args=c.rest
    )
    close(found, of_model(c.adapter).attribute(c.enc.inputs, **c.given()))


@pytest.mark.parametrize("name", ["CNN", "Transformer"])
def test_layers_above_hooked_modules_need_gradients_below(name) -> None:
    """LayerDeepLift hooks activations below the layer, whom no input gives a grad."""
    c = case(name)
    found, delta = LayerDeepLift(c.adapter, c.model.fc).attribute(
        c.enc.inputs, c.reference, return_convergence_delta=True, **c.given(**INTO)
    )
    torch.testing.assert_close(
        total(found if isinstance(found, tuple) else [found]),
        c.change,
        rtol=1e-4,
        atol=1e-5,
    )
    assert delta.abs().max() < 1e-5
    assert not any(x.requires_grad for x in c.enc.inputs)
    assert c.adapter(*c.enc.inputs, *c.rest).requires_grad
    with torch.no_grad():
        assert not c.adapter(*c.enc.inputs, *c.rest).requires_grad


def test_what_captum_itself_cannot_do_with_a_layer() -> None:
    c = case("RNN")
    private = c.adapter.private()  # LRP leaves its rules behind when it raises
    with pytest.raises(TypeError, match=r"Module of type .*Embedding'> has no rule"):
        LayerLRP(private, private.model.fc).attribute(c.enc.inputs, **c.given())
    newer = getattr(captum.attr, "LayerFeaturePermutation", None)
    if newer is None:  # Captum 0.7 has no such class
        return
    with pytest.raises(AssertionError, match="Cannot choose target column"):
        newer(c.adapter, c.model.fc).attribute(c.enc.inputs, **c.given())
