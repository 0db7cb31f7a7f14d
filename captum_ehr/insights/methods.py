"""The methods on offer: ours, and any of Captum's attribution classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn

from ..adapter import EncodedBatch
from ..adapter.encoded import like
from ..adapter.feature_masks import feature_mask
from ..attr import DeepLiftEHR, DeepLiftShapEHR
from ..attr.assembly import assembled
from ..attr.captums import (
    OPTIONS,
    SAMPLES,
    attributed_by,
    class_of,
    drawn_alike,
    takes_players,
)
from ..attr.completeness import balance
from ..attr.result import Result
from ..explanation import Explanation
from ..propagation import Diagnostics
from .watching import counted

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

_SHARED = (
    "codes are taken away at all of their places at once: what each place has is an "
    "equal share of its code's attribution"
)

_BEYOND = 1e-3
"""The part of f(x) - f(x0) from which on a sum is said to miss it."""


@dataclass(frozen=True, eq=False)
class Case:
    """Some patients of one model, with all that an attribution class may ask for."""

    model: nn.Module  # what Captum's classes take
    encoded: EncodedBatch
    reference: tuple[Tensor, ...]  # one tensor per input
    target: tuple[int, ...]  # per patient, the index of the explained output

    @property
    def places(self) -> list[tuple[int, ...]]:
        """The targets as indices, which no label may be taken for."""
        return [(target,) for target in self.target]

    def outputs(self, inputs: Sequence[Tensor]) -> Tensor:
        """What the model returns."""
        with torch.no_grad():
            output: Tensor = self.model(*inputs, *self.encoded.additional_forward_args)
        return output

    def values(self, inputs: Sequence[Tensor]) -> Tensor:
        """``(patients,)``, the explained output."""
        scores = self.outputs(inputs)
        scores = scores.reshape(len(scores), -1)
        return scores[torch.arange(len(scores)), list(self.target)]


@dataclass(frozen=True)
class Offer:
    """A method whose explanations can be looked at."""

    name: str
    adds_up: bool  # to f(x) - f(x0), by promise
    together: int = 1  # how many patients at a time
    draws: bool = False  # its baselines are drawn from the dataset
    signed: bool = True  # attributions say which way they move the output


@dataclass(frozen=True, kw_only=True)
class Method(Offer):
    """A method that explains patients when asked."""

    explain: Callable[[Case], Explanation]


def methods_of(asked: Sequence[Any] | None, pyhealth: bool) -> dict[str, Method]:
    """The methods on offer, by name.

    Example:
        >>> list(methods_of(["DeepLiftEHR", "Saliency"], True))
        ['DeepLiftEHR', 'Saliency']
    """
    ours = (OURS, SHAP) if pyhealth else (OURS,)
    methods = map(_method, asked or (*ours, *CAPTUMS))
    return {method.name: method for method in methods}


def _method(asked: Any) -> Method:
    if isinstance(asked, Method):
        return asked
    if asked == OURS or asked is DeepLiftEHR:
        return Method(OURS, True, together=32, explain=_ours)
    if asked == SHAP or asked is DeepLiftShapEHR:
        return Method(SHAP, True, together=8, draws=True, explain=_shap)
    kind = class_of(asked, (OURS, SHAP, *CAPTUMS))
    name = kind.__name__
    # Of absolute gradients, unless told otherwise.
    signed = not issubclass(kind, captum.attr.Saliency)
    return Method(name, name in _SUMS, signed=signed, explain=partial(_captum, kind))


# Ours --------------------------------------------------------------------------------


def _ours(case: Case) -> Explanation:
    """The same run as :meth:`DeepLiftEHR.explain`'s, for any model."""
    args = case.encoded.additional_forward_args or None
    _, result = DeepLiftEHR(case.model).run(
        case.encoded.inputs, case.reference, case.places, args, None
    )
    return assembled(case.model, case.encoded, [case.reference], result)


def _shap(case: Case) -> Explanation:
    explainer = DeepLiftShapEHR(case.model)
    count = min(REFERENCES, len(explainer.model.model.dataset))
    return explainer.explain(case.encoded, count, case.places)


# Captum's ----------------------------------------------------------------------------


def _captum(kind: Any, case: Case) -> Explanation:
    """Any class of Captum's, given what its ``attribute`` asks for."""
    name, encoded = kind.__name__, case.encoded
    # One player for each code of a patient, or column of values.
    mask = feature_mask(encoded, "code") if takes_players(kind) else None
    several = case.outputs(encoded.inputs).dim() > 1
    with drawn_alike(), counted(case.model, _runs(name, encoded, mask)):
        parts = attributed_by(
            kind(case.model),
            encoded,
            case.reference,
            encoded.additional_forward_args,
            mask,
            target=list(case.target) if several else None,
        )
    return _checked(case, name, parts, () if mask is None else (_SHARED,))


def _runs(
    name: str, encoded: EncodedBatch, mask: Sequence[Tensor] | None
) -> int | None:
    """How often a method runs the model, where Captum's loop over players says so."""
    players = 1 + max((int(m.max()) for m in mask or () if m.numel()), default=-1)
    if name == "Occlusion":
        return 1 + sum(m[0].numel() for m in encoded.masks)
    if name == "FeatureAblation":
        return 1 + players
    if name == "ShapleyValueSampling":
        return 1 + SAMPLES * players
    samples: int | None = OPTIONS.get(name, {}).get("n_samples")
    return samples


def _checked(
    case: Case, name: str, parts: tuple[Tensor, ...], messages: tuple[str, ...]
) -> Explanation:
    """What Captum's classes do not say: whether the attributions add up."""
    if name not in _SUMS:
        parts = tuple(a * like(m, a) for a, m in zip(parts, case.encoded.masks))
    f_input = case.values(case.encoded.inputs)
    f_baseline = case.values(case.reference)
    sums = balance(parts, f_input, f_baseline)
    missed = sums.delta.abs() / (f_input - f_baseline).abs().clamp(min=1e-12)
    if name in _SUMS and bool((missed > _BEYOND).any()):
        off = (
            f"the attributions of Captum's {name} do not add up to f(x) - f(x0): off "
            f"by up to {float(missed.max()):.2g} of it"
        )
        messages = (*messages, off)
    result = Result(
        parts,
        f_input,
        f_baseline,
        torch.tensor(case.target).unsqueeze(1),
        sums,
        Diagnostics((), messages),
        torch.ones_like(f_input),
    )
    return assembled(case.model, case.encoded, [case.reference], result)
