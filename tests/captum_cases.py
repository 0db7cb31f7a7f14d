"""Trained models of the zoo, as Captum's classes see them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import zoo
from torch import Tensor
from versions import CAPTUM, before

from captum_ehr import PyHealthAdapter

CONFIGS = {
    "MLP": zoo.Config("MLP", "tensor", options=zoo.HIDDEN),
    "LogisticRegression": zoo.Config("LogisticRegression", options=zoo.SMALL),
    "RNN": zoo.Config("RNN", "nested", options=zoo.HIDDEN),
    "CNN": zoo.Config("CNN", options=zoo.HIDDEN),
    "StageNet": zoo.Config("StageNet", "stagenet", options=zoo.STAGES),
    "Transformer": zoo.Config("Transformer", options=zoo.SMALL),
}

MODELS = ("MLP", "RNN", "StageNet", "Transformer")


class Case(NamedTuple):
    """A trained model of the zoo, as Captum sees it."""

    model: Any
    adapter: PyHealthAdapter
    enc: Any
    reference: tuple[Tensor, ...]

    @property
    def rest(self) -> tuple[Tensor, ...]:
        return self.enc.additional_forward_args

    def given(self, **more: Any) -> dict[str, Any]:
        """What every class is given."""
        return {"target": 0, "additional_forward_args": self.rest, **more}

    def score(self, inputs: Any) -> Tensor:
        with torch.no_grad():
            return self.adapter(*inputs, *self.rest)[:, 0]

    @property
    def change(self) -> Tensor:
        return self.score(self.enc.inputs) - self.score(self.reference)

    def gradients(self, inputs: Any) -> tuple[Tensor, ...]:
        """Autograd, by hand."""
        leaves = [x.clone().requires_grad_() for x in inputs]
        output = self.adapter(*leaves, *self.rest)[:, 0].sum()
        return torch.autograd.grad(output, leaves)

    def mixed(self, chosen: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The score with some places at the reference."""
        mixed = [
            torch.where(chosen(k, x), x0, x)
            for k, (x, x0) in enumerate(zip(self.enc.inputs, self.reference))
        ]
        return self.score(mixed)


@cache
def case(name: str) -> Case:
    model, batch = zoo.build(CONFIGS[name], trained=True)
    adapter = PyHealthAdapter(model)
    enc = adapter.encode(batch)
    return Case(model, adapter, enc, adapter.baseline(enc))


def total(attributions: Any) -> Tensor:
    return sum(a.flatten(1).sum(1) for a in attributions)


def close(
    found: Any, expected: Any, tolerance: float = 1e-5, check_dtype: bool = True
) -> None:
    options = {"rtol": 1e-4, "atol": tolerance, "check_dtype": check_dtype}
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **options)


#: Captum 0.7's integrals have numpy's steps, which make them float64 for any input.
INTEGRALS_KEEP_DTYPE = not before(CAPTUM, "0.8")
