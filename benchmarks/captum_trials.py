"""One trial for each of Captum's attribution classes: what came of calling it.

A trial gives a number where the class promises that its attributions add up: how far
they are from it, over f(x) - f(x0); True where it promises nothing and gives numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn

from captum_ehr import (
    DeepLiftEHR,
    DeepLiftShapEHR,
    LayerDeepLiftEHR,
    NeuronDeepLiftEHR,
    PyHealthAdapter,
)
from captum_ehr.adapter import FeatureMask

from . import peers

#: Of models without a ReLU module; Captum's two methods then change nothing.
PLAIN = "the plain gradient: the model has no ReLU module"

#: A residual, True, or why not.
type Found = float | bool | str


@dataclass(frozen=True, eq=False)
class Trial:
    """A model and a batch, with all that an attribution class may ask for."""

    model: Any
    batch: Mapping[str, Any]
    path: int

    @cached_property
    def adapter(self) -> PyHealthAdapter:
        """The model as a function of embeddings."""
        return PyHealthAdapter(self.model)

    @cached_property
    def encoded(self) -> Any:
        """The batch as the classes take it."""
        return self.adapter.encode(self.batch)

    @cached_property
    def reference(self) -> tuple[Tensor, ...]:
        """UNK tokens and zero values."""
        return self.adapter.baseline(self.encoded)

    @cached_property
    def change(self) -> Tensor:
        """f(x) - f(x0) of each patient."""
        return peers.change_of(peers.Case(self.model, self.batch)).double()

    @cached_property
    def layer(self) -> nn.Module:
        """The last linear module, through which everything goes."""
        linear = [m for m in self.model.modules() if isinstance(m, nn.Linear)]
        found = getattr(self.model, "fc", linear[-1])
        assert isinstance(found, nn.Module)
        return found

    def run(self, name: str, *where: Any, **options: Any) -> Any:
        """Captum's class of that name on the adapter."""
        made = getattr(captum.attr, name)(self.adapter, *where)
        if name.endswith("DeepLiftShap"):
            return self._apart(made, **options)
        return self.attribute(made, **options)

    def attribute(self, made: Any, **options: Any) -> Any:
        """What a class makes of the inputs."""
        return made.attribute(
            self.encoded.inputs,
            additional_forward_args=self.encoded.additional_forward_args,
            **options,
        )

    def _apart(self, made: Any, **options: Any) -> tuple[Tensor, ...]:
        """Each patient with a sample of its own reference, twice.

        Classes that take a sample give it to every patient, whose padding differs.
        """
        del options["baselines"]
        parts = []
        for row in range(len(self.encoded)):
            one = slice(row, row + 1)
            found = made.attribute(
                tuple(x[one] for x in self.encoded.inputs),
                baselines=tuple(x[one].expand(2, *x.shape[1:]) for x in self.reference),
                additional_forward_args=tuple(
                    x[one] for x in self.encoded.additional_forward_args
                ),
                **options,
            )
            parts.append(_tensors(found))
        return tuple(torch.cat(column) for column in zip(*parts))

    def relative(self, total: Tensor) -> float:
        """Median over patients of how far a sum is from f(x) - f(x0)."""
        miss = (total.double() - self.change).abs()
        return float((miss / self.change.abs().clamp(min=1e-12)).median())


# One function per kind of class ------------------------------------------------------


def _ours(trial: Trial) -> Found:
    made = DeepLiftEHR(trial.adapter, completeness="off")
    found = trial.attribute(made, baselines=trial.reference, target=0)
    return _sum(trial, found)


def _shap(trial: Trial) -> Found:
    made = DeepLiftShapEHR(trial.adapter, completeness="off")
    found = made.explain(trial.encoded, 3, target=0)
    change = (found.f_input - found.f_baseline).abs().clamp(min=1e-12)
    return float((found.delta.abs() / change).median())


def _inside(trial: Trial) -> Found:
    found = LayerDeepLiftEHR(trial.adapter, trial.layer).attribute(
        trial.encoded, trial.reference, 0, attribute_to_layer_input=True
    )
    return _sum(trial, found)


