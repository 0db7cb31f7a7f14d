"""Each method as it is measured, ours and the peers', behind one signature.

All are given the same model, batch and reference: the UNK token at real tokens and 0
for values, padding as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, override

import numpy as np
import torch
from captum.attr import (
    DeepLift,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Lime,
)
from pyhealth.interpret.methods import DeepLift as PyHealthDeepLift
from pyhealth.interpret.methods import IntegratedGradients as PyHealthIG
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR, PyHealthAdapter
from captum_ehr.adapter import EncodedBatch

from .data import one_of

#: Rows that Captum's Integrated Gradients evaluates at a time.
ROWS = 256

#: Evaluations per patient of the methods that sample, as many as IG's 50 steps.
SAMPLES = 50

#: By feature key, shaped like the batch's token ids or values.
Attributions = Mapping[str, Tensor]


class RowByRow(nn.Module):
    """An adapter whose model mixes patients, given one at a time."""

    def __init__(self, adapter: PyHealthAdapter) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, *parts: Tensor) -> Tensor:
        """As the adapter's forward."""
        rows = range(len(parts[0]))
        return torch.cat([self.adapter(*(p[n : n + 1] for p in parts)) for n in rows])


@dataclass(frozen=True, eq=False)
class Case:
    """A model in eval mode and a batch, with what the methods need of them.

    Args:
        model: The model.
        batch: As the data loader yields it.
        mixes: Whether the model mixes the patients of a batch; then each of them is
            explained, and each of its variations evaluated, alone.
    """

    model: Any
    batch: Mapping[str, Any]
    mixes: bool = False

    @cached_property
    def adapter(self) -> PyHealthAdapter:
        """The model as a function of embeddings."""
        return PyHealthAdapter(self.model)

    @cached_property
    def explainer(self) -> DeepLiftEHR:
        """One explainer for all calls, which makes plans."""
        return DeepLiftEHR(self.model)

    @cached_property
    def compiling(self) -> DeepLiftEHR:
        """The same, which compiles one program for batches of all sizes."""
        return DeepLiftEHR(self.model, compile=True)

    @cached_property
    def function(self) -> Any:
        """The same, which may be given variations of a patient as a batch."""
        return RowByRow(self.adapter) if self.mixes else self.adapter

    @cached_property
    def encoded(self) -> EncodedBatch:
        """The batch as the adapter takes it."""
        return self.adapter.encode(self.batch)

    @cached_property
    def reference(self) -> tuple[Tensor, ...]:
        """UNK tokens and zero values."""
        return self.adapter.baseline(self.encoded, "unk")

    def parts(self) -> list[Case]:
        """The whole batch, or each patient if the model mixes them."""
        if not self.mixes:
            return [self]
        rows = range(len(self.encoded))
        return [Case(self.model, one_of(self.batch, row), True) for row in rows]

    def reference_ids(self) -> dict[str, Tensor]:
        """The reference in PyHealth's terms: token ids, or values."""
        made = {}
        for feature, record in zip(
            self.adapter.features, self.encoded.features.values()
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
    return case.explainer.attribute(case.batch, "unk")


def ours_first(case: Case) -> Attributions:
    """DeepLiftEHR that has seen no batch before, so has no plan to replay."""
    return DeepLiftEHR(case.explainer.model).attribute(case.batch, "unk")


def ours_compiled(case: Case) -> Attributions:
    """DeepLiftEHR with compile=True."""
    return case.compiling.attribute(case.batch, "unk")


def ours_in_3(case: Case) -> Attributions:
    """DeepLiftEHR with the line from the reference in three segments."""
    return DeepLiftEHR(case.model, segments=3).attribute(case.batch, "unk")


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
    method = IntegratedGradients(case.function)
    return _captum(case, method, n_steps=steps, internal_batch_size=ROWS)


def captum_deeplift(case: Case) -> Attributions:
    """Captum's DeepLift on our adapter."""
    return _captum(case, DeepLift(case.function))


def gradient_x_input(case: Case) -> Attributions:
    """Captum's InputXGradient on our adapter; it has no reference."""
    found = InputXGradient(case.function).attribute(
        case.encoded.inputs,
        target=0,
        additional_forward_args=case.encoded.additional_forward_args,
    )
    return _summed(case, found)


def gradient_shap(case: Case, samples: int = SAMPLES) -> Attributions:
    """Captum's GradientShap, each patient from its own reference."""
    method = GradientShap(case.function)

    def one(x: Parts, x0: Parts, rest: Parts) -> Parts:
        return method.attribute(
            x, x0, n_samples=samples, target=0, additional_forward_args=rest
        )

    return _each(case, one)


def shap_gradient(case: Case, samples: int = SAMPLES) -> Attributions:
    """SHAP's GradientExplainer (expected gradients), each from its own reference."""
    import shap

    def one(x: Parts, x0: Parts, rest: Parts) -> Parts:
        explainer = shap.GradientExplainer(_Closed(case.function, rest), list(x0))
        found = explainer.shap_values(list(x), nsamples=samples, rseed=0)
        return tuple(
            torch.as_tensor(np.asarray(values), dtype=part.dtype).view_as(part)
            for values, part in zip(found, x)
        )

    return _each(case, one)


def kernel_shap(case: Case, samples: int = SAMPLES) -> Attributions:
    """Captum's KernelShap over tokens."""
    return _of_players(case, KernelShap(case.function), samples)


def lime(case: Case, samples: int = 200) -> Attributions:
    """Captum's Lime over tokens, with as many evaluations as IG's 200 steps."""
    return _of_players(case, Lime(case.function), samples)


def random(case: Case) -> Attributions:
    """Normal random numbers: where a method without merit stands."""
    generator = torch.Generator().manual_seed(0)
    masks = zip(case.encoded.feature_keys, case.encoded.masks)
    return {k: torch.randn(m.shape, generator=generator) * m for k, m in masks}


type Parts = tuple[Tensor, ...]


class _Closed(nn.Module):
    """A function of the attributed inputs alone, whatever their number."""

    def __init__(self, function: Any, rest: Parts) -> None:
        super().__init__()
        self.function, self.rest = function, rest

    def forward(self, *inputs: Tensor) -> Tensor:
        size = len(inputs[0])
        return self.function(
            *inputs, *(r.expand(size, *r.shape[1:]) for r in self.rest)
        )


@contextmanager
def _seeded() -> Iterator[None]:
    """The same random numbers each time; Captum draws NumPy's too."""
    kept = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            np.random.set_state(kept)


def _each(case: Case, explain: Callable[[Parts, Parts, Parts], Parts]) -> Attributions:
    """Patient by patient: methods that share one sample of references among all."""
    encoded, parts = case.encoded, []
    with _seeded():
        for row in range(len(encoded)):
            sides = encoded.inputs, case.reference, encoded.additional_forward_args
            one = (tuple(part[row : row + 1] for part in side) for side in sides)
            parts.append(explain(*one))
    return _summed(case, tuple(torch.cat(column) for column in zip(*parts)))


def _of_players(case: Case, method: Any, samples: int) -> Attributions:
    """A regression over coalitions of tokens."""
    players = case.adapter.feature_mask(case.encoded, "token")
    with _seeded():
        found = method.attribute(
            case.encoded.inputs,
            case.reference,
            target=0,
            additional_forward_args=case.encoded.additional_forward_args,
            feature_mask=players,
            n_samples=samples,
            perturbations_per_eval=samples,
        )
    return {
        feature.key: (a[..., 0] if feature.embedding else a).detach() * mask
        for feature, a, mask in zip(case.adapter.features, found, case.encoded.masks)
    }


def _captum(case: Case, method: Any, **options: Any) -> Attributions:
    found = method.attribute(
        case.encoded.inputs,
        case.reference,
        target=0,
        additional_forward_args=case.encoded.additional_forward_args,
        **options,
    )
    return _summed(case, found)


def _summed(case: Case, found: Parts) -> Attributions:
    return {
        feature.key: (a.sum(-1) if feature.embedding else a).detach()
        for feature, a in zip(case.adapter.features, found)
    }


def explained(method: Callable[[Case], Attributions], case: Case) -> Attributions:
    """What a method makes of a case, of each patient alone if the model mixes them."""
    found = [method(part) for part in case.parts()]
    return {key: torch.cat([one[key] for one in found]).detach() for key in found[0]}


def tokens(case: Case, attributions: Attributions, row: int) -> Tensor:
    """A patient's attributions of real tokens, feature by feature."""
    masks = zip(case.encoded.feature_keys, case.encoded.masks)
    return torch.cat([attributions[key][row][mask[row]] for key, mask in masks])


def change_of(case: Case) -> Tensor:
    """f(x) - f(x0) of each patient, of the model itself."""
    rest = case.encoded.additional_forward_args
    with torch.no_grad():
        after = case.function(*case.encoded.inputs, *rest)
        return (after - case.function(*case.reference, *rest))[:, 0]


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
