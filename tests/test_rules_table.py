"""The table: what is said to be linear is, and every name means something."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calls import assert_complete, run_call, sides
from torch import Tensor

from captum_ehr.propagation import default_table, elementwise, with_rules
from captum_ehr.propagation.declarations import Kind, label, named, overwrites
from captum_ehr.propagation.registry import declarations, properties

Function = Callable[[Tensor], Any]

I2 = torch.tensor([1, 0])
ROWS = torch.tensor([[0, 1, 1], [1, 0, 0]])
BOOL = torch.tensor([[True, False, True], [False, True, True]])
ONES = torch.ones(2, 3, dtype=torch.float64)
TABLE = torch.arange(6.0, dtype=torch.float64).view(2, 3)
STATS = torch.arange(1.0, 4.0, dtype=torch.float64)

#: Arguments after the tensor, for names that need some; (2, 3) unless a shape is
#: given in SHAPES.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "view": (3, 2), "view_as": (ONES.view(3, 2),), "reshape": (6,),
    "reshape_as": (ONES.view(6),), "permute": (1, 0), "transpose": (0, 1),
    "swapaxes": (0, 1), "swapdims": (0, 1), "movedim": (0, 1), "moveaxis": (0, 1),
    "unflatten": (1, (3, 1)), "unsqueeze": (0,), "expand": (4, 2, 3),
    "expand_as": (ONES.expand(4, 2, 3),), "repeat": (2, 1), "tile": ((2, 1),),
    "repeat_interleave": (2,), "flip": (0,), "roll": (1,), "rot90": (),
    "narrow": (1, 0, 2), "select": (1, 0), "index_select": (1, I2),
    "gather": (0, ROWS), "take": (I2,), "take_along_dim": (ROWS, 0),
    "masked_select": (BOOL,), "chunk": (2, 1), "split": (2, 1),
    "split_with_sizes": ([1, 2], 1), "tensor_split": (2, 1), "hsplit": (3,),
    "vsplit": (2,), "split_copy": (2, 1), "unsafe_chunk": (2, 1),
    "unsafe_split": (2, 1), "broadcast_to": ((4, 2, 3),), "unfold": (1, 2, 1),
    "type": (torch.float64,), "type_as": (ONES,), "to": (torch.float64,),
    "cumsum": (1,), "add": (TABLE,), "sub": (TABLE,), "subtract": (TABLE,),
    "rsub": (TABLE,), "__add__": (TABLE,), "__radd__": (2.0,), "__sub__": (TABLE,),
    "__rsub__": (2.0,), "__getitem__": (0,), "masked_fill": (BOOL, 2.0),
    "masked_scatter": (BOOL, TABLE), "index_fill": (1, I2, 2.0),
    "index_add": (1, I2, ONES[:, :2]), "index_copy": (1, I2, ONES[:, :2]),
    "index_put": ((I2[:1],), TABLE[:1]), "scatter": (0, ROWS[:1], TABLE),
    "scatter_add": (0, ROWS, TABLE), "select_scatter": (ONES[0], 0, 1),
    "slice_scatter": (ONES[:1], 0, 0, 1), "diagonal_scatter": (ONES[0, :2],),
    "pad": ((1, 1), "constant", 3.0), "constant_pad_nd": ((1, 1), 3.0),
    "pixel_shuffle": (2,), "pixel_unshuffle": (2,), "avg_pool1d": (2,),
    "avg_pool2d": (2,), "avg_pool3d": (1,), "adaptive_avg_pool1d": (2,),
    "adaptive_avg_pool2d": (2,), "adaptive_avg_pool3d": (2,), "fold": ((3, 3), (2, 2)),
    "col2im": ((3, 3), (2, 2), 1, 0, 1), "im2col": ((2, 2), 1, 0, 1),
    "interpolate": (6,), "upsample": (6,), "dropout": (0.5, False),
    "dropout1d": (0.5, False), "dropout2d": (0.5, False), "dropout3d": (0.5, False),
    "feature_dropout": (0.5, False), "alpha_dropout": (0.5, False),
    "batch_norm": (STATS, STATS), "as_strided": ((3, 2), (1, 3)),
    "channel_shuffle": (2,),
    "affine_grid": ([1, 1, 2, 2], False),
    "narrow_copy": (1, 0, 2), "sum_to_size": (2, 1), "combinations": (1,),
    "unsafe_split_with_sizes": ([1, 2], 1),
}  # fmt: skip

SHAPES: dict[str, tuple[int, ...]] = {
    "pixel_shuffle": (1, 4, 2, 2), "pixel_unshuffle": (1, 1, 4, 4),
    "avg_pool2d": (1, 2, 4, 4), "avg_pool3d": (1, 2, 2, 2, 2), "avg_pool1d": (1, 2, 4),
    "adaptive_avg_pool1d": (1, 2, 4), "adaptive_avg_pool2d": (1, 2, 4, 4),
    "adaptive_avg_pool3d": (1, 2, 4, 4, 4), "fold": (1, 4, 4), "col2im": (1, 4, 4),
    "im2col": (1, 1, 3, 3), "interpolate": (1, 2, 3), "upsample": (1, 2, 3),
    "dropout1d": (1, 2, 3), "dropout2d": (1, 2, 3, 3), "dropout3d": (1, 2, 2, 2, 2),
    "feature_dropout": (1, 2, 3, 3), "squeeze": (2, 1, 3), "trace": (3, 3),
    "diag_embed": (2, 3), "dsplit": (2, 2, 2), "adjoint": (2, 2, 3),
    "_conj": (2, 3), "affine_grid": (1, 2, 3), "combinations": (4,),
    "channel_shuffle": (1, 4, 2),
}  # fmt: skip

ARGUMENTS["dsplit"] = (2,)

JOINING = (
    "cat concat concatenate stack hstack vstack dstack column_stack row_stack".split()
)


def _joined(name: str, x: Tensor) -> Any:
    return getattr(torch, name)((x, 2 * x))


def _assigned(x: Tensor) -> Tensor:
    y = torch.zeros(2, 4, dtype=x.dtype)
    y[:, 1:] = x
    return y


#: Calls that take their tensors in a list, or are of another form.
FORMS: dict[str, Function] = {
    **{name: partial(_joined, name) for name in JOINING if hasattr(torch, name)},
    "cartesian_prod": lambda x: torch.cartesian_prod(x[0], x[1]),
    "meshgrid": lambda x: torch.meshgrid(x[0], x[1], indexing="ij"),
    "block_diag": lambda x: torch.block_diag(x, x),
    "pad_sequence": lambda x: torch.nn.utils.rnn.pad_sequence([x[0], x[1, :1]]),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, ONES),
    "where": lambda x: torch.where(BOOL, x, TABLE),
    "embedding": lambda x: F.embedding(ROWS, x),
    "fill_": lambda x: torch.empty(3, dtype=x.dtype).fill_(x.sum()),
    "copy_": lambda x: torch.empty(2, 3, dtype=x.dtype).copy_(x),
    "__setitem__": lambda x: _assigned(x),
    "transposed property": lambda x: x.T + x.mT.reshape(3, 2),
    "real property": lambda x: x.real,
    "complex": lambda x: torch.complex(x, 2 * x),
}


#: Queries and settings, whose result no gradient flows through.
QUIET = frozenset(
    "__len__ get_device requires_grad_ retain_grad register_hook one_hot cuda "
    "pin_memory half bfloat16 float type_as".split()
)


def _generic(name: str) -> Function | None:
    """The function of this name on one tensor, or None where it has no such form."""
    if name in FORMS:
        return FORMS[name]
    arguments = ARGUMENTS.get(name, ())
    if name in QUIET or arguments is None or name.endswith("_") and name[0] != "_":
        return None
    for function in named(name):
        try:
            result = function(sides(SHAPES.get(name, (2, 3)), 0)[0], *arguments)
        except (TypeError, RuntimeError):
            continue
        if result is NotImplemented:
            continue
        return lambda x: function(x, *arguments)
    return None


def _single(value: Any) -> Tensor:
    """Everything that a call gave, in one tensor, by linear operations."""
    if isinstance(value, Tensor):
        return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    return torch.cat([v.reshape(-1) for v in value])


def declared(*kinds: Kind) -> list[str]:
    """The names that declarations of these kinds serve, as often as they say so."""
    return [
        name
        for declaration in declarations()
        if declaration.entry.kind in kinds
        for name in declaration.names
        if isinstance(name, str)
    ]


NATIVES = sorted({*declared(Kind.NATIVE), *FORMS})


@pytest.mark.parametrize("name", NATIVES)
def test_linear_operations_are_linear(name: str) -> None:
    """f(x) - f(x0) = J (x - x0), with J from one side."""
    function = _generic(name)
    if function is None:
        assert name in QUIET or name in NO_FORM or name.endswith("_")
        return
    x, x0 = sides(SHAPES.get(name, (2, 3)), 11)
    if name in UNDERIVED and not _has_derivative(function, x):
        pytest.skip(f"torch {torch.__version__} has no derivative of {name}")
    ran = run_call(lambda x: _single(function(x)), (x,), (x0,))
    assert_complete(ran, (x,), (x0,))
    assert (ran.multipliers[0] != 0).any()
    assert ran.tape.diagnostics().exact
    assert not ran.tape.diagnostics().operations


#: What older versions of torch (2.7 among them) cannot differentiate.
UNDERIVED = frozenset({"narrow_copy"})


def _has_derivative(function: Function, x: Tensor) -> bool:
    try:
        function(x.clone().requires_grad_()).sum().backward()
    except RuntimeError as error:
        return "is not implemented" not in str(error)
    return True


#: Names that cannot be called on one plain tensor here, in any of torch's homes.
NO_FORM = frozenset(
    "_pad_packed_sequence _pack_padded_sequence imag view_as_complex view_as_real "
    "__iadd__ __isub__ .imag .data=".split()
)

INPLACE: dict[str, tuple[Any, ...]] = {
    "add_": (TABLE,), "sub_": (TABLE,), "subtract_": (TABLE,), "neg_": (),
    "masked_fill_": (BOOL, 2.0), "masked_scatter_": (BOOL, TABLE),
    "index_fill_": (1, I2, 2.0), "index_add_": (1, I2, ONES[:, :2]),
    "index_copy_": (1, I2, ONES[:, :2]), "index_put_": ((I2,), TABLE),
    "scatter_": (0, ROWS, TABLE), "scatter_add_": (0, ROWS, TABLE),
    "squeeze_": (), "unsqueeze_": (0,), "transpose_": (0, 1), "t_": (),
    "swapaxes_": (0, 1), "triu_": (), "tril_": (), "__iadd__": (TABLE,),
    "__isub__": (TABLE,), "zero_": (),
}  # fmt: skip


@pytest.mark.parametrize("name", INPLACE)
def test_linear_operations_in_place_keep_what_was_recorded_before(name: str) -> None:
    """tanh's operand is overwritten right after the call."""
    x, x0 = sides((2, 3), 12)

    def call(x: Tensor) -> Tensor:
        h = x * 1.0
        y = torch.tanh(h) * torch.exp(h)
        h = getattr(h, name)(*INPLACE[name])
        return torch.cat([y.reshape(-1), h.reshape(-1)])

    ran = run_call(call, (x,), (x0,))
    assert_complete(ran, (x,), (x0,))
    assert ran.tape.diagnostics().exact


