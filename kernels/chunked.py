"""Log-probs, entropies and their gradients in PyTorch, a tile of logits at a time, on any device.

A tile is `ROWS` x `COLUMNS` logits, small enough to stay in a processor's cache between the few passes over it. Columns are
the outer loop: a piece of the head is read, and its gradient written, once. Backward makes a tile again from the hidden
states, or takes it from the cache that forward left.

Memory besides results: a tile or two, the gradient of one piece of the head, and the cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.kernels.partials import SQUARES, Merged, Partials, merge
from rlvr.kernels.projection import Projection, product
from rlvr.kernels.statistics import gradient, of_logits

if TYPE_CHECKING:
    from rlvr.kernels.certified import Plan

ROWS, COLUMNS = 512, 2048
"""Of a tile on a CPU: 4 MiB in float32."""
GPU_ROWS, GPU_COLUMNS = 4096, 2048
"""Elsewhere: half of a large GPU's L2."""
WIDEST = 8
"""Of few rows a tile has more columns, of few columns more rows, up to so many times: pieces of either may need a copy."""
WHOLE_ROWS = 2**24
"""Logits of rows that are looked at as a whole."""


@dataclass(frozen=True)
class Forward:
    """What forward gives, of N rows."""

    logprobs: Float[Tensor, " N"]
    statistics: dict[str, Float[Tensor, " N"]]
    merged: Merged
    cache: Float[Tensor, "C V"]
    """What backward needs of the first C rows; here their scaled logits."""
    partials: Partials


@dataclass(frozen=True)
class Kept:
    """What forward left in its cache for the first n of the rows that backward is asked for."""

    cache: Float[Tensor, "C V"]
    places: Int[Tensor, " n"]
    """Where in the cache, and among the rows of `m`, each of them is."""
    m: Float[Tensor, "K M"]
    """Maxima of the blocks, of every row that forward saw; (0, 0) where it does not matter."""


@dataclass(frozen=True)
class Upstream:
    """What the loss asks of N rows, and what forward found of them; gradients are (N,)."""

    targets: Int[Tensor, " N"]
    logprobs: Float[Tensor, " N"]
    entropies: Float[Tensor, " N"]
    log_z: Float[Tensor, " N"]
    of_logprobs: Float[Tensor, " N"]
    of_entropies: Float[Tensor, " N"] | None
    """None: of no row."""
    of_statistics: dict[str, Float[Tensor, " N"]]
    residue: Float[Tensor, " N"] | None = None
    """What rounding left out of `log_z`."""

    def rows(self, index: Int[Tensor, " n"] | slice) -> "Upstream":
        """Return the same of some rows."""
        e, residue = self.of_entropies, self.residue
        return Upstream(
            targets=self.targets[index],
            logprobs=self.logprobs[index],
            entropies=self.entropies[index],
            log_z=self.log_z[index],
            of_logprobs=self.of_logprobs[index],
            of_entropies=None if e is None else e[index],
            of_statistics={name: gradient[index] for name, gradient in self.of_statistics.items()},
            residue=None if residue is None else residue[index],
        )


@dataclass(frozen=True)
class Wanted:
    """Which gradients are needed."""

    hidden: bool
    weight: bool
    bias: bool
    low_hidden: bool
    low_weight: bool


@dataclass(frozen=True)
class Gradients:
    """Of a projection's parts; None where it is not wanted. Those of rows are in float32 (or float64)."""

    hidden: Float[Tensor, "N H"] | None
    weight: Float[Tensor, "V H"] | None
    bias: Float[Tensor, " V"] | None
    low_hidden: Float[Tensor, "N R"] | None
    low_weight: Float[Tensor, "V R"] | None

    @classmethod
    def empty(cls, projection: Projection, wanted: Wanted) -> "Gradients":
        """Return room for them; those of rows are added up, and start with 0."""

        def rows(like: Tensor | None, is_wanted: bool) -> Tensor | None:
            if like is None or not is_wanted:
                return None
            return torch.zeros(like.shape, dtype=projection.compute_dtype, device=like.device)

        def parameter(like: Tensor | None, is_wanted: bool) -> Tensor | None:
            if like is None or not is_wanted:
                return None
            return torch.empty_like(like, memory_format=torch.contiguous_format)

        return cls(
            rows(projection.hidden, wanted.hidden),
            parameter(projection.weight, wanted.weight),
            parameter(projection.bias, wanted.bias),
            rows(projection.low_hidden, wanted.low_hidden),
            parameter(projection.low_weight, wanted.low_weight),
        )


