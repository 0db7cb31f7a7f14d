"""Scores of attributions other than their correlation with Shapley values."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch
from captum.metrics import infidelity
from pyhealth.metrics.interpretability import Evaluator
from pyhealth.metrics.interpretability.utils import SampleClass
from torch import Tensor

from captum_ehr.datasets import INTERACTION, planted_codes

from .peers import Attributions, Case
from .shapley import ROWS, Game, pearson


def curves(game: Game, row: int, scores: Tensor) -> tuple[float, float]:
    """Areas of a patient's insertion and deletion curves.

    Tokens come into the reference, or go out of the input, with the highest score
    first (Petsiuk et al., RISE, 2018). An area is the mean over the curve of how far
    the logit has risen above f(x0), or fallen below f(x): the higher, the better.

    Args:
        game: The model as a function of the tokens that are present.
        row: The patient.
        scores: One per player.

    Returns:
        Insertion and deletion, in units of the logit.
    """
    count = len(scores)
    ranks = scores.argsort(descending=True, stable=True).argsort()
    inserted = ranks[None, :] < torch.arange(count + 1)[:, None]
    values = game.values(row, torch.cat([inserted, ~inserted]))
    insertion, deletion = values.split(count + 1)
    rise, fall = insertion - insertion[0], deletion[0] - deletion
    return float(rise.mean()), float(fall.mean())


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


def removal(case: Case, attributions: Attributions) -> dict[str, float]:
    """PyHealth's comprehensiveness and sufficiency, mean over patients.

    Of the class that is predicted, both ways; codes are removed as PyHealth does it,
    by writing padding in their place.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = Evaluator(case.model, sample_filter=_both_classes)
        found: dict[str, list[Tensor]] = {}
        for place, part in enumerate(case.parts()):
            mine = attributions
            if case.mixes:
                mine = {k: a[place : place + 1] for k, a in attributions.items()}
            for name, (scores, _) in evaluator.evaluate(part.batch, dict(mine)).items():
                found.setdefault(name, []).append(scores)
    return {name: float(torch.cat(scores).mean()) for name, scores in found.items()}


def _both_classes(probability: Tensor, _: str) -> Tensor:
    """Everybody counts, for the class that is predicted."""
    classes = torch.full(probability.shape, int(SampleClass.POSITIVE))
    classes[probability < 0.5] = int(SampleClass.NEGATIVE)
    return classes


def unfaithful(case: Case, attributions: Attributions, samples: int) -> float:
    """Captum's infidelity (normalised), median over patients, over the mean change.

    A perturbation takes away a random half of the tokens; the attributions of these
    should be what the logit loses. Divided by the patients' mean (f(x) - f(x0))², so
    that models compare: 0 is perfect.
    """
    encoded, reference = case.encoded, case.reference
    named = zip(encoded.feature_keys, encoded.inputs)  # a peer's order may differ
    spread = [_first(attributions[key], x) for key, x in named]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = infidelity(
            case.function,
            _halves(encoded.masks, reference),
            encoded.inputs,
            tuple(spread),
            additional_forward_args=encoded.additional_forward_args,
            target=0,
            n_perturb_samples=samples,
            max_examples_per_batch=min(max(ROWS, len(encoded)), len(encoded) * samples),
            normalize=True,
        )
    rest = encoded.additional_forward_args
    with torch.no_grad():
        after = case.function(*encoded.inputs, *rest)
        change = (after - case.function(*reference, *rest))[:, 0]
    return float(found.median() / change.square().mean())


def _first(attribution: Tensor, x: Tensor) -> Tensor:
    """A token's attribution in the first of its embedding's dimensions."""
    if attribution.shape == x.shape:
        return attribution
    return torch.nn.functional.pad(attribution.unsqueeze(-1), (0, x.shape[-1] - 1))


def _halves(
    masks: tuple[Tensor, ...], reference: tuple[Tensor, ...]
) -> Callable[[Any], Any]:
    """Captum's perturbation: which tokens go, and the inputs without them."""

    def perturb(inputs: Any) -> Any:
        gone, left = [], []
        for x, x0, mask in zip(inputs, reference, masks):
            times = len(x) // len(x0)
            real = mask.repeat_interleave(times, 0)
            drawn = (torch.rand(real.shape) < 0.5) & real
            drawn = drawn.view(*drawn.shape, *[1] * (x.dim() - drawn.dim()))
            away = drawn.expand_as(x)
            gone.append(away.to(x.dtype))
            left.append(torch.where(away, x0.repeat_interleave(times, 0), x))
        return tuple(gone), tuple(left)

    return perturb


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
