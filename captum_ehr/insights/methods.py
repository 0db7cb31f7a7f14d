"""The methods on offer: ours, and any of Captum's attribution classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn

from ..adapter import EncodedBatch, FeatureMask, PyHealthAdapter
from ..adapter.feature_masks import feature_mask
from ..adapter.features import Feature
from ..attr import DeepLiftEHR, DeepLiftShapEHR
from ..attr.assembly import outside
from ..explanation import Explanation
from ..propagation import Diagnostics
from .draws import DrawnAlike

OURS = "DeepLiftEHR"
SHAP = "DeepLiftShapEHR"

#: Captum's classes that are on offer unless others are asked for.
CAPTUMS = (
    "DeepLift",
    "IntegratedGradients",
    "GradientShap",
    "InputXGradient",
    "Saliency",
    "FeatureAblation",
    "Occlusion",
    "ShapleyValueSampling",
    "KernelShap",
    "Lime",
)

#: Reference patients that DeepLiftShapEHR draws from the model's dataset, at most.
REFERENCES = 20
DRAWN = "drawn patients"

#: What promises that attributions add up to f(x) - f(x0).
_SUMS = frozenset(
    {
        "DeepLift",
        "DeepLiftShap",
        "IntegratedGradients",
        "GradientShap",
        "KernelShap",
        "ShapleyValueSampling",
        "ShapleyValues",
    }
)

#: What a class's attribute is given beyond what its signature asks of everybody.
_OPTIONS: dict[str, dict[str, Any]] = {
    "IntegratedGradients": {"n_steps": 50},
    "KernelShap": {"n_samples": 200},
    "Lime": {"n_samples": 200},
}

_SHARED = (
    "codes are taken away at all of their places at once: what each place has is an "
    "equal share of its code's attribution"
)

_BEYOND = 1e-3
"""The part of f(x) - f(x0) from which on a sum is said to miss it."""


@dataclass(frozen=True, eq=False)
class Case:
    """Some patients of one model, with all that an attribution class may ask for.

    Args:
        model: What Captum's classes take.
        encoded: The patients.
        baseline: The name of the baseline.
        reference: It, one tensor per input.
        score: From encoded patients to ``(patients, outputs)``.
        target: Per patient, the index of the explained output.
        target_names: The name of each output.
        scale: Of the outputs.
        names: Human names of codes.
    """

    model: nn.Module
    encoded: EncodedBatch
    baseline: str
    reference: tuple[Tensor, ...]
    target: tuple[int, ...]
    target_names: tuple[str, ...]
    scale: str
    names: dict[str, str]

    @property
    def model_name(self) -> str:
        """The class of the explained model."""
        own = self.model.model if isinstance(self.model, PyHealthAdapter) else None
        return type(self.model if own is None else own).__name__

    def mask(self) -> FeatureMask:
        """One player for each code of a patient, or column of values."""
        features = [
            Feature(key, None, key if record.is_token else None)
            for key, record in self.encoded.features.items()
        ]
        return feature_mask(features, self.encoded, "code")

    def outputs(self, inputs: Sequence[Tensor]) -> Tensor:
        """What the model returns."""
        with torch.no_grad():
            found: Tensor = self.model(*inputs, *self.encoded.additional_forward_args)
        return found

    def values(self, inputs: Sequence[Tensor]) -> Tensor:
        """``(patients,)``, the explained output."""
        scores = self.outputs(inputs)
        scores = scores.reshape(len(scores), -1)
        return scores.gather(1, torch.tensor(self.target).to(scores.device)[:, None])[
            :, 0
        ]


@dataclass(frozen=True)
class Method:
    """An attribution method on offer.

    Args:
        name: What it is called.
        explain: From a case to its explanation.
        adds_up: Whether it promises that attributions add up to f(x) - f(x0).
        together: How many patients it explains at a time.
        draws: Whether its baselines are drawn from the dataset.
    """

    name: str
    explain: Callable[[Case], Explanation]
    adds_up: bool
    together: int = 1
    draws: bool = False


def methods_of(asked: Sequence[Any] | None, pyhealth: bool) -> dict[str, Method]:
    """The methods on offer, by name.

    Args:
        asked: Names, or attribution classes; None for the usual ones.
        pyhealth: Whether the models are PyHealth's.

    Raises:
        ValueError: If there is no such method, or it needs a layer.
        TypeError: If it is neither a name nor a class.

    Example:
        >>> list(methods_of(["DeepLiftEHR", "Saliency"], True))
        ['DeepLiftEHR', 'Saliency']
    """
    own = (OURS, SHAP) if pyhealth else (OURS,)
    made = [_method(one) for one in (asked or (*own, *CAPTUMS))]
    return {method.name: method for method in made}


def _method(asked: Any) -> Method:
    if isinstance(asked, Method):
        return asked
    if asked == OURS or asked is DeepLiftEHR:
        return Method(OURS, _ours, True, together=32)
    if asked == SHAP or asked is DeepLiftShapEHR:
        return Method(SHAP, _shap, True, together=8, draws=True)
    found = getattr(captum.attr, asked, None) if isinstance(asked, str) else asked
    if not inspect.isclass(found):
        choices = ", ".join((OURS, SHAP, *CAPTUMS))
        if isinstance(asked, str):
            raise ValueError(
                f"There is no method {asked!r}; there are {choices}, and every other "
                "class of captum.attr that needs no layer."
            )
        raise TypeError(
            f"A method is a name or an attribution class, got {type(asked).__name__}."
        )
    needed = [p for p in _needed(found.__init__) if p not in ("self", "model")]
    if [p for p in needed if p != "forward_func"]:
        raise ValueError(
            f"{found.__name__} needs {', '.join(needed)}; the page offers classes that "
            "take a model and nothing else."
        )
    name = found.__name__
    return Method(name, partial(_captum, found), name in _SUMS)


def _needed(function: Any) -> list[str]:
    """The parameters without a default."""
    return [
        name
        for name, one in inspect.signature(function).parameters.items()
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
    ]


# Ours --------------------------------------------------------------------------------


def _ours(case: Case) -> Explanation:
    """The same run as :meth:`DeepLiftEHR.explain`'s."""
    explainer = DeepLiftEHR(case.model)
    encoded = case.encoded
    args = encoded.additional_forward_args
    _, result = explainer.run(
        encoded.inputs, case.reference, list(case.target), args or None, None
    )
    return _explanation(
        case,
        result.attributions,
        (result.f_input, result.f_baseline),
        result.balance.delta,
        result.factor,
        result.diagnostics,
    )