@dataclass(frozen=True)
class _Tiles:
    """How logits are cut: pieces of the head outside, rows inside; the first `cached` rows apart."""

    rows: int
    columns: int
    cached: int
    projection: Projection

    def scratch(self) -> Tensor:
        """Return room for two tiles."""
        p = self.projection
        shape = 2, min(self.rows, len(p.hidden)) * min(self.columns, p.vocabulary)
        return torch.empty(shape, dtype=p.compute_dtype, device=p.hidden.device)

    def pieces(self) -> Iterator["_Piece"]:
        """Yield the pieces of the head."""
        for columns in _slices(0, self.projection.vocabulary, self.columns):
            yield _Piece(self.projection, columns)

    def parts(self) -> Iterator[slice]:
        """Yield the parts of the rows."""
        yield from _slices(0, self.cached, self.rows)
        yield from _slices(self.cached, len(self.projection.hidden), self.rows)


class _Piece:
    """Some columns of the head, as they are multiplied."""

    def __init__(self, projection: Projection, columns: slice) -> None:
        p = projection
        self.columns = columns
        self.width = columns.stop - columns.start
        self.weight = p.operand(p.weight[columns])
        self.bias = None if p.bias is None else p.bias[columns].to(p.compute_dtype)
        self.low_weight = None if p.low_weight is None else p.operand(p.low_weight[columns])

    def logits_(self, z: Float[Tensor, "n v"], projection: Projection, part: slice) -> Tensor:
        """Write the scaled logits of some rows."""
        product(projection.operand(projection.hidden[part]), self.weight.T, z)
        if projection.low_hidden is not None and self.low_weight is not None:
            low = projection.operand(projection.low_hidden[part])
            product(low, self.low_weight.T, z, add=True)
        return projection.scale_(z, self.bias, part)


