"""What an evaluation starts from: whose records, against what, and who counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ...adapter import FeatureMask, PyHealthAdapter
from ...adapter.removal import MODES
from ...propagation import private_view
from ..asking import asked_model
from ..completeness import APART, MIXED, ROUNDINGS
from ..engine import Engine
from ..inputs import Prepared
from ..pairwise import COMPANY, by_player, rows_at_once
from ..result import Result
from .contenders import OURS, Case, Method, Parts, kept
from .game import BudgetSpentError, Explained, Game, Meter
from .randomised import head_of, over
from .shapley import Sampling


class Effort(NamedTuple):
    """How much each measure takes.

    Args:
        sampling: Of the Shapley values.
        perturbations: Of each patient, for the infidelity.
        moves: Of each patient's numbers, for the sensitivity.
        shuffles: Of the head's weights.
    """

    sampling: Sampling = Sampling()
    perturbations: int = 100
    moves: int = 3
    shuffles: int = 3


@dataclass(frozen=True, eq=False)
class Work:
    """An evaluation under way.

    Args:
        case: The patients of the batch.
        game: What their players are worth.
        rows: Which of them are evaluated.
        effort: How much each measure takes.
        show_progress: Whether it is shown.
        given: By method, the attributions of all patients, as far as they are known.
        notes: What was not measured, and why.
    """

    case: Case
    game: Game
    rows: tuple[int, ...]
    effort: Effort
    show_progress: bool
    given: dict[Method, Parts] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def meter(self) -> Meter:
        """What counts the model's evaluations."""
        return self.case.function.meter

    @cached_property
    def counts(self) -> Tensor:
        """``(patients,)``, how many players those who are evaluated have."""
        return torch.tensor([self.game.count(row) for row in self.rows])

    @cached_property
    def head(self) -> str | None:
        """The path of the model's last layer, where there is one."""
        self.meter.charge(len(self.case.places))
        return head_of(self.case.function.adapter, self.case.encoded)

    def of_model(self, dl: Engine, adapter: PyHealthAdapter) -> Case:
        """The same patients, whom another model is asked about."""
        old = self.case.function
        function = Explained(adapter, dl.output, old.meter, old.apart)
        return replace(self.case, dl=dl, function=function)

    def generator(self) -> torch.Generator:
        """One that draws the same for each method."""
        return torch.Generator().manual_seed(self.case.seed)

    def nothing(self) -> Tensor:
        """``(patients,)`` of what is not known."""
        return torch.full((len(self.rows),), float("nan"), dtype=torch.float64)

    def shares(self, parts: Parts) -> Tensor:
        """``(patients, players)``: attributions by player, of those who are evaluated.

        Who has fewer players than others has zeros behind them.
        """
        most = max(map(len, self.game.mask.players))
        whole = by_player(self.game.mask, parts, most + 1)[list(self.rows)]
        here = torch.arange(most)[None, :] < self.counts[:, None]
        return torch.where(here, whole[:, :most], 0.0)[:, : int(self.counts.max())]

    def each(self, shares: Tensor) -> list[Tensor]:
        """``(players,)`` of each patient."""
        return [row[:n] for row, n in zip(shares, self.counts.tolist())]

    def watched[T](self, what: str, items: Sequence[T]) -> Iterator[T]:
        """The items, with a bar that goes away."""
        bar: Iterator[T] = tqdm(
            items, desc=what, leave=False, disable=not self.show_progress
        )
        return bar

    @contextmanager
    def within(self, use: str, whose: str) -> Iterator[None]:
        """Count evaluations as those of a measure, and note where they do not fit."""
        self.meter.use = use
        try:
            yield
        except BudgetSpentError as error:
            self.notes.append(f"{use} of {whose}: not measured, it takes {error}")


