"""Which torch functions are linear, structural or need a rule, by name.

Torch offers one operation under several objects (``torch.relu``, ``Tensor.relu``,
``Tensor.relu_``, ``F.relu``, ``torch._C._nn.gelu`` …); here each is named once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

#: Linear in the attributed tensor (or independent of it): autograd's gradient is
#: the multiplier. Functions that are only linear while one operand is attributed
#: are in :data:`MULTILINEAR`.
LINEAR = """
    view view_as reshape reshape_as permute transpose t adjoint swapaxes swapdims
    movedim moveaxis flatten unflatten squeeze unsqueeze expand expand_as repeat
    repeat_interleave tile flip fliplr flipud roll rot90 narrow select index_select
    gather take take_along_dim masked_select chunk split split_with_sizes
    tensor_split unbind hsplit vsplit dsplit cat concat concatenate stack hstack
    vstack dstack column_stack row_stack broadcast_to broadcast_tensors unfold
    diagonal diag diag_embed diagflat tril triu contiguous clone
    float double half bfloat16 cpu cuda sum mean nansum nanmean cumsum trace neg
    negative positive add sub subtract rsub __add__ __radd__ __sub__ __rsub__
    __neg__ __pos__ __getitem__ __setitem__ __iadd__ __isub__ add_ sub_ subtract_
    neg_ masked_fill masked_fill_ masked_scatter masked_scatter_ index_fill
    index_fill_ index_add index_add_ index_copy index_copy_ index_put index_put_
    scatter scatter_ scatter_add scatter_add_ select_scatter slice_scatter
    diagonal_scatter where copy_ fill_ zero_ pad fold im2col col2im pixel_shuffle
    pixel_unshuffle avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample dropout dropout1d
    dropout2d dropout3d feature_dropout alpha_dropout dropout_
    real imag conj resolve_conj resolve_neg view_as_real view_as_complex as_strided
    squeeze_ unsqueeze_ transpose_ t_ swapaxes_ pad_sequence
    __len__ split_copy unsafe_chunk unsafe_split nan_to_num
    _pack_padded_sequence _pad_packed_sequence pin_memory triu_ tril_ constant_pad_nd
    atleast_1d atleast_2d atleast_3d meshgrid block_diag cartesian_prod ravel
    embedding one_hot get_device
    fft ifft fft2 ifft2 fftn ifftn rfft irfft rfft2 irfft2 rfftn irfftn hfft ihfft
    hfft2 ihfft2 hfftn ihfftn diagonal_copy squeeze_copy t_copy unbind_copy alias_copy
    __reversed__ cdouble rad2deg_ deg2rad_ nan_to_num_ conj_physical_
    fftshift ifftshift diff gradient deg2rad rad2deg complex conj_physical
    combinations channel_shuffle affine_grid sum_to_size
    to_dense narrow_copy negative_ swapdims_ cumsum_
    unsafe_split_with_sizes fill_diagonal_
""".split()

#: Tensor attributes that are linear maps; all others are queries.
LINEAR_PROPERTIES = frozenset("T H mT mH real imag".split())

#: Linear where their result is floating point and keeps its gradient (a tensor made
#: of another's numbers does not), else structural.
CASTS = "to type type_as tensor as_tensor asarray new_tensor".split()

#: Linear in each operand, a product of two that are both attributed.
MULTILINEAR = """
    mul multiply __mul__ __rmul__ __imul__ matmul mm bmm mv dot vdot
    inner outer ger __matmul__ __rmatmul__ einsum linear bilinear conv1d conv2d
    conv3d conv_transpose1d conv_transpose2d conv_transpose3d addmm addmv addbmm
    baddbmm addr addcmul lerp tensordot kron chain_matmul cross conv_tbc
    trapezoid trapz cumulative_trapezoid vecdot multi_dot convolution
