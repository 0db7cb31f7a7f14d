"""Shapley values of a game's players, sampled over orders in which they arrive."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .game import Game


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

    Raises:
        BudgetSpentError: If it takes more evaluations than are left.
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
    players = game.count(row)
    orders = torch.rand(pairs, players, generator=generator).argsort(1)
    orders = torch.stack([orders, orders.flip(1)], dim=1).flatten(0, 1)
    ranks = orders.argsort(1)
    arrived = torch.arange(players + 1)
    coalitions = ranks[:, None, :] < arrived[None, :, None]
    values = game.values(row, coalitions.flatten(0, 1)).view(len(orders), players + 1)
    return values.diff(dim=1).gather(1, ranks)


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlation of two vectors; 0 where one is constant, but for rounding.

    Example:
        >>> one = torch.tensor([1.0, 2.0, 4.0])
        >>> round(pearson(one, 2 * one), 9)
        1.0
        >>> pearson(torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.1]))
        0.0
    """
    return float(correlations(torch.stack([a.double(), b.double()]))[0, 1])


def correlations(rows: Tensor) -> Tensor:
    """``(rows, rows)``: the correlation of each two rows, as :func:`pearson` has it."""
    rows = rows.double()
    flat = torch.tensor([is_constant(row) for row in rows])
    apart = rows - rows.mean(1, keepdim=True)
    apart = apart / apart.norm(dim=1, keepdim=True)
    apart = torch.where(flat[:, None], 0.0, apart)
    return (apart @ apart.T).clamp(-1, 1)


def is_constant(values: Tensor) -> bool:
    """Whether all are the same, but for rounding."""
    values = values.double()
    return bool((values - values.mean()).norm() <= _ROUNDING * values.norm())


#: By what part of their size numbers differ that are the same.
_ROUNDING = 1e-6
