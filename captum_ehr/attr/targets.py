"""Which output of the model is explained, on which scale, for each patient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..adapter import PyHealthAdapter
from ..explanation import FeatureKeyError


class Chosen(NamedTuple):
    """Where the values stand that :func:`select` has found; a target like others."""

    places: Tensor


#: An index, a label, a tuple of indices, or one of these per patient; None is the
#: predicted class.
type Target = None | int | str | tuple[int, ...] | Sequence[Any] | Tensor | Chosen

#: One index per output dimension after the batch.
type Index = tuple[int, ...]


def select(
    output: Tensor, target: Target, labels: Mapping[Any, int] | None = None
) -> tuple[Tensor, Tensor]:
    """The explained value of each patient, and where it stands in the output.

    Returns:
        ``(batch,)``, and integers of shape ``(batch, dimensions of the output - 1)``.

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


def select_again(output: Tensor, index: Tensor) -> Tensor:
    """The values that stand in another output where :func:`select` found the first."""
    rows = output.shape[0]
    if math.prod(output.shape[1:]) == 1:
        return output.reshape(rows)
    return output[(torch.arange(rows, device=output.device), *index.unbind(1))]


def indices(index: Tensor) -> tuple[int | Index, ...]:
    """Where each patient's value stands, as people write it.

    Example:
        >>> indices(torch.tensor([[1], [0]])), indices(torch.tensor([[1, 0]]))
        ((1, 0), ((1, 0),))
    """
    if index.shape[1] == 1:
        return tuple(index[:, 0].tolist())
    return tuple(map(tuple, index.tolist()))


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
        f"target={target} is taken as an index, that of the label {names[target]!r}; "
        f"the label {target} is target='{target}'"
        for target in targets
        if _whole(target)
        and words.get(str(target), target) != target
        and target in names
    }
    return "; ".join(sorted(said))


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
    index = [_index(wanted, shape, labels) for wanted in each]
    known = torch.tensor(index, dtype=torch.long, device=output.device)
    return known.view(len(index), len(shape)).expand(output.shape[0], -1)


def _index(target: Any, shape: Sequence[int], labels: Mapping[Any, int]) -> Index:
    """One patient's target as a tuple of non-negative indices."""
    single = len(shape) == 1 and shape[0] == 1
    if isinstance(target, (Tensor, np.ndarray, np.generic)):
        target = target.tolist()
    if isinstance(target, list) and len(target) == 1:
        target = target[0]  # of a column
    if isinstance(target, (str, bool)):
        target = _labelled(target, labels)
        if single and target == 0:
            raise ValueError(
                f"The model has one logit, for the label {_positive(labels)!r}; explain"
                " that one and read the signs the other way round."
            )
    if single and _whole(target) and target == 1 and len(labels) == 2:
        target = 0  # the positive label of a binary dataset is its only logit
    indices = target if isinstance(target, (tuple, list)) else (target,)
    if not shape and all(_whole(i) and i == 0 for i in indices) and indices:
        return ()
    if len(indices) != len(shape) or not all(_whole(i) for i in indices):
        raise ValueError(
            f"target {target!r} does not fit an output of shape (batch, "
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


def _labelled(target: Any, labels: Mapping[Any, int]) -> int:
    """The index of a label, or of what a label is written like."""
    alike = [labels[target]] if target in labels else []
    alike = alike or [k for label, k in labels.items() if str(label) == str(target)]
    if len(alike) == 1:
        return alike[0]
    if not isinstance(target, str):  # no label, but the index of two classes
        return int(target)
    raise FeatureKeyError(
        f"target {target!r} is no label of the dataset; the labels are {list(labels)}."
    )


def _by_name(index: Any, labels: Mapping[Any, int]) -> str:
    return f"; the label is target='{index}'" if str(index) in map(str, labels) else ""


def _whole(value: Any) -> bool:
    """Whether something is an index: also NumPy's, and a float that is one."""
    if isinstance(value, bool):
        return False
    return isinstance(value, Integral) or (
        isinstance(value, float) and value.is_integer()
    )


def _positive(labels: Mapping[Any, int]) -> Any:
    return next((label for label, index in labels.items() if index == 1), True)


def scored(
    model: nn.Module, forward: Callable[..., Tensor], output: str
) -> Callable[..., Tensor]:
    """The forward of a model (or a view of it), on the scale asked for."""
    if not isinstance(model, PyHealthAdapter) or output == model.scale:
        return forward
    mode = model.mode

    def logit(*args: Tensor) -> Tensor:
        return torch.logit(forward(*args))

    def probability(*args: Tensor) -> Tensor:
        score = forward(*args)
        if mode == "multiclass":
            return torch.softmax(score, dim=-1)
        return score if mode == "regression" else torch.sigmoid(score)

    return logit if output == "logit" else probability


def rounded_at(model: nn.Module, output: str, *values: Tensor) -> Tensor | None:
    """``(batch,)``: how coarse logits are that are worked out of probabilities.

    The last digit of a probability p is one of 1/(1 - p) in its logit; None where the
    values are what the model has rounded.
    """
    if output != "logit" or getattr(model, "scale", "logit") == "logit":
        return None
    return torch.stack([1 + value.exp() for value in values]).sum(0)


def per_patient_output(forward: Callable[..., Any], name: str) -> Callable[..., Tensor]:
    """A forward whose output is one tensor with the patients first, or an error."""

    def rows(*args: Any) -> Tensor:
        output = forward(*args)
        with torch._C.DisableTorchFunction():  # no part of the model
            return _per_patient(_tensor(output, name), args[0].shape[0], name)

    return rows


def _tensor(output: Any, name: str) -> Tensor:
    """The one tensor of a model's output."""
    tensors = [output] if isinstance(output, Tensor) else list(_tensors(output))
    if len(tensors) != 1:
        what = type(output).__name__
        if isinstance(output, Mapping):
            what += f" with {', '.join(map(repr, output))}"
        raise TypeError(
            f"{name} returned {'several tensors' if tensors else 'no tensor'}: {what}; "
            "one tensor of scores is explained. Give a module whose forward returns "
            "that one, e.g. forward(self, *x): return self.model(*x).logits."
        )
    if not tensors[0].is_floating_point():
        raise TypeError(
            f"{name} returned a tensor of {tensors[0].dtype}; only real-valued scores "
            "can be explained, not classes or flags."
        )
    return tensors[0]


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple, Mapping)):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(part)


def _per_patient(output: Tensor, patients: int, name: str) -> Tensor:
    """The output with a row per patient, also where one patient's was squeezed."""
    shape = tuple(output.shape)
    if patients == 1 and (not shape or shape[0] != 1):
        output = output.unsqueeze(0)
    elif not shape:
        raise ValueError(f"{name} returned one number for the batch, not one each.")
    elif shape[0] != patients:
        raise ValueError(
            f"{name} returned an output of shape {shape} for {patients} patients: the "
            "first dimension of inputs and output is the batch. If the model takes "
            "another dimension first (sequences, nodes), give a module that transposes."
        )
    if output.numel() == 0:
        raise ValueError(f"{name} returned an output of shape {shape}: it is empty.")
    return output
