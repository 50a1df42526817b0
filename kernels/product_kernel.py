"""A tile of raw products x Wᵀ + u Bᵀ in registers; the part of the Triton kernels that multiplies.

Two ways to load: `pointer_products` computes addresses, `descriptor_products` has the hardware copy boxes (TMA, Hopper and
later). Sums are in float32; float32 operands are multiplied as they are, not as TF32.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""Whether kernels run in Python, on a CPU."""


@triton.jit
def dot(a, b, acc):
    """Return acc + a b in float32."""
    if INTERPRETED:
        # until triton > 3.9: tl.dot on bfloat16 is wrong in the interpreter
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def _add_pointer_products(
    acc,
    left,
    right,
    row,
    column,
    rows,
    columns,
    left_stride,
    right_stride,
    BM: tl.constexpr,
    BV: tl.constexpr,
    DEPTH: tl.constexpr,
    BK: tl.constexpr,
):
    """Return acc + left rightᵀ, (BM, BV), of the rows from `row` and the columns from `column`."""
    depth = tl.arange(0, BK)
    # 64 bits where the tile begins, 32 inside: the addresses of a tile then take half the registers.
    # What lies outside is read as the last one inside, and never used
    own_rows = tl.minimum(tl.arange(0, BM), rows - 1 - row)
    own_columns = tl.minimum(tl.arange(0, BV), columns - 1 - column)
    a = own_rows[:, None] * left_stride + depth[None, :]
    b = own_columns[None, :] * right_stride + depth[:, None]
    left += row.to(tl.int64) * left_stride
    right += column.to(tl.int64) * right_stride
    for start in tl.range(0, DEPTH, BK):
        if DEPTH % BK == 0:
            acc = dot(tl.load(left + a), tl.load(right + b), acc)
        else:
            inside = depth < DEPTH - start
            own = tl.load(left + a, mask=inside[None, :], other=0.0)
            acc = dot(own, tl.load(right + b, mask=inside[:, None], other=0.0), acc)
        left += BK
        right += BK
    return acc


@triton.jit
def pointer_products(
    hidden,
    weight,
    low_hidden,
    low_weight,
    row,
    column,
    rows,
    columns,
    hidden_stride,
    weight_stride,
    low_hidden_stride,
    low_weight_stride,
    H: tl.constexpr,
    R: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
):
    """Return x Wᵀ + u Bᵀ, (BM, BV), from row and column on; there are `rows` and `columns`, and R may be 0.

    The last dimension of all matrices is contiguous.
    """
    acc = tl.zeros((BM, BV), dtype=tl.float32)
    acc = _add_pointer_products(
        *(acc, hidden, weight, row, column, rows, columns),
        *(hidden_stride, weight_stride, BM, BV, H, BK),
    )
    if R > 0:
        acc = _add_pointer_products(
            *(acc, low_hidden, low_weight, row, column, rows, columns),
            *(low_hidden_stride, low_weight_stride, BM, BV, R, BR),
        )
    return acc


@triton.jit
def _add_descriptor_products(acc, left, right, row, column, DEPTH: tl.constexpr, BK: tl.constexpr):
    for start in tl.range(0, DEPTH, BK):
        acc = dot(left.load([row, start]), right.load([column, start]).T, acc)
    return acc


@triton.jit
def descriptor_products(
    hidden,
    weight,
    low_hidden,
    low_weight,
    row,
    column,
    H: tl.constexpr,
    R: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
):
    """Return the same from tensor descriptors, whose boxes are 0 outside of the matrix."""
    acc = tl.zeros((BM, BV), dtype=tl.float32)
    acc = _add_descriptor_products(acc, hidden, weight, row, column, H, BK)
    if R > 0:
        acc = _add_descriptor_products(acc, low_hidden, low_weight, row, column, R, BR)
    return acc


@triton.jit
def place(tile, row_tiles, column_tiles, GROUP: tl.constexpr):
    """Return row and column of a tile: GROUP tiles of rows take a piece of the head in turn, and find it in L2."""
    of_group = GROUP * column_tiles
    first = tile // of_group * GROUP
    size = tl.minimum(row_tiles - first, GROUP)
    return first + tile % of_group % size, tile % of_group // size
