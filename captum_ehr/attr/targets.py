"""Which output of the model is explained for each patient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..adapter import PyHealthAdapter
from ..explanation.explained import Contrast, Explained, Place
from .classes import (
    ALL,
    Label,
    alike,
    contrast,
    is_all,
    labelled,
    named,
    plain,
    refuse_doubt,
    whole,
    written,
)
from .outputs import select_again


class Chosen(NamedTuple):
    """Where the values stand that :func:`select` has found; a target like others."""

    places: Tensor


#: An index, a label, a contrast of two of them (also as a tuple of two), a tuple of
#: indices for outputs of more dimensions, or one of these per patient; None is the
#: predicted class, ``"all"`` every output.
type Target = (
    None
    | int
    | str
    | np.generic
    | Label
    | Contrast
    | tuple[Any, ...]
    | Sequence[Any]
    | Tensor
    | Chosen
)

#: One per patient, the predicted classes, where they are, or every output.
type Targets = list[Any] | Chosen | Literal["all"] | None

#: One index per output dimension after the batch.
type Index = tuple[int, ...]


def labels_of(model: nn.Module) -> Mapping[Any, int]:
    """The label vocabulary of a PyHealth model; ``labels`` of others are their own."""
    return model.labels if isinstance(model, PyHealthAdapter) else {}


def asked_of(target: Target, size: int, labels: Mapping[Any, int]) -> Targets:
    """What is asked of so many patients, in the form in which it is cut in slices."""
    if target is None or isinstance(target, Chosen):
        return target
    if not is_all(target):
        return per_patient(target, size)
    if ALL in labels:
        raise ValueError(
            "target='all' is every output, and a label of the dataset: say "
            "label('all') for the class of that label."
        )
    return ALL


def part_of(targets: Targets, start: int, step: int) -> Targets:
    """The targets of some of the patients."""
    some = slice(start, start + step)
    if isinstance(targets, Chosen):
        return Chosen(targets.places[some])
    return targets[some] if isinstance(targets, list) else targets


def asked[T](target: Target, each: Sequence[T]) -> T | tuple[T, ...]:
    """What was found for each output: of all of them a tuple."""
    return tuple(each) if is_all(target) else each[0]


def select(
    output: Tensor, target: Target, labels: Mapping[Any, int] | None = None
) -> tuple[Tensor, Tensor]:
    """The explained value of each patient, and where it stands in the output.

    Returns:
        ``(batch,)``, and integers of shape ``(batch, dimensions of the output - 1)``;
        of contrasts ``(batch, 2, dimensions of the output - 1)``.

    Example:
        >>> select(torch.tensor([[1.0, 3.0], [2.0, 0.0]]), None)
        (tensor([3., 2.]), tensor([[1],
                [0]]))
    """
    if output.dim() == 0:
        raise ValueError("The model returned one number for the batch, not one each.")
    if target is None:
        index = _predicted(output)
    elif isinstance(target, Chosen):
        index = target.places
    else:
        each = per_patient(target, output.shape[0])
        index = _indexed(each, output, labels or {})
    return select_again(output, index), index


def selected(
    output: Tensor, targets: Targets, labels: Mapping[Any, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same for each output that is asked for, in their order."""
    if targets != ALL:
        yield select(output, targets, labels)
        return
    for place in product(*map(range, output.shape[1:])):
        index = torch.tensor(place, dtype=torch.long, device=output.device)
        yield select(output, Chosen(index.expand(len(output), -1)))


def indices(index: Tensor) -> tuple[Explained, ...]:
    """Where each patient's value stands, as people write it.

    Example:
        >>> indices(torch.tensor([[1], [0]])), indices(torch.tensor([[1, 0]]))
        ((1, 0), ((1, 0),))
        >>> indices(torch.tensor([[[1], [0]]]))
        (Contrast(a=1, b=0),)
    """
    if index.dim() == 3:
        return tuple(Contrast(*map(_place, pair)) for pair in index.tolist())
    return tuple(map(_place, index.tolist()))


def _place(index: list[int]) -> Place:
    return index[0] if len(index) == 1 else tuple(index)


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


