"""How the Triton kernels are cut and launched: sizes of tiles by GPU, dtype and hidden size.

The table holds tiles that compile for their GPU with no register spilled, with Triton 3.6 and 3.9 (see
tests/kernels/test_offline_compile.py). Nothing is tuned at run time: results and memory do not depend on what else runs.

| variant | loads | programs |
|---|---|---|
| `plain` | computed addresses, asynchronous copies | one for each tile |
| `descriptor` | boxes copied by the hardware (TMA): Hopper and later, rows aligned to 16 bytes | as many as run at once |

`plain` is the default everywhere: it needs nothing of strides, and Triton compiles it alike in all versions.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import torch
import triton
from torch import Tensor

GROUP = 16
"""Tiles of rows that take a piece of the head in turn: 15 MB of hidden states at H = 3584, which stay in L2."""
FOLDED_ROWS = 2**14
"""Rows whose partials are merged at once: 117 MB of them at V = 151936 and a tile of 256 columns."""
GRADIENT_BYTES = 512 * 2**20
"""Most memory for the gradient by a piece of the logits."""
CACHED_ROWS, CACHED_WARPS = 32, 8
"""Of a tile that is made from the cache."""
FEW_PROGRAMS = 2
"""Persistent programs in the interpreter, each with several tiles."""


@dataclass(frozen=True)
class Tile:
    """A tile of logits and how it is made."""

    rows: int
    columns: int
    depth: int
    """Of the hidden size, multiplied at once."""
    warps: int
    stages: int
    """Loads under way."""
    variant: Literal["plain", "descriptor"] = "plain"


class _Entry(NamedTuple):
    tile: Tile
    capability: int | None = None
    """Major; None: any."""
    bytes: int = 2
    """Of an operand's number."""
    most_hidden: int = 2**31
    has_extras: bool = True
    """Whether it has registers left for a bias, a cap and an adapter."""


TABLE = [
    # two programs on a multiprocessor: one multiplies while the other folds
    _Entry(Tile(128, 128, 64, warps=4, stages=3), capability=9, most_hidden=1024, has_extras=False),
    _Entry(Tile(128, 256, 64, warps=8, stages=3), capability=9, has_extras=False),
    _Entry(Tile(128, 128, 64, warps=8, stages=4), capability=9),
    _Entry(Tile(128, 128, 32, warps=8, stages=3)),
    _Entry(Tile(64, 128, 32, warps=8, stages=2), bytes=4),
]
"""The first entry that fits is taken."""

INTERPRETED = Tile(64, 128, 64, warps=1, stages=1)


def tile_for(device: torch.device, dtype: torch.dtype, hidden: int, *, has_extras: bool) -> Tile:
    """Return the tile for a device, the operands' dtype and hidden size; the same in forward and backward.

    Args:
        device: A GPU, or the CPU of the interpreter.
        dtype: Of the operands.
        hidden: H.
        has_extras: Whether there is a bias, a cap or an adapter.
    """
    if triton.knobs.runtime.interpret:
        return INTERPRETED
    major = _capability(device)
    for entry in TABLE:
        fits = entry.capability in (None, major) and entry.bytes == dtype.itemsize
        if fits and hidden <= entry.most_hidden and (entry.has_extras or not has_extras):
            return entry.tile
    raise AssertionError(f"no tile for {dtype}")


def programs(device: torch.device, tile: Tile) -> int:
    """Return how many persistent programs fill a device: eight warps on a multiprocessor."""
    if triton.knobs.runtime.interpret:
        return FEW_PROGRAMS
    return torch.cuda.get_device_properties(device).multi_processor_count * 8 // tile.warps


def piece_columns(rows: int, vocabulary: int, tile: Tile, dtype: torch.dtype) -> int:
    """Return the columns of a piece of the head in backward: whole tiles, one at least."""
    tiles = GRADIENT_BYTES // (rows * tile.columns * dtype.itemsize)
    return max(1, min(tiles, triton.cdiv(vocabulary, tile.columns))) * tile.columns


def depth_of_rank(rank: int) -> int:
    """Return how much of an adapter's rank is multiplied at once."""
    return max(16, min(triton.next_power_of_2(rank), 64))


def can_describe(*matrices: Tensor | None) -> bool:
    """Return whether the hardware can copy boxes of these."""
    return all(
        matrix.stride(1) == 1
        and matrix.stride(0) >= matrix.shape[1]
        and matrix.stride(0) * matrix.itemsize % 16 == 0
        and matrix.data_ptr() % 16 == 0
        for matrix in matrices
        if matrix is not None
    )


@cache
def _capability(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device)[0]
