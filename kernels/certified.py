"""Backward that leaves out tiles of logits under a bound it proves, and reports.

From forward's partials alone, each row and block B of the vocabulary has its probability mass P, its share h of the entropy,
and so, of the gradient d = g (1[target] - p) - e p (ln p + H) by its logits,

    the exact sum  s = Σ d = g 1[target in B] - g P + e (h - H P)
    a bound        Σ |d| <= L = |g| P + |e| (h + H P), where the block has the target: |g| ((P - p_t) + (1 - p_t)) for |g| P

since |ln p + H| <= H - ln p. Tiles of `ROW_BLOCK` rows and a block, whose logits are then never made, are chosen by the
least Σ (L + |s|) until `tolerance` x Σ L is spent: tiles are equal work, so no other choice leaves out more of them. Each
entry of such a tile is replaced by the block's mean s / |B|: what is left out adds up to no more than that, and Σ d over the
vocabulary stays 0. A cap only makes |d| smaller; with it Σ d is not 0 in the exact gradient either.

L has a slack for the rounding of what it is made of, so that it holds for the gradient that exact backward would make.

It pays where most rows are nearly deterministic; the report tells how many tiles were made.
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
NEEDED_BY_ALL = 3
"""Blocks of a row that do not count where rows are sorted: nearly every row needs about so many."""
UNITS = 2**40
"""Of which the budget has so many: sums of integers are the same in every order, those of floats on a GPU are not."""


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
    """Of the rows: neighbours need about as many blocks."""
    made: Bool[Tensor, "I K"]
    """Of each block of rows, in that order, and of columns."""
    sums: Float[Tensor, "K n"]
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
    bound, total = bounds(projection, upstream, partials)
    order = _sorted_rows(bound)
    bound, total = bound[:, order], total[:, order]
    whole = bound.sum(dtype=torch.float64)
    cost = _tile_sums(bound.add_(total.abs()))
    made = _is_made(cost, tolerance * whole)
    of_rows = made.repeat_interleave(ROW_BLOCK, dim=0)[: len(order)].T
    left_out = cost.masked_fill(made, 0.0).sum()
    return Plan(order, made, total.masked_fill_(of_rows, 0.0), left_out, whole)


def bounds(
    projection: Projection, upstream: Upstream, partials: Partials
) -> tuple[Float[Tensor, "K n"], Float[Tensor, "K n"]]:
    """Return L and s of every block and row, by the raw products and as if there were no cap."""
    g, log_z = upstream.of_logprobs, upstream.log_z
    at = (upstream.targets // BLOCK).unsqueeze(0)
    shift = partials.m - log_z
    if upstream.residue is not None:
        shift -= upstream.residue
    factor = shift.exp()
    mass = partials.s * factor
    # 1 - p_t and P - p_t from the mass of the other blocks: from the block's own they would cancel
    others = mass.scatter(0, at, 0.0).sum(0)
    epsilon = torch.finfo(mass.dtype).eps
    slack = 4 * epsilon * (1 + log_z.abs() + upstream.entropies)
    missing = torch.maximum(-upstream.logprobs.expm1(), others) + slack
    bound = g.abs() * mass.scatter(0, at, (2 * missing - others).unsqueeze(0))
    total = -g * mass
    if upstream.of_entropies is not None:
        e, entropy = upstream.of_entropies, upstream.entropies
        share = -(factor * torch.addcmul(partials.w, shift, partials.s))
        total += e * (share - entropy * mass)
        bound += e.abs() * (share + (entropy + 2 * slack) * mass)
    bound *= 1 + slack
    total.scatter_(0, at, 0.0)
    total.scatter_(0, at, -total.sum(0, keepdim=True))
    slope = projection.slope()
    return bound * slope.abs(), total * slope


def _sorted_rows(bound: Float[Tensor, "K n"]) -> Int[Tensor, " n"]:
    """Return the rows by how much of their gradient lies beyond the few blocks with most of it."""
    few = bound.topk(min(NEEDED_BY_ALL, len(bound)), dim=0).values
    return (bound.sum(0) - few.sum(0)).argsort(stable=True)


def _tile_sums(values: Float[Tensor, "K n"]) -> Float[Tensor, "I K"]:
    blocks, size = values.shape
    row_blocks = -(-size // ROW_BLOCK)
    padded = torch.nn.functional.pad(values, (0, row_blocks * ROW_BLOCK - size))
    return padded.view(blocks, row_blocks, ROW_BLOCK).sum(-1, dtype=torch.float64).T


def _is_made(cost: Float[Tensor, "I K"], budget: Tensor) -> Bool[Tensor, "I K"]:
    """Return which tiles are made: all but the cheapest, whose costs add up to no more than the budget.

    Those whose cost is no number are made, as are all with a cost where the budget is none.
    """
    budget = budget.nan_to_num(0.0, posinf=0.0).clamp(min=torch.finfo(budget.dtype).tiny)
    units = (cost / budget).nan_to_num(torch.inf).clamp(max=2.0).mul(UNITS).ceil().long()
    ranked, index = units.flatten().sort(stable=True)
    is_made = torch.empty_like(ranked, dtype=torch.bool)
    is_made[index] = ranked.cumsum(0) > UNITS
    return is_made.view(cost.shape)


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
    assert not upstream.of_statistics, "partials tell nothing of the gradients of statistics"
    chosen = plan(projection, upstream, partials, tolerance)
    values = (chosen.left_out, chosen.whole, chosen.made.sum(), chosen.made.numel())
    # a report on another device waits for this one: here only for the plan
    report.copy_(torch.stack([torch.as_tensor(v, device=report.device).double() for v in values]))
    p, u = projection.rows(chosen.order), upstream.rows(chosen.order)
    gradients = Gradients.empty(p, wanted)
    sums = p.operand(chosen.sums)
    for gradient, matrix in ((gradients.hidden, p.weight), (gradients.low_hidden, p.low_weight)):
        if gradient is not None and matrix is not None:
            product(sums.T, p.operand(_block_means(matrix, p.compute_dtype)), gradient)
    of_bias = gradients.bias
    starts = Gradients(
        hidden=None,
        weight=_start(gradients.weight, p, sums, p.hidden),
        bias=None if of_bias is None else _divided(chosen.sums.sum(1), p.vocabulary),
        low_hidden=None,
        low_weight=_start(gradients.low_weight, p, sums, p.low_hidden),
    )
    implementation.add_tiles(p, u, chosen, gradients, starts)
    back = torch.empty_like(chosen.order)
    back[chosen.order] = torch.arange(len(back), device=back.device)
    hidden, low = gradients.hidden, gradients.low_hidden
    return Gradients(
        hidden=None if hidden is None else hidden[back],
        weight=gradients.weight,
        bias=of_bias,
        low_hidden=None if low is None else low[back],
        low_weight=gradients.low_weight,
    )


def _divided(values: Float[Tensor, "K ..."], vocabulary: int) -> Float[Tensor, "K ..."]:
    """Return sums of blocks, divided by the columns of each."""
    means = values / BLOCK
    means[-1] = values[-1] / (vocabulary - BLOCK * (len(values) - 1))
    return means


def _block_means(matrix: Float[Tensor, "V H"], dtype: torch.dtype) -> Float[Tensor, "K H"]:
    whole = len(matrix) // BLOCK * BLOCK
    means = matrix[:whole].unflatten(0, (-1, BLOCK)).mean(1, dtype=dtype)
    if whole == len(matrix):
        return means
    return torch.cat([means, matrix[whole:].mean(0, keepdim=True, dtype=dtype)])


def _start(
    gradient: Tensor | None,
    projection: Projection,
    sums: Float[Tensor, "K n"],
    rows: Tensor | None,
) -> Float[Tensor, "K H"] | None:
    """Return what each column's gradient starts with, the same in a block."""
    if gradient is None or rows is None:
        return None
    shape = len(sums), rows.shape[1]
    start = torch.empty(shape, dtype=projection.compute_dtype, device=rows.device)
    product(sums, projection.operand(rows), start)
    return _divided(start, projection.vocabulary)
