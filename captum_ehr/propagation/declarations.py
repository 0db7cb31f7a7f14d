"""What a rule says of itself: which torch functions it serves, and what it needs.

A declaration is a value and stands beside the formula (:mod:`.rules`)::

    @rule("log_softmax", keeps="operands")
    def log_softmax(y, x, dim): ...

    SOFTSIGN = rule("softsign", elementwise(lambda x: (1 + x.abs()) ** -2))
    SHAPES = linear("view reshape permute")

Nothing is registered by it: :func:`.registry.default_table` collects them. A name
stands for every torch function that has it (``torch.relu``, ``Tensor.relu``,
``F.relu`` …), and for the one that does the same in place (``relu_``); a torch that
lacks it has nothing to serve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .pairs import Rule


class Kind(Enum):
    """How the passes treat a call with an attributed operand."""

    NEUTRAL = auto()  #: a query about a tensor, or the making of a new one
    NATIVE = auto()  #: linear: autograd's own gradient
    OVERWRITE = auto()  #: native, but changes its first argument in place
    RULE = auto()  #: the entry's rule gives the multiplier
    PRODUCT = auto()  #: a rule when two operands are attributed, else native
    QUOTIENT = auto()  #: a rule when the divisor is attributed, else native
    EXPAND = auto()  #: run as the entry's Python function, call by call
    STRUCTURE = auto()  #: steers the computation; kept, or a flag if it has a rule
    FLAG = auto()  #: a structural call whose rule gives its share of the change
    CAST = auto()  #: native if its result is floating point, else structure
    IGNORE = auto()  #: no_grad, hooks on gradients: has no part in the values
    IDENTITY = auto()  #: detach and the like: passes on what it gets


class Entry(NamedTuple):
    """How one function is treated.

    Args:
        kind: How the call is treated.
        rule: The rule, or for EXPAND the function to run instead.
        inplace: The out-of-place function, for calls that overwrite their first
            argument.
        random: Whether it draws from torch's generators.
        output: Whether the rule reads the values of the result.
        tags: What else is known of it; see :data:`TAGS`.
        whole: For EXPAND, given a call's attributed tensors and its arguments, the rule
            for it as one operation, which reads the operands' values alone; or None.
    """

    kind: Kind
    rule: Callable[..., Any] | None = None
    inplace: Callable[..., Any] | None = None
    random: bool = False
    output: bool = True
    tags: frozenset[str] = frozenset()
    whole: Callable[..., Rule | None] | None = None

    @property
    def name(self) -> str:
        """The rule's name, for the diagnostics."""
        return getattr(self.rule, "__name__", self.kind.name.lower())


#: What else a declaration may say of its functions.
TAGS = {
    "casts": "makes the same of another dtype or device",
    "compares": "compares with a number, so it may ask whether there is anything",
    "equality": "a comparison that says there is nothing",
    "reduces": "makes one number of a row, as sums and means do without a rule",
    "several": "takes several values, not one value with indices or sizes",
    "indices first": "its first argument is indices",
    "arithmetic": "has another meaning for booleans and small whole numbers",
    "sum": "is 'or' for booleans",
}


@dataclass(frozen=True)
class Declaration:
    """What a rule says of itself, as :func:`rule` is told."""

    names: tuple[Any, ...]
    entry: Entry
    make: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
    twins: bool = True

    def __call__[T: Callable[..., Any]](self, function: T) -> T:
        """As a decorator: the function's own; it comes back as it was."""
        rule = function if self.make is None else self.make(function)
        entry = self.entry._replace(rule=rule)
        function.__dict__["declaration"] = replace(self, entry=entry, make=None)
        return function


def rule(
    names: Any,
    using: Callable[..., Any] | None = None,
    *,
    make: Callable[[Any], Callable[..., Any]] | None = None,
    kind: Kind = Kind.RULE,
    keeps: str = "both",
    random: bool = False,
    tags: str = "",
    twins: bool = True,
    whole: Callable[..., Rule | None] | None = None,
) -> Declaration:
    """A rule for some functions; without ``using``, a decorator of the rule.

    Args:
        names: Of torch functions, with spaces between, or one function. ``.T`` is the
            getter of a tensor's attribute, ``.data=`` its setter.
        using: The rule.
        make: Gives the rule of what is decorated, or else of each name's function.
        kind: How the passes treat these functions.
        keeps: ``"operands"`` if the rule reads the operands' values alone, so that
            the call's result need not be kept; else ``"both"``.
        random: Whether they draw from torch's generators.
        tags: Of :data:`TAGS`, with commas between.
        twins: Whether it serves the functions that do the same in place, too.
        whole: Of what is run as others, the rule for calls that need not be.
    """
    labels = frozenset(filter(None, tags.split(", ")))
    assert keeps in ("both", "operands") and labels <= TAGS.keys()
    entry = Entry(kind, using, None, random, keeps == "both", labels, whole)
    listed = tuple(names.split()) if isinstance(names, str) else (names,)
    return Declaration(listed, entry, make, twins)


#: Linear in what is attributed, or independent of it: autograd's gradient is the
#: multiplier.
linear = partial(rule, kind=Kind.NATIVE)

#: Results that steer the computation instead of flowing through it: booleans, indices,
#: Python numbers. The input's own are kept for the reference.
structure = partial(rule, kind=Kind.STRUCTURE, twins=False)

#: The same with a rule for the change of the answer.
flag = structure

#: Queries about a tensor, and the making of new ones.
neutral = partial(rule, kind=Kind.NEUTRAL, twins=False)

#: A function that is a few others one after the other, and is run as these.
composite = partial(rule, kind=Kind.EXPAND)


def homes() -> tuple[Any, ...]:
    """Where torch keeps the functions that a name may stand for."""
    return (
        *(torch, torch.Tensor, F, torch.special, torch.linalg, torch.sparse, torch.fft),
        *(torch._C._nn, getattr(torch._C, "_linalg", torch.linalg)),
        *(torch._C._VariableFunctions, torch.nn.init),
    )


def named(name: str) -> Iterator[Callable[..., Any]]:
    """Every torch function of this name.

    Example:
        >>> torch.nn.functional.gelu in list(named("gelu"))
        True
        >>> [label(getter) for getter in named(".T")]
        ['T']
    """
    if name.startswith("."):
        attribute = getattr(torch.Tensor, name.strip(".="), None)
        access = getattr(attribute, "__set__" if name[-1] == "=" else "__get__", None)
        yield from () if access is None else (access,)
        return
    for home in homes():
        function = getattr(home, name, None)
        if callable(function):
            yield function


def overwrites(name: str) -> bool:
    """Whether a tensor method of this name writes on its tensor."""
    if name in ("__setitem__", "__iadd__", "__isub__"):
        return True
    return name.endswith(("_", "=")) and not name.startswith("_")


def label(function: Callable[..., Any]) -> str:
    """A name for people: ``"softmax"`` for ``torch.softmax`` and ``F.softmax``."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, nn.Module):
        return type(owner).__name__
    name = getattr(function, "__name__", type(function).__name__)
    if name == "__get__":
        name = getattr(owner, "__name__", name)
    return str(name).removesuffix("_scan")
