"""The tiles of a certified backward pass, made and multiplied by Triton kernels; see `rlvr.kernels.certified`.

    D tile = gradient by the logits        dX[I] += Σ_B D[I, B] W[B]        dW[B] = start[B] + Σ_I D[I, B]ᵀ X[I]

The vocabulary is taken in ranges whose made tiles fit into `TILES_BYTES`: each block of the head's gradient is written once,
those of rows are added up over ranges in float32.

Memory besides results: D, and the head in the operands' dtype where that is not its own.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.kernels.certified import Plan
from rlvr.kernels.chunked import Gradients, Upstream, rounded_rows
from rlvr.kernels.projection import Projection
from rlvr.kernels.sparse_kernel import (
    add_rows_kernel,
    bias_kernel,
    columns_kernel,
    tile_gradients_kernel,
)

TILES_BYTES = 2**30
"""Most memory for D: 32768 tiles of 128 x 128 in bfloat16."""
HOPPER = 9


class Sizes(NamedTuple):
    """How a kernel cuts a product, and runs it."""

    depth: int
    """Of what is added up at once."""
    width: int
    """Of a program's part of the hidden size; a tile of D itself is not cut."""
    warps: int
    stages: int
    """Two more than loads under way for a tile of D, whose address is known; for products, whose addresses are loaded too,
    two more than twice as many, less one where that is odd."""


def sizes(capability: int, bytes_of_operand: int, width: int) -> tuple[Sizes, Sizes]:
    """Return the sizes for tiles of D, and for products with it.

    They compile with no register spilled, with Triton 3.6 and 3.9 (see tests/kernels/test_sparse_compile.py), but for
    float32 on GPUs older than Hopper with 3.9: up to 112 bytes a thread there.

    Args:
        capability: Major, of the GPU.
        bytes_of_operand: Of a number that is multiplied.
        width: Columns of the result of a product: the hidden size, or an adapter's rank.
    """
    # of rows that are not aligned each number has an address of its own, in registers
    most = 64 if width % 16 else 128
    narrow = min(max(triton.next_power_of_2(width), 16), most)
    if bytes_of_operand == 4:
        return Sizes(16, 0, warps=16, stages=2), Sizes(16, narrow, warps=16, stages=2)
    if capability < HOPPER:
        return Sizes(32, 0, warps=8, stages=3), Sizes(32, narrow, warps=8, stages=5)
    product = Sizes(64, narrow, warps=8, stages=7)
    if width % 256 == 0:
        product = Sizes(64, 256, warps=8, stages=5)
    return Sizes(64, 0, warps=8, stages=4), product


@dataclass(frozen=True)
class _Grouped:
    """Tiles by block, of rows or of columns."""

    firsts: Int[Tensor, " blocks_and_one"]
    """Where each block's tiles begin in the other two."""
    tiles: Int[Tensor, " tiles"]
    """Places in D."""
    others: Int[Tensor, " tiles"]
    """Their blocks of the other kind."""
    by_work: Int[Tensor, " blocks"]
    """The blocks; those with the most tiles, which take longest, first."""

    @classmethod
    def of(cls, own: Tensor, others: Tensor, blocks: range) -> "_Grouped":
        """Group tiles by their own block, one of these."""
        ranked, tiles = own.sort(stable=True)
        edges = torch.arange(blocks.start, blocks.stop + 1, device=own.device)
        firsts = torch.searchsorted(ranked, edges)
        by_work = firsts.diff().argsort(stable=True, descending=True)
        return cls(firsts.int(), tiles.int(), others[tiles].int(), by_work.int())


def add_tiles(
    projection: Projection,
    upstream: Upstream,
    plan: Plan,
    gradients: Gradients,
    starts: Gradients,
) -> None:
    """Add the gradients of the tiles that a plan makes, as `rlvr.kernels.chunked.add_tiles` does."""
    p = projection
    hidden, weight = p.packed(p.hidden), p.packed(p.weight)
    # without an adapter kernels get the others in its place, and do not read them
    low_hidden = hidden if p.low_hidden is None else p.packed(p.low_hidden)
    low_weight = weight if p.low_weight is None else p.packed(p.low_weight)
    capability = _capability(hidden.device)
    made = plan.made.T.nonzero()  # (tiles, 2): block of columns, block of rows; by columns
    most = TILES_BYTES // (plan.row_block * plan.block * hidden.itemsize)
    ranges = list(_ranges(plan.made.sum(0).tolist(), most))
    room = max(tiles.stop - tiles.start for _, tiles in ranges)
    d = hidden.new_empty(room, plan.row_block, plan.block)
    make = _TileGradients(p, upstream, hidden, weight, low_hidden, low_weight, capability)
    by_rows = ((gradients.hidden, weight), (gradients.low_hidden, low_weight))
    by_columns = (
        (gradients.weight, starts.weight, hidden),
        (gradients.low_weight, starts.low_weight, low_hidden),
    )
    with torch.cuda.device(hidden.device) if hidden.is_cuda else nullcontext():
        for blocks, tiles in ranges:
            of_columns, of_rows = made[tiles].unbind(1)
            if len(of_rows):
                make(d, of_rows.int(), of_columns.int())
                rows = _Grouped.of(of_rows, of_columns, range(len(plan.made)))
                for result, matrix in by_rows:
                    if result is not None:
                        _add_rows(result, d, matrix, rows, capability)
            columns = _Grouped.of(of_columns, of_rows, blocks)
            for result, start, matrix in by_columns:
                if result is not None and start is not None:
                    _write_columns(result, start, d, matrix, columns, blocks.start, capability)
            if gradients.bias is not None:
                bias_kernel[(len(blocks),)](
                    *(gradients.bias, d, starts.bias, columns.firsts, columns.tiles),
                    *(blocks.start, p.vocabulary),
                    BM=plan.row_block,
                    BV=plan.block,
                    enable_fp_fusion=True,
                )


