"""Pairs of codes the slow way, and a model in which they are what theory says."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from itertools import combinations
from math import factorial
from typing import Any

import torch
from pyhealth.datasets import create_sample_dataset, get_dataloader
from pyhealth.models import BaseModel, EmbeddingModel
from torch import Tensor, nn

from captum_ehr import DeepLiftEHR, PyHealthAdapter

#: A feature and a code of it.
type Code = tuple[str, str]


class Record:
    """One patient of a batch, any of whose codes may stand at the reference."""

    def __init__(
        self, dl: DeepLiftEHR, batch: Any, row: int, baselines: Any = "unk"
    ) -> None:
        assert isinstance(dl.model, PyHealthAdapter)
        self.dl, enc = dl, dl.model.encode(batch)
        self.x = [x[row : row + 1].detach() for x in enc.inputs]
        self.x0 = [x[row : row + 1] for x in dl.model.baseline(batch, baselines)]
        self.args = tuple(arg[row : row + 1] for arg in enc.additional_forward_args)
        self.places: dict[Code, list[tuple[int, ...]]] = {}
        for k, (key, record) in enumerate(enc.features.items()):
            for place in record.mask[row].nonzero().tolist():
                if record.vocabulary is not None:
                    code = record.vocabulary[int(record.values[row][tuple(place)])]
                else:
                    code = f"{key}[{place[-1]}]"
                self.places.setdefault((key, code), []).append((k, *place))
        self.codes = list(self.places)

    def mixed(self, codes: Collection[Code]) -> tuple[Tensor, ...]:
        """The reference, with some codes as in the record."""
        parts = [x0.clone() for x0 in self.x0]
        for code in codes:
            for k, *place in self.places[code]:
                parts[k][(0, *place)] = self.x[k][(0, *place)]
        return tuple(parts)

    def f(self, codes: Collection[Code], target: int = 0) -> float:
        """The model's output with some codes as in the record."""
        output = self.dl.model(*self.mixed(codes), *self.args)
        return float(output.detach()[0, target])

    def phi(
        self, codes: Collection[Code], against: Collection[Code], target: int = 0
    ) -> dict[Code, float]:
        """Each code's attribution in a record against a reference."""
        found = self.dl.attribute(
            self.mixed(codes), self.mixed(against), target, self.args
        )
        return {
            code: sum(float(found[k][(0, *place)].sum()) for k, *place in places)
            for code, places in self.places.items()
        }

    def one_way(self, target: int = 0) -> Tensor:
        """I[i, j] by its definition."""
        result = torch.zeros(len(self.codes), len(self.codes), dtype=torch.float64)
        for j, code in enumerate(self.codes):
            others = [other for other in self.codes if other != code]
            always = self.phi(self.codes, [code], target)
            never = self.phi(others, [], target)
            for i, other in enumerate(self.codes):
                if i != j:
                    result[i, j] = always[other] - never[other]
        return result


def shapley_interactions(value: Callable[[tuple[int, ...]], float], n: int) -> Tensor:
    """The Shapley interaction index of all pairs, from all coalitions."""
    worth = {s: value(s) for k in range(n + 1) for s in combinations(range(n), k)}
    result = torch.zeros(n, n, dtype=torch.float64)
    for i, j in combinations(range(n), 2):
        rest = [k for k in range(n) if k not in (i, j)]
        for size in range(n - 1):
            weight = factorial(n - size - 2) * factorial(size) / factorial(n - 1)
            for s in combinations(rest, size):
                both, one, other = (
                    worth[tuple(sorted((*s, *more)))] for more in ((i, j), (i,), (j,))
                )
                result[i, j] += weight * (both - one - other + worth[s])
    return result + result.T


def shapley_values(value: Callable[[tuple[int, ...]], float], n: int) -> Tensor:
    """The Shapley value of every player, from all coalitions."""
    result = torch.zeros(n, dtype=torch.float64)
    for i in range(n):
        rest = [k for k in range(n) if k != i]
        for size in range(n):
            weight = factorial(n - size - 1) * factorial(size) / factorial(n)
            for s in combinations(rest, size):
                result[i] += weight * (value(tuple(sorted((*s, i)))) - value(s))
    return result


@cache
def products() -> tuple[Any, Any]:
    """Patients whose two features are multiplied, and their batch."""
    samples = [
        {
            "patient_id": f"p{n}",
            "visit_id": "v",
            "conditions": ["a", "b", "a", "c", "d"][: 2 + n],
            "drugs": ["x", "y", "b", "x"][: 1 + n],
            "died": n % 2,
        }
        for n in range(4)
    ]
    schema = {"conditions": "sequence", "drugs": "sequence"}
    made = create_sample_dataset(samples, schema, {"died": "binary"})
    return made, next(iter(get_dataloader(made, 4)))


class Product(BaseModel):
    """The product of two sums, in which DeepLIFT's attributions are Shapley values."""

    def __init__(self) -> None:
        super().__init__(dataset=products()[0])
        torch.manual_seed(0)
        self.embedding_model = EmbeddingModel(self.dataset, 4)
        self.weights = nn.Parameter(torch.randn(4))

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        tables = self.embedding_model.embedding_layers
        one, other = (
            ((tables[key](batch[key]) @ self.weights) * (batch[key] != 0)).sum(1)
            for key in self.feature_keys
        )
        return {"logit": (one * other + 0.5 * one).unsqueeze(1)}


@cache
def product() -> tuple[DeepLiftEHR, Any]:
    return DeepLiftEHR(Product().double()), products()[1]
