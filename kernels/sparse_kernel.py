"""Triton kernels for the tiles of a certified backward pass: block-sparse gradients, and their products with dense matrices.

A tile is BM rows and BV columns of the gradient by the raw products. Made ones lie one after the other in a compact D, in the
operands' dtype. Products are summed in float32 over the whole reduction, in registers and in a fixed order, and each result
is written by one program: no atomics, so two runs give the same bits. Offsets into matrices have 64 bits; the innermost
dimension of every matrix is contiguous.
"""

import triton
import triton.language as tl

from rlvr.kernels.epilogue_kernel import gradient_of_logits, scaled
from rlvr.kernels.product_kernel import dot


@triton.jit
def _add_products(acc, left, right, own_rows, own_columns, DEPTH: tl.constexpr, BK: tl.constexpr):
    """Return acc + left rightᵀ of the rows at these offsets, (BM, 1) and (1, BV)."""
    depth = tl.arange(0, BK)
    left += own_rows + depth[None, :]
    right += own_columns + depth[:, None]
    for start in range(0, DEPTH, BK):
        if DEPTH % BK == 0:
            acc = dot(tl.load(left), tl.load(right), acc)
        else:
            inside = depth < DEPTH - start
            own = tl.load(left, mask=inside[None, :], other=0.0)
            acc = dot(own, tl.load(right, mask=inside[:, None], other=0.0), acc)
        left += BK
        right += BK
    return acc


@triton.jit
def _load(at, w, WIDTH: tl.constexpr, BW: tl.constexpr):
    if WIDTH % BW == 0:
        own = tl.load(at)
    else:
        own = tl.load(at, mask=(w < WIDTH)[None, :], other=0.0)
    return own


@triton.jit(do_not_specialize=["rows"])
def tile_gradients_kernel(
    result,
    tile_rows,
    tile_columns,
    hidden,
    hidden_stride,
    weight,
    weight_stride,
    low_hidden,
    low_hidden_stride,
    low_weight,
    low_weight_stride,
    bias,
    targets,
    of_target,
    log_z,
    g,
    e,
    entropies,
    slope,
    inverse_temperature,
    cap_slope,
    rows,
    columns,
    logit_scale,
    softcap,
    HIDDEN: tl.constexpr,
    RANK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
):
    """Write D of one made tile; 0 in rows and columns that are not there.

    Reads hidden (N, HIDDEN), weight (V, HIDDEN), with RANK > 0 an adapter's, and what `gradient_of_logits` takes of each
    row, (N,). RANK is 0 without an adapter.
    """
    tile = tl.program_id(0)
    m, v = tl.arange(0, BM), tl.arange(0, BV)
    row = tl.load(tile_rows + tile) * BM + m
    column = tl.load(tile_columns + tile) * BV + v
    # what is not there is read as the last that is
    own_row = tl.minimum(row, rows - 1)
    own_column = tl.minimum(column, columns - 1)
    long_row = own_row.to(tl.int64)[:, None]
    long_column = own_column.to(tl.int64)[None, :]
    acc = tl.zeros((BM, BV), dtype=tl.float32)
    acc = _add_products(
        acc, hidden, weight, long_row * hidden_stride, long_column * weight_stride, HIDDEN, BK
    )
    if RANK > 0:
        acc = _add_products(
            acc,
            low_hidden,
            low_weight,
            long_row * low_hidden_stride,
            long_column * low_weight_stride,
            RANK,
            BR,
        )
    own_bias = acc
    if HAS_BIAS:
        own_bias = tl.load(bias + own_column)[None, :].to(tl.float32)
    warmth = tl.load(inverse_temperature + own_row)[:, None]
    z = scaled(acc, own_bias, warmth, logit_scale, softcap, HAS_BIAS, HAS_CAP)
    of_entropy, entropy, cap = warmth, warmth, warmth
    if HAS_ENTROPY:
        of_entropy = tl.load(e + own_row)[:, None]
        entropy = tl.load(entropies + own_row)[:, None]
    if HAS_CAP:
        cap = tl.load(cap_slope + own_row)[:, None]
    d = gradient_of_logits(
        z,
        column[None, :],
        tl.load(targets + own_row)[:, None],
        tl.load(log_z + own_row)[:, None],
        tl.load(g + own_row)[:, None],
        of_entropy,
        entropy,
        tl.load(of_target + own_row)[:, None],
        tl.load(slope + own_row)[:, None],
        cap,
        HAS_ENTROPY,
        HAS_CAP,
    )
    d = tl.where((row < rows)[:, None] & (column < columns)[None, :], d, 0.0)
    at = tile.to(tl.int64) * (BM * BV) + m[:, None] * BV + v[None, :]
    tl.store(result + at, d.to(result.dtype.element_ty))