class _TileGradients:
    """Makes tiles of D; what the kernel reads is the same for all of them."""

    def __init__(
        self,
        projection: Projection,
        upstream: Upstream,
        hidden: Tensor,
        weight: Tensor,
        low_hidden: Tensor,
        low_weight: Tensor,
        capability: int,
    ) -> None:
        p, u = projection, upstream
        matrices = (hidden, weight, low_hidden, low_weight)
        # stands for what is not there
        warmth = torch.ones_like(u.log_z) * p.temperature
        softcap = 1.0 if p.softcap is None else p.softcap
        e = warmth if u.of_entropies is None else u.of_entropies
        slope, own, entropies = rounded_rows(u, p.slope())
        of_rows = (u.targets, own, u.log_z, u.of_logprobs, e, entropies)
        self._arguments = (
            *(part for matrix in matrices for part in (matrix, matrix.stride(0))),
            warmth if p.bias is None else p.bias.contiguous(),
            *(value.contiguous() for value in of_rows),
            *(slope, 1 / warmth, warmth / softcap),
            *(len(hidden), p.vocabulary, p.logit_scale, softcap),
        )
        cut = sizes(capability, hidden.itemsize, hidden.shape[1])[0]
        rank = 0 if p.low_hidden is None else low_hidden.shape[1]
        self._constants = {
            "HIDDEN": hidden.shape[1],
            "RANK": rank,
            "HAS_BIAS": p.bias is not None,
            "HAS_CAP": p.softcap is not None,
            "HAS_ENTROPY": u.of_entropies is not None,
            "BK": cut.depth,
            "BR": min(max(triton.next_power_of_2(rank), 16), cut.depth),
            "num_warps": cut.warps,
            "num_stages": cut.stages,
            "enable_fp_fusion": True,
        }

    def __call__(self, d: Tensor, of_rows: Tensor, of_columns: Tensor) -> None:
        """Write these tiles to the first places of `d`."""
        tile_gradients_kernel[(len(of_rows),)](
            *(d, of_rows, of_columns, *self._arguments),
            BM=d.shape[1],
            BV=d.shape[2],
            **self._constants,
        )


def _add_rows(
    result: Float[Tensor, "N W"],
    d: Tensor,
    matrix: Float[Tensor, "V W"],
    rows: _Grouped,
    capability: int,
) -> None:
    cut = sizes(capability, matrix.itemsize, matrix.shape[1])[1]
    add_rows_kernel[(len(rows.by_work) * triton.cdiv(matrix.shape[1], cut.width),)](
        *(result, result.stride(0), d, matrix, matrix.stride(0)),
        *(rows.firsts, rows.tiles, rows.others, rows.by_work, len(result), len(matrix)),
        **_constants(d, matrix, cut),
    )


def _write_columns(
    result: Float[Tensor, "V W"],
    start: Float[Tensor, "K W"],
    d: Tensor,
    matrix: Float[Tensor, "N W"],
    columns: _Grouped,
    first: int,
    capability: int,
) -> None:
    cut = sizes(capability, matrix.itemsize, matrix.shape[1])[1]
    columns_kernel[(len(columns.by_work) * triton.cdiv(matrix.shape[1], cut.width),)](
        *(result, result.stride(0), d, matrix, matrix.stride(0), start, start.stride(0)),
        *(columns.firsts, columns.tiles, columns.others, columns.by_work, first),
        *(len(matrix), len(result)),
        **_constants(d, matrix, cut),
    )


def _constants(d: Tensor, matrix: Tensor, cut: Sizes) -> dict[str, int]:
    return {
        "WIDTH": matrix.shape[1],
        "BM": d.shape[1],
        "BV": d.shape[2],
        "BW": cut.width,
        "BK": cut.depth,
        "num_warps": cut.warps,
        "num_stages": cut.stages,
        "enable_fp_fusion": True,
    }


def _ranges(counts: list[int], most: int) -> Iterator[tuple[range, slice]]:
    """Yield ranges of blocks of columns with no more than `most` tiles, one block at least, and the places of their tiles."""
    first, begin, end = 0, 0, 0
    for block, count in enumerate(counts):
        if count and block > first and end + count - begin > most:
            yield range(first, block), slice(begin, end)
            first, begin = block, end
        end += count
    yield range(first, len(counts)), slice(begin, end)


def _capability(device: torch.device) -> int:
    """Return the major one; the interpreter takes the sizes of the newest."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else HOPPER
