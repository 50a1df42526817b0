"""Log-probs, entropies and their gradients by Triton: a tile of logits is made and folded in registers.

Forward is one kernel. Backward goes over pieces of the head: a kernel makes D, the gradient of the loss by a piece of the
logits, again from the hidden states or from forward's cache; the products D W and Dᵀ x are dense and PyTorch's. Tiles
are chosen in `launch`. Nothing is added up in an order that varies: two runs give the same bits.

Memory besides results: in forward partials, 3 V / BV float32 a row, of `FOLDED_ROWS` rows or, where they are kept for
backward, all; the cache (C, V), exp(z - m) in the operands' dtype; in backward D, 512 MiB, and the gradient of a piece
of the head in float32.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from rlvr.kernels import launch
from rlvr.kernels.chunked import (
    Forward,
    Gradients,
    Kept,
    PieceSums,
    Upstream,
    Wanted,
    rounded_rows,
)
from rlvr.kernels.forward_kernel import forward_descriptor, forward_plain
from rlvr.kernels.gradient_kernel import (
    gradient_descriptor,
    gradient_from_cache,
    gradient_plain,
)
from rlvr.kernels.launch import Tile
from rlvr.kernels.partials import Merged, Partials, merge
from rlvr.kernels.projection import Projection, product
from rlvr.kernels.sparse import add_tiles

__all__ = ["add_tiles", "backward", "forward"]


@dataclass(frozen=True)
class _Operands:
    """The matrices as they are multiplied, their last dimension contiguous; cast once."""

    hidden: Float[Tensor, "N H"]
    weight: Float[Tensor, "V H"]
    low_hidden: Float[Tensor, "N R"] | None
    low_weight: Float[Tensor, "V R"] | None

    @classmethod
    def of(cls, projection: Projection) -> "_Operands":
        """Return those of a projection."""
        p = projection

        low = p.low_hidden, p.low_weight
        return cls(
            *(p.packed(p.hidden), p.packed(p.weight)),
            *(None if matrix is None else p.packed(matrix) for matrix in low),
        )

    def all(self) -> tuple[Tensor | None, ...]:
        """Return them in the order of the kernels."""
        return self.hidden, self.weight, self.low_hidden, self.low_weight

    def strides(self) -> tuple[int, ...]:
        """Return the strides of their rows."""
        return tuple(0 if matrix is None else matrix.stride(0) for matrix in self.all())

    def described(self, tile: Tile) -> tuple[TensorDescriptor | None, ...]:
        """Return what the hardware needs to copy boxes of them."""
        rank = 0 if self.low_hidden is None else launch.depth_of_rank(self.low_hidden.shape[1])
        boxes = ((tile.rows, tile.depth), (tile.columns, tile.depth))
        low_boxes = ((tile.rows, rank), (tile.columns, rank))
        return tuple(
            None if matrix is None else TensorDescriptor.from_tensor(matrix, list(box))
            for matrix, box in zip(self.all(), (*boxes, *low_boxes), strict=True)
        )

    def rows(self, part: slice) -> "_Operands":
        """Return the same of some rows."""
        low = self.low_hidden
        return replace(
            self, hidden=self.hidden[part], low_hidden=None if low is None else low[part]
        )

    def columns(self, start: int) -> "_Operands":
        """Return the same from a column of the logits on."""
        low = self.low_weight
        return replace(
            self, weight=self.weight[start:], low_weight=None if low is None else low[start:]
        )

    def constants(self, tile: Tile) -> dict[str, int]:
        """Return what a kernel that multiplies is compiled for."""
        rank = 0 if self.low_hidden is None else self.low_hidden.shape[1]
        return {
            "H": self.hidden.shape[1],
            "R": rank,
            "BM": tile.rows,
            "BV": tile.columns,
            "BK": tile.depth,
            "BR": launch.depth_of_rank(rank),
            "GROUP": launch.GROUP,
        }


@dataclass(frozen=True)
class _Rows:
    """What backward's kernels read of each row: (n,), float32, targets and places int64."""

    targets: Tensor
    inverse_temperatures: Tensor
    log_zs: Tensor
    gs: Tensor
    es: Tensor | None
    entropies: Tensor
    of_targets: Tensor
    slopes: Tensor
    cap_slopes: Tensor | None
    logprobs: Tensor

    @classmethod
    def of(cls, projection: Projection, upstream: Upstream) -> "_Rows":
        """Return them for a projection's rows."""
        p, u = projection, upstream
        slopes, of_targets, entropies = rounded_rows(u, p.slope())
        cap = None if p.softcap is None else _per_row(p, p.temperature / p.softcap)
        e = u.of_entropies
        return cls(
            targets=u.targets.contiguous(),
            inverse_temperatures=_per_row(p, 1 / p.temperature),
            log_zs=u.log_z.contiguous(),
            gs=u.of_logprobs.contiguous(),
            es=None if e is None else e.contiguous(),
            entropies=entropies.contiguous(),
            of_targets=of_targets,
            slopes=slopes.contiguous(),
            cap_slopes=cap,
            logprobs=u.logprobs.contiguous(),
        )

    def rows(self, start: int) -> "_Rows":
        """Return the same from a row on, aligned as new tensors are: kernels are compiled for that."""
        if not start:
            return self
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        cut: dict[str, Any] = {k: None if t is None else t[start:].clone() for k, t in own.items()}
        return _Rows(**cut)

    def of_gradient(self) -> tuple[Tensor | None, ...]:
        """Return those of `gradient_of_logits` in the order of the kernels."""
        return (
            *(self.log_zs, self.gs, self.es, self.entropies),
            *(self.of_targets, self.slopes, self.cap_slopes),
        )