@triton.jit(do_not_specialize=["rows"])
def add_rows_kernel(
    result,
    result_stride,
    gradients,
    matrix,
    matrix_stride,
    firsts,
    tiles,
    tile_columns,
    blocks,
    rows,
    columns,
    WIDTH: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BW: tl.constexpr,
    BK: tl.constexpr,
):
    """Add D matrix to BW columns of a block of rows: result (N, WIDTH) float32, matrix (V, WIDTH).

    The tiles of row block i are tiles[firsts[i] : firsts[i + 1]], with their column blocks in `tile_columns`; `blocks` are
    the row blocks in the order in which programs take them.
    """
    parts = tl.cdiv(WIDTH, BW)
    program = tl.program_id(0)
    block = tl.load(blocks + program // parts)
    begin, end = tl.load(firsts + block), tl.load(firsts + block + 1)
    m, k = tl.arange(0, BM), tl.arange(0, BK)
    w = program % parts * BW + tl.arange(0, BW)
    # 64 bits where a block begins, 32 inside: addresses then take half the registers
    at = (
        result + block.to(tl.int64) * BM * result_stride + (m[:, None] * result_stride + w[None, :])
    )
    inside = (m < rows - block * BM)[:, None] & (w < WIDTH)[None, :]
    acc = tl.load(at, mask=inside, other=0.0)
    steps: tl.constexpr = BV // BK
    for step in range(begin * steps, end * steps):
        tile = tl.load(tiles + step // steps).to(tl.int64)
        inner = step % steps * BK
        first = tl.load(tile_columns + step // steps) * BV + inner
        d = tl.load(gradients + tile * (BM * BV) + inner + (m[:, None] * BV + k[None, :]))
        # D is 0 where there is no column: any finite number will do there
        own_k = tl.minimum(k, columns - 1 - first)
        own = matrix + first.to(tl.int64) * matrix_stride
        own = _load(own + (own_k[:, None] * matrix_stride + w[None, :]), w, WIDTH, BW)
        acc = dot(d, own, acc)
    tl.store(at, acc, mask=inside)


@triton.jit(do_not_specialize=["rows", "first_block"])
def columns_kernel(
    result,
    result_stride,
    gradients,
    matrix,
    matrix_stride,
    starts,
    starts_stride,
    firsts,
    tiles,
    tile_rows,
    blocks,
    first_block,
    rows,
    columns,
    WIDTH: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BW: tl.constexpr,
    BK: tl.constexpr,
):
    """Write start + Dᵀ matrix of BW columns of a block of the vocabulary: result (V, WIDTH), matrix (N, WIDTH).

    starts (K, WIDTH) float32 has what every column of a block begins with. Blocks are counted from `first_block`; the tiles
    of block b are tiles[firsts[b] : firsts[b + 1]], with their row blocks in `tile_rows`; `blocks` as above.
    """
    parts = tl.cdiv(WIDTH, BW)
    program = tl.program_id(0)
    own_block = tl.load(blocks + program // parts)
    block = first_block + own_block
    begin, end = tl.load(firsts + own_block), tl.load(firsts + own_block + 1)
    v, k = tl.arange(0, BV), tl.arange(0, BK)
    w = program % parts * BW + tl.arange(0, BW)
    start = tl.load(starts + block.to(tl.int64) * starts_stride + w, mask=w < WIDTH, other=0.0)
    acc = tl.zeros((BV, BW), dtype=tl.float32) + start[None, :]
    steps: tl.constexpr = BM // BK
    for step in range(begin * steps, end * steps):
        tile = tl.load(tiles + step // steps).to(tl.int64)
        inner = step % steps * BK
        first = tl.load(tile_rows + step // steps) * BM + inner
        d = tl.load(gradients + tile * (BM * BV) + inner * BV + (k[:, None] * BV + v[None, :]))
        # D is 0 where there is no row: any finite number will do there
        own_k = tl.minimum(k, rows - 1 - first)
        own = matrix + first.to(tl.int64) * matrix_stride
        own = _load(own + (own_k[:, None] * matrix_stride + w[None, :]), w, WIDTH, BW)
        acc = dot(tl.trans(d), own, acc)
    at = (
        result + block.to(tl.int64) * BV * result_stride + (v[:, None] * result_stride + w[None, :])
    )
    inside = (v < columns - block * BV)[:, None] & (w < WIDTH)[None, :]
    tl.store(at, acc.to(result.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["first_block"])
def bias_kernel(
    result,
    gradients,
    starts,
    firsts,
    tiles,
    first_block,
    columns,
    BM: tl.constexpr,
    BV: tl.constexpr,
):
    """Write start + Σ D over rows, of a block of the vocabulary; arguments as in `columns_kernel`."""
    own_block = tl.program_id(0)
    block = first_block + own_block
    m, v = tl.arange(0, BM), tl.arange(0, BV)
    acc = tl.zeros((BV,), dtype=tl.float32) + tl.load(starts + block)
    for step in range(tl.load(firsts + own_block), tl.load(firsts + own_block + 1)):
        tile = tl.load(tiles + step).to(tl.int64)
        d = tl.load(gradients + tile * (BM * BV) + (m[:, None] * BV + v[None, :]))
        acc += tl.sum(d.to(tl.float32), axis=0)
    column = block * BV + v
    tl.store(result + column, acc.to(result.dtype.element_ty), mask=column < columns)
