"""From a mapping as people write it to a label for each code of each feature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from captum_ehr.adapter.records import FeatureKeyError

from .coding import GROUPINGS
from .rows import codes_of
from .words import caution

if TYPE_CHECKING:
    from .explanation import Explanation

#: From code to label: a mapping, a function, or a ready one by name; or a mapping with
#: one of these per feature key.
type Grouping = str | Mapping[str, Any] | Callable[[str], str | None]

#: Ready labellers by name: from the codes of a feature to the labels it has.
type Ready = Mapping[str, Callable[[Sequence[str]], dict[str, str]]]


def group_labels(
    explanation: Explanation, mapping: Grouping
) -> dict[str, dict[str, str]]:
    """Per feature key, the group of each code that has one."""
    return labels(explanation, mapping, GROUPINGS, "grouping")


def labels(
    explanation: Explanation, given: Grouping, ready: Ready, what: str
) -> dict[str, dict[str, str]]:
    """Per feature key, the label of each code that has one.

    Args:
        explanation: The explanation whose features and codes are labelled.
        given: A mapping, a callable, the name of a ready one, or one per feature.
        ready: The ready ones.
        what: What a labeller is called in errors.

    Raises:
        KeyError: If it names a feature that the explanation does not have.
        ValueError: If there is no ready one of that name, or it is not said for
            which of several features it is meant.
        TypeError: If it is nothing of all this, or a label is no text.
    """
    features = explanation.features
    if isinstance(given, str):
        _known(given, ready, what)
        given = {_only_feature(explanation, given, what): given}
    words = {key: codes_of(key, record) for key, record in features.items()}
    if isinstance(given, Mapping) and _is_per_feature(given, words, ready):
        unknown = [key for key in given if key not in features]
        if unknown:
            raise FeatureKeyError(
                f"the {what} names the feature(s) {', '.join(map(repr, unknown))}, "
                "which this explanation does not have; its features are "
                f"{', '.join(map(repr, features))}."
            )
        parts = given.items()
        return {key: _labelled(one, words[key], ready, what) for key, one in parts}
    return {key: _labelled(given, own, ready, what) for key, own in words.items()}


def _is_per_feature(
    given: Mapping[str, object], words: Mapping[str, Sequence[str]], ready: Ready
) -> bool:
    """Whether the keys of a mapping are features rather than codes.

    They are where a value is itself a labeller; strings that could be either are one
    where they are names of ready labellers, or their keys features and no codes.
    """
    if any(isinstance(one, Mapping) or callable(one) for one in given.values()):
        return True
    if not given or not all(isinstance(one, str) for one in given.values()):
        return False
    if all(one in ready for one in given.values()):
        return True
    codes = {code for own in words.values() for code in own}
    return all(key in words and key not in codes for key in given)


def _labelled(
    given: object, codes: Sequence[str], ready: Ready, what: str
) -> dict[str, str]:
    """The label of each code that has one."""
    if isinstance(given, str):
        _known(given, ready, what)
        known = ready[given](codes)
        if codes and not known:
            caution(
                f"the {what} {given!r} knows none of the {len(codes)} codes, such as "
                f"{codes[-1]!r}."
            )
        return known
    if isinstance(given, Mapping):
        found = {code: given.get(code) for code in codes}
    elif callable(given):
        found = {code: given(code) for code in codes}
    else:
        raise TypeError(
            f"a {what} is a mapping, a function of a code, or one of "
            f"{', '.join(map(repr, ready))}; got {type(given).__name__}."
        )
    labelled = {code: label for code, label in found.items() if label is not None}
    for code, label in labelled.items():
        if not isinstance(label, str):
            raise TypeError(
                f"the {what} gives {label!r} ({type(label).__name__}) for the code "
                f"{code!r}; expected a string, or None where there is none."
            )
    return labelled


def _known(name: str, ready: Ready, what: str) -> None:
    if name not in ready:
        raise ValueError(
            f"there is no ready {what} {name!r}; there are "
            f"{', '.join(map(repr, ready))}. Or give a mapping or a function."
        )


def _only_feature(explanation: Explanation, name: str, what: str) -> str:
    """The feature that a ready labeller is meant for, where there is no doubt.

    The same string may be a diagnosis, a procedure and a drug in different systems.
    """
    features = explanation.features
    tokens = [key for key, record in features.items() if record.is_token]
    coded = tokens or list(features)  # multi-hot features have codes as columns
    if len(coded) != 1:
        some = coded[0] if coded else "conditions"
        raise ValueError(
            f"this explanation has {len(coded)} features with codes "
            f"({', '.join(map(repr, coded))}); say whose codes the {what} {name!r} is "
            f"for: {{{some!r}: {name!r}}}."
        )
    return coded[0]