def _neurons(trial: Trial) -> Found:
    made = NeuronDeepLiftEHR(trial.adapter, trial.layer, completeness="off")
    found = trial.attribute(made, neuron_selector=0, baselines=trial.reference)
    return _sum(trial, found)


def _path(name: str) -> Callable[[Trial], Found]:
    """Adds up; along a path, if it takes steps."""

    def tried(trial: Trial) -> Found:
        steps = {"n_steps": trial.path, "internal_batch_size": 512}
        options = steps if name == "IntegratedGradients" else {}
        found = trial.run(name, baselines=trial.reference, target=0, **options)
        return _sum(trial, found)

    return tried


def _gradient(name: str, **options: Any) -> Callable[[Trial], Found]:
    """Promises no sum."""

    def tried(trial: Trial) -> Found:
        more = {"baselines": trial.reference} if name == "GradientShap" else {}
        return _finite(trial.run(name, target=0, **more, **options))

    return tried


def _modified(name: str) -> Callable[[Trial], Found]:
    """Changes the gradients of ReLU modules, if there are some."""

    def tried(trial: Trial) -> Found:
        found = trial.run(name, target=0)
        plain = trial.run("Saliency", target=0, abs=False)
        same = all(torch.equal(a, b) for a, b in zip(found, plain))
        return PLAIN if same else _finite(found)

    return tried


def _tunnel(trial: Trial) -> Found:
    made = captum.attr.NoiseTunnel(captum.attr.Saliency(trial.adapter))
    return _finite(trial.attribute(made, nt_samples=4, stdevs=0.01, target=0))


def _players(
    name: str, players: str, *, adds_up: bool = False, **options: Any
) -> Callable[[Trial], Found]:
    """Takes players away."""

    def tried(trial: Trial) -> Found:
        mask = trial.adapter.feature_mask(trial.encoded, players)
        more = {} if name == "FeaturePermutation" else {"baselines": trial.reference}
        found = trial.run(name, feature_mask=mask, target=0, **more, **options)
        if adds_up:
            return trial.relative(_totals(mask, found))
        return _finite(found)

    return tried


def _occlusion(trial: Trial) -> Found:
    windows = tuple((1, *x.shape[2:]) for x in trial.encoded.inputs)
    found = trial.run(
        "Occlusion",
        baselines=trial.reference,
        target=0,
        sliding_window_shapes=windows,
        perturbations_per_eval=16,
    )
    return _finite(found)


def _layer(
    name: str, *, adds_up: bool = False, **options: Any
) -> Callable[[Trial], Found]:
    """Attributes to what goes into the last linear module."""

    def tried(trial: Trial) -> Found:
        more = dict(options)
        if more.pop("referenced", True):
            more["baselines"] = trial.reference
        if name in ("LayerConductance", "LayerIntegratedGradients"):
            more |= {"n_steps": trial.path, "internal_batch_size": 512}
        into = {} if name == "LayerLRP" else {"attribute_to_layer_input": True}
        found = trial.run(name, trial.layer, target=0, **into, **more)
        return _sum(trial, found) if adds_up else _finite(found)

    return tried


def _activation(trial: Trial) -> Found:
    return _finite(trial.run("LayerActivation", trial.layer))


def _grad_cam(trial: Trial) -> Found:
    convolutions = [m for m in trial.model.modules() if isinstance(m, nn.Conv1d)]
    if not convolutions:
        return "the model has no convolution"
    return _finite(trial.run("GuidedGradCam", convolutions[-1], target=0))


def _neuron(name: str, **options: Any) -> Callable[[Trial], Found]:
    """Attributes one output of the last linear module."""

    def tried(trial: Trial) -> Found:
        more = dict(options)
        if more.pop("referenced", False):
            more["baselines"] = trial.reference
        if name == "NeuronFeatureAblation":
            more["feature_mask"] = trial.adapter.feature_mask(trial.encoded)
        return _finite(trial.run(name, trial.layer, neuron_selector=0, **more))

    return tried


