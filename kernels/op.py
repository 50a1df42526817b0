"""Log-probs and entropies of a linear head as an operator of PyTorch, so that `torch.compile` sees one node.

Forward leaves out rows that are ignored, backward rows whose upstream gradients are all zero: no logit of theirs is made,
and their gradients are exactly 0 (also where their hidden states are not finite).
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rlvr.kernels.certified import backward as certified_backward
from rlvr.kernels.chunked import Forward, Gradients, Kept, Upstream, Wanted
from rlvr.kernels.partials import Partials
from rlvr.kernels.projection import IGNORED, Projection, compute_dtype, without_autocast
from rlvr.kernels.sharded import gathered
from rlvr.kernels.statistics import carries_gradient

_INPUTS = 5  # hidden, weight, bias, low_hidden, low_weight: what may have a gradient


def _implementation(name: str) -> ModuleType:
    if name == "triton":
        from rlvr.kernels import fused

        return fused
    from rlvr.kernels import chunked

    return chunked


def _names(statistics: str) -> list[str]:
    return statistics.split(",") if statistics else []


@torch.library.custom_op("rlvr::linear_logprob", mutates_args=())
def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    low_hidden: Tensor | None,
    low_weight: Tensor | None,
    targets: Tensor,
    live: Tensor | None,
    temperatures: Tensor | None,
    temperature: float,
    softcap: float | None,
    logit_scale: float,
    operand_dtype: torch.dtype,
    statistics: str,
    impl: str,
    cache_rows: int,
    block: int,
    tolerance: float,
    report: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return log-probs, entropies, statistics (S, N), normalizers, places, cache (C, V) and partials.

    Normalizers are (2, N): ln Z, and what rounding left out of it. Partials are m, s and w, (3, K, n), for a certificate, and
    m alone, (1, K, n), for a cache that needs it.

    Args:
        hidden: (N, H).
        weight: (V, H).
        bias: (V,).
        low_hidden: (N, R).
        low_weight: (V, R).
        targets: (N,); `IGNORED` rows get 0 everywhere.
        live: (N,) bool: rows expected to have a gradient; they come first in the cache.
        temperatures: (N,), in place of `temperature`.
        temperature: Of all rows.
        softcap: Of the logits.
        logit_scale: Multiplies them.
        operand_dtype: Of the matrices that are multiplied.
        statistics: Names, joined by commas.
        impl: `chunked` or `triton`.
        cache_rows: Rows whose logits may be kept for backward.
        block: Columns of a block of the partials, which are then returned; 0: as the implementation likes, not returned
            unless its backward needs them.
        tolerance: See `rlvr.kernels.certified`; forward does not look at it.
        report: Where there is a tolerance, takes what backward left out.
    """
    del tolerance, report
    names = _names(statistics)
    size = len(targets)
    warmth = temperature if temperatures is None else temperatures
    whole = Projection(
        *(hidden, weight, bias, low_hidden, low_weight),
        temperature=warmth,
        softcap=softcap,
        logit_scale=logit_scale,
        operand_dtype=operand_dtype,
    )
    valid = targets != IGNORED
    first = valid if live is None else valid & live
    order = first.nonzero().squeeze(1)
    cached = min(cache_rows, len(order))
    if live is not None:
        order = torch.cat([order, (valid & ~live).nonzero().squeeze(1)])
    all_in_order = live is None and len(order) == size
    projection = whole if all_in_order else whole.rows(order)
    implementation = _implementation(impl)
    with without_autocast(hidden):
        found: Forward = implementation.forward(
            projection, targets[order], statistics=names, cached=cached, block=block or None
        )
    places = torch.full_like(targets, -1)
    places[order] = torch.arange(len(order), device=targets.device)

    def spread(values: Tensor) -> Tensor:
        return values if all_in_order else values.new_zeros(size).index_copy_(0, order, values)

    values = [spread(found.statistics[name]) for name in names]
    log_z, residue = found.merged.log_z, found.merged.residue
    normalizers = [log_z, torch.zeros_like(log_z) if residue is None else residue]
    kept = found.logprobs.new_empty(1, 0, 0)
    if block > 0:
        kept = found.partials.stacked()
    elif impl == "triton" and cached > 0:  # exp(z - m) needs m alone
        kept = found.partials.m.clone().unsqueeze(0)
    return (
        spread(found.logprobs),
        spread(found.merged.entropies),
        torch.stack(values) if values else found.logprobs.new_zeros(0, size),
        torch.stack([spread(value) for value in normalizers]),
        places,
        found.cache,
        kept,
    )


@linear_logprob.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    low_hidden: Tensor | None,
    low_weight: Tensor | None,
    targets: Tensor,
    live: Tensor | None,
    temperatures: Tensor | None,
    temperature: float,
    softcap: float | None,
    logit_scale: float,
    operand_dtype: torch.dtype,
    statistics: str,
    impl: str,
    cache_rows: int,
    block: int,
    tolerance: float,
    report: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    del (
        bias,
        low_hidden,
        low_weight,
        live,
        temperatures,
        temperature,
        softcap,
        logit_scale,
        tolerance,
        report,
    )
    dtype = compute_dtype(hidden.dtype)
    size, vocabulary = targets.shape[0], weight.shape[0]  # `len` would fix the number of rows
    row = hidden.new_empty(size, dtype=dtype)
    context = torch.library.get_ctx()
    cached = context.new_dynamic_size() if cache_rows else 0
    keeps = block > 0 or (impl == "triton" and cache_rows > 0)
    kinds = 3 if block > 0 else 1
    blocks, rows = (context.new_dynamic_size(), context.new_dynamic_size()) if keeps else (0, 0)
    cache_dtype = operand_dtype if impl == "triton" else dtype
    return (
        row,
        torch.empty_like(row),
        row.new_empty(len(_names(statistics)), size),
        row.new_empty(2, size),
        torch.empty_like(targets),
        hidden.new_empty(cached, vocabulary, dtype=cache_dtype),
        row.new_empty(kinds, blocks, rows),
    )


