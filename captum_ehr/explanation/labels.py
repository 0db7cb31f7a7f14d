"""From a mapping as people write it to a label for each code: groups, names, units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .coding import GROUPINGS
from .data import ExplanationData, check_keys
from .feature_record import FeatureRecord, codes_of, words_for
from .words import caution

#: From code to label: a mapping, a function, or a ready one by name; or a mapping with
#: one of these per feature key.
type Grouping = str | Mapping[str, Any] | Callable[[str], str | None]

#: Ready labellers by name: from the codes of a feature to the labels it has.
type Ready = Mapping[str, Callable[[Sequence[str]], dict[str, str]]]

type Features = Mapping[str, FeatureRecord]


def group_labels(
    explanation: ExplanationData, mapping: Grouping
) -> dict[str, dict[str, str]]:
    """Per feature key, the group of each code that has one."""
    return labels_of(explanation.features, mapping, GROUPINGS, "grouping")


def joined(held: Mapping[str, Any], more: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The words, or ranges, held, and those found put over them, feature by feature."""
    common = {code: word for code, word in held.items() if isinstance(word, str)}
    tables = {
        key: {**words_for(key, held), **more.get(key, {})}
        for key in [*(k for k in held if k not in common), *more]
    }
    return {**common, **{key: words for key, words in tables.items() if words}}


def _word(code: str, label: Any) -> str:
    """A label, if it is a word."""
    if not isinstance(label, str):
        raise TypeError(
            f"the mapping gives {label!r} ({type(label).__name__}) for the code "
            f"{code!r}; expected a string, or None where there is none."
        )
    return label


def labels_of(
    features: Features,
    mapping: Grouping,
    ready: Ready,
    what: str,
    read: Callable[[str, Any], Any] = _word,
) -> dict[str, dict[str, Any]]:
    """Per feature key, the label of each code that has one; ``what`` is for errors."""
    if isinstance(mapping, str):
        _known(mapping, ready, what)
        mapping = {_only_feature(features, mapping, what): mapping}
    words = {key: codes_of(key, record) for key, record in features.items()}
    if isinstance(mapping, Mapping) and _is_per_feature(mapping, words, ready):
        check_keys(f"the {what} names", mapping, features)
        parts = {key: (value, words[key]) for key, value in mapping.items()}
    else:
        parts = {key: (mapping, codes) for key, codes in words.items()}
    found = {key: _labelled(*part, ready, what) for key, part in parts.items()}
    return {
        key: {c: read(c, label) for c, label in labels.items() if label is not None}
        for key, labels in found.items()
    }


def _is_per_feature(
    mapping: Mapping[str, object], words: Mapping[str, Sequence[str]], ready: Ready
) -> bool:
    """Whether the keys of a mapping are features rather than codes.

    They are where a value is itself a labeller; strings that could be either are one
    where they are names of ready labellers, or their keys features and no codes.
    """
    if any(isinstance(value, Mapping) or callable(value) for value in mapping.values()):
        return True
    if not mapping or not all(isinstance(value, str) for value in mapping.values()):
        return False
    if all(value in ready for value in mapping.values()):
        return True
    codes = {code for codes in words.values() for code in codes}
    return all(key in words and key not in codes for key in mapping)


def _labelled(
    mapping: object, codes: Sequence[str], ready: Ready, what: str
) -> Mapping[str, Any]:
    """The label of each code, None where it has none."""
    if isinstance(mapping, str):
        _known(mapping, ready, what)
        known = ready[mapping](codes)
        if codes and not known:
            caution(
                f"the {what} {mapping!r} knows none of the {len(codes)} codes, such as "
                f"{codes[-1]!r}."
            )
        return known
    if isinstance(mapping, Mapping):
        return {code: mapping.get(code) for code in codes}
    if callable(mapping):
        return {code: mapping(code) for code in codes}
    known_words = f", or one of {', '.join(map(repr, ready))}" if ready else ""
    raise TypeError(
        f"a {what} is a mapping, or a function of a code{known_words}; got "
        f"{type(mapping).__name__}."
    )


def _known(name: str, ready: Ready, what: str) -> None:
    if name not in ready:
        raise ValueError(
            f"there is no ready {what} {name!r}; there are "
            f"{', '.join(map(repr, ready))}. Or give a mapping or a function."
        )


def _only_feature(features: Features, name: str, what: str) -> str:
    """The feature that a ready labeller is meant for, where there is no doubt.

    The same string may be a diagnosis, a procedure and a drug in different systems.
    """
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
