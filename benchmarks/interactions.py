"""Whether pairs of codes are what the exact index says, on models that have learnt one.

The built-in cohort's planted pair (warfarin with ibuprofen) moves the risk only
together. The exact Shapley interaction index, from all coalitions of a patient's
codes, says what the model has made of it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from captum_ehr import DeepLiftEHR, Interactions, PyHealthAdapter
from captum_ehr.attr.evaluation.shapley import pearson
from captum_ehr.attr.evaluation.work import begun
from captum_ehr.datasets import INTERACTION

from .data import Training, auroc, batch_of, cohort, train
from .families import SMALL, TINY, Family, Size, named
from .speed import Spread, spread

#: Steps until a model has learnt the pair; with the other parts' recipe it does not.
STEPS = {"MLP (ReLU)": 800, "RNN (GRU)": 800, "StageNet": 1000, "Transformer": 1500}


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        models: Names of families.
        size: Sizes of the models.
        patients: Patients of the synthetic cohort, codes only.
        held_out: How many of them are not trained on.
        explained: At most so many of these who have both codes of the pair.
        players: At most so many codes: all of their coalitions are evaluated.
        training: How models are trained; of the models of :data:`STEPS` so long.
        rounds: How often time is taken.
    """

    models: tuple[str, ...] = tuple(STEPS)
    size: Size = SMALL
    patients: int = 4600
    held_out: int = 1200
    explained: int = 40
    players: int = 12
    training: Training | None = None
    rounds: int = 5


@dataclass(frozen=True)
class Row:
    """One model.

    Args:
        model: The family's name.
        auroc: On patients held out.
        patients: How many were explained.
        players: Their codes, in the median.
        first: In how many the planted pair is the strongest.
        exact_first: The same by the exact index.
        effect: The planted pair's, in the median.
        exact_effect: The same by the exact index; in truth 3.4.
        correlation: Of all pairs of a patient with the exact index.
        slope: Of the effects on the exact index, through 0.
        asymmetry: The largest of a patient's over the largest of its effects.
        residual: The largest by which a row misses its attribution, or a matrix the
            change, of all patients.
        apart: The largest by which a row misses what ``explain`` gives by itself.
        delta: The largest by which a column misses last-minus-first.
        cost: Process time of all pairs of a patient of median size over that of one
            explanation of as many rows.
    """

    model: str
    auroc: float
    patients: int
    players: float
    first: int
    exact_first: int
    effect: float
    exact_effect: float
    correlation: Spread
    slope: Spread
    asymmetry: Spread
    residual: float
    apart: float
    delta: float
    cost: Spread


def quick() -> Settings:
    """Settings that take seconds."""
    few = Training(2, 16)
    return Settings(("MLP (ReLU)",), TINY, 400, 390, 2, 9, few, 1)


def jobs(settings: Settings) -> dict[str, Callable[[], Row]]:
    """One per model."""
    return {f.name: partial(_row, f, settings) for f in named(*settings.models)}


def recipe(name: str) -> Training:
    """What teaches a model the pair: longer, smaller steps, less decay."""
    return Training(STEPS[name], 32, 6e-3, decay=0.5, hidden=0.1)


def _row(family: Family, settings: Settings) -> Row:
    dataset = cohort(family.codes_schema, settings.patients)
    model = family.build(dataset, settings.size)
    training = settings.training or recipe(family.name)
    train(model, dataset, range(settings.held_out, settings.patients), training)
    held_out = batch_of(dataset, range(settings.held_out))
    return measure(family.name, model, held_out, auroc(model, held_out), settings)