@torch.library.custom_op("rlvr::linear_logprob_backward", mutates_args=("report",))
def linear_logprob_backward(
    of_logprobs: Tensor | None,
    of_entropies: Tensor | None,
    of_statistics: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    low_hidden: Tensor | None,
    low_weight: Tensor | None,
    targets: Tensor,
    temperatures: Tensor | None,
    logprobs: Tensor,
    entropies: Tensor,
    normalizers: Tensor,
    places: Tensor,
    cache: Tensor,
    partials: Tensor,
    report: Tensor | None,
    temperature: float,
    softcap: float | None,
    logit_scale: float,
    operand_dtype: torch.dtype,
    statistics: str,
    impl: str,
    tolerance: float,
    needed: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of hidden, weight, bias, low_hidden and low_weight; empty ones where `needed` is 0.

    The arguments are those of `linear_logprob`, what it returned, and the gradients of its first three results.
    """
    names = _names(statistics)
    asked = [gradient for gradient in (of_logprobs, of_entropies) if gradient is not None]
    carried = [name for name in names if carries_gradient(name)]
    statistic_rows = {}
    if of_statistics is not None:
        statistic_rows = {name: of_statistics[names.index(name)] for name in carried}
    is_live = torch.zeros_like(places, dtype=torch.bool)
    for gradient in (*asked, *statistic_rows.values()):
        is_live |= gradient != 0
    rows = (is_live & (places >= 0)).nonzero().squeeze(1)
    is_kept = places[rows] < len(cache)
    if len(cache):
        rows = torch.cat([rows[is_kept], rows[~is_kept]])
    everything = len(rows) == len(targets) and not len(cache)
    zeros = torch.zeros_like(logprobs)
    upstream = Upstream(
        targets=targets,
        logprobs=logprobs,
        entropies=entropies,
        log_z=normalizers[0],
        residue=normalizers[1],
        of_logprobs=zeros if of_logprobs is None else of_logprobs,
        of_entropies=of_entropies,
        of_statistics=statistic_rows,
    )
    whole = Projection(
        *(hidden, weight, bias, low_hidden, low_weight),
        temperature=temperature if temperatures is None else temperatures,
        softcap=softcap,
        logit_scale=logit_scale,
        operand_dtype=operand_dtype,
    )
    projection = whole if everything else whole.rows(rows)
    upstream = upstream if everything else upstream.rows(rows)
    wanted = Wanted(*(flag > 0 for flag in needed))
    implementation = _implementation(impl)
    kept = None
    if len(cache):
        at = places[rows[: int(is_kept.sum())]]
        kept = Kept(cache, at, partials[0])
    with without_autocast(hidden):
        if report is None:
            found: Gradients = implementation.backward(projection, upstream, wanted, kept=kept)
        else:
            m, s, w = partials[:, :, places[rows]]
            found = certified_backward(
                projection,
                upstream,
                wanted,
                Partials(m, s, w),
                tolerance=tolerance,
                report=report,
                implementation=implementation,
            )

    def spread(values: Tensor | None, like: Tensor | None) -> Tensor:
        if values is None or like is None:
            return hidden.new_empty(0)
        if everything:
            return values.to(like.dtype)
        return like.new_zeros(like.shape).index_copy_(0, rows, values.to(like.dtype))

    def whole_or_empty(values: Tensor | None) -> Tensor:
        return hidden.new_empty(0) if values is None else values

    return (
        spread(found.hidden, hidden),
        whole_or_empty(found.weight),
        whole_or_empty(found.bias),
        spread(found.low_hidden, low_hidden),
        whole_or_empty(found.low_weight),
    )


@linear_logprob_backward.register_fake
def _(
    of_logprobs: Tensor | None,
    of_entropies: Tensor | None,
    of_statistics: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    low_hidden: Tensor | None,
    low_weight: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    del of_logprobs, of_entropies, of_statistics
    needed = rest[-1]
    inputs = (hidden, weight, bias, low_hidden, low_weight)
    return tuple(
        torch.empty_like(value, memory_format=torch.contiguous_format)
        if value is not None and flag
        else hidden.new_empty(0)
        for value, flag in zip(inputs, needed, strict=True)
    )


def _set_up(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, low_hidden, low_weight, targets, _, temperatures, *numbers = inputs
    *options, _cache_rows, _block, tolerance, report = numbers
    logprobs, entropies, _, normalizers, places, cache, partials = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        *(hidden, weight, bias, low_hidden, low_weight, targets, temperatures),
        *(logprobs, entropies, normalizers, places, cache, partials, report),
    )
    ctx.options = [*options, tolerance]


def _backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    needed = ctx.needs_input_grad[:_INPUTS]
    nothing = [None] * (len(ctx.needs_input_grad) - _INPUTS)
    upstream = gradients[:3]
    if not any(needed) or all(gradient is None for gradient in upstream):
        return (*[None] * _INPUTS, *nothing)
    with gathered(*saved[1:_INPUTS]):
        found = torch.ops.rlvr.linear_logprob_backward(
            *upstream, *saved, *ctx.options, [int(flag) for flag in needed]
        )
    return (*(value if flag else None for value, flag in zip(found, needed, strict=True)), *nothing)


linear_logprob.register_autograd(_backward, setup_context=_set_up)
