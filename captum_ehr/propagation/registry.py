"""The table of rules: which torch function or module type is served by which rule.

A table is a plain mapping made anew for every explainer that adds rules; nothing
here is global state.
"""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .operations import (
    CASTS,
    IDENTITIES,
    LINEAR,
    LINEAR_PROPERTIES,
    MULTILINEAR,
    RANDOM,
    SOMETIMES_MULTILINEAR,
    STRUCTURAL,
    label,
    named,
    overwrites,
    properties,
)
from .operations import (
    NEUTRAL as NEUTRAL_NAMES,
)
from .pairs import Rule
from .rules import (
    cumulative,
    extrema,
    flags,
    normalization,
    norms,
    products,
    recurrent,
)
from .rules import elementwise as unary
from .rules import softmax as soft
from .rules.attention import multi_head_attention, scaled_dot_product_attention
from .rules.composites import COMPOSITES
from .rules.handlers import captum_handler, is_captum_handler
from .rules.integral import multilinear, multilinear_if


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
    """One line of the table.

    Args:
        kind: How the call is treated.
        rule: The rule, or for EXPAND the function to run instead.
        inplace: The out-of-place function, for calls that overwrite their first
            argument.
        random: Whether it draws from torch's generators.
        output: Whether the rule reads the values of the result.
    """

    kind: Kind
    rule: Callable[..., Any] | None = None
    inplace: Callable[..., Any] | None = None
    random: bool = False
    output: bool = True

    @property
    def name(self) -> str:
        """The rule's name, for the diagnostics."""
        return getattr(self.rule, "__name__", self.kind.name.lower())


#: From torch function, or nn.Module type, to its entry.
type Table = Mapping[Any, Entry]

NATIVE = Entry(Kind.NATIVE)
NEUTRAL = Entry(Kind.NEUTRAL)
CAST = Entry(Kind.CAST, flags.step)


@cache
def default_table() -> Table:
    """The rules that captum_ehr brings, read-only.

    Example:
        >>> default_table()[torch.softmax].name
        'softmax'
    """
    table: dict[Any, Entry] = {
        getter: NATIVE if label(getter) in LINEAR_PROPERTIES else NEUTRAL
        for getter in properties()
    }
    for names, entry in (
        (NEUTRAL_NAMES, NEUTRAL),
        (LINEAR, NATIVE),
        (STRUCTURAL, Entry(Kind.STRUCTURE)),
        (CASTS, CAST),
        (IDENTITIES, Entry(Kind.IDENTITY)),
    ):
        for name in names:
            table.update((function, entry) for function in named(name))
    for name in dir(torch.Tensor):
        function = getattr(torch.Tensor, name)
        if overwrites(name) and table.get(function) is NATIVE:
            table[function] = Entry(Kind.OVERWRITE)
    for name in RANDOM:
        for function in named(name):
            native = Entry(Kind.OVERWRITE) if overwrites(name) else CAST
            known = table.get(function, native)
            known = native if known in (NATIVE, NEUTRAL) else known
            table[function] = known._replace(random=True)
    table[torch._C._set_grad_enabled] = Entry(Kind.IGNORE)
    table[torch.Tensor.register_hook] = Entry(Kind.IGNORE, _no_hook)
    table[torch.Tensor.retain_grad] = Entry(Kind.IGNORE)
    table[torch.Tensor.requires_grad_] = Entry(Kind.IGNORE, _set_requires_grad)
    setter = torch.Tensor.requires_grad.__set__  # type: ignore[attr-defined]
    table[setter] = Entry(Kind.IGNORE, _set_requires_grad)
    table[torch.Tensor.data.__set__] = Entry(Kind.OVERWRITE)  # type: ignore[attr-defined]
    table[torch.Tensor.data.__get__] = Entry(Kind.IDENTITY)  # type: ignore[attr-defined]
    for name in MULTILINEAR:
        _add(table, name, Entry(Kind.PRODUCT, multilinear(next(named(name)))))
    # torch.cross takes the first dimension of three by default, this one the last
    cross = torch.linalg.cross
    table[cross] = Entry(Kind.PRODUCT, multilinear(cross))
    for name, rule, output in (*_rules(), *_operand_rules()):
        kind = table.get(next(named(name), None), NATIVE).kind
        kind = Kind.PRODUCT if kind is Kind.PRODUCT else Kind.RULE
        kind = Kind.QUOTIENT if rule is products.quotient else kind
        _add(table, name, Entry(kind, rule, output=output))
    for name, rule in _flag_rules():
        for function in named(name):
            table[function] = Entry(Kind.STRUCTURE, rule)
    for name, function in COMPOSITES:
        _add(table, name, Entry(Kind.EXPAND, function))
    table.update(_sometimes_multilinear())
    table.update(_in_torchs_order())
    table.update(_recurrent())
    table[F.multi_head_attention_forward] = Entry(Kind.EXPAND, multi_head_attention)
    table[F.scaled_dot_product_attention] = Entry(
        Kind.EXPAND, scaled_dot_product_attention
    )
    return types.MappingProxyType(table)


