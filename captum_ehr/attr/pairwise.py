r"""Which players act together: the recursion of the Shapley interaction index.

.. math:: I_{ij} = \varphi_i(x; x_0 \cup j) - \varphi_i(x \setminus j; x_0)

is i's value where j is always there minus i's value where j never is. With Shapley
values for φ this is their interaction index (Grabisch & Roubens, An axiomatic approach
to the concept of interaction among players in cooperative games, 1999: recursion); here
φ are the attributions. A patient of n players takes 2n + 1 explanations, as many rows
of one batch: the record itself, n times the record without one player, n times the
record against the reference with one player.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..adapter import FeatureMask
from ..propagation import Diagnostics, tuning
from ..propagation.missing import missing, where_known
from .completeness import ROUNDINGS, impersonal, mixes
from .inputs import Prepared
from .result import Result
from .stacking import numbers_of
from .targets import Chosen

#: Explains rows, whose explained outputs are known.
type Explain = Callable[[Prepared, Chosen], Result]

#: A number that no player has.
_NOBODY = -1


class Scored(NamedTuple):
    """Patients as they are, before anything is explained.

    Args:
        prepared: Their records and references.
        mask: By feature, whose each place is.
        value: ``(patients,)``, the explained output.
        places: ``(patients, ...)``, where it stands in the model's output.
        coarse: How large the numbers are that outputs were rounded at, where these are
            not the outputs themselves.
        checked: Whether it is told where sums are off.
    """

    prepared: Prepared
    mask: FeatureMask
    value: Tensor
    places: Tensor
    coarse: float
    checked: bool


class Measured(NamedTuple):
    """What the explanations of rows have given, in float64 on the CPU.

    Args:
        shares: ``(rows, players + 1)``, each player's attribution; the last column is
            what belongs to nobody.
        f_input: ``(rows,)``.
        f_baseline: ``(rows,)``.
        delta: ``(rows,)``, the residual before any rescaling.
        off: ``(rows,)``, 1 where that is more than rounding.
    """

    shares: Tensor
    f_input: Tensor
    f_baseline: Tensor
    delta: Tensor
    off: Tensor


class DependsOnOthersError(ValueError):
    """A record has another score in another batch, so that rows are not comparable."""


def rows_of(patient: int, players: Sequence[int]) -> Tensor:
    """``(2n + 1, 3)``: whose, who stands at the reference, who is in the reference.

    Example:
        >>> rows_of(0, [4])
        tensor([[ 0, -1, -1],
                [ 0,  4, -1],
                [ 0, -1,  4]])
    """
    count = len(players)
    rows = torch.full((2 * count + 1, 3), _NOBODY)
    rows[:, 0] = patient
    rows[1 : count + 1, 1] = rows[count + 1 :, 2] = torch.tensor(players).long()
    return rows


def stacked(prepared: Prepared, mask: FeatureMask, rows: Tensor) -> Prepared:
    """The batch of some rows; all but the players in question is their patient's.

    Where a value is missing on one of the sides nothing is put in its place: that it
    is missing belongs to the patient.
    """
    patient, absent, present = rows.to(prepared.inputs[0].device).unbind(1)
    inputs: list[Tensor] = []
    references: list[Tensor] = []
    for x, x0, numbers in zip(prepared.inputs, prepared.references[0], mask):
        x, x0, numbers = x.detach()[patient], x0[patient], numbers[patient]
        gap = missing(x, x0)
        for taken, side, other, player in (
            (inputs, x, x0, absent),
            (references, x0, x, present),
        ):
            at = numbers == player.view(-1, *[1] * (numbers.dim() - 1))
            taken.append(where_known(torch.where(at, other, side), side, gap))
    args = tuple(
        arg[patient] if isinstance(arg, Tensor) and arg.dim() else arg
        for arg in prepared.args
    )
    return Prepared(
        tuple(inputs), (tuple(references),), args, "tuple", summed=prepared.summed
    )


def measured(
    scored: Scored, rows: Tensor, explain: Explain, step: int
) -> tuple[Measured, Diagnostics]:
    """What so many rows at a time give, as a mean over the references.

    Raises:
        DependsOnOthersError: If a record has another score than with its batch.
    """
    each, report = [], Diagnostics()
    for reference in scored.prepared.references:
        prepared = replace(scored.prepared, references=(reference,))
        parts = []
        for piece in rows.split(step):
            some = stacked(prepared, scored.mask, piece)
            places = scored.places[piece[:, 0].to(scored.places.device)]
            result = explain(some, Chosen(places))
            _check_alike(scored, piece, result)
            report += impersonal(result.diagnostics)
            parts.append(_by_player(scored.mask, piece, result))
        each.append(Measured(*map(torch.cat, zip(*parts))))
    return Measured(*(torch.stack(part).mean(0) for part in zip(*each))), report


def _check_alike(scored: Scored, rows: Tensor, result: Result) -> None:
    """Refuse rows that are scored unlike the record that they are."""
    whole = rows[:, 1] == _NOBODY
    value = scored.value[rows[whole, 0].to(scored.value.device)]
    gap = (result.f_input[whole.to(value.device)] - value).abs()
    if mixes(result.balance) or bool((gap > _tolerance(scored, result)).any()):
        raise DependsOnOthersError


def _tolerance(scored: Scored, result: Result | Measured) -> float:
    """What rounding may change of a score when it is computed in other company."""
    values = torch.cat([result.f_input, result.f_baseline]).abs()
    largest = torch.where(values.isfinite(), values, 0.0).max().item()
    eps = torch.finfo(scored.value.dtype).eps
    return max(ROUNDINGS * eps, COMPANY) * max(largest, scored.coarse)


#: The part of the largest score that the same record's may differ by in another batch.
COMPANY = 1e-4


def _by_player(mask: FeatureMask, rows: Tensor, result: Result) -> Measured:
    """The attributions of rows, added up by player."""
    numbers = [part.cpu()[rows[:, 0]] for part in mask]
    shares = by_player(numbers, result.attributions, max(map(len, mask.players)) + 1)
    sums = result.balance
    rest = (result.f_input, result.f_baseline, sums.delta, sums.off & ~sums.rounded)
    return Measured(shares, *(part.cpu().double() for part in rest))


def by_player(numbers: Sequence[Tensor], parts: Sequence[Tensor], size: int) -> Tensor:
    """``(rows, size)``: attributions, summed over embeddings, by whose they are."""
    shares = torch.zeros(len(parts[0]), size, dtype=torch.float64)
    for part, whose in zip(parts, numbers):
        shares.scatter_add_(1, whose.cpu().flatten(1), part.cpu().double().flatten(1))
    return shares


class Pairs(NamedTuple):
    """One patient's; :class:`captum_ehr.Interactions` says what each is."""

    one_way: Tensor
    attributions: Tensor
    last_minus_first: Tensor
    delta: Tensor
    rest: Tensor

    @classmethod
    def of(cls, players: Sequence[int], rows: Measured) -> Pairs:
        """Of the rows that :func:`rows_of` makes for these players."""
        count, chosen = len(players), list(players)
        down, up = slice(1, count + 1), slice(count + 1, None)
        own = rows.shares[0, chosen]
        one_way = (rows.shares[up] - rows.shares[down])[:, chosen].T.clone()
        last = rows.f_input[0] - rows.f_input[down]
        first = rows.f_baseline[up] - rows.f_baseline[0]
        sums = rows.f_input - rows.f_baseline + rows.delta  # of raw attributions
        return cls(
            one_way.fill_diagonal_(0.0),
            own,
            last - first,
            sums[up] - sums[down] - (last - first),
            rows.shares[0].sum() - own.sum(),
        )