def forward(
    projection: Projection,
    targets: Int[Tensor, " N"],
    *,
    statistics: Sequence[str] = (),
    cached: int = 0,
    block: int | None = None,
) -> Forward:
    """Return log-probs of the targets, merged and further statistics.

    Partials are of no rows where neither `cached` nor `block` is asked for: then `FOLDED_ROWS` are taken at once.

    Args:
        projection: Of N rows, in float32 or less.
        targets: In [0, V); another gives no number.
        statistics: Names in `rlvr.kernels.partials.SQUARES`.
        cached: Rows, from the first, of which exp(z - m) is kept.
        block: Columns of a block of the partials, a divisor of a tile's; None: those of a tile.
    """
    p, size = projection, len(targets)
    tile, operands = _tile(p), _Operands.of(p)
    keeps = block is not None or cached > 0
    block = block or tile.columns
    assert tile.columns % block == 0, f"a tile has {tile.columns} columns, a block {block}"
    assert not cached or block == tile.columns, "backward finds the cache's blocks by the tile"
    squares = bool(statistics)
    device = p.hidden.device
    bias = None if p.bias is None else p.bias.contiguous()
    targets, warmth = targets.contiguous(), _per_row(p, 1 / p.temperature)
    z_target = torch.full((size,), torch.nan, dtype=torch.float32, device=device)
    cache = torch.empty(cached, p.vocabulary, dtype=p.operand_dtype, device=device)
    blocks = triton.cdiv(p.vocabulary, block)
    constants = operands.constants(tile) | {
        "V": p.vocabulary,
        "BLOCK": block,
        "SQUARES": squares,
        "CACHE": cached > 0,
    }
    found: list[Merged] = []
    for rows in _slices(size, size if keeps else launch.FOLDED_ROWS):
        count = rows.stop - rows.start
        partials = Partials.empty(blocks, count, torch.float32, device, squares=squares)
        row_tiles = triton.cdiv(count, tile.rows)
        arguments = (
            *(bias, targets[rows], warmth[rows], partials.m, partials.s, partials.w),
            *(partials.q, partials.r, z_target[rows], cache, count, row_tiles, cached),
        )
        own = operands.rows(rows)
        tiles = row_tiles * triton.cdiv(p.vocabulary, tile.columns)
        _launch((forward_plain, forward_descriptor), p, own, own, tile, tiles, arguments, constants)
        found += [merge(_rows_of(partials, part)) for part in _slices(count, launch.FOLDED_ROWS)]
    merged = _joined(found)
    logprobs = z_target - merged.log_z
    if merged.residue is not None:
        logprobs -= merged.residue
    return Forward(
        # rounding must not make a probability more than 1
        logprobs.clamp_(max=0.0),
        {name: getattr(merged, name) for name in statistics},
        merged,
        cache,
        partials if keeps else Partials.empty(0, 0, torch.float32, device, squares=squares),
    )


