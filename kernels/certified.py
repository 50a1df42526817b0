"""Backward that leaves out tiles of logits under a bound it proves, and reports.

From forward's partials alone, each row i and block B of the vocabulary has its probability mass P, its share h of the
entropy, and so, of the gradient d = g (1[target] - p) - e p (ln p + H) by its logits,

    the exact sum  s = Σ d = g 1[target in B] - g P + e (h - H P)
    a bound        Σ |d| <= L = |g| P + |e| (h + H P), where the block has the target: |g| ((P - p_t) + (1 - p_t)) for |g| P

since |ln p + H| <= H - ln p. Tiles of `ROW_BLOCK` rows and a block, whose logits are then never made, are chosen by the
least Σ (L + |s|) until `tolerance` x Σ L is spent, and each of their entries is replaced by the block's mean s / |B|: what
is left out adds up to no more than that, and Σ d over the vocabulary stays 0. Rows are sorted so that those that need the
same blocks are neighbours.

Chosen when `tolerance` > 0. It pays where most rows are nearly deterministic; the report tells how many tiles were made.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.kernels.chunked import Gradients, Upstream, Wanted
from rlvr.kernels.partials import Partials
from rlvr.kernels.projection import Projection, product

ROW_BLOCK = 128
BLOCK = 128
"""Columns of a block of the vocabulary."""


class Report(NamedTuple):
    """What a backward pass left out; sums over rows of L1 norms of gradients by logits."""

    left_out: float
    """At most this, against the exact gradient."""
    whole: float
    """Bound of the exact gradient's own norm."""
    tiles_made: int
    tiles: int


@dataclass(frozen=True)
class Plan:
    """Which tiles are made, and what stands for the others."""

    order: Int[Tensor, " n"]
    """Of the rows: neighbours need the same blocks."""
    made: Bool[Tensor, "I K"]
    """Of each block of rows and of columns, in that order."""
    means: Float[Tensor, "K n"]
    """Of the gradient by the logits of a block that is left out; 0 in one that is made."""
    left_out: Tensor
    whole: Tensor
    row_block: int = ROW_BLOCK
    block: int = BLOCK