def with_rules(rules: Mapping[Any, Rule] | None, table: Table | None = None) -> Table:
    """A table with a user's rules on top.

    Args:
        rules: From torch function or ``nn.Module`` type to rule; handlers of module
            types may also have the signature of Captum's DeepLift.
        table: The table to extend; captum_ehr's own by default.

    Raises:
        TypeError: If a key is neither a function nor a module type, or a rule is
            not callable.
    """
    table = default_table() if table is None else table
    if not rules:
        return table
    if isinstance(table, types.MappingProxyType):
        extended = table.copy()  # ten times as fast as dict(table)
    else:
        extended = dict(table)
    for key, rule in rules.items():
        if not callable(key) or not callable(rule):
            raise TypeError(
                "rules maps torch functions or nn.Module types to rules; got "
                f"{key!r}: {rule!r}. See captum_ehr.propagation.elementwise."
            )
        rule = captum_handler(rule) if is_captum_handler(rule) else rule
        extended[key] = Entry(Kind.RULE, rule)
    return types.MappingProxyType(extended)


def module_types(table: Mapping[Any, Any]) -> tuple[type[nn.Module], ...]:
    """The nn.Module types that a table, or rules, treat as one operation."""
    return tuple(
        key for key in table if isinstance(key, type) and issubclass(key, nn.Module)
    )


def _rules() -> list[tuple[str, Rule, bool]]:
    """Names and rules of what has a closed form that reads the result too."""
    found = [
        (name, unary.secant_rule(secant))
        for secant, names in unary.SECANTS
        for name in names
    ]
    found += [(name, unary.elementwise(f)) for name, f in unary.DERIVATIVES]
    found += [
        (name, rule)
        for rule, names in (
            (products.quotient, "div divide true_divide __truediv__ __itruediv__"),
            (products.reversed_quotient, "__rdiv__ __rtruediv__"),
            (products.power, "pow __pow__ __ipow__ float_power"),
            (products.reversed_power, "__rpow__"),
            (extrema.amax, "amax"),
            (extrema.amin, "amin"),
            (extrema.maximum, "max maximum"),
            (extrema.minimum, "min minimum"),
            (extrema.cummax, "cummax"),
            (extrema.cummin, "cummin"),
            (extrema.sort, "sort"),
            (extrema.topk, "topk"),
            (extrema.median, "median"),
            (extrema.kthvalue, "kthvalue"),
        )
        for name in names.split()
    ]
    found += [(name, extrema.max_pool(pool)) for name, pool in extrema.POOLS]
    return [(name, rule, True) for name, rule in found]


def _operand_rules() -> list[tuple[str, Rule, bool]]:
    """Those that read the operands alone; what the call gave need not be kept."""
    found = [(name, unary.late_rule(secant)) for secant, name in unary.LATE]
    found += [
        (name, rule)
        for rule, names in (
            (unary.modulus, "abs absolute __abs__ fabs"),
            (products.product, "mul multiply __mul__ __rmul__ __imul__"),
            (products.matrix_product, "matmul mm bmm mv dot vdot __matmul__"),
            (norms.vector_norm, "linalg_vector_norm vector_norm"),
            (norms.var, "var"),
            (norms.std, "std"),
            (norms.var_mean, "var_mean"),
            (norms.std_mean, "std_mean"),
            (norms.hypot, "hypot"),
            (cumulative.prod, "prod"),
            (cumulative.cumprod, "cumprod"),
            (cumulative.logcumsumexp, "logcumsumexp"),
            (soft.softmax, "softmax"),
            (soft.log_softmax, "log_softmax"),
            (soft.logsumexp, "logsumexp"),
            (unary.of_one(normalization.layer_norm), "layer_norm"),
            (unary.of_one(normalization.rms_norm), "rms_norm"),
            (unary.of_one(normalization.group_norm), "group_norm"),
            (unary.of_one(normalization.batch_norm), "batch_norm"),
            (unary.of_one(normalization.instance_norm), "instance_norm"),
        )
        for name in names.split()
    ]
    return [(name, rule, False) for name, rule in found]