def backward(
    projection: Projection,
    upstream: Upstream,
    wanted: Wanted,
    *,
    kept: Kept | None = None,
) -> Gradients:
    """Return the gradients of Σ upstream x (log-prob, entropy).

    Args:
        projection: Of n rows, in float32 or less.
        upstream: Of the same rows, without statistics.
        wanted: Which gradients.
        kept: Of the first of these rows.
    """
    p, size = projection, len(upstream.targets)
    gradients = Gradients.empty(p, wanted)
    if not size:
        PieceSums(gradients, slice(0, p.vocabulary), p.compute_dtype).write()
        return gradients
    operands = _Operands.of(p)
    multiplied = replace(p, hidden=operands.hidden, low_hidden=operands.low_hidden)
    for columns, d in _pieces(p, operands, _Rows.of(p, upstream), kept):
        pairs = ((gradients.hidden, operands.weight), (gradients.low_hidden, operands.low_weight))
        for result, matrix in pairs:
            if result is not None and matrix is not None:
                product(d, matrix[columns], result, add=True)
        sums = PieceSums(gradients, columns, p.compute_dtype)
        sums.add(d, multiplied, slice(0, size))
        sums.write()
    return gradients


def _pieces(
    projection: Projection, operands: _Operands, rows: _Rows, kept: Kept | None
) -> Iterator[tuple[slice, Float[Tensor, "n v"]]]:
    """Yield columns of the head and D of all rows in them; the next piece takes the room of the last."""
    p, tile, size = projection, _tile(projection), len(rows.targets)
    cached = 0 if kept is None else len(kept.places)
    width = launch.piece_columns(size, p.vocabulary, tile, p.operand_dtype)
    room = torch.empty(size, width, dtype=p.operand_dtype, device=p.hidden.device)
    made_rows, made_operands = rows.rows(cached), operands.rows(slice(cached, size))
    for first in range(0, p.vocabulary, width):
        columns = slice(first, min(first + width, p.vocabulary))
        d = room[:, : columns.stop - first]
        if kept is not None and cached:
            _from_cache(p, rows, kept, tile, first, d[:cached])
        if cached < size:
            _make(p, made_operands, made_rows, tile, first, d[cached:])
        yield columns, d


def _make(
    projection: Projection,
    operands: _Operands,
    rows: _Rows,
    tile: Tile,
    first: int,
    d: Float[Tensor, "n v"],
) -> None:
    """Write D of the columns from `first` from hidden states."""
    p, (size, width) = projection, d.shape
    row_tiles = triton.cdiv(size, tile.rows)
    arguments = (
        *(None if p.bias is None else p.bias.contiguous()[first:], rows.targets),
        *(rows.inverse_temperatures, *rows.of_gradient(), d, size, row_tiles, first, width),
    )
    constants = operands.constants(tile) | {"HAS_ENTROPY": rows.es is not None}
    _launch(
        *((gradient_plain, gradient_descriptor), p, operands.columns(first), operands, tile),
        *(row_tiles * triton.cdiv(width, tile.columns), arguments, constants, (d.stride(0),)),
    )


