"""All that is measured of all methods, within a budget of model evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...adapter.removal import EVALUATIONS, removal
from ...explanation import Evaluation
from ...explanation.evaluation import SCORES
from ..assembly import in_words
from ..classes import counts
from ..engine import Engine
from .contenders import Method, methods_of
from .game import BudgetSpentError
from .measures import areas, curves, sensitivity, unfaithful
from .randomised import explaining, shuffled
from .shapley import correlations, is_constant, pearson, sampled
from .work import Effort, Work, begun, counted, explained, is_predicted

#: What asks a method about other records than the batch's.
_ASKING = ("sensitivity", "randomised")

#: Shares of the players at which curves are read.
FRACTIONS = torch.linspace(0, 1, 21, dtype=torch.float64)

USUAL = Effort()

#: By score, a number per patient; by curve, one per patient and fraction.
type Scores = dict[str, Tensor]

_CURVES = ("insertion", "deletion")


def evaluated(
    dl: Engine,
    batch: Any,
    baselines: Any = "unk",
    target: Any = None,
    *,
    players: str = "code",
    methods: Iterable[Any] | Mapping[str, Any] = (),
    measures: Iterable[str] | None = None,
    budget: int = 100_000,
    seed: int = 0,
    show_progress: bool = False,
    effort: Effort = USUAL,
) -> Evaluation:
    """What :meth:`captum_ehr.DeepLiftEHR.evaluate` says, with more or less effort."""
    asked, wanted = methods_of(methods), _wanted(measures)
    if not counts(budget):
        raise ValueError(f"budget={budget!r}; a whole number of evaluations, from 1.")
    case, game, result = begun(dl, batch, baselines, target, players, budget, seed)
    rows, left_out = counted(game.mask, result, case.encoded.patient_ids)
    work = Work(case, game, rows, effort, show_progress)
    if result.drawn:
        work.notes.append("the model draws random numbers: all figures are noisy")
    explained(work, asked, result)
    shares = {m.name: work.shares(parts) for m, parts in work.given.items()}
    found: dict[str, Scores] = {method.name: {} for method in asked}
    for use in (name for name in _OF_METHODS if name in wanted):
        for method in work.watched(use, list(work.given)):
            name = method.name
            if use in _ASKING and not method.asks:
                work.notes.append(
                    f"{use} of {name}: not measured, as a function of your own is "
                    "asked about the batch alone"
                )
                continue
            with work.within(use, name):
                found[name] |= _OF_METHODS[use](work, method, shares[name])
    agreements = _agreements(work, [shares.get(method.name) for method in asked])
    for method, row in zip(asked, agreements[0]):
        found[method.name]["agreement"] = row
    halves, orders = work.nothing(), torch.zeros(len(rows), dtype=torch.long)
    if "shapley" in wanted:
        halves, orders = _shapley(work, shares, found)

    def table(name: str, empty: Tensor) -> Tensor:
        return torch.stack([found[m.name].get(name, empty) for m in asked])

    wide = work.nothing().unsqueeze(1).expand(-1, len(FRACTIONS))
    return Evaluation(
        methods=tuple(method.name for method in asked),
        patient_ids=tuple(case.encoded.patient_ids[row] for row in rows),
        samples=rows,
        players=work.counts,
        scores={name: table(name, work.nothing()) for name in SCORES},
        split_half=halves,
        orders=orders,
        agreements=agreements,
        fractions=FRACTIONS,
        paths={name: table(_path(name), wide) for name in _CURVES},
        left_out=left_out,
        notes=tuple(dict.fromkeys(work.notes)),
        spent=dict(work.meter.spent),
        budget=budget,
        model_name=type(dl.model.model).__name__,
        output=dl.output,
        mode=dl.model.mode,
        baseline=in_words(baselines, len(case.prepared.references)),
        kind=players,
    )


def _wanted(measures: Iterable[str] | None) -> frozenset[str]:
    """What is to be measured."""
    there = (*_OF_METHODS, "shapley")
    wanted = frozenset(there if measures is None else measures)
    unknown = sorted(wanted - set(there))
    if unknown:
        raise ValueError(
            f"measures={unknown!r}: there is no such measure; there are "
            f"{', '.join(map(repr, there))}."
        )
    return wanted


def _path(curve: str) -> str:
    return f"path of {curve}"


# Of one method -----------------------------------------------------------------------


def _curves(work: Work, method: Method, shares: Tensor) -> Scores:
    scores: dict[str, list[Tensor]] = {}
    for row, own in zip(work.rows, work.each(shares)):
        both = curves(work.game, row, own)
        for name, curve, area in zip(_CURVES, both, areas(*both)):
            at = FRACTIONS.numpy() * len(own)
            path = np.interp(at, np.arange(len(curve)), curve.numpy())
            scores.setdefault(name, []).append(torch.tensor(area, dtype=torch.float64))
            scores.setdefault(_path(name), []).append(torch.from_numpy(path))
    return {name: torch.stack(each) for name, each in scores.items()}


def _removal(work: Work, method: Method, shares: Tensor) -> Scores:
    """Of those who are explained for the class that is predicted."""
    fits = is_predicted(work.case)
    scores: dict[str, list[Tensor]] = {}
    if not bool(fits.any()):
        work.notes.append(
            "removal: not measured, as PyHealth's metrics are of the class that is "
            "predicted, and nobody is explained for it"
        )
        return {}
    given, start = work.given[method], 0
    for part in work.case.parts():
        size = len(part.places)
        work.meter.charge(EVALUATIONS * size)
        mine = (a[start : start + size] for a in given)
        by_key = dict(zip(part.encoded.feature_keys, mine))
        start += size
        try:
            found = removal(work.case.dl.model, part.encoded, by_key)
        except Exception as error:  # a metric's answer, as a method's
            said = f"{type(error).__name__}: {error}"[:200]
            work.notes.append(f"removal: PyHealth's metrics did not take it: {said}")
            return {}
        for name, values in found.items():
            scores.setdefault(name, []).append(values.double().cpu())
    if not bool(fits.all()):
        work.notes.append(
            f"removal: PyHealth's metrics are of the class that is predicted; "
            f"{int((~fits).sum())} patient(s) are explained for another one"
        )
    whole = {name: torch.cat(each) for name, each in scores.items()}
    rows = list(work.rows)
    return {
        name: torch.where(fits, values, float("nan"))[rows]
        for name, values in whole.items()
    }


def _infidelity(work: Work, method: Method, shares: Tensor) -> Scores:
    rows, game = torch.tensor(work.rows), work.game
    there = torch.ones(len(rows), int(work.counts.max()), dtype=torch.bool)
    change = game.outputs(rows, there) - game.outputs(rows, ~there)
    samples = work.effort.perturbations
    drawn = work.generator()
    found = unfaithful(game, work.rows, shares, change, samples, drawn)
    return {"infidelity": found}


def _sensitivity(work: Work, method: Method, shares: Tensor) -> Scores:
    drawn, each = work.generator(), []
    for part in work.case.parts():

        def explain(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return method.attributed(part.at(inputs))  # noqa: B023  (called in here)

        moves = work.effort.moves
        each.append(sensitivity(explain, part.prepared.inputs, moves, drawn))
    return {"sensitivity": torch.cat(each)[list(work.rows)]}


def _randomised(work: Work, method: Method, shares: Tensor) -> Scores:
    """A mean over several shuffles of the head's weights."""
    case, drawn, each = work.case, work.generator(), []
    if work.head is None:
        work.notes.append(
            "randomised: not measured, as no linear layer gives the model's output, "
            "whose weights could be shuffled"
        )
        return {}
    for _ in range(work.effort.shuffles):
        model = shuffled(case.function.adapter, work.head, drawn)
        other = work.of_model(explaining(case.dl, model), model)
        again = work.shares(method.attributed(other))
        each.append(_correlations(work, shares, again))
    return {"randomised": torch.stack(each).mean(0)}


