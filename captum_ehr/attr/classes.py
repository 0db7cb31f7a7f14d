"""A class as people name it: by its index, or by a label of the dataset."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Final

import numpy as np
from torch import Tensor

from ..explanation import FeatureKeyError
from ..explanation.explained import Contrast

#: The target that is every output, one after the other.
ALL: Final = "all"


@dataclass(frozen=True)
class Label:
    """A class by its label, where a number could be an index as well."""

    value: Hashable


def label(value: Hashable) -> Label:
    """A class by its label in the dataset, as a target.

    A number is an index, which may be another class's label: ``target=2`` is refused
    where a class is labelled 2 and has another index, ``label(2)`` is that class (and
    ``(2,)`` the index).

    Args:
        value: The label, as the dataset has it.

    Raises:
        TypeError: If it can be no label: None, or what cannot be hashed.

    Example:
        >>> label(np.int64(3)), label("sepsis")
        (Label(value=3), Label(value='sepsis'))
    """
    value = plain(value)
    if value is None or not isinstance(value, Hashable):
        raise TypeError(
            f"label({value!r}): a label is a word, a number or a truth value of the "
            "dataset's label vocabulary."
        )
    return Label(value)


def contrast(a: Any, b: Any) -> Contrast:
    """One class rather than another, as a target: f_a - f_b is explained.

    The attributions are those to ``a`` less those to ``b``, to rounding. Where outputs
    have one dimension, of classes, ``target=(a, b)`` is the same; where they have more,
    a tuple is an index, and this the contrast of two of them.

    Args:
        a: The class: an index, a label, :func:`label`; a tuple of indices where outputs
            have more dimensions.
        b: The class that it is compared with.

    Raises:
        TypeError: If one of them is no single class: None, ``"all"``, a contrast.

    Example:
        >>> import torch
        >>> from captum_ehr import DeepLiftEHR
        >>> model = torch.nn.Linear(4, 3)
        >>> x = torch.randn(2, 4)
        >>> dl = DeepLiftEHR(model)
        >>> apart = dl.attribute(x, target=2) - dl.attribute(x, target=0)
        >>> torch.allclose(dl.attribute(x, target=contrast(2, 0)), apart, atol=1e-6)
        True
    """
    for part in (a, b):
        if part is None or isinstance(part, (Contrast, list)) or is_all(part):
            raise TypeError(
                f"contrast({a!r}, {b!r}): expected two classes, each an index or a "
                f"label, got {part!r}."
            )
    return Contrast(a, b)


def is_all(target: object) -> bool:
    """Whether every output is asked for."""
    return isinstance(target, str) and target == ALL


def labelled(
    target: Label | str | bool | float,
    labels: Mapping[Any, int],
    shape: tuple[int, ...],
) -> int:
    """The index of a label, or of what a label is written like."""
    value = target.value if isinstance(target, Label) else target
    places = alike(value, labels)
    if len(places) == 1:
        return places[0]
    if isinstance(value, bool) and len(labels) == 2 and shape == (1,):
        return int(value)  # whether the outcome of a binary model comes to pass
    if isinstance(target, (bool, float)):
        raise ValueError(
            f"target {target!r} is neither an index (expected {len(shape)} integer(s)) "
            f"nor a label of the dataset, {_known(labels)}."
        )
    if is_all(target):
        raise ValueError("target='all': here one output at a time is explained.")
    what = "several labels" if places else "no label"
    raise FeatureKeyError(
        f"target {written(target)} is {what} of the dataset, {_known(labels)}."
    )


def _known(labels: Mapping[Any, int]) -> str:
    if not labels:
        return "which names none"
    return f"whose labels are {', '.join(map(repr, labels))}"


def alike(value: object, labels: Mapping[Any, int]) -> list[int]:
    """The index of a label, else those of all that are written like it.

    1 and True are not the same label but where there are 0 and 1 and nothing else.
    """
    two = {*labels} == {0, 1}
    for label, index in labels.items():
        kinds = [isinstance(v, (bool, np.bool_)) for v in (label, value)]
        if label == value and (kinds[0] == kinds[1] or two):
            return [] if isinstance(value, float) and not _real(label) else [index]
    if isinstance(value, (bool, float)):
        return []
    return [index for label, index in labels.items() if str(label) == str(value)]


def refuse_doubt(target: int, size: int, labels: Mapping[Any, int]) -> None:
    """Refuse a number that is the index of one class and another one's label."""
    places = alike(target, labels)
    if places and -size <= target < size and places != [target % size]:
        raise ValueError(
            f"target {target} is the index of the class "
            f"{named(target % size, labels)!r} and the label of another: say "
            f"label({target}) for the label, ({target},) for the index."
        )


def named(index: int, labels: Mapping[Any, int]) -> Any:
    """The label of an index; True where there are none."""
    return next((label for label, place in labels.items() if place == index), True)


def plain(value: Any) -> Any:
    """Python's own number or word of NumPy's and torch's."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return value.tolist()
    return value


def written(target: Any) -> str:
    """A target as it is given."""
    if isinstance(target, Label):
        return f"label({target.value!r})"
    if isinstance(target, Contrast):
        target = (target.a, target.b)
    if isinstance(target, tuple):
        return f"({', '.join(map(written, target))})"
    return repr(target)


def _real(value: object) -> bool:
    return isinstance(value, (float, np.floating))


def whole(value: Any) -> bool:
    """Whether something is an index: also NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def counts(value: object) -> bool:
    """Whether something is a whole number, at least 1."""
    return whole(value) and value >= 1  # type: ignore[operator]
