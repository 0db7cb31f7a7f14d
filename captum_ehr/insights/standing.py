"""How a model does on the patients of the page, as far as the outcomes are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..scene.performance import Performance, performance_of


def performance(
    overview: Mapping[str, Any], rows: Sequence[int], model: int
) -> Performance | None:
    """Of a binary model's probabilities over some patients; None of any other.

    Also None where no outcome is known.
    """
    said = [overview["predictions"][model][row] for row in rows]
    actual = [overview["patients"][row]["actual"] for row in rows]
    is_judged = any(one is not None for one in actual)
    if overview["mode"] != "binary" or not is_judged:
        return None
    return performance_of(
        overview["targets"][model][0],
        np.array([math.nan if one is None else float(1 in one) for one in actual]),
        np.array([_number(one["score"]) for one in said]),
        is_probability=all(one["is_probability"] for one in said),
    )


def _number(score: float | None) -> float:
    return math.nan if score is None else score
