"""Which output of the model is explained, for each patient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..adapter import FeatureKeyError

#: An index, a label, a tuple of indices, or one of these per patient; None is the
#: predicted class.
type Target = None | int | str | tuple[int, ...] | Sequence[Any] | Tensor

#: One index per output dimension after the batch.
type Index = tuple[int, ...]


def select(
    output: Tensor, target: Target, labels: Mapping[Any, int] | None = None
) -> tuple[Tensor, list[Index]]:
    """The explained value of each patient, and where it stands in the output.

    Args:
        output: ``(batch, ...)``.
        target: See :class:`captum_ehr.DeepLiftEHR`.
        labels: The dataset's label vocabulary.

    Returns:
        ``(batch,)`` values, and one index per patient.

    Raises:
        ValueError: If there is not one target per patient, or it has not one index
            per output dimension.
        IndexError: If an index is out of range; the message names the range.
        KeyError: If a label is not in the vocabulary.

    Example:
        >>> values, index = select(torch.tensor([[1.0, 3.0], [2.0, 0.0]]), None)
        >>> values, index
        (tensor([3., 2.]), [(1,), (0,)])
    """
    if output.dim() == 0:
        raise ValueError("The model returned one number for the batch, not one each.")
    rows, shape = output.shape[0], tuple(output.shape[1:])
    if target is None:
        index = _predicted(output)
    else:
        each = per_patient(target, rows)
        index = [_index(one, shape, labels or {}) for one in each]
    if not shape:
        return output, index
    if math.prod(shape) == 1:
        return output.reshape(rows), index
    columns = [
        torch.tensor(list(column), device=output.device) for column in zip(*index)
    ]
    return output[(torch.arange(rows, device=output.device), *columns)], index


def select_again(output: Tensor, index: list[Index]) -> Tensor:
    """The values that stand in another output where :func:`select` found the first."""
    several = math.prod(output.shape[1:]) > 1
    return select(output, index if several else None)[0]


def per_patient(target: Target, rows: int) -> list[Any]:
    """One target for each of ``rows`` patients."""
    if isinstance(target, (Tensor, np.ndarray)):
        target = target.tolist()
    listed = isinstance(target, Sequence) and not isinstance(target, (str, tuple))
    if listed or hasattr(target, "to_numpy"):  # a column of a table
        each: list[Any] = list(target)  # type: ignore[arg-type]
        if len(each) == 1:
            return each * rows
        if len(each) != rows:
            raise ValueError(
                f"target has {len(each)} entries for {rows} patients; give one for "
                "all, or one for each."
            )
        return each
    return [target] * rows


def confusion(targets: Sequence[Any], labels: Mapping[Any, int]) -> str:
    """What to say of numbers that are an index of one class and another's label."""
    words = {str(label): index for label, index in labels.items()}
    names = {index: label for label, index in labels.items()}
    said = {
        f"target={one} is taken as an index, that of the label {names[one]!r}; the "
        f"label {one} is target='{one}'"
        for one in targets
        if _whole(one) and words.get(str(one), one) != one and one in names
    }
    return "; ".join(sorted(said))


def _predicted(output: Tensor) -> list[Index]:
    if output.dim() == 1:
        return [()] * output.shape[0]
    if output[0].numel() == 1:
        return [(0,) * (output.dim() - 1)] * output.shape[0]
    if output.dim() > 2:
        raise ValueError(
            f"The output has shape {tuple(output.shape)}; give a target of "
            f"{output.dim() - 1} indices."
        )
    return [(index,) for index in output.detach().argmax(1).tolist()]


def _index(one: Any, shape: Sequence[int], labels: Mapping[Any, int]) -> Index:
    """One patient's target as a tuple of non-negative indices."""
    single = len(shape) == 1 and shape[0] == 1
    if isinstance(one, (Tensor, np.ndarray, np.generic)):
        one = one.tolist()
    if isinstance(one, list) and len(one) == 1:
        one = one[0]  # of a column
    if isinstance(one, (str, bool)):
        one = _labelled(one, labels)
        if single and one == 0:
            raise ValueError(
                f"The model has one logit, for the label {_positive(labels)!r}; explain"
                " that one and read the signs the other way round."
            )
    if single and _whole(one) and one == 1 and len(labels) == 2:
        one = 0  # the positive label of a binary dataset is its only logit
    indices = one if isinstance(one, (tuple, list)) else (one,)
    if not shape and all(_whole(i) and i == 0 for i in indices) and indices:
        return ()
    if len(indices) != len(shape) or not all(_whole(i) for i in indices):
        raise ValueError(
            f"target {one!r} does not fit an output of shape (batch, "
            f"{', '.join(map(str, shape))}): expected {len(shape)} integer(s)."
        )
    for i, size in zip(indices, shape):
        if not -size <= i < size:
            raise IndexError(
                f"target {i} is out of range: the model has {size} output(s), so it "
                f"must be {'0' if size == 1 else f'between 0 and {size - 1}'}"
                f"{_by_name(i, labels)}."
            )
    return tuple(int(i) % size for i, size in zip(indices, shape))


def _labelled(one: Any, labels: Mapping[Any, int]) -> int:
    """The index of a label, or of what a label is written like."""
    found = [labels[one]] if one in labels else []
    found = found or [k for label, k in labels.items() if str(label) == str(one)]
    if len(found) == 1:
        return found[0]
    if not isinstance(one, str):  # no label, but the index of two classes
        return int(one)
    raise FeatureKeyError(
        f"target {one!r} is no label of the dataset; the labels are {list(labels)}."
    )


def _by_name(one: Any, labels: Mapping[Any, int]) -> str:
    return f"; the label is target='{one}'" if str(one) in map(str, labels) else ""


def _whole(value: Any) -> bool:
    """Whether something is an index: also NumPy's, and a float that is one."""
    if isinstance(value, bool):
        return False
    return isinstance(value, Integral) or (
        isinstance(value, float) and value.is_integer()
    )


def _positive(labels: Mapping[Any, int]) -> Any:
    return next((label for label, index in labels.items() if index == 1), True)
