"""Shapley values of tokens, sampled over orders in which they arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .peers import Case

#: Coalitions that the model evaluates at a time.
ROWS = 512


@dataclass(frozen=True, eq=False)
class Game:
    """The model's logit as a function of which of a patient's tokens are present.

    An absent token has the reference's embedding; padding stays padding.

    Args:
        function: The model, of inputs and additional arguments.
        inputs: Embeddings, one tensor per feature.
        reference: The same at the reference.
        masks: True at real tokens, one tensor per feature.
        rest: Additional arguments of the function.
    """

    function: Any
    inputs: tuple[Tensor, ...]
    reference: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    rest: tuple[Tensor, ...]

    @classmethod
    def of(cls, case: Case) -> Game:
        """The game of a case's patients."""
        encoded = case.encoded
        rest = encoded.additional_forward_args
        return cls(case.function, encoded.inputs, case.reference, encoded.masks, rest)

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
            return self.function(*mixed, *rest)[:, 0].double()


@dataclass(frozen=True)
class Sampling:
    """How many orders are drawn.

    Args:
        pairs: Of orders at a time, each used forwards and backwards; a half of them
            goes into each of two estimates. Even.
        most: Pairs at most.
        until: Correlation of the two estimates at which a patient has enough.
    """

    pairs: int = 16
    most: int = 96
    until: float = 0.99


@dataclass(frozen=True, eq=False)
class Sampled:
    """A patient's Shapley values: two independent estimates, and from how many orders.

    The mean of both is the best one.
    """

    first: Tensor
    second: Tensor
    orders: int

    @property
    def values(self) -> Tensor:
        """The best estimate."""
        return (self.first + self.second) / 2

    @property
    def split_half(self) -> float:
        """Correlation of the two estimates."""
        return pearson(self.first, self.second)


def sampled(
    game: Game, row: int, sampling: Sampling, generator: torch.Generator
) -> Sampled:
    """A patient's Shapley values, from permutations (Castro et al. 2009).

    Orders are used in both directions, which halves the noise (Mitchell et al. 2022).

    Args:
        game: The game.
        row: The patient.
        sampling: How many orders.
        generator: Of the orders.
    """
    first, second = [], []
    while True:
        gains = _gains(game, row, sampling.pairs, generator)
        first.append(gains[: len(gains) // 2].mean(0))
        second.append(gains[len(gains) // 2 :].mean(0))
        found = Sampled(
            torch.stack(first).mean(0),
            torch.stack(second).mean(0),
            2 * sampling.pairs * len(first),
        )
        enough = sampling.pairs * (len(first) + 1) > sampling.most
        if enough or found.split_half >= sampling.until:
            return found


def _gains(game: Game, row: int, pairs: int, generator: torch.Generator) -> Tensor:
    """What each player adds when it arrives, ``(2 · pairs, players)``."""
    players = len(game.players(row))
    orders = torch.rand(pairs, players, generator=generator).argsort(1)
    orders = torch.stack([orders, orders.flip(1)], dim=1).flatten(0, 1)
    ranks = orders.argsort(1)
    arrived = torch.arange(players + 1)
    coalitions = ranks[:, None, :] < arrived[None, :, None]
    values = game.values(row, coalitions.flatten(0, 1)).view(len(orders), players + 1)
    return values.diff(dim=1).gather(1, ranks)


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlation of two vectors; 0 where one is constant."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    norms = a.norm() * b.norm()
    return float(a @ b / norms) if norms > 0 else 0.0
