"""What is said of a patient's pairs: the matrix, the network, one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from captum_ehr.explanation.feature_record import words_for
from captum_ehr.explanation.player import labels

from .palette import ColorScale
from .wording import first_of, model_words, shorten, signed, target_words

if TYPE_CHECKING:
    from captum_ehr.explanation import Interactions
    from captum_ehr.explanation.feature_record import Words


@dataclass(frozen=True)
class Bond:
    """A pair of a network."""

    ends: tuple[int, int]  # the numbers of both players
    effect: float
    asymmetry: float


@dataclass(frozen=True)
class PairScene:
    """The pairs of one patient's strongest players; the rest is one more."""

    labels: tuple[str, ...]
    cells: np.ndarray  # Φ: half of each effect, and on the diagonal what is alone
    totals: tuple[float, ...]  # each player's attribution, the sum of its row
    bonds: tuple[Bond, ...]  # without the rest; the strongest first
    scale: ColorScale
    output: str
    head: str
    lines: tuple[str, ...]


def pair_scene(
    pairs: Interactions, k: int, bonds: int | None = None, names: Words | None = None
) -> PairScene:
    """Work out what is shown of one patient's pairs.

    Args:
        pairs: Of one patient.
        k: The most players before the rest is one.
        bonds: The most pairs; all by default.
        names: Human names of codes, as :attr:`captum_ehr.Explanation.names`.

    Raises:
        ValueError: If there is not exactly one patient.
    """
    matrix = pairs.only().matrices[0].numpy()
    effects = np.triu(pairs.effect[0].numpy(), 1)
    strength = np.abs(pairs.effect[0].numpy()).max(1, initial=0.0)
    order = sorted(range(len(matrix)), key=lambda i: -strength[i])[:k]
    rest = [i for i in range(len(matrix)) if i not in order]
    groups = [[i] for i in order] + ([rest] if rest else [])
    cells = np.array(
        [[matrix[np.ix_(a, b)].sum() for b in groups] for a in groups]
    ).reshape(len(groups), len(groups))
    places = {player: place for place, player in enumerate(order)}
    found = [
        Bond((places[i], places[j]), effects[i, j], float(pairs.asymmetry[0, i, j]))
        for i, j in np.argwhere(effects).tolist()
        if i in places and j in places
    ]
    found.sort(key=lambda bond: -abs(bond.effect))
    words = called(pairs, names)
    more = (f"{len(rest)} others",) if rest else ()
    return PairScene(
        labels=(*(words[i] for i in order), *more),
        cells=cells,
        totals=tuple(cells.sum(1).tolist()),
        bonds=tuple(found[:bonds]),
        scale=ColorScale.of(cells.ravel().tolist()),
        output=pairs.output_word,
        head=f"{shorten(pairs.patient_ids[0], 40)} | {model_words(pairs)}"
        f"what acts together on the {pairs.output_word} of {target_words(pairs)}",
        lines=(sentence(pairs, names), *first_of(pairs.diagnostics.messages)),
    )


def called(pairs: Interactions, names: Words | None) -> list[str]:
    """What to call the players of the one patient: the code, and its name."""
    players = pairs.only().players[0]
    tables = {
        player.feature: words_for(player.feature, names or {}) for player in players
    }
    return [
        shorten(f"{label} {tables[player.feature].get(player.code, '')}", 80)
        for label, player in zip(labels(players), players)
    ]


def sentence(pairs: Interactions, names: Words | None = None) -> str:
    """The strongest pair of the one patient, in words.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> pairs = DeepLiftEHR(model).interactions(batch, "unk")
        >>> sentence(pairs["p4"], {"A41.9": "sepsis"})
        'Together A41.9 sepsis and I50.9 add +0.017 to the logit of label beyond what
        each adds alone, in this model and against unk (give or take 2e−08).'
    """
    effects = np.triu(pairs.only().effect[0].numpy(), 1)
    if not np.isfinite(effects).all():
        return "The model has no answer, so there are no pairs."
    if not effects.any():
        return "No two codes act together in this model."
    i, j = np.unravel_index(np.abs(effects).argmax(), effects.shape)
    words = called(pairs, names)
    spread = signed(float(pairs.asymmetry[0, i, j]) / 2).lstrip("+")
    against = f" and against {pairs.baseline}" if pairs.baseline else ""
    return (
        f"Together {words[i]} and {words[j]} add {signed(effects[i, j])} to the "
        f"{pairs.output_word} of {target_words(pairs)} beyond what each adds alone, "
        f"in this model{against} (give or take {spread})."
    )
