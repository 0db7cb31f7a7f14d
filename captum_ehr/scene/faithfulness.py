"""How the output moves as players come or go, method by method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..explanation import Evaluation
from .wording import several

# Okabe and Ito: told apart with any of the usual colour deficiencies.
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
_DASHES = ("solid", (0, (6, 2)), (0, (3, 1.5)), (0, (6, 2, 1, 2)), (0, (1, 1.5)))

#: What the axes of each curve say.
WORDS = {
    "deletion": ("gone, the strongest first", "the steeper it falls, the better"),
    "insertion": ("come, the strongest first", "the steeper it rises, the better"),
}


@dataclass(frozen=True)
class MethodLine:
    """One method's mean curves, by name, and how they are told from others."""

    method: str
    color: str
    dashes: str | tuple[int, tuple[float, ...]]
    curves: dict[str, np.ndarray]


@dataclass(frozen=True)
class FaithfulnessScene:
    """What a picture of an evaluation shows."""

    heading: str
    lines: tuple[str, ...]
    fractions: np.ndarray
    methods: tuple[MethodLine, ...]
    across: dict[str, str]  # by curve, what its horizontal axis says
    up: str


def faithfulness_of(
    evaluation: Evaluation, methods: Sequence[str] | None = None
) -> FaithfulnessScene:
    """The mean curves of the methods that have some.

    Raises:
        KeyError: If there is no such method.
        ValueError: If none has curves.
    """
    asked = evaluation.methods if methods is None else tuple(methods)
    unknown = [name for name in asked if name not in evaluation.methods]
    if unknown:
        raise KeyError(
            f"no method {unknown[0]!r} was evaluated; there are "
            f"{', '.join(evaluation.methods)}."
        )
    frame = evaluation.curves()
    found = []
    for name in asked:
        place = evaluation.methods.index(name)
        mine = frame[frame["method"] == name].groupby("curve")["value"]
        curves = {curve: values.to_numpy() for curve, values in mine}
        if all(np.isfinite(values).all() for values in curves.values()):
            color = _COLORS[place % len(_COLORS)]
            found.append(MethodLine(name, color, _DASHES[place % len(_DASHES)], curves))
    if not found:
        raise ValueError(
            "nothing to show: no method has curves; evaluate with measures=['curves'] "
            "or a larger budget."
        )
    kind = {"code": "codes", "token": "tokens", "visit": "visits"}
    players = kind.get(evaluation.kind, "features")
    return FaithfulnessScene(
        f"{evaluation.model_name}: do the strongest {players} move it most?",
        (f"mean over {several(len(evaluation), 'patient')}",),
        evaluation.fractions.numpy(),
        tuple(found),
        {
            curve: f"share of the {players} that have {verb}; {better}"
            for curve, (verb, better) in WORDS.items()
        },
        f"mean {evaluation.output_word}",
    )