def forward(
    projection: Projection,
    targets: Int[Tensor, " N"],
    *,
    statistics: Sequence[str] = (),
    cached: int = 0,
    block: int | None = None,
) -> Forward:
    """Return log-probs of the targets, merged and further statistics.

    Args:
        projection: Of N rows.
        targets: In [0, V).
        statistics: Names in `rlvr.kernels.statistics`.
        cached: Rows, from the first, whose logits are kept.
        block: Columns of a block of the partials, a divisor of a tile's; None: those of a tile.
    """
    p, size = projection, len(targets)
    whole = [name for name in statistics if name not in SQUARES]
    tiles = _tiles(p, cached, whole=bool(whole))
    block = block or tiles.columns
    partials = Partials.empty(
        *(-(-p.vocabulary // block), size, p.compute_dtype, p.hidden.device),
        squares=len(whole) < len(statistics),
    )
    z_target, cache = partials.s.new_empty(size), partials.s.new_empty(cached, p.vocabulary)
    found = {name: partials.s.new_empty(size) for name in whole}
    scratch = tiles.scratch()
    for piece in tiles.pieces():
        first = piece.columns.start // block
        for part in tiles.parts():
            z, spare = _shaped(scratch, part, piece)
            if part.stop <= cached:
                z = cache[part, piece.columns]
            piece.logits_(z, p, part)
            _take(z, targets[part] - piece.columns.start, z_target[part])
            for name, value in (of_logits(z, targets[part], whole) if whole else {}).items():
                found[name][part] = value
            for number, columns in enumerate(_slices(0, piece.width, block)):
                _fold(z[:, columns], spare[:, columns], partials, first + number, part)
    merged = merge(partials)
    found |= {name: getattr(merged, name) for name in statistics if name in SQUARES}
    # rounding must not make a probability more than 1
    logprobs = z_target - merged.log_z
    if merged.residue is not None:
        logprobs -= merged.residue
    logprobs.clamp_(max=0.0)
    return Forward(logprobs, found, merged, cache, partials)


def backward(
    projection: Projection,
    upstream: Upstream,
    wanted: Wanted,
    *,
    kept: Kept | None = None,
) -> Gradients:
    """Return the gradients of Σ upstream x (log-prob, entropy, statistic).

    Args:
        projection: Of N rows.
        upstream: Of the same rows.
        wanted: Which gradients.
        kept: Of the first of these rows.
    """
    p = projection
    tiles = _tiles(p, 0 if kept is None else len(kept.places), whole=bool(upstream.of_statistics))
    gradients = Gradients.empty(p, wanted)
    scratch, slope = tiles.scratch(), p.slope()
    for piece in tiles.pieces():
        sums = PieceSums(gradients, piece.columns, p.compute_dtype)
        for part in tiles.parts():
            z, spare = _shaped(scratch, part, piece)
            if kept is not None and part.stop <= len(kept.places):
                torch.index_select(kept.cache[:, piece.columns], 0, kept.places[part], out=z)
            else:
                piece.logits_(z, p, part)
            _add(z, spare, upstream.rows(part), p, part, slope, piece, gradients, sums)
        sums.write()
    return gradients


def add_tiles(
    projection: Projection,
    upstream: Upstream,
    plan: "Plan",
    gradients: Gradients,
    starts: Gradients,
) -> None:
    """Add the gradients of the tiles that a plan makes; see `rlvr.kernels.certified`."""
    p, size, slope = projection, len(projection.hidden), projection.slope()
    scratch = p.hidden.new_empty(2, size * plan.block, dtype=p.compute_dtype)
    made = plan.made.T.tolist()
    for number, columns in enumerate(_slices(0, p.vocabulary, plan.block)):
        piece = _Piece(p, columns)
        own = (starts.weight, starts.low_weight, starts.bias)
        start = tuple(None if s is None else s[number : number + 1] for s in own)
        sums = PieceSums(gradients, columns, p.compute_dtype, start)
        for part in _runs(made[number], plan.row_block, size):
            z, spare = _shaped(scratch, part, piece)
            piece.logits_(z, p, part)
            _add(z, spare, upstream.rows(part), p, part, slope, piece, gradients, sums)
        sums.write()


def _add(
    z: Float[Tensor, "n v"],
    spare: Float[Tensor, "n v"],
    upstream: Upstream,
    projection: Projection,
    part: slice,
    slope: Float[Tensor, " N"],
    piece: _Piece,
    gradients: Gradients,
    sums: "PieceSums",
) -> None:
    """Add what a tile of scaled logits gives to the gradients."""
    p = projection
    factor = p.cap_factor(z, part)
    d = of_logits_(z, spare, upstream, piece.columns.start).mul_(slope[part, None])
    if factor is not None:
        d.mul_(factor)
    d = p.operand(d)
    pairs = ((gradients.hidden, piece.weight), (gradients.low_hidden, piece.low_weight))
    for result, matrix in pairs:
        if result is not None and matrix is not None:
            product(d, matrix, result[part], add=True)
    sums.add(d, p, part)


def of_logits_(
    z: Float[Tensor, "n v"], spare: Float[Tensor, "n v"], upstream: Upstream, first: int
) -> Float[Tensor, "n v"]:
    """Turn logits of the columns from `first` into the gradient of the loss by them, in place.

    With g and e the gradients of log-prob and entropy: d = g (1[target] - p) - e p (ln p + H).
    """
    g, e = upstream.of_logprobs.unsqueeze(1), upstream.of_entropies
    z.sub_(upstream.log_z.unsqueeze(1))
    if upstream.residue is not None:
        z.sub_(upstream.residue.unsqueeze(1))
    extra = [gradient(z, name).mul_(s.unsqueeze(1)) for name, s in upstream.of_statistics.items()]
    if e is None:
        z.exp_().mul_(-g)
    else:
        p = torch.exp(z, out=spare)
        e = e.unsqueeze(1)
        z.add_(upstream.entropies.unsqueeze(1)).mul_(-e).sub_(g).mul_(p)
    taken = upstream.targets - first
    at = ((taken >= 0) & (taken < z.shape[1])).nonzero().squeeze(1)
    z[at, taken[at]] = of_target(upstream)[at]
    for own in extra:
        z.add_(own)
    return z


def of_target(upstream: Upstream) -> Float[Tensor, " n"]:
    """Return the gradient by each row's target logit, in which g (1 - p) must not cancel."""
    log_p = upstream.logprobs
    d = upstream.of_logprobs * -log_p.expm1()
    e = upstream.of_entropies
    return d if e is None else d - e * log_p.exp() * (log_p + upstream.entropies)


def rounded_rows(
    upstream: Upstream, slope: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return slope, gradient by the target's logit and entropy of each row, for who takes `log_z` alone for ln Z.

    What rounding left out of ln Z is in them, at no cost for an element: exp(z - log_z) is p exp(residue).
    """
    if upstream.residue is None:
        return slope, of_target(upstream), upstream.entropies
    factor = torch.exp(-upstream.residue)
    # the target's own entry has all of ln Z already
    own = of_target(upstream) * torch.exp(upstream.residue)
    return slope * factor, own, upstream.entropies - upstream.residue


class PieceSums:
    """The gradients of a piece of the head, added up over rows and written once."""

    def __init__(
        self,
        gradients: Gradients,
        columns: slice,
        dtype: torch.dtype,
        start: tuple[Tensor | None, ...] | None = None,
    ) -> None:
        own = (gradients.weight, gradients.low_weight, gradients.bias)
        self._results = [None if gradient is None else gradient[columns] for gradient in own]
        self._sums = [None if r is None else _sum_for(r, dtype) for r in self._results]
        self._is_empty = start is None
        for total, value in zip(self._sums, start or (), strict=start is not None):
            if total is not None and value is not None:
                total.copy_(value.expand_as(total))

    def add(self, d: Float[Tensor, "n v"], projection: Projection, part: slice) -> None:
        """Add what some rows give."""
        p = projection
        of_weight, of_low_weight, of_bias = self._sums
        for total, factor in ((of_weight, p.hidden), (of_low_weight, p.low_hidden)):
            if total is not None and factor is not None:
                product(d.T, p.operand(factor[part]), total, add=not self._is_empty)
        if of_bias is not None:
            own = d.sum(0, dtype=of_bias.dtype)
            of_bias.copy_(own if self._is_empty else of_bias + own)
        self._is_empty = False

    def write(self) -> None:
        """Round the sums once, to the parameters' dtype."""
        for result, total in zip(self._results, self._sums, strict=True):
            if result is None or total is None:
                continue
            if self._is_empty:
                result.zero_()
            elif total is not result:
                result.copy_(total)


def _sum_for(result: Tensor, dtype: torch.dtype) -> Tensor:
    return result if result.dtype == dtype else torch.empty_like(result, dtype=dtype)


def _take(z: Tensor, taken: Tensor, result: Tensor) -> None:
    """Note the targets' logits of the rows whose target is in these columns."""
    width = z.shape[1]
    own = z.gather(1, taken.clamp(0, width - 1).unsqueeze(1)).squeeze(1)
    torch.where((taken >= 0) & (taken < width), own, result, out=result)


def _fold(z: Tensor, spare: Tensor, partials: Partials, block: int, part: slice) -> None:
    m = z.amax(1)
    d = torch.sub(z, m.unsqueeze(1), out=spare)
    partials.m[block, part] = m
    e = d.exp()
    partials.s[block, part] = e.sum(1)
    partials.w[block, part] = torch.linalg.vecdot(e, d)
    if partials.q is not None and partials.r is not None:
        partials.q[block, part] = torch.linalg.vecdot(e, e)
        partials.r[block, part] = torch.linalg.vecdot(e.square_(), d)


def _tiles(projection: Projection, cached: int, *, whole: bool) -> _Tiles:
    if whole:
        rows = max(WHOLE_ROWS // projection.vocabulary, 1)
        return _Tiles(rows, projection.vocabulary, cached, projection)
    on_cpu = projection.hidden.device.type == "cpu"
    rows, columns = (ROWS, COLUMNS) if on_cpu else (GPU_ROWS, GPU_COLUMNS)
    more_columns = min(max(rows // max(len(projection.hidden), 1), 1), WIDEST)
    more_rows = min(max(columns // projection.vocabulary, 1), WIDEST)
    return _Tiles(rows * more_rows, columns * more_columns, cached, projection)


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def _runs(made: list[bool], row_block: int, size: int) -> Iterator[slice]:
    """Yield the rows of neighbouring blocks that are made."""
    place = 0
    for is_made, group in groupby(made):
        end = place + len(list(group))
        if is_made:
            yield slice(place * row_block, min(end * row_block, size))
        place = end


def _shaped(scratch: Tensor, part: slice, piece: _Piece) -> tuple[Tensor, Tensor]:
    n = part.stop - part.start
    z, spare = scratch[:, : n * piece.width].view(2, n, piece.width)
    return z, spare