def _flag_rules() -> list[tuple[str, Rule]]:
    """Structural calls whose answers are numbers that can be shared out."""
    return [
        (name, rule)
        for rule, names in (
            (
                flags.step,
                "eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ not_equal"
                " less less_equal greater greater_equal bool int long short byte char"
                " signbit",
            ),
            (flags.conjunction, "logical_and bitwise_and __and__ __rand__"),
            (flags.disjunction, "logical_or bitwise_or __or__ __ror__"),
            (flags.difference, "logical_xor bitwise_xor __xor__ __rxor__"),
            (flags.negation, "logical_not bitwise_not __invert__"),
            (flags.reduction, "any all"),
            (flags.count, "count_nonzero"),
        )
        for name in names.split()
    ]


def _no_hook(*_: Any) -> RemovableHandle:
    """Hooks on gradients are not meant for multipliers."""
    return RemovableHandle(OrderedDict())


def _set_requires_grad(tensor: Tensor, requires_grad: bool = True) -> Tensor:
    """What is attributed has its place in the graph, whatever the model says."""
    return tensor.requires_grad_(requires_grad) if tensor.is_leaf else tensor


def _add(table: dict[Any, Entry], name: str, entry: Entry) -> None:
    """The entry for every function of this name, and for its in-place form."""
    for function in named(name):
        table[function] = entry
        if name in ("__imul__", "__itruediv__", "__ipow__"):
            plain = getattr(torch.Tensor, name.replace("__i", "__"))
            table[function] = entry._replace(inplace=plain)
    for function in named(name + "_"):
        plain = next(named(name))
        for home in (torch, torch.Tensor, F):
            if getattr(home, name + "_", None) is function:
                plain = getattr(home, name, plain)
        table[function] = entry._replace(inplace=plain)


def _sometimes_multilinear() -> dict[Any, Entry]:
    """Functions that an option makes linear in each operand, or something else."""
    table: dict[Any, Entry] = {}
    for name, option, values in SOMETIMES_MULTILINEAR:
        for function in named(name):
            table[function] = Entry(Kind.RULE, multilinear_if(function, option, values))
        for function in named(name + "_"):
            plain = getattr(torch.Tensor, name)
            rule = multilinear_if(plain, option, values)
            table[function] = Entry(Kind.RULE, rule, inplace=plain)
    return table


def _in_torchs_order() -> dict[Any, Entry]:
    """Functions that take other arguments than F's of the same name."""
    table: dict[Any, Entry] = {
        torch.embedding_bag: Entry(Kind.RULE)
    }  # its modes are numbers
    for function, rule in (
        (torch.batch_norm, normalization.batch_norm),
        (torch.instance_norm, normalization.instance_norm),
    ):
        reordered = unary.of_one(normalization.weights_first(rule))
        table[function] = Entry(Kind.RULE, reordered, output=False)
    return table


def _recurrent() -> dict[Any, Entry]:
    """Recurrent layers and cells, unrolled into scans that have rules."""
    table: dict[Any, Entry] = {}
    for name, scan, rule in (
        ("gru", recurrent.gru_scan, recurrent.gru_halved),
        ("lstm", recurrent.lstm_scan, recurrent.lstm_halved),
        ("rnn_tanh", recurrent.rnn_tanh_scan, recurrent.rnn_tanh_halved),
        ("rnn_relu", recurrent.rnn_relu_scan, recurrent.rnn_relu_halved),
    ):
        layers = partial(recurrent.layers, scan)
        step = partial(recurrent.one_step, scan)
        table[scan] = Entry(Kind.RULE, rule)
        table[getattr(torch, name)] = Entry(Kind.EXPAND, layers)
        table[getattr(torch, name + "_cell")] = Entry(Kind.EXPAND, step)
    return table