def measure(
    name: str, model: Any, held_out: Any, area: float, settings: Settings
) -> Row:
    """One trained model on patients that it has not seen."""
    adapter, dl = PyHealthAdapter(model), DeepLiftEHR(model)
    whole = adapter.encode(held_out)
    chosen = _with_pair(adapter, whole, settings)
    found: list[tuple[Interactions, Tensor, tuple[int, int]]] = []
    apart = []
    for row in tqdm(chosen, desc=f"coalitions, {name}", leave=False):
        encoded = whole[[row]]
        pairs = dl.interactions(encoded)
        codes = [player.code for player in pairs.players[0]]
        planted = (codes.index(INTERACTION.codes[0]), codes.index(INTERACTION.codes[1]))
        found.append((pairs, interaction_index(worth(dl, encoded)), planted))
        apart.append(_apart(pairs, dl.explain(encoded)))
    mine = [(pairs.effect[0], exact, planted) for pairs, exact, planted in found]
    above = [(p[upper(p)], e[upper(p)]) for p, e, _ in mine]
    middle = sorted(chosen, key=lambda row: len(_players(adapter, whole, row)))
    return Row(
        name,
        area,
        len(chosen),
        spread([len(p) for p, _, _ in mine]).median,
        sum(_is_first(p, at) for p, _, at in mine),
        sum(_is_first(e, at) for _, e, at in mine),
        spread([float(p[at]) for p, _, at in mine]).median,
        spread([float(e[at]) for _, e, at in mine]).median,
        spread([pearson(p, e) for p, e in above]),
        spread([float(p @ e / (e @ e)) for p, e in above]),
        spread([float(p.asymmetry.max() / p.effect.abs().max()) for p, _, _ in found]),
        max(_residual(p) for p, _, _ in found),
        max(apart),
        max(float(p.delta.abs().max()) for p, _, _ in found),
        _cost(dl, whole[[middle[len(middle) // 2]]], settings.rounds),
    )


def _players(adapter: PyHealthAdapter, whole: Any, row: int) -> tuple[Any, ...]:
    return adapter.feature_mask(whole[[row]], "code").players[0]


def _with_pair(adapter: PyHealthAdapter, whole: Any, settings: Settings) -> list[int]:
    """Patients with both codes of the planted pair, and not too many codes."""
    rows = []
    for row, players in enumerate(adapter.feature_mask(whole, "code").players):
        codes = {player.code for player in players}
        if codes >= set(INTERACTION.codes) and len(codes) <= settings.players:
            rows.append(row)
    return rows[: settings.explained]


def worth(dl: DeepLiftEHR, encoded: Any) -> Tensor:
    """The model's logit of every coalition of one patient's codes, ``(2, ..., 2)``."""
    _, game, _ = begun(dl, encoded, "unk", None, "code", sys.maxsize, 0)
    count = game.count(0)
    coalitions = torch.tensor(list(product((False, True), repeat=count)))
    return game.values(0, coalitions).view((2,) * count)


def interaction_index(worth: Tensor) -> Tensor:
    """The exact Shapley interaction index of every pair (Grabisch & Roubens 1999)."""
    count = worth.dim()
    sizes = torch.zeros((2,) * (count - 2), dtype=torch.long)
    for axis in range(count - 2):
        sizes = sizes + torch.arange(2).view(-1, *[1] * (count - 3 - axis))
    weights = [1 / ((count - 1) * math.comb(count - 2, s)) for s in range(count - 1)]
    weight = torch.tensor(weights, dtype=worth.dtype)[sizes]
    index = torch.zeros(count, count, dtype=worth.dtype)
    for i in range(count):
        for j in range(i):
            second = worth.diff(dim=i).diff(dim=j).squeeze(i).squeeze(j)
            index[i, j] = index[j, i] = (second * weight).sum()
    return index


def upper(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Where a matrix has each pair once."""
    first, second = torch.triu_indices(len(matrix), len(matrix), 1)
    return first, second


def _is_first(matrix: Tensor, place: tuple[int, int]) -> bool:
    return bool(matrix[place].abs() >= matrix[upper(matrix)].abs().max())


def _residual(pairs: Interactions) -> float:
    """By how much rows miss the attributions, and all of it f(x) - f(x0)."""
    rows = (pairs.matrices.sum(2) - pairs.attributions).abs().max()
    change = pairs.f_input - pairs.f_baseline
    whole = (pairs.matrices.sum((1, 2)) + pairs.rest - change).abs().max()
    return max(float(rows), float(whole))


def _apart(pairs: Interactions, explanation: Any) -> float:
    """By how much rows miss what an explanation of its own gives."""
    table = explanation.by_code().set_index(["feature", "code"])["attribution"]
    given = torch.tensor([table[player[:2]] for player in pairs.players[0]])
    return float((pairs.matrices[0].sum(1) - given).abs().max())


def _cost(dl: DeepLiftEHR, encoded: Any, rounds: int) -> Spread:
    """All pairs of a patient over one explanation of 2n + 1 rows, alternating."""
    count = len(dl.interactions(encoded).players[0])
    rows = encoded[[0] * (2 * count + 1)]
    ratios = []
    for _ in range(rounds + 1):
        taken = [_seconds(partial(dl.interactions, encoded))]
        taken.append(_seconds(partial(dl.attribute, rows, "unk")))
        ratios.append(taken[0] / taken[1])
    return spread(ratios[1:])  # the first round warms up


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start
