"""Who takes part in a record: what is taken away, or put in place, together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Player(NamedTuple):
    """What is taken away together.

    Args:
        feature: The feature key; empty for a visit across features.
        code: The code, or the name of a column of values; empty for more than one.
        visit: Which visit or step, where it is one.
        position: Which place in it, where it is one.
    """

    feature: str
    code: str = ""
    visit: int | None = None
    position: int | None = None

    @property
    def words(self) -> str:
        """The code, or else the feature; visits and places are counted from 1.

        Example:
            >>> Player("drugs", "N02BE01", 1, 2).words, Player("", visit=0).words
            ('N02BE01 (visit 2, place 3)', 'visit 1')
        """
        places = [
            f"{name} {number + 1}"
            for name, number in (("visit", self.visit), ("place", self.position))
            if number is not None
        ]
        name, place = self.code or self.feature, ", ".join(places)
        return f"{name} ({place})" if name and place else name or place


def labels(players: Iterable[Player]) -> list[str]:
    """Each player in words; with its feature where another one is called the same.

    Example:
        >>> labels([Player("drugs", "A1"), Player("tests", "A1"), Player("tests", "B")])
        ['drugs A1', 'tests A1', 'B']
    """
    players = list(players)
    times = Counter(player.words for player in players)
    return [
        p.words if times[p.words] == 1 else f"{p.feature} {p.words}" for p in players
    ]