_OF_METHODS: Mapping[str, Callable[[Work, Method, Tensor], Scores]] = MappingProxyType(
    {
        "curves": _curves,
        "removal": _removal,
        "infidelity": _infidelity,
        "sensitivity": _sensitivity,
        "randomised": _randomised,
    }
)


# Of all ------------------------------------------------------------------------------


def _shapley(
    work: Work, shares: Mapping[str, Tensor], found: dict[str, Scores]
) -> tuple[Tensor, Tensor]:
    """Correlations with Shapley values, of as many patients as the budget has room for.

    Returns:
        By patient, how far two halves of the orders agree, and how many these were.
    """
    halves, orders = work.nothing(), torch.zeros(len(work.rows), dtype=torch.long)
    each = {name: work.each(all_shares) for name, all_shares in shares.items()}
    table = {name: work.nothing() for name in shares}
    drawn, flat, work.meter.use = work.generator(), 0, "shapley"
    for k, row in enumerate(work.watched("Shapley values", work.rows)):
        try:
            truth = sampled(work.game, row, work.effort.sampling, drawn)
        except BudgetSpentError as error:
            work.notes.append(
                f"shapley: {k} of {len(work.rows)} patient(s), the next takes {error}"
            )
            break
        orders[k] = truth.orders
        if is_constant(truth.values):
            flat += 1
            continue
        halves[k] = truth.split_half
        for name, own in each.items():
            table[name][k] = pearson(own[k], truth.values)
    if flat:
        work.notes.append(
            f"shapley: of {flat} patient(s) all players have one value, with which "
            "nothing correlates"
        )
    for name, values in table.items():
        found[name]["shapley"] = values
    return halves, orders


def _agreements(work: Work, shares: list[Tensor | None]) -> Tensor:
    """``(methods, methods, patients)``: correlations of attributions."""
    size = len(shares)
    table = torch.full((size, size, len(work.rows)), float("nan"), dtype=torch.float64)
    known = [k for k, one in enumerate(shares) if one is not None]
    each = [work.each(one) for one in shares if one is not None]
    first, second = torch.meshgrid(*[torch.tensor(known)] * 2, indexing="ij")
    for patient, rows in enumerate(zip(*each)):
        table[first, second, patient] = correlations(torch.stack(rows))
    return table


def _correlations(work: Work, a: Tensor, b: Tensor) -> Tensor:
    """``(patients,)``, of attributions by player."""
    pairs = zip(work.each(a), work.each(b))
    return torch.tensor([pearson(x, y) for x, y in pairs], dtype=torch.float64)
