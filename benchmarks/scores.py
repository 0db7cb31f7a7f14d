"""Scores that need to know the cohort's truth, and of many trainings."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from captum_ehr.attr.evaluation.shapley import pearson
from captum_ehr.datasets import INTERACTION, planted_codes

from .peers import Attributions, Case


def average_precision(relevant: Tensor, scores: Tensor) -> float:
    """Mean precision at each relevant item, ranked by descending score.

    As scikit-learn's: items with one score come in together.

    Args:
        relevant: Booleans.
        scores: One per item.

    Raises:
        ValueError: If nothing is relevant.
    """
    if not bool(relevant.any()):
        raise ValueError("Nothing is relevant: average precision has no value.")
    _, group = scores.unique(return_inverse=True)
    size = int(group.max()) + 1
    hits = torch.zeros(size, dtype=torch.float64).index_add_(
        0, group, relevant.double()
    )
    items = torch.zeros(size, dtype=torch.float64).index_add_(
        0, group, torch.ones_like(scores, dtype=torch.float64)
    )
    hits, items = hits.flip(0), items.flip(0)
    precision = hits.cumsum(0) / items.cumsum(0)
    return float((precision * hits).sum() / hits.sum())


def planted(case: Case, row: int) -> Tensor:
    """Which of a patient's tokens the synthetic cohort's risk depends on.

    The two drugs of the interaction count only if both are there.
    """
    codes: list[str] = []
    for record in case.encoded.features.values():
        ids = record.values[row][record.mask[row]]
        codes += [(record.vocabulary or ())[int(token)] for token in ids.flatten()]
    both = set(INTERACTION.codes) <= set(codes)
    counted = set(planted_codes()) - (set() if both else set(INTERACTION.codes))
    return torch.tensor([code in counted for code in codes])


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two vectors."""
    ranks = [torch.tensor(pd.Series(v.numpy()).rank().to_numpy()) for v in (a, b)]
    return pearson(*ranks)


def importances(case: Case, attributions: Attributions) -> Mapping[str, float]:
    """Mean absolute attribution of each code of the batch's patients."""
    total: dict[str, list[float]] = {}
    for key, record in case.encoded.features.items():
        ids, values = record.values[record.mask], attributions[key][record.mask]
        for token, value in zip(ids.tolist(), values.abs().tolist()):
            code = (record.vocabulary or ())[token]
            total.setdefault(f"{key}:{code}", []).append(value)
    return {code: sum(values) / len(values) for code, values in total.items()}
