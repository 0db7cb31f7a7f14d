"""Each method as it is measured, ours and the peers', behind one signature.

All are given the same model, batch and reference: the UNK token at real tokens and 0
for values, padding as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, override

import torch
from captum.attr import DeepLift, InputXGradient, IntegratedGradients
from pyhealth.interpret.methods import DeepLift as PyHealthDeepLift
from pyhealth.interpret.methods import IntegratedGradients as PyHealthIG
from torch import Tensor

from captum_ehr import DeepLiftEHR, PyHealthAdapter

#: Rows that Captum's Integrated Gradients evaluates at a time.
ROWS = 1024

#: By feature key, shaped like the batch's token ids or values.
Attributions = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Case:
    """A model in eval mode and a batch, with what the methods need of them."""

    model: Any
    batch: Mapping[str, Any]

    @property
    def adapter(self) -> PyHealthAdapter:
        """The model as a function of embeddings."""
        return PyHealthAdapter(self.model)

    def reference_ids(self) -> dict[str, Tensor]:
        """The reference in PyHealth's terms: token ids, or values."""
        adapter = self.adapter
        made = {}
        for feature, record in zip(
            adapter.features, adapter.encode(self.batch).features.values()
        ):
            fill = feature.special("<unk>", 1) if feature.embedding else 0
            made[feature.key] = torch.where(record.mask, fill, record.values)
        return made


@dataclass(frozen=True, eq=False)
class Explained:
    """What a method gave, and the change that its attributions have to add up to."""

    attributions: Attributions
    change: Tensor

    def relative_residual(self) -> Tensor:
        """|sum of attributions - change| / |change| of each patient."""
        total = sum(a.flatten(1).double().sum(1) for a in self.attributions.values())
        change = self.change.double()
        return (total - change).abs() / change.abs().clamp(min=1e-12)


class RawPyHealthDeepLift(PyHealthDeepLift):
    """PyHealth's DeepLift without its final rescaling."""

    @override
    def _enforce_completeness(
        self,
        contributions: dict[str, Tensor],
        target_output: Tensor,
        baseline_output: Tensor,
        eps: float = 1e-8,
    ) -> dict[str, Tensor]:
        """Keep the contributions as they are, and the change of its own outputs."""
        self.change = target_output - baseline_output
        return contributions


def ours(case: Case) -> Attributions:
    """DeepLiftEHR, as it is delivered."""
    return DeepLiftEHR(case.model).attribute(case.batch, "unk")


def pyhealth_deeplift(case: Case) -> Attributions:
    """PyHealth's DeepLift, as it is delivered, from the common reference."""
    method = PyHealthDeepLift(case.model)
    return method.attribute(baseline=case.reference_ids(), **case.batch)


def pyhealth_deeplift_default(case: Case) -> Attributions:
    """PyHealth's DeepLift with its own reference: UNK on padding, .01 for values."""
    return PyHealthDeepLift(case.model).attribute(**case.batch)


def pyhealth_ig(case: Case, steps: int = 50) -> Attributions:
    """PyHealth's Integrated Gradients from the common reference."""
    method = PyHealthIG(case.model, steps=steps)
    return method.attribute(baseline=case.reference_ids(), **case.batch)


def pyhealth_ig_default(case: Case, steps: int = 50) -> Attributions:
    """PyHealth's Integrated Gradients with its own reference."""
    return PyHealthIG(case.model, steps=steps).attribute(**case.batch)


def captum_ig(case: Case, steps: int = 50) -> Attributions:
    """Captum's Integrated Gradients on our adapter."""
    method = IntegratedGradients(case.adapter)
    return _captum(case, method, n_steps=steps, internal_batch_size=ROWS)


def captum_deeplift(case: Case) -> Attributions:
    """Captum's DeepLift on our adapter."""
    return _captum(case, DeepLift(case.adapter))


def gradient_x_input(case: Case) -> Attributions:
    """Captum's InputXGradient on our adapter; it has no reference."""
    adapter = case.adapter
    encoded = adapter.encode(case.batch)
    found = InputXGradient(adapter).attribute(
        encoded.inputs,
        target=0,
        additional_forward_args=encoded.additional_forward_args,
    )
    return _summed(adapter, found)


def _captum(case: Case, method: Any, **options: Any) -> Attributions:
    adapter = method.forward_func if hasattr(method, "forward_func") else method.model
    encoded = adapter.encode(case.batch)
    found = method.attribute(
        encoded.inputs,
        adapter.baseline(encoded, "unk"),
        target=0,
        additional_forward_args=encoded.additional_forward_args,
        **options,
    )
    return _summed(adapter, found)


def _summed(adapter: PyHealthAdapter, found: tuple[Tensor, ...]) -> Attributions:
    return {
        feature.key: (a.sum(-1) if feature.embedding else a).detach()
        for feature, a in zip(adapter.features, found)
    }


def change_of(case: Case) -> Tensor:
    """f(x) - f(x0) of each patient, of the model itself."""
    adapter = case.adapter
    encoded = adapter.encode(case.batch)
    reference = adapter.baseline(encoded, "unk")
    rest = encoded.additional_forward_args
    with torch.no_grad():
        return (adapter(*encoded.inputs, *rest) - adapter(*reference, *rest))[:, 0]


def raw_ours(case: Case) -> Explained:
    """DeepLiftEHR before any rescaling."""
    exp = DeepLiftEHR(case.model, completeness="off").explain(case.batch)
    return Explained(exp.attributions, exp.f_input - exp.f_baseline)


def raw_pyhealth_deeplift(case: Case, *, own_reference: bool = False) -> Explained:
    """PyHealth's DeepLift before its rescaling; the change is its own outputs'."""
    method = RawPyHealthDeepLift(case.model)
    reference = None if own_reference else case.reference_ids()
    found = method.attribute(baseline=reference, **case.batch)
    return Explained(found, method.change.detach())


def raw_captum_deeplift(case: Case) -> Explained:
    """Captum's DeepLift, which never rescales."""
    return Explained(captum_deeplift(case), change_of(case))


def raw_pyhealth_ig(case: Case) -> Explained:
    """PyHealth's Integrated Gradients; the change is its own function's."""
    change = raw_pyhealth_deeplift(case).change
    return Explained(pyhealth_ig(case), change)


def raw_captum_ig(case: Case) -> Explained:
    """Captum's Integrated Gradients, 50 steps."""
    return Explained(captum_ig(case), change_of(case))


def refusal(error: Exception) -> str:
    """Why a peer did not take a model, on one line."""
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else ''}".strip()[:200]
