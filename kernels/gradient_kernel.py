"""Backward's first half: D, the gradient of the loss by raw products, of all rows and a piece of the head's columns.

    D = (g (1[target] - p) - e p (ln p + H)) dz/d(product),     p = exp(z - ln Z)

g and e are the gradients by log-prob and entropy. The products D W and Dᵀ x are left to the library's dense kernels.

`gradient_*` make the logits z again as forward does; `gradient_from_cache` takes them from what forward kept of a row,
exp(z - m) with the maximum m of the block. All reads of rows are (n,) vectors in float32 (targets: int64). D (n, columns)
is written in the operands' dtype, with a stride of its own between rows; everything before that is float32.
"""

import triton
import triton.language as tl

from rlvr.kernels.epilogue_kernel import gradient_of_logits, scaled
from rlvr.kernels.product_kernel import descriptor_products, place, pointer_products


@triton.jit
def _row(values, rows):
    return tl.load(values + rows)[:, None]


@triton.jit
def _write(
    acc,
    row_tile,
    column_tile,
    bias,
    targets,
    inverse_temperatures,
    log_zs,
    gs,
    es,
    entropies,
    of_targets,
    slopes,
    cap_slopes,
    gradient,
    size,
    first,
    columns,
    gradient_stride,
    logit_scale,
    softcap,
    BM: tl.constexpr,
    BV: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
):
    """Store D of a tile of raw products, (BM, BV); `bias` is that of the piece's columns."""
    rows = row_tile * BM + tl.arange(0, BM)
    inside = tl.arange(0, BV)
    is_row = rows < size
    own = tl.minimum(rows, size - 1)
    is_column = inside < columns - column_tile * BV
    bias_row = 0.0
    if HAS_BIAS:
        of_tile = tl.load(bias + column_tile * BV + inside, mask=is_column, other=0.0)
        bias_row = of_tile.to(tl.float32)[None, :]
    warmth = _row(inverse_temperatures, own)
    z = scaled(acc, bias_row, warmth, logit_scale, softcap, HAS_BIAS, HAS_CAP)
    # in the tile, where 32 bits are enough
    target = (_row(targets, own) - (first + column_tile * BV)).to(tl.int32)
    e, entropy, cap_slope = 0.0, 0.0, 0.0
    if HAS_ENTROPY:
        e = _row(es, own)
        entropy = _row(entropies, own)
    if HAS_CAP:
        cap_slope = _row(cap_slopes, own)
    d = gradient_of_logits(
        *(z, inside[None, :], target, _row(log_zs, own)),
        *(_row(gs, own), e, entropy, _row(of_targets, own)),
        *(_row(slopes, own), cap_slope, HAS_ENTROPY, HAS_CAP),
    )
    to = gradient + rows.to(tl.int64)[:, None] * gradient_stride
    to += (column_tile * BV + inside)[None, :]
    tl.store(to, d.to(gradient.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])


@triton.jit(do_not_specialize=["size", "row_tiles", "first", "columns"])
def gradient_plain(
    hidden,
    weight,
    low_hidden,
    low_weight,
    bias,
    targets,
    inverse_temperatures,
    log_zs,
    gs,
    es,
    entropies,
    of_targets,
    slopes,
    cap_slopes,
    gradient,
    size,
    row_tiles,
    first,
    columns,
    hidden_stride,
    weight_stride,
    low_hidden_stride,
    low_weight_stride,
    gradient_stride,
    logit_scale,
    softcap,
    H: tl.constexpr,
    R: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
):
    """Write one tile of D; a program for each. weight, low_weight and bias are the piece's, from column `first` on."""
    row_tile, column_tile = place(tl.program_id(0), row_tiles, tl.cdiv(columns, BV), GROUP)
    acc = pointer_products(
        *(hidden, weight, low_hidden, low_weight, row_tile * BM, column_tile * BV, size, columns),
        *(hidden_stride, weight_stride, low_hidden_stride, low_weight_stride),
        *(H, R, BM, BV, BK, BR),
    )
    _write(
        *(acc, row_tile, column_tile, bias, targets, inverse_temperatures, log_zs, gs, es),
        *(entropies, of_targets, slopes, cap_slopes, gradient, size, first, columns),
        *(gradient_stride, logit_scale, softcap, BM, BV, HAS_BIAS, HAS_CAP, HAS_ENTROPY),
    )