def begun(
    dl: Engine,
    batch: Any,
    baselines: Any,
    target: Any,
    players: str,
    budget: int,
    seed: int,
) -> tuple[Case, Game, Result]:
    """The patients as a case and as a game, and our explanation of them.

    Raises:
        TypeError: If the model is not PyHealth's.
        ValueError: If what is asked for has no meaning here, or is more than the
            budget.
    """
    why = "multipliers have no sum"
    model, encoded = asked_model(dl, batch, target, "evaluate", why)
    mask = model.feature_mask(encoded, players)
    references = len(dl.prepare(encoded, baselines, None).references)
    once = len(encoded) * (1 + references) * dl.segments
    if budget < once + 2:
        raise ValueError(
            f"budget={budget} is less than the {once + 2} evaluations that one "
            "explanation of the batch takes, with a look at whether patients mix."
        )
    meter = Meter(budget)
    meter.use = "explanations"
    meter.charge(once)
    prepared, result = dl.run(encoded, baselines, target, None, None, tokens=True)
    if MIXED in result.diagnostics.messages:
        raise ValueError("evaluate needs mixing='apart': each patient is evaluated.")
    own = over(model, private_view(model.model))
    function = Explained(own, dl.output, meter, APART in result.diagnostics.messages)
    function.apart |= _mixes(function, prepared, result)
    step = 1 if function.apart else dl.internal_batch_size
    game = Game(
        function,
        prepared,
        result.index,
        mask,
        step or min(_ROWS, rows_at_once(model, prepared)),
    )
    args = dl, batch, encoded, prepared, result.index, function, tuple(mask), seed
    return Case(*args), game, result


#: Rows that a game evaluates at a time, at most.
_ROWS = 512


def _mixes(function: Explained, prepared: Prepared, result: Result) -> bool:
    """Whether a record has another score beside its reference than with its batch."""
    if function.apart:
        return False
    sides = zip(prepared.inputs, prepared.references[0])
    both = [torch.stack([x.detach()[0], x0[0]]) for x, x0 in sides]
    twice = (*prepared.args, result.index)
    args = (a[:1].expand(2, *a.shape[1:]) for a in twice)
    with torch.no_grad():
        value = function(*both, *args)[0]
    wanted = result.f_input[0]
    near = max(ROUNDINGS * torch.finfo(value.dtype).eps, COMPANY)
    return not torch.allclose(value, wanted, near, near, equal_nan=True)


def counted(
    mask: FeatureMask, result: Result, ids: Sequence[str]
) -> tuple[tuple[int, ...], dict[str, tuple[str, ...]]]:
    """Whose records can be evaluated, and by reason who was left out.

    Raises:
        ValueError: If nobody's can.
    """
    known = torch.isfinite(result.f_input - result.f_baseline).tolist()
    silent: list[str] = []
    alone: list[str] = []
    rows = []
    for row, (players, name) in enumerate(zip(mask.players, ids)):
        if not known[row]:
            silent.append(name)
        elif len(players) < 2:
            alone.append(name)
        else:
            rows.append(row)
    reasons = {"the model has no answer": silent, "fewer than two players": alone}
    said = {reason: tuple(names) for reason, names in reasons.items() if names}
    if not rows:
        why = "; ".join(f"{reason}: {', '.join(n[:5])}" for reason, n in said.items())
        raise ValueError(f"There is nobody to evaluate: {why}.")
    return tuple(rows), said


def is_predicted(case: Case) -> Tensor:
    """``(patients,)``, whether it is the predicted class that is explained.

    Or, of a model of two classes, its one output.
    """
    model, index = case.dl.model, case.places
    if model.mode not in MODES or index.shape[1:] != (1,):
        return torch.zeros(len(index), dtype=torch.bool)
    if model.mode == "binary":
        return torch.ones(len(index), dtype=torch.bool)
    outputs = []
    for part in case.parts():
        case.function.meter.charge(len(part.places))
        with torch.no_grad():
            args = part.encoded.additional_forward_args
            outputs.append(case.function.adapter(*part.encoded.inputs, *args))
    return (torch.cat(outputs).argmax(1) == index[:, 0]).cpu()


def explained(work: Work, methods: Sequence[Method], result: Result) -> None:
    """Ask all methods; what one raises is its answer, but for ours."""
    for method in work.watched("explanations", methods):
        with work.within("explanations", method.name):
            if method.name == OURS and not work.case.function.apart:
                work.given[method] = kept(work.case, result.attributions)
                continue
            try:
                work.given[method] = method.attributed(work.case)
            except BudgetSpentError:
                raise
            except Exception as error:
                if method.name == OURS:
                    raise
                first = (str(error).strip().splitlines() or [""])[0]
                said = f"{type(error).__name__}: {first}"[:200]
                work.notes.append(f"{method.name} did not take the model: {said}")