def _shap(case: Case) -> Explanation:
    explainer = DeepLiftShapEHR(case.model)
    count = min(REFERENCES, len(explainer.model.model.dataset))
    return replace(
        explainer.explain(case.encoded, count, list(case.target), case.names),
        target_names=case.target_names,
        baseline=DRAWN,
    )


# Captum's ----------------------------------------------------------------------------


def _captum(kind: Any, case: Case) -> Explanation:
    """Any class of Captum's, given what its ``attribute`` asks for."""
    name, encoded = kind.__name__, case.encoded
    made = kind(case.model)
    takes = inspect.signature(made.attribute).parameters
    mask = case.mask() if "feature_mask" in takes else None
    given = {
        "baselines": _sample(name, case.reference),
        "target": list(case.target) if case.outputs(encoded.inputs).dim() > 1 else None,
        "additional_forward_args": encoded.additional_forward_args or None,
        "feature_mask": mask,
        "sliding_window_shapes": _windows(encoded),
        **_OPTIONS.get(name, {}),
    }
    with DrawnAlike():
        found = made.attribute(
            encoded.inputs, **{k: v for k, v in given.items() if k in takes}
        )
    parts = tuple(part.detach() for part in found)
    if mask is not None:
        parts = tuple(_once(part, m) for part, m in zip(parts, mask))
    elif "sliding_window_shapes" in takes:
        parts = tuple(part / _width(part, m) for part, m in zip(parts, encoded.masks))
    said = () if mask is None else (_SHARED,)
    return _checked(case, name, parts, said)