""".split()

#: The same with some values of an option, the first of which is its default: the
#: function's name, the option's name, and these values.
SOMETIMES_MULTILINEAR: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("embedding_bag", "mode", ("mean", "sum")),
    ("scatter_reduce", "reduce", ("sum", "mean")),
    ("index_reduce", "reduce", ("mean",)),
)

#: Results that steer the computation instead of flowing through it: booleans,
#: indices, Python numbers. The input's own are kept for the reference.
STRUCTURAL = """
    eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ not_equal less
    less_equal greater greater_equal isnan isinf isfinite isposinf isneginf isclose
    allclose equal any all logical_and logical_or logical_not logical_xor nonzero
    argwhere count_nonzero argmax argmin argsort searchsorted bucketize unique
    unique_consecutive bool int long short byte char item tolist __bool__ __int__
    __float__ __index__ __contains__ numpy __array__ multinomial bernoulli poisson
    binomial normal histc bincount signbit is_nonzero
""".split()

#: Comparisons with a number that may ask whether there is anything.
ABSENCE = frozenset(
    """
    eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ not_equal less
    less_equal greater greater_equal bool
    """.split()
)

#: Those that say there is nothing.
EQUALITIES = frozenset("eq __eq__ le ge __le__ __ge__ less_equal greater_equal".split())

#: Reduce rows to one number each, as sums and means do without a rule.
ROW_REDUCTIONS = frozenset("max min amax amin any all count_nonzero".split())

#: Linear calls that take several values, and not one value with indices or sizes.
SEVERAL_VALUES = frozenset(
    """
    add sub subtract rsub __add__ __radd__ __sub__ __rsub__ __iadd__ __isub__ add_ sub_
    subtract_ cat concat concatenate stack hstack vstack dstack column_stack row_stack
    where pad_sequence
    """.split()
)

#: Pass on what they get.
IDENTITIES = ("detach", "detach_", "data")

#: Linear calls whose first argument is indices.
INDICES_FIRST = frozenset("embedding one_hot embedding_bag".split())

#: Draw from torch's generators; a dropout does so in training only.
RANDOM = frozenset(
    """
    rand randn randint randperm rand_like randn_like randint_like normal normal_
    uniform_ exponential_ random_ bernoulli bernoulli_ multinomial poisson cauchy_
    geometric_ log_normal_ dropout dropout1d dropout2d dropout3d feature_dropout
    alpha_dropout feature_alpha_dropout rrelu
    trunc_normal_ xavier_uniform_ xavier_normal_ kaiming_uniform_ kaiming_normal_
    orthogonal_ sparse_
    """.split()
)

#: Neither: queries about a tensor, and the making of new ones.
NEUTRAL = """
    size dim ndimension numel nelement stride storage_offset is_contiguous
    is_floating_point is_complex is_tensor is_same_size data_ptr untyped_storage
    element_size type_as __hash__ __repr__ __str__ __format__ zeros_like ones_like
    empty_like full_like new_zeros new_ones
    new_full new_empty new zeros ones empty full arange linspace eye
    tril_indices triu_indices
    result_type can_cast promote_types is_inference is_pinned is_shared has_names
    __dir__ is_signed is_conj is_neg __reduce_ex__
""".split()


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
    """
    for home in homes():
        function = getattr(home, name, None)
        if callable(function):
            yield function


def properties() -> Iterator[Any]:
    """Getters of tensor attributes (shape, T, device …): linear or neutral."""
    for name in dir(torch.Tensor):
        attribute = getattr(torch.Tensor, name, None)
        getter = getattr(attribute, "__get__", None)
        if getter is not None and not callable(attribute) and name != "data":
            yield getter


def overwrites(name: str) -> bool:
    """Whether a tensor method of this name writes on its tensor."""
    if name in ("__setitem__", "__iadd__", "__isub__"):
        return True
    return name.endswith("_") and not name.startswith("_")


def label(function: Callable[..., Any]) -> str:
    """A name for people: ``"softmax"`` for ``torch.softmax`` and ``F.softmax``."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, torch.nn.Module):
        return type(owner).__name__
    name = getattr(function, "__name__", type(function).__name__)
    if name == "__get__":
        name = getattr(owner, "__name__", name)
    return str(name).removesuffix("_scan")