TRIALS: tuple[tuple[str, Callable[[Trial], Found]], ...] = (
    ("DeepLiftEHR", _ours),
    ("DeepLiftShapEHR", _shap),
    ("LayerDeepLiftEHR", _inside),
    ("NeuronDeepLiftEHR", _neurons),
    ("DeepLift", _path("DeepLift")),
    ("DeepLiftShap", _path("DeepLiftShap")),
    ("IntegratedGradients", _path("IntegratedGradients")),
    ("Saliency", _gradient("Saliency")),
    ("InputXGradient", _gradient("InputXGradient")),
    ("GradientShap", _gradient("GradientShap", n_samples=4)),
    ("NoiseTunnel", _tunnel),
    ("GuidedBackprop", _modified("GuidedBackprop")),
    ("Deconvolution", _modified("Deconvolution")),
    ("GuidedGradCam", _grad_cam),
    ("LRP", _gradient("LRP")),
    ("FeatureAblation", _players("FeatureAblation", "code", perturbations_per_eval=8)),
    ("FeaturePermutation", _players("FeaturePermutation", "feature")),
    ("Occlusion", _occlusion),
    (
        "ShapleyValueSampling",
        _players(
            "ShapleyValueSampling",
            "code",
            adds_up=True,
            n_samples=1,
            perturbations_per_eval=8,
        ),
    ),
    ("ShapleyValues", _players("ShapleyValues", "feature", adds_up=True)),
    (
        "KernelShap",
        _players("KernelShap", "feature", adds_up=True, n_samples=40),
    ),
    ("Lime", _players("Lime", "feature", n_samples=20)),
    ("LayerActivation", _activation),
    ("LayerConductance", _layer("LayerConductance", adds_up=True)),
    ("LayerIntegratedGradients", _layer("LayerIntegratedGradients", adds_up=True)),
    ("LayerDeepLift", _layer("LayerDeepLift", adds_up=True)),
    ("LayerDeepLiftShap", _layer("LayerDeepLiftShap", adds_up=True)),
    ("LayerGradientShap", _layer("LayerGradientShap", n_samples=4)),
    (
        "LayerGradientXActivation",
        _layer("LayerGradientXActivation", referenced=False),
    ),
    ("LayerGradCam", _layer("LayerGradCam", referenced=False)),
    ("InternalInfluence", _layer("InternalInfluence", n_steps=8)),
    ("LayerFeatureAblation", _layer("LayerFeatureAblation", referenced=False)),
    ("LayerLRP", _layer("LayerLRP", referenced=False)),
    ("NeuronGradient", _neuron("NeuronGradient")),
    (
        "NeuronConductance",
        _neuron("NeuronConductance", referenced=True, target=0, n_steps=8),
    ),
    (
        "NeuronIntegratedGradients",
        _neuron("NeuronIntegratedGradients", referenced=True, n_steps=8),
    ),
    ("NeuronDeepLift", _neuron("NeuronDeepLift", referenced=True)),
    ("NeuronDeepLiftShap", _neuron("NeuronDeepLiftShap", referenced=True)),
    ("NeuronGradientShap", _neuron("NeuronGradientShap", referenced=True)),
    ("NeuronGuidedBackprop", _neuron("NeuronGuidedBackprop")),
    ("NeuronDeconvolution", _neuron("NeuronDeconvolution")),
    ("NeuronFeatureAblation", _neuron("NeuronFeatureAblation")),
)


def _sum(trial: Trial, found: Any) -> float:
    _finite(found)
    total = sum(a.detach().flatten(1).sum(1) for a in _tensors(found))
    assert isinstance(total, Tensor)
    return trial.relative(total)


def _totals(mask: FeatureMask, found: Any) -> Tensor:
    """The sum over players of each patient."""
    frame = mask.to_frame(found)
    sums = frame.groupby("patient_id", sort=False)["attribution"].sum()
    return torch.tensor([sums[patient] for patient in mask.patient_ids])


def _finite(found: Any) -> bool:
    if not all(bool(torch.isfinite(a).all()) for a in _tensors(found)):
        raise FloatingPointError("Some attributions are infinite or NaN")
    return True


def _tensors(found: Any) -> Iterable[Tensor]:
    return found if isinstance(found, tuple) else (found,)