def _sample(name: str, reference: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The baselines; DeepLiftShap takes two at least."""
    if name != "DeepLiftShap":
        return reference
    return tuple(x.expand(2, *x.shape[1:]) for x in reference)


def _windows(encoded: EncodedBatch) -> tuple[tuple[int, ...], ...]:
    """What Occlusion takes away at a time: one token or value."""
    pairs = zip(encoded.masks, encoded.inputs)
    return tuple((*[1] * (m.dim() - 1), *x.shape[m.dim() :]) for m, x in pairs)


def _width(part: Tensor, mask: Tensor) -> int:
    """Over how many numbers a token is spread, each of which has its attribution."""
    return part.shape[-1] if part.dim() > mask.dim() else 1


def _once(part: Tensor, mask: Tensor) -> Tensor:
    """A player's attribution, which stands at all of its places, shared among them."""
    numbers = mask.expand_as(part).flatten(1)
    shared = torch.empty_like(part).flatten(1)
    for row, (own, values) in enumerate(zip(numbers, part.flatten(1))):
        shared[row] = values / own.bincount()[own]
    return shared.view_as(part)


def _checked(
    case: Case, name: str, parts: tuple[Tensor, ...], said: tuple[str, ...]
) -> Explanation:
    """What Captum's classes do not say: whether the attributions add up."""
    f_input = case.values(case.encoded.inputs)
    f_baseline = case.values(case.reference)
    if name not in _SUMS:
        parts = tuple(
            part * _like(m, part) for part, m in zip(parts, case.encoded.masks)
        )
    total = torch.stack([part.double().flatten(1).sum(1) for part in parts]).sum(0)
    change = (f_input - f_baseline).double()
    delta = total - change
    messages = said
    missed = delta.abs() / change.abs().clamp(min=1e-12)
    if name in _SUMS and bool((missed > _BEYOND).any()):
        words = f"{float(missed.max()):.2g} of it"
        messages = (
            *said,
            f"the attributions of Captum's {name} do not add up to f(x) - f(x0): off "
            f"by up to {words}",
        )
    ends = (f_input, f_baseline)
    ones = torch.ones_like(f_input)
    made = Diagnostics((), messages)
    return _explanation(case, parts, ends, delta.to(f_input.dtype), ones, made)


def _explanation(
    case: Case,
    parts: tuple[Tensor, ...],
    ends: tuple[Tensor, Tensor],
    delta: Tensor,
    factor: Tensor,
    diagnostics: Diagnostics,
) -> Explanation:
    """Attributions shaped like the inputs, with the patients they belong to."""
    encoded = case.encoded
    answered = torch.isfinite(ends[0] - ends[1])
    if isinstance(case.model, PyHealthAdapter):
        notes = (*diagnostics.notes, *outside(case.model, encoded, case.reference))
        diagnostics = replace(diagnostics, notes=notes)
    sums, features = {}, {}
    for (key, record), part in zip(encoded.features.items(), parts):
        one = part.sum(-1) if part.dim() > record.mask.dim() else part
        sums[key] = one
        # What a given baseline changes has an attribution, also where nothing stands;
        # where the model has no answer everything is NaN, and padding stays padding.
        extra = (one != 0) & answered.view(-1, *[1] * (one.dim() - 1))
        features[key] = replace(record, mask=record.mask | extra)
    return Explanation(
        attributions=sums,
        features=features,
        f_input=ends[0],
        f_baseline=ends[1],
        delta=delta,
        rescale_factor=factor,
        target=case.target,
        diagnostics=diagnostics,
        patient_ids=encoded.patient_ids,
        model_name=case.model_name,
        output=case.scale,
        target_names=case.target_names,
        baseline=case.baseline,
        names=case.names,
    )


def _like(mask: Tensor, part: Tensor) -> Tensor:
    """A mask broadcast over the embedding dimension, if there is one."""
    return mask.unsqueeze(-1) if part.dim() > mask.dim() else mask