class Found(NamedTuple):
    """What was asked, and what came of it.

    Args:
        players: By patient, the numbers of the players that are asked about.
        rows: By patient, their rows.
        diagnostics: What ran.
    """

    players: list[tuple[int, ...]]
    rows: list[Measured]
    diagnostics: Diagnostics


def pairs_of(scored: Scored, among: int | None, explain: Explain, step: int) -> Found:
    """The rows of all patients, ``step`` at a time.

    Where a model mixes the rows of a batch a single patient's are explained one by one.

    Raises:
        ValueError: If it mixes patients, and there are several.
    """
    try:
        return _found(scored, among, explain, step)
    except DependsOnOthersError:
        if len(scored.value) > 1:
            raise ValueError(
                "The model's score of a patient depends on who else is in the batch, "
                "or on random numbers, so that rows of a batch cannot be compared. "
                "Give one patient at a time: its rows are then explained one by one."
            ) from None
    return _found(scored, among, explain, 1)


def _found(scored: Scored, among: int | None, explain: Explain, step: int) -> Found:
    asked = [tuple(range(len(players))) for players in scored.mask.players]
    if among is not None and max(map(len, asked)) > among:
        alone = torch.cat([rows_of(k, ()) for k in range(len(asked))])
        first, _ = measured(scored, alone, explain, step)
        pairs = zip(asked, first.shares)
        asked = [_strongest(players, shares, among) for players, shares in pairs]
    rows = [rows_of(k, players) for k, players in enumerate(asked)]
    all_rows, report = measured(scored, torch.cat(rows), explain, step)
    parts = zip(*(part.split(list(map(len, rows))) for part in all_rows))
    return Found(asked, [Measured(*part) for part in parts], report)


def _strongest(players: Sequence[int], shares: Tensor, among: int) -> tuple[int, ...]:
    """Those with the largest attributions, in the order of the record."""
    sizes = shares[list(players)].abs()
    return tuple(sorted(sizes.argsort(descending=True, stable=True)[:among].tolist()))


def rows_at_once(model: nn.Module, prepared: Prepared) -> int:
    """As many as the patients of the batch, or more where they are small."""
    return max(len(prepared.inputs[0]), tuning.ROWS // numbers_of(model, prepared))


def remarks(scored: Scored, ids: Sequence[str], rows: Sequence[Measured]) -> list[str]:
    """What does not add up, by patient, and where the structure is another."""
    broken, off, moved, largest = [], [], [], 0.0
    for name, mine in zip(ids, rows):
        count = len(mine.f_input) // 2
        gap = (mine.f_baseline[: count + 1] - mine.f_baseline[0]).abs().max().item()
        if not bool(torch.isfinite(mine.f_input - mine.f_baseline).all()):
            broken.append(name)
        elif scored.checked and bool(mine.off.any()):
            off.append(name)
        if gap > _tolerance(scored, mine):
            moved.append(name)
            largest = max(largest, gap)
    said = (
        (broken, "the model's output is not finite with or without some of the codes"),
        (off, "the attributions of some rows do not add up, so that effects are off"),
        (
            moved,
            "with a code at its reference the model sees other positions than in the "
            f"record: f(x0) then differs by up to {largest:.2g}, which is in effects "
            "and in delta; take a reference that is not zero, such as a mean",
        ),
    )
    return [f"{what}: patient(s) {_some(names)}" for names, what in said if names]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