def chosen(
    targets: Sequence[Any], shape: Sequence[int], labels: Mapping[Any, int]
) -> Chosen:
    """Targets of a model whose output for a patient has this shape."""
    output = torch.empty(()).expand(len(targets), *shape)
    return Chosen(_indexed(targets, output, labels))


def _predicted(output: Tensor) -> Tensor:
    rows, size = output.shape[0], output.dim() - 1
    if math.prod(output.shape[1:]) == 1:
        return torch.zeros(rows, size, dtype=torch.long, device=output.device)
    if size > 1:
        raise ValueError(
            f"The output has shape {tuple(output.shape)}; give a target of "
            f"{size} indices."
        )
    return output.detach().argmax(1, keepdim=True)


def _indexed(each: Sequence[Any], output: Tensor, labels: Mapping[Any, int]) -> Tensor:
    """One target per patient as indices; the same for all is looked at once."""
    shape = tuple(output.shape[1:])
    if all(wanted is each[0] for wanted in each):
        each = each[:1]
    read = [_read(wanted, shape, labels) for wanted in each]
    ends = len(read[0])
    if any(len(places) != ends for places in read):
        raise ValueError(
            "target has contrasts for some patients and single classes for others; "
            "explain these apart."
        )
    known = torch.tensor(read, dtype=torch.long, device=output.device)
    known = known.view(len(read), ends, len(shape)).expand(output.shape[0], -1, -1)
    return known if ends == 2 else known[:, 0]


def _read(
    target: Any, shape: tuple[int, ...], labels: Mapping[Any, int]
) -> tuple[Index, ...]:
    """One patient's target as one place in the output, or the two of a contrast."""
    target = plain(target)
    if isinstance(target, tuple) and len(target) == 2 and len(shape) == 1:
        target = contrast(*target)
    if not isinstance(target, Contrast):
        return (_index(target, shape, labels),)
    if math.prod(shape) == 1:
        raise ValueError(
            f"target {written(target)} is a contrast, and the model has one output"
            + (
                f", whose logit is that of {named(1, labels)!r} rather than "
                f"{named(0, labels)!r} already"
                if len(labels) == 2
                else ", with nothing to compare it with"
            )
            + ": leave the target away."
        )
    a, b = (_index(plain(part), shape, labels) for part in (target.a, target.b))
    if a == b:
        raise ValueError(
            f"target {written(target)} is a contrast of an output with itself, which "
            "is 0 for every patient; name two."
        )
    return a, b


def _index(target: Any, shape: tuple[int, ...], labels: Mapping[Any, int]) -> Index:
    """One class as a tuple of non-negative indices."""
    single = shape == (1,)
    if isinstance(target, list) and len(target) == 1:
        target = plain(target[0])  # of a column
    if isinstance(target, float) and target.is_integer() and not alike(target, labels):
        # as label tensors have it; a binary model has no index 0 for its label 0
        two = single and len(labels) == 2
        target = bool(target) if two and target in (0, 1) else int(target)
    if isinstance(target, bool) and not labels:
        target = int(target)
    if isinstance(target, (Label, str, bool, float)):
        target = labelled(target, labels, shape)
        if single and target == 0:
            raise ValueError(
                f"The model has one logit, for the label {named(1, labels)!r}; explain"
                " that one and read the signs the other way round."
            )
    elif whole(target) and len(shape) == 1 and not single:
        refuse_doubt(target, shape[0], labels)
    if single and whole(target) and target == 1 and len(labels) == 2:
        target = 0  # the positive label of a binary dataset is its only logit
    indices = target if isinstance(target, (tuple, list)) else (target,)
    if not shape and all(whole(i) and i == 0 for i in indices) and indices:
        return ()
    if len(indices) != len(shape) or not all(map(whole, indices)):
        raise ValueError(
            f"target {target!r} does not fit an output of shape (batch, "
            f"{', '.join(map(str, shape))}): expected {len(shape)} integer(s); "
            "contrast(a, b) is one of them rather than another."
        )
    for i, size in zip(indices, shape):
        if not -size <= i < size:
            raise IndexError(
                f"target {i} is out of range: the model has {size} output(s), so it "
                f"must be {'0' if size == 1 else f'between 0 and {size - 1}'}"
                f"{f'; the label is label({i!r})' if alike(i, labels) else ''}."
            )
    return tuple(int(i) % size for i, size in zip(indices, shape))
