"""What steers a model: flags that are attributed, structure that is kept.

Which *positions* exist (tokens, time steps) belongs to the patient. Half of PyHealth's
models derive them from whole rows of embeddings or values
(``x.abs().sum(-1) != 0``), and a reference of zeros would otherwise have none at all,
and often divide by their number. There, and there alone, the input's answer is kept
for the reference, as it is for indices, lengths and branches in Python, which cannot
be multiplied. A comparison of single values is a flag (:mod:`.rules.flags`): the
reference has its own answer, and the difference is attributed.

How many places there are is known at once on the CPU; on other devices it stays a
tensor, which nobody has to wait for before the passes are done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .declarations import Entry, Kind, label
from .recording import compiled, written_down

#: Numbers that ask whether there is anything at all, when a row's sum is compared.
NEARLY_NOTHING = 1e-6


class Answer(NamedTuple):
    """What a structural call gives the model at the reference.

    And at how many places that is the reference's own, which is not the input's, or
    the input's, which is not its own.
    """

    value: Any
    crossed: int | Tensor = 0
    kept: int | Tensor = 0


class Kept(NamedTuple):
    """The input's flags, for an argument in whose place no numbers can stand."""

    tensor: Tensor


def answer(
    call: Any, theirs: Any, ours: Any, find_absent: Callable[[], Tensor | None]
) -> Answer:
    """What a structural call answers at the reference: theirs, or the input's, ours.

    For questions about rows, ``find_absent`` gives which of them are 0 on one side.
    """
    flag = isinstance(theirs, Tensor) and not theirs.is_floating_point()
    if not flag or call.entry.rule is None:
        return Answer(ours, 0, different(theirs, ours))
    if theirs.shape != ours.shape:
        return Answer(ours, 0, 1)
    if on_cpu(theirs) and not compiled() and torch.equal(theirs, ours):
        return Answer(ours)
    differs, absent = theirs != ours, find_absent()
    if absent is None:
        return Answer(theirs, _known(differs.sum()))
    kept = differs & absent
    crossed = differs ^ kept
    value = torch.where(kept, ours, theirs)
    return Answer(value, _known(crossed.sum()), _known(kept.sum()))


def asks_for_rows(entry: Entry, function: Any, args: Any, kwargs: Any) -> Any:
    """Whether a call asks of whole rows of a larger tensor if there is anything.

    That is a sum, norm or maximum over the last dimension of at least three, of values
    or of their comparisons with 0, that is compared with 0; or whether any of a row's
    values is not 0, or all are.
    """
    name = label(function)
    if name in ("any", "all"):
        source: Any = getattr(args[0].grad_fn, "call", None)
        flag = source is not None and source.entry.kind is Kind.FLAG
        none = flag and "equality" in source.entry.tags
        asked = over_rows(args, kwargs) and none is (name == "all")
        return asked and _of_rows(args[0], reduced=True) and (source or True)
    compared = compared_with_nothing(entry, args, kwargs)
    return compared is not None and _of_rows(compared)


def compared_with_nothing(entry: Entry, args: Any, kwargs: Any) -> Tensor | None:
    """What a call compares with 0, if it does."""
    if "casts" in entry.tags and any(
        a is torch.bool for a in (*args, *kwargs.values())
    ):
        return args[0] if isinstance(args[0], Tensor) else None
    if "compares" not in entry.tags:
        return None
    first, second = (*args, 0)[:2]
    if isinstance(second, Tensor):
        first, second = second, first
    nothing = isinstance(second, (int, float)) and abs(second) <= NEARLY_NOTHING
    return first if nothing and isinstance(first, Tensor) else None


def _of_rows(tensor: Tensor, reduced: bool = False) -> bool:
    """Whether autograd's graph says that each number stands for a row of values."""
    node: Any = tensor.grad_fn
    for _ in range(8):
        call = getattr(node, "call", None)
        if call is not None and call.entry.kind is Kind.FLAG and not reduced:
            reduced = over_rows(call.args, call.kwargs)
        elif call is not None and call.entry.kind is Kind.FLAG:
            of = compared_with_nothing(call.entry, call.args, call.kwargs)
            source = getattr(getattr(of, "grad_fn", None), "call", None)
            plain = source is None or source.entry.kind is not Kind.FLAG
            return of is not None and plain
        elif call is not None and "reduces" in call.entry.tags:
            reduced = over_rows(call.args, call.kwargs)
        elif call is None and hasattr(node, "_saved_self_sym_sizes"):
            size, dims = len(node._saved_self_sym_sizes), getattr(node, "_saved_dim", 0)
            reduced = reduced or (isinstance(dims, tuple) and _is_last(dims, size))
        following = [n for n, _ in getattr(node, "next_functions", ()) if n is not None]
        if len(following) != 1:
            break
        node = following[0]
    return reduced


def over_rows(args: Any, kwargs: Any) -> bool:
    """Whether a call reduces the last dimension of at least three, and no other."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
    dims = dim if isinstance(dim, (tuple, list)) else (dim,)
    size = args[0].dim() if args else 0
    return _is_last(dims, size)


def _is_last(dims: Sequence[Any], size: int) -> bool:
    """Whether it is the last of three at least, as autograd or a caller writes it."""
    return size > 2 and len(dims) == 1 and dims[0] in (-1, size - 1, 2**64 - 1)


def empty_rows(tensor: Tensor) -> Tensor:
    """Of which rows of the last dimension all is 0."""
    return (tensor == 0).all(-1)


def different(a: Any, b: Any) -> int | Tensor:
    """At how many places two values differ; 1 where their shapes do."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _known((a != b).sum()) if a.shape == b.shape else 1
    return int(type(a) is not type(b) or not np.array_equal(a, b))


def _known(number: Tensor) -> int | Tensor:
    return int(number) if on_cpu(number) and not written_down() else number


def on_cpu(tensor: Tensor) -> bool:
    """Whether its values can be read without waiting for a device."""
    return tensor.device.type == "cpu"