@triton.jit(do_not_specialize=["size", "row_tiles", "first", "columns"])
def gradient_descriptor(
    hidden,
    weight,
    low_hidden,
    low_weight,
    bias,
    targets,
    inverse_temperatures,
    log_zs,
    gs,
    es,
    entropies,
    of_targets,
    slopes,
    cap_slopes,
    gradient,
    size,
    row_tiles,
    first,
    columns,
    gradient_stride,
    logit_scale,
    softcap,
    H: tl.constexpr,
    R: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
):
    """Write every so many-th tile of D, of tensor descriptors of the whole matrices."""
    column_tiles = tl.cdiv(columns, BV)
    # what does not change from tile to tile is computed again: kept, it is spilled
    for tile in tl.range(
        tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), disable_licm=True
    ):
        row_tile, column_tile = place(tile, row_tiles, column_tiles, GROUP)
        acc = descriptor_products(
            *(hidden, weight, low_hidden, low_weight, row_tile * BM, first + column_tile * BV),
            *(H, R, BM, BV, BK, BR),
        )
        _write(
            *(acc, row_tile, column_tile, bias, targets, inverse_temperatures, log_zs, gs, es),
            *(entropies, of_targets, slopes, cap_slopes, gradient, size, first, columns),
            *(gradient_stride, logit_scale, softcap, BM, BV, HAS_BIAS, HAS_CAP, HAS_ENTROPY),
        )


@triton.jit(do_not_specialize=["size", "forward_size", "first", "columns"])
def gradient_from_cache(
    cache,
    m,
    places,
    targets,
    logprobs,
    log_zs,
    gs,
    es,
    entropies,
    of_targets,
    slopes,
    cap_slopes,
    gradient,
    size,
    forward_size,
    first,
    columns,
    gradient_stride,
    V: tl.constexpr,
    BM: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
):
    """Write a tile of D, BM rows and a block of columns, from exp(z - m); `first` begins a block.

    cache (C, V), m (K, forward_size); row i of D is row places[i] of both.
    """
    block = tl.program_id(1)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    is_row = rows < size
    inside = tl.arange(0, BLOCK)
    is_inside = is_row[:, None] & (inside < columns - block * BLOCK)[None, :]
    own = tl.minimum(rows, size - 1)
    at = tl.load(places + own)
    column = first + block * BLOCK
    kept = tl.load(
        cache + at[:, None] * V + (column + inside)[None, :], mask=is_inside, other=0.0
    ).to(tl.float32)
    top = tl.load(m + (column // BLOCK).to(tl.int64) * forward_size + at, mask=is_row, other=0.0)[
        :, None
    ]
    target = (tl.load(targets + rows, mask=is_row, other=-1) - column).to(tl.int32)[:, None]
    is_target = inside[None, :] == target
    log_z = _row(log_zs, own)
    # the target's own logit is known in full
    of_target = _row(logprobs, own) + log_z
    z = tl.where(is_target, of_target, top + tl.log(tl.where(kept > 0, kept, 1.0)))
    e, entropy, cap_slope = 0.0, 0.0, 0.0
    if HAS_ENTROPY:
        e = _row(es, own)
        entropy = _row(entropies, own)
    if HAS_CAP:
        cap_slope = _row(cap_slopes, own)
    d = gradient_of_logits(
        *(z, inside[None, :], target, log_z, _row(gs, own), e, entropy),
        *(_row(of_targets, own), _row(slopes, own), cap_slope),
        *(HAS_ENTROPY, HAS_CAP),
    )
    # a probability too small to be kept is 0
    d = tl.where((kept > 0) | is_target, d, 0.0)
    to = gradient + rows.to(tl.int64)[:, None] * gradient_stride
    to += (block * BLOCK + inside)[None, :]
    tl.store(to, d.to(gradient.dtype.element_ty), mask=is_inside)