def _from_cache(
    projection: Projection,
    rows: _Rows,
    kept: Kept,
    tile: Tile,
    first: int,
    d: Float[Tensor, "n v"],
) -> None:
    """Write D of the columns from `first` from what forward kept."""
    size, width = d.shape
    blocks = triton.cdiv(projection.vocabulary, tile.columns)
    assert len(kept.m) == blocks, "forward had other tiles"
    grid = triton.cdiv(size, launch.CACHED_ROWS), triton.cdiv(width, tile.columns)
    with torch.cuda.device_of(d):
        gradient_from_cache[grid](
            *(kept.cache, kept.m, kept.places, rows.targets, rows.logprobs, *rows.of_gradient()),
            *(d, size, kept.m.shape[1], first, width, d.stride(0)),
            V=projection.vocabulary,
            BM=launch.CACHED_ROWS,
            BLOCK=tile.columns,
            HAS_CAP=projection.softcap is not None,
            HAS_ENTROPY=rows.es is not None,
            num_warps=launch.CACHED_WARPS,
            enable_fp_fusion=True,
        )


def _launch(
    kernels: tuple[Any, Any],
    projection: Projection,
    pointed: _Operands,
    described: _Operands,
    tile: Tile,
    tiles: int,
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
    strides: tuple[int, ...] = (),
) -> None:
    """Run a kernel over tiles, if there are any; as plain or by descriptors.

    Args:
        kernels: The plain one and that of descriptors.
        projection: Of the logits.
        pointed: What the plain kernel multiplies.
        described: What the other multiplies.
        tile: Its sizes.
        tiles: How many.
        arguments: Between the matrices and their strides.
        constants: What it is compiled for, besides bias and cap.
        strides: After those of the matrices.
    """
    if not tiles:
        return
    p = projection
    plain, descriptor = kernels
    scalars = p.logit_scale, 1.0 if p.softcap is None else p.softcap
    constants = constants | {
        "HAS_BIAS": p.bias is not None,
        "HAS_CAP": p.softcap is not None,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": True,
    }
    with torch.cuda.device_of(p.hidden):
        if tile.variant == "descriptor" and launch.can_describe(*described.all()):
            grid = (min(tiles, launch.programs(p.hidden.device, tile)),)
            descriptor[grid](
                *described.described(tile), *arguments, *strides, *scalars, **constants
            )
        else:
            own = pointed.strides()
            plain[(tiles,)](*pointed.all(), *arguments, *own, *strides, *scalars, **constants)


def _slices(size: int, step: int) -> Iterator[slice]:
    """Yield slices of at most `step`; of nothing one that is empty."""
    for first in range(0, max(size, 1), max(step, 1)):
        yield slice(first, min(first + step, size))


def _rows_of(partials: Partials, part: slice) -> Partials:
    own: list[Any] = [getattr(partials, each.name) for each in fields(partials)]
    cut: list[Any] = [None if t is None else t[:, part] for t in own]
    return Partials(*cut)


def _joined(parts: list[Merged]) -> Merged:
    """Return what was found of some rows after others as one."""

    def whole(name: str) -> Any:
        own = [getattr(part, name) for part in parts]
        return None if own[0] is None else torch.cat(own)

    return Merged(*(whole(each.name) for each in fields(Merged)))


def _tile(projection: Projection) -> Tile:
    p = projection
    has_extras = any(part is not None for part in (p.bias, p.softcap, p.low_hidden))
    shape = p.hidden.shape[1]
    return launch.tile_for(p.hidden.device, p.operand_dtype, shape, has_extras=has_extras)


def _per_row(projection: Projection, value: float | Tensor) -> Float[Tensor, " N"]:
    """Return a number of all rows, or one a row, as one a row in float32."""
    hidden = projection.hidden
    if isinstance(value, Tensor):
        return value.to(torch.float32).contiguous()
    return torch.full((len(hidden),), value, dtype=torch.float32, device=hidden.device)
