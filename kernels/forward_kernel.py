"""Forward: a tile of logits is made, folded into a few numbers a row, and forgotten.

Of a tile's logits z, with m their maximum in a block of columns:

    m, s = Σ exp(z - m), w = Σ exp(z - m) (z - m), and with SQUARES q = Σ exp(2 (z - m)), r = Σ exp(2 (z - m)) (z - m)

Reads x (N, H), W (V, H), bias (V,), u (N, R), B (V, R), targets (N,), 1 / T (N,). Writes m, s, w, q, r (K, N), the
targets' logits (N,) and, of the first `cached` rows, exp(z - m) (cached, V) in the operands' dtype. All but operands and
cache is float32. No tile waits for another, nothing is added in memory: two runs give the same bits.

The last dimension of matrices is contiguous; the (K, N) results and the cache are contiguous.
"""

import triton
import triton.language as tl

from rlvr.kernels.epilogue_kernel import scaled
from rlvr.kernels.product_kernel import descriptor_products, place, pointer_products


@triton.jit
def _fold(
    acc,
    row_tile,
    column_tile,
    bias,
    targets,
    inverse_temperatures,
    m_out,
    s_out,
    w_out,
    q_out,
    r_out,
    z_target,
    cache,
    size,
    cached,
    logit_scale,
    softcap,
    V: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    SQUARES: tl.constexpr,
    CACHE: tl.constexpr,
):
    """Store what is kept of a tile of raw products, (BM, BV)."""
    rows = row_tile * BM + tl.arange(0, BM)
    columns = column_tile * BV + tl.arange(0, BV)
    is_row = rows < size
    own = tl.minimum(rows, size - 1)
    bias_row = 0.0
    if HAS_BIAS:
        bias_row = tl.load(bias + columns, mask=columns < V, other=0.0).to(tl.float32)[None, :]
    warmth = tl.load(inverse_temperatures + own)[:, None]
    z = scaled(acc, bias_row, warmth, logit_scale, softcap, HAS_BIAS, HAS_CAP)
    if V % BV != 0:  # noqa: SIM102 - known when compiled: then nothing is left of it
        # only the last tile has columns that do not exist; after the cap, which would make them -cap
        if column_tile * BV + BV > V:
            z = tl.where((columns < V)[None, :], z, -1e30)

    # in the tile, where 32 bits are enough
    target = (tl.load(targets + own) - column_tile * BV).to(tl.int32)
    has_target = (target >= 0) & (target < tl.minimum(V - column_tile * BV, BV))
    if tl.max(has_target.to(tl.int32), 0) > 0:
        taken = tl.sum(tl.where(tl.arange(0, BV)[None, :] == target[:, None], z, 0.0), 1)
        tl.store(z_target + rows, taken, mask=is_row & has_target)

    blocks = tl.reshape(z, (BM, BV // BLOCK, BLOCK))
    m = tl.max(blocks, 2)
    d = blocks - tl.expand_dims(m, 2)
    e = tl.exp(d)
    block = column_tile * (BV // BLOCK) + tl.arange(0, BV // BLOCK)
    at = block.to(tl.int64)[None, :] * size + rows[:, None]
    is_block = is_row[:, None] & (block < tl.cdiv(V, BLOCK))[None, :]
    tl.store(m_out + at, m, mask=is_block)
    tl.store(s_out + at, tl.sum(e, 2), mask=is_block)
    tl.store(w_out + at, tl.sum(e * d, 2), mask=is_block)
    if SQUARES:
        tl.store(q_out + at, tl.sum(e * e, 2), mask=is_block)
        tl.store(r_out + at, tl.sum(e * e * d, 2), mask=is_block)
    if CACHE:  # noqa: SIM102 - as above
        if row_tile * BM < cached:
            kept = tl.reshape(e.to(cache.dtype.element_ty), (BM, BV))
            to = cache + rows.to(tl.int64)[:, None] * V + columns[None, :]
            tl.store(to, kept, mask=(rows < cached)[:, None] & (columns < V)[None, :])


@triton.jit(do_not_specialize=["size", "cached", "row_tiles"])
def forward_plain(
    hidden,
    weight,
    low_hidden,
    low_weight,
    bias,
    targets,
    inverse_temperatures,
    m_out,
    s_out,
    w_out,
    q_out,
    r_out,
    z_target,
    cache,
    size,
    row_tiles,
    cached,
    hidden_stride,
    weight_stride,
    low_hidden_stride,
    low_weight_stride,
    logit_scale,
    softcap,
    V: tl.constexpr,
    H: tl.constexpr,
    R: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    SQUARES: tl.constexpr,
    CACHE: tl.constexpr,
):
    """Fold one tile; a program for each."""
    row_tile, column_tile = place(tl.program_id(0), row_tiles, tl.cdiv(V, BV), GROUP)
    acc = pointer_products(
        *(hidden, weight, low_hidden, low_weight, row_tile * BM, column_tile * BV, size, V),
        *(hidden_stride, weight_stride, low_hidden_stride, low_weight_stride),
        *(H, R, BM, BV, BK, BR),
    )
    _fold(
        *(acc, row_tile, column_tile, bias, targets, inverse_temperatures),
        *(m_out, s_out, w_out, q_out, r_out, z_target, cache),
        *(size, cached, logit_scale, softcap),
        *(V, BM, BV, BLOCK, HAS_BIAS, HAS_CAP, SQUARES, CACHE),
    )


@triton.jit(do_not_specialize=["size", "cached", "row_tiles"])
def forward_descriptor(
    hidden,
    weight,
    low_hidden,
    low_weight,
    bias,
    targets,
    inverse_temperatures,
    m_out,
    s_out,
    w_out,
    q_out,
    r_out,
    z_target,
    cache,
    size,
    row_tiles,
    cached,
    logit_scale,
    softcap,
    V: tl.constexpr,
    H: tl.constexpr,
    R: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    SQUARES: tl.constexpr,
    CACHE: tl.constexpr,
):
    """Fold every so many-th tile, of tensor descriptors."""
    column_tiles = tl.cdiv(V, BV)
    # what does not change from tile to tile is computed again: kept, it is spilled
    for tile in tl.range(
        tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), disable_licm=True
    ):
        row_tile, column_tile = place(tile, row_tiles, column_tiles, GROUP)
        acc = descriptor_products(
            *(hidden, weight, low_hidden, low_weight, row_tile * BM, column_tile * BV),
            *(H, R, BM, BV, BK, BR),
        )
        _fold(
            *(acc, row_tile, column_tile, bias, targets, inverse_temperatures),
            *(m_out, s_out, w_out, q_out, r_out, z_target, cache),
            *(size, cached, logit_scale, softcap),
            *(V, BM, BV, BLOCK, HAS_BIAS, HAS_CAP, SQUARES, CACHE),
        )
