"""Linear functions: autograd's own gradient, M W, taken where there is one.

A model that reads one position of its last layer sends no gradient to the others, and
padding gets none; their rows of M are 0, and need no multiplying.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import tuning
from ..declarations import linear
from ..pairs import Multiplier, Operand
from ..recording import compiled, opaque
from .blocks import laid_out, reached

SHAPES = linear(
    "view view_as reshape reshape_as permute transpose t adjoint swapaxes swapdims"
    " movedim moveaxis flatten unflatten squeeze unsqueeze expand expand_as repeat"
    " repeat_interleave tile broadcast_to broadcast_tensors flip fliplr flipud roll"
    " rot90 unfold fold im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle"
    " ravel atleast_1d atleast_2d atleast_3d meshgrid block_diag cartesian_prod"
    " combinations as_strided contiguous clone alias_copy squeeze_copy t_copy"
    " view_as_real view_as_complex __reversed__ __len__ get_device .T .H .mT .mH"
)
PARTS = linear(
    "narrow narrow_copy select index_select gather take take_along_dim masked_select"
    " chunk split split_copy split_with_sizes tensor_split unbind unbind_copy hsplit"
    " vsplit dsplit unsafe_chunk unsafe_split unsafe_split_with_sizes diagonal"
    " diagonal_copy diag diag_embed diagflat tril triu pad constant_pad_nd"
    " __getitem__ _pack_padded_sequence _pad_packed_sequence"
)
WRITES = linear(
    "__setitem__ copy_ fill_ zero_ fill_diagonal_ __iadd__ __isub__ .data= masked_fill"
    " masked_scatter index_fill index_add index_copy index_put scatter scatter_add"
    " select_scatter slice_scatter diagonal_scatter"
)
JOINS = linear(
    "cat concat concatenate stack hstack vstack dstack column_stack row_stack where"
    " pad_sequence",
    tags="several",
)
SUMS = (
    linear("add __add__ __radd__", tags="several, arithmetic, sum"),
    linear("sub subtract rsub __sub__ __rsub__", tags="several, arithmetic"),
    linear("neg negative diff __neg__", tags="arithmetic"),
    linear("positive __pos__ sum mean nansum nanmean cumsum trace gradient"),
    linear("sum_to_size avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d"),
    linear("adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample affine_grid"),
)
DTYPES = linear(
    "float double half bfloat16 cdouble cpu cuda pin_memory to_dense real imag conj"
    " resolve_conj resolve_neg conj_physical complex nan_to_num deg2rad rad2deg .real"
    " .imag"
)
FOURIER = linear(
    "fft ifft fft2 ifft2 fftn ifftn rfft irfft rfft2 irfft2 rfftn irfftn hfft ihfft"
    " hfft2 ihfft2 hfftn ihfftn fftshift ifftshift"
)
LOOKUPS = linear("embedding one_hot", tags="indices first")
DRAWN = linear(
    "uniform_ normal_ exponential_ random_ bernoulli_ cauchy_ geometric_ log_normal_"
    " trunc_normal_ xavier_uniform_ xavier_normal_ kaiming_uniform_ kaiming_normal_"
    " orthogonal_ sparse_",
    random=True,
)


def large(x: Tensor, weight: Tensor) -> bool:
    """Whether a linear layer's input is large enough to look for empty rows."""
    if x.dim() < 3 or weight.dim() != 2 or x.device.type != "cpu" or compiled():
        return False
    return x.is_floating_point() and x.numel() >= tuning.BLOCK


def linear_layer(x: Tensor, weight: Tensor, *_: Tensor | None) -> Multiplier:
    """Y = x Wᵀ + b with a constant W: M W."""
    operand = Operand(0, x.shape, x.dtype)
    version = weight._version

    def multiplier(upstream: Tensor) -> tuple[tuple[Operand, Tensor]]:
        if weight._version != version:  # as autograd says of its own
            raise RuntimeError(
                f"linear: its weight, of shape {tuple(weight.shape)}, was overwritten "
                "after the call; give the layer a copy of what the model writes on."
            )
        matrix = weight.to(upstream.dtype)  # under autocast it is another
        return ((operand, opaque(_times, upstream, matrix).to(operand.dtype)),)

    return multiplier


def _times(upstream: Tensor, matrix: Tensor) -> Tensor:
    """M W, of the rows of M that are not 0."""
    rows = reached(upstream, tuning.FEW_PRODUCTS)
    if rows is None:
        return torch.matmul(upstream, matrix)
    flat = upstream.reshape(-1, upstream.shape[-1])
    part = flat.index_select(0, rows) @ matrix
    share = laid_out(part, rows, len(flat), 0)
    return share.view(*upstream.shape[:-1], matrix.shape[1])