#: Names of some torch versions only, kept for these.
OPTIONAL: dict[str, str] = {
    "nanmean": "torch.nanmean, where built",
    "dropout_": "torch.dropout_",
    "has_names": "gone with named tensors",
    "fabs": "an alias of numpy's name",
    "split_copy": "torch >= 1.13",
}


@pytest.mark.parametrize("kind", sorted({d.entry.kind.name for d in declarations()}))
def test_every_name_stands_for_a_function(kind: str) -> None:
    missing = {name for name in declared(Kind[kind]) if not list(named(name))}
    assert missing <= set(OPTIONAL)


def test_every_operation_is_declared_once() -> None:
    names = declared(*Kind)
    assert len(names) > 500
    assert sorted(names) == sorted(set(names))


def test_what_is_declared_serves_what_does_the_same_in_place() -> None:
    table = default_table()
    for name in declared(Kind.NATIVE, Kind.RULE, Kind.PRODUCT, Kind.EXPAND):
        entries = {f: table[f] for f in named(name + "_")}
        kinds = {e.kind for e in entries.values()}
        assert all(e.inplace or e.kind is Kind.OVERWRITE for e in entries.values()), (
            name
        )
        assert Kind.NATIVE not in kinds, name
    for name in filter(overwrites, declared(Kind.NATIVE)):
        assert {table[f].kind for f in named(name)} <= {Kind.OVERWRITE}, name


def test_every_home_of_a_function_has_the_same_kind() -> None:
    table = default_table()
    for name in ("softmax", "relu", "matmul", "gelu", "mul", "cat", "eq"):
        kinds = {table[f].kind for f in named(name)}
        assert len(kinds) == 1, name


def test_the_default_table_is_read_only_and_not_changed_by_rules() -> None:
    table = default_table()
    before = dict(table)
    rule = elementwise(lambda x: x)
    extended = with_rules({torch.relu: rule})
    assert extended[torch.relu].rule is rule
    assert dict(table) == before
    with pytest.raises(TypeError):
        table[torch.relu] = extended[torch.relu]  # type: ignore[index]
    with pytest.raises(TypeError, match="rules maps"):
        with_rules({"relu": rule})
    with pytest.raises(TypeError, match="rules maps"):
        with_rules({torch.relu: 3})  # type: ignore[dict-item]


def test_properties_are_linear_or_queries() -> None:
    table = default_table()
    linear = {"T", "H", "mT", "mH", "real", "imag"}
    for getter in properties():
        kind = table[getter].kind
        assert (kind is Kind.NATIVE) == (label(getter) in linear)
        assert (kind is Kind.IDENTITY) == (label(getter) == "data")
