"""What is asked of attributions: curves, infidelity, sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor

from .game import Game

#: The share of itself by which each number moves, at most, for the sensitivity.
RADIUS = 1e-3


def curves(game: Game, row: int, scores: Tensor) -> tuple[Tensor, Tensor]:
    """A patient's insertion and deletion curves.

    Players come into the reference, or go out of the input, with the highest score
    first (Petsiuk et al., RISE, 2018).

    Returns:
        ``(players + 1,)`` each, the output after so many players.
    """
    count = len(scores)
    ranks = scores.argsort(descending=True, stable=True).argsort()
    inserted = ranks[None, :] < torch.arange(count + 1)[:, None]
    insertion, deletion = game.values(row, torch.cat([inserted, ~inserted])).split(
        count + 1
    )
    return insertion, deletion


def areas(insertion: Tensor, deletion: Tensor) -> tuple[float, float]:
    """How far, on average over its curve, the output has risen, and fallen.

    Above f(x0), and below f(x); in units of the output, the higher, the better.
    """
    rise, fall = insertion - insertion[0], deletion[0] - deletion
    return float(rise.mean()), float(fall.mean())


def unfaithful(
    game: Game,
    rows: Sequence[int],
    scores: Tensor,
    change: Tensor,
    samples: int,
    generator: torch.Generator,
) -> Tensor:
    """Captum's infidelity (normalised) of each patient, over the mean change.

    A perturbation takes away a random half of the players; the attributions of these
    should be what the output loses. Divided by the patients' mean (f(x) - f(x0))², so
    that models compare: 0 is perfect. (Yeh et al., On the (In)fidelity and Sensitivity
    of Explanations, 2019.)

    Args:
        game: The model as a function of the players that are present.
        rows: The patients.
        scores: ``(patients, players)``, 0 where a patient has fewer.
        change: ``(patients,)``, f(x) - f(x0).
        samples: Perturbations of each patient.
        generator: Of the players that go.
    """
    here = torch.tensor([[game.count(row)] for row in rows])
    whole = (torch.arange(scores.shape[1])[None, :] < here).double()

    def value(present: Tensor, patients: Tensor) -> Tensor:
        return game.outputs(patients, present > 0)

    def halved(inputs: Any) -> Any:
        present = inputs[0] if isinstance(inputs, tuple) else inputs
        gone = torch.rand(present.shape, generator=generator) < 0.5
        gone = gone.double() * present
        return gone, present - gone

    size = len(rows)
    found: Tensor = infidelity(
        value,
        halved,
        whole,
        scores.double(),
        additional_forward_args=(torch.tensor(list(rows)),),
        n_perturb_samples=samples,
        max_examples_per_batch=min(max(game.step, size), size * samples),
        normalize=True,
    )
    return found / change.square().mean()


def sensitivity(
    explain: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    samples: int,
    generator: torch.Generator,
) -> Tensor:
    """Captum's sensitivity of each patient: the largest relative change.

    Of the attributions, as each number of the embeddings and each value moves by up to
    :data:`RADIUS` of itself. What is 0, as padding, stays 0.
    """

    def moved(parts: Any, radius: float) -> Any:
        return tuple(
            x * (1 + radius * (2 * torch.rand(x.shape, generator=generator) - 1).to(x))
            for x in parts
        )

    found: Tensor = sensitivity_max(
        explain,
        tuple(x.detach() for x in inputs),
        moved,
        perturb_radius=RADIUS,
        n_perturb_samples=samples,
        max_examples_per_batch=len(inputs[0]),  # as many patients as are explained
    )
    return found.double().cpu()