def plan(projection: Projection, upstream: Upstream, partials: Partials, tolerance: float) -> Plan:
    """Return what is left out so that Σ ‖δd‖₁ <= tolerance x Σ L.

    Args:
        projection: Of n rows.
        upstream: Of the same rows, without statistics.
        partials: Of blocks of `BLOCK` columns.
        tolerance: Above 0.
    """
    bound, total = _bounds(projection, upstream, partials)
    order = _sorted_rows(bound, upstream, tolerance)
    bound, total = bound[:, order], total[:, order]
    blocks, size = bound.shape
    cost = bound + total.abs()
    padded = torch.zeros(
        blocks, -(-size // ROW_BLOCK) * ROW_BLOCK, dtype=torch.float64, device=cost.device
    )
    padded[:, :size] = cost
    tiles = padded.view(blocks, -1, ROW_BLOCK).sum(-1).T
    whole = bound.sum(dtype=torch.float64)
    ranked, index = tiles.flatten().sort(stable=True)
    spent = ranked.cumsum(0)
    left = spent <= tolerance * whole
    made = torch.empty_like(left).index_copy_(0, index, ~left).view(tiles.shape)
    width = torch.full((blocks, 1), BLOCK, dtype=total.dtype, device=total.device)
    width[-1] = projection.vocabulary - BLOCK * (blocks - 1)
    is_made = made.repeat_interleave(ROW_BLOCK, dim=0)[:size].T
    means = (total / width).masked_fill_(is_made, 0.0)
    return Plan(order, made, means, torch.where(left, ranked, 0.0).sum(), whole)


def _bounds(
    projection: Projection, upstream: Upstream, partials: Partials
) -> tuple[Float[Tensor, "K n"], Float[Tensor, "K n"]]:
    """Return L and s of every block and row, by the raw products."""
    shift = partials.m - upstream.log_z
    factor = shift.exp()
    mass = partials.s * factor
    of_blocks = torch.arange(len(mass), device=mass.device).unsqueeze(1)
    holds_target = of_blocks == upstream.targets // BLOCK
    p_target = upstream.logprobs.exp()
    g = upstream.of_logprobs
    outside = (mass - p_target).clamp_(min=0.0) - upstream.logprobs.expm1()
    bound = g.abs() * torch.where(holds_target, outside, mass)
    total = g * (holds_target.to(mass.dtype) - mass)
    if upstream.of_entropies is not None:
        e, entropy = upstream.of_entropies, upstream.entropies
        share = -(factor * torch.addcmul(partials.w, shift, partials.s))
        bound += e.abs() * (share + entropy * mass)
        total += e * (share - entropy * mass)
    slope = projection.slope()
    return bound * slope.abs(), total * slope


def _sorted_rows(
    bound: Float[Tensor, "K n"], upstream: Upstream, tolerance: float
) -> Int[Tensor, " n"]:
    whole = bound.sum(0)
    block = upstream.targets // BLOCK
    rest = whole - bound.gather(0, block.unsqueeze(0)).squeeze(0)
    is_tiny = whole <= tolerance * whole.mean()
    is_sure = rest <= tolerance * whole
    order = upstream.entropies.argsort(stable=True)
    # those that need one block by it, the others by entropy
    place = torch.where(is_tiny | is_sure, block, len(bound))
    order = order[place[order].argsort(stable=True)]
    return order[(~is_tiny)[order].to(torch.int8).argsort(stable=True)]


def backward(
    projection: Projection,
    upstream: Upstream,
    wanted: Wanted,
    partials: Partials,
    *,
    tolerance: float,
    report: Float[Tensor, " 4"],
    implementation: Any,
) -> Gradients:
    """Return the gradients with tiles left out, and fill the report.

    Args:
        projection: Of n rows.
        upstream: Of the same rows, without statistics.
        wanted: Which gradients.
        partials: Of these rows and blocks of `BLOCK` columns.
        tolerance: Share of the gradient's norm that may be left out.
        report: Takes the values of `Report`.
        implementation: Has `add_tiles(projection, upstream, plan, gradients, starts)`.
    """
    chosen = plan(projection, upstream, partials, tolerance)
    p, u = projection.rows(chosen.order), upstream.rows(chosen.order)
    gradients = Gradients.empty(p, wanted)
    means = chosen.means
    for gradient, matrix in ((gradients.hidden, p.weight), (gradients.low_hidden, p.low_weight)):
        if gradient is not None and matrix is not None:
            product(means.T, _block_sums(matrix, means.dtype), gradient)
    starts = Gradients(
        hidden=None,
        weight=_start(gradients.weight, means, p.hidden),
        bias=None if gradients.bias is None else means.sum(1),
        low_hidden=None,
        low_weight=_start(gradients.low_weight, means, p.low_hidden),
    )
    implementation.add_tiles(p, u, chosen, gradients, starts)
    values = (chosen.left_out, chosen.whole, chosen.made.sum(), chosen.made.numel())
    report.copy_(torch.stack([torch.as_tensor(v, device=report.device).double() for v in values]))
    back = torch.empty_like(chosen.order)
    back[chosen.order] = torch.arange(len(back), device=back.device)
    hidden, low = gradients.hidden, gradients.low_hidden
    return Gradients(
        hidden=None if hidden is None else hidden[back],
        weight=gradients.weight,
        bias=gradients.bias,
        low_hidden=None if low is None else low[back],
        low_weight=gradients.low_weight,
    )


def _block_sums(matrix: Float[Tensor, "V H"], dtype: torch.dtype) -> Float[Tensor, "K H"]:
    whole = len(matrix) // BLOCK * BLOCK
    sums = matrix[:whole].view(-1, BLOCK, matrix.shape[1]).sum(1, dtype=dtype)
    if whole == len(matrix):
        return sums
    return torch.cat([sums, matrix[whole:].sum(0, keepdim=True, dtype=dtype)])


def _start(
    gradient: Tensor | None, means: Float[Tensor, "K n"], rows: Tensor | None
) -> Float[Tensor, "K H"] | None:
    """Return what each column's gradient starts with, the same in a block."""
    if gradient is None or rows is None:
        return None
    return means @ rows.to(means.dtype)
