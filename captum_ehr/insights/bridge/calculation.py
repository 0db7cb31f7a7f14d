"""Captum Insights' calculation: ours among its methods, theirs on patients."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from captum.attr import FeatureAblation, Occlusion
from torch import Tensor

from ...attr import DeepLiftEHR
from .captums import AttributionCalculation
from .classes import ClassScores
from .patients import Patient, Patients

#: The name under which our method stands in Captum's list.
METHOD = DeepLiftEHR.__name__

_LISTED = 4  # as many predictions as Captum Insights lists
_PERTURBING = (FeatureAblation.get_name(), Occlusion.get_name())
_WAITING = "the page waits for it in vain: reload it and choose another method."
_log = logging.getLogger(__name__)


class EHRCalculation(AttributionCalculation):
    """Captum Insights' calculation, with patients in place of raw tensors.

    Args:
        scores: The model.
        classes: Their names.
        features: How each is shown.
        patients: What the inputs are places of.
        explainer: Ours, for the method of its name.
    """

    def __init__(
        self,
        scores: ClassScores,
        classes: list[str],
        features: list[Any],
        patients: Patients,
        explainer: DeepLiftEHR,
    ) -> None:
        super().__init__([scores], classes, features)
        self.patients, self.explainer = patients, explainer

    def calculate_predicted_scores(
        self, inputs: tuple[Tensor, ...], additional_forward_args: Any, model: Any
    ) -> tuple[list[Any], list[Patient], tuple[Tensor, ...]]:
        """The likeliest classes with their probabilities, the patient, the inputs.

        Captum Insights hands on what stands in the patient's place, a group of
        baselines, to :meth:`calculate_attribution`, and reads it nowhere else.
        """
        patient = self.patients.at(int(inputs[0]))
        given = patient.encoded.inputs
        with torch.no_grad():
            chances = model.probabilities(*given, *additional_forward_args)[0].cpu()
        best = chances.topk(min(_LISTED, len(chances)))
        listed = self._get_labels_from_scores(best.values, best.indices)
        return listed, [patient], given

    def calculate_attribution(
        self,
        baselines: list[Patient],
        data: tuple[Tensor, ...],
        additional_forward_args: tuple[Tensor, ...],
        label: Any,
        attribution_method_name: str,
        attribution_arguments: Mapping[str, Any],
        model: ClassScores,
    ) -> tuple[Tensor, ...]:
        """Attributions of a class, by ours or one of Captum's methods; padding gets 0.

        Returns:
            Per feature a number per token, summed over its embedding, or per value.
        """
        patient = baselines[0]
        if attribution_method_name == METHOD:
            found = self._exact(patient, int(label), model)
        else:
            found = self._theirs(
                patient, label, attribution_method_name, attribution_arguments, model
            )
        return tuple(
            a.detach().cpu() * shown.cpu() for a, shown in zip(found, patient.shown)
        )

    def _exact(
        self, patient: Patient, target: int, model: ClassScores
    ) -> tuple[Tensor, ...]:
        """DeepLiftEHR's, for one of the classes."""
        output, sign = target, 1
        if model.single:
            output, sign = 0, 1 if target == 1 else -1
        elif target == model.width:  # the class of no label has no output
            output, sign = 0, 0
        found = self.explainer.explain(patient.encoded, patient.baselines, output)
        return tuple(sign * a for a in found.attributions.values())

    def _theirs(
        self,
        patient: Patient,
        label: Tensor,
        method: str,
        arguments: Mapping[str, Any],
        model: ClassScores,
    ) -> tuple[Tensor, ...]:
        """What one of Captum's methods finds, token by token."""
        encoded = patient.encoded
        tokens = [f.embedding is not None for f in self.patients.adapter.features]
        whole = method in _PERTURBING
        own = dict(arguments)  # Captum writes into what it is given
        if whole:
            own = _token_by_token(method, own, encoded.inputs, tokens)
        try:
            found = super().calculate_attribution(
                [patient.baselines],
                encoded.inputs,
                encoded.additional_forward_args,
                label,
                method,
                own,
                model,
            )
        except Exception:
            name = type(self.patients.adapter.model).__name__
            _log.error("%s cannot explain %s; %s", method, name, _WAITING)
            raise
        # A token's effect then stands in each dimension of its embedding.
        reduce = Tensor.mean if whole else Tensor.sum
        return tuple(reduce(a, -1) if t else a for a, t in zip(found, tokens))


def _token_by_token(
    method: str, arguments: dict[str, Any], data: Sequence[Tensor], tokens: list[bool]
) -> dict[str, Any]:
    """Arguments by which a perturbation takes whole tokens away, one at a time."""
    if method == Occlusion.get_name():
        given = {k: v for k, v in arguments.items() if v not in ("", ())}
        windows = tuple(
            (1,) * (x.dim() - 2) + ((x.shape[-1],) if token else (1,))
            for x, token in zip(data, tokens)
        )
        return {"sliding_window_shapes": windows, **given}
    masks, start = [], 0
    for x, token in zip(data, tokens):
        shape = (*x.shape[:-1], 1) if token else x.shape
        stop = start + math.prod(shape)
        masks.append(torch.arange(start, stop, device=x.device).view(shape))
        start = stop
    return {**arguments, "feature_mask": tuple(masks)}
