"""Shapley values of tokens, sampled over orders in which they arrive."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_ehr import PyHealthAdapter

#: Coalitions that the model evaluates at a time.
ROWS = 1024


@dataclass(frozen=True, eq=False)
class Game:
    """The model's logit as a function of which of a patient's tokens are present.

    An absent token has the reference's embedding; padding stays padding.

    Args:
        adapter: The model.
        inputs: Embeddings, one tensor per feature.
        reference: The same at the reference.
        masks: True at real tokens, one tensor per feature.
        rest: Additional arguments of the adapter.
    """

    adapter: PyHealthAdapter
    inputs: tuple[Tensor, ...]
    reference: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    rest: tuple[Tensor, ...]

    def players(self, row: int) -> Tensor:
        """Positions of a patient's real tokens among all of its positions."""
        return torch.cat([mask[row].flatten() for mask in self.masks]).nonzero()[:, 0]

    def values(self, row: int, coalitions: Tensor) -> Tensor:
        """The logit for each coalition, ``(coalitions, players)`` of booleans."""
        parts = [self._chunk(row, part) for part in coalitions.split(ROWS)]
        return torch.cat(parts)

    def _chunk(self, row: int, coalitions: Tensor) -> Tensor:
        count = len(coalitions)
        sizes = [mask[row].numel() for mask in self.masks]
        present = torch.zeros(count, sum(sizes), dtype=torch.bool)
        present[:, self.players(row)] = coalitions
        mixed = [
            torch.where(flat.view(count, *mask.shape[1:], 1), x[row], x0[row])
            for flat, mask, x, x0 in zip(
                present.split(sizes, dim=1), self.masks, self.inputs, self.reference
            )
        ]
        rest = [part[row].expand(count, *part.shape[1:]) for part in self.rest]
        with torch.no_grad():
            return self.adapter(*mixed, *rest)[:, 0].double()


def sampled(
    game: Game, row: int, pairs: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Two independent estimates of a patient's Shapley values.

    Args:
        game: The game.
        row: The patient.
        pairs: Random orders, each used forwards and backwards; half of them go into
            each estimate, and the mean of both is the best one.
        generator: Of the orders.
    """
    players = len(game.players(row))
    orders = torch.rand(pairs, players, generator=generator).argsort(1)
    orders = torch.stack([orders, orders.flip(1)], dim=1).flatten(0, 1)
    ranks = orders.argsort(1)
    arrived = torch.arange(players + 1)
    coalitions = ranks[:, None, :] < arrived[None, :, None]
    values = game.values(row, coalitions.flatten(0, 1)).view(len(orders), players + 1)
    gains = values.diff(dim=1).gather(1, ranks)
    half = 2 * (pairs // 2)
    return gains[:half].mean(0), gains[half:].mean(0)


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlation of two vectors; 0 where one is constant."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    norms = a.norm() * b.norm()
    return float(a @ b / norms) if norms > 0 else 0.0
