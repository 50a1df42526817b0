"""A policy as in training: most tokens are nearly certain, a few are frequent; and what backward is asked of it."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from rlvr.kernels import certified, chunked, naive
from rlvr.kernels.chunked import Gradients, Upstream, Wanted
from rlvr.kernels.partials import Partials
from rlvr.kernels.projection import Projection

ALL = Wanted(True, True, True, True, True)
NAMES = tuple(field.name for field in fields(Gradients))


@dataclass(frozen=True)
class Asked:
    """The arguments of a certified backward pass."""

    projection: Projection
    upstream: Upstream
    partials: Partials

    def plan(self, tolerance: float) -> certified.Plan:
        return certified.plan(self.projection, self.upstream, self.partials, tolerance)

    def backward(
        self, tolerance: float, *, wanted: Wanted = ALL, implementation: Any = chunked
    ) -> tuple[Gradients, certified.Report]:
        """Return the gradients with tiles left out, and the report."""
        report = torch.zeros(4, dtype=torch.float64)
        found = certified.backward(
            *(self.projection, self.upstream, wanted, self.partials),
            tolerance=tolerance,
            report=report,
            implementation=implementation,
        )
        return found, certified.Report(*report.tolist())

    def exact(self, wanted: Wanted = ALL) -> Gradients:
        """Return the gradients with nothing left out."""
        return chunked.backward(self.projection, self.upstream, wanted)


def asked(
    rows: int = 300,
    vocabulary: int = 1000,
    width: int = 32,
    *,
    dtype: torch.dtype = torch.float64,
    operand_dtype: torch.dtype | None = None,
    sure: float = 0.7,
    bias: bool = False,
    rank: int = 0,
    warmth: bool = False,
    entropy_gradient: bool = False,
    seed: int = 0,
    **options: Any,
) -> Asked:
    """Return what is asked of a policy, of which a share `sure` of the tokens is nearly certain.

    Args:
        rows: n.
        vocabulary: V; its tokens are the rarer the later they come.
        width: H.
        dtype: Of hidden states and head.
        operand_dtype: Of what is multiplied; None: the same.
        sure: Share of rows.
        bias: Whether the head has one.
        rank: R of an adapter; 0: none.
        warmth: Whether each row has a temperature of its own.
        entropy_gradient: Whether entropies are in the loss.
        seed: Of all numbers.
        options: Of the projection.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*of: int) -> Tensor:
        return torch.randn(*of, generator=generator, dtype=torch.float64)

    weight = torch.nn.functional.normalize(normal(vocabulary, width), dim=1)
    # a direction that all rows have in common, as real heads do: its logits are those of frequencies
    rarity = torch.arange(1, vocabulary + 1, dtype=torch.float64).log()
    weight[:, 0] = -rarity / 4
    frequency = (-rarity).exp()
    is_sure = torch.rand(rows, generator=generator) < sure
    favourite = torch.multinomial(frequency.expand(max(rows, 1), -1), 3, generator=generator)[:rows]
    strength = torch.where(is_sure, 30.0, 9.0).double().unsqueeze(1)
    hidden = strength * weight[favourite[:, 0]]
    for other in (1, 2):
        hidden += torch.where(is_sure, 0.0, 8.0).double().unsqueeze(1) * weight[favourite[:, other]]
    hidden[:, 0] = 4
    temperature: float | Tensor = options.pop("temperature", 1.0)
    if warmth:
        temperature = 0.6 + torch.rand(rows, generator=generator, dtype=torch.float64)
    projection = Projection(
        hidden.to(dtype),
        weight.to(dtype),
        bias=normal(vocabulary).to(dtype) if bias else None,
        low_hidden=normal(rows, rank).to(dtype) if rank else None,
        low_weight=(normal(vocabulary, rank) / 4).to(dtype) if rank else None,
        temperature=temperature,
        operand_dtype=operand_dtype or dtype,
        **options,
    )
    wide = projection.compute_dtype
    if isinstance(temperature, Tensor):
        projection = replace(projection, temperature=temperature.to(wide))
    # the sampled token: mostly the likely one
    chance = torch.rand(rows, generator=generator)
    targets = torch.where(chance < 0.9, favourite[:, 0], favourite[:, 1])
    found = chunked.forward(projection, targets, block=certified.BLOCK)
    upstream = Upstream(
        *(targets, found.logprobs, found.merged.entropies, found.merged.log_z),
        of_logprobs=normal(rows).to(wide),
        of_entropies=normal(rows).to(wide) if entropy_gradient else None,
        of_statistics={},
        residue=found.merged.residue,
    )
    return Asked(projection, upstream, found.partials)


def by_product(of: Asked) -> Tensor:
    """Return the exact gradient by the raw products, (n, V), float64, from plain PyTorch."""
    p, u = of.projection, of.upstream
    raw = p.hidden.double() @ p.weight.double().T
    if p.low_hidden is not None and p.low_weight is not None:
        raw = raw + p.low_hidden.double() @ p.low_weight.double().T
    if p.bias is not None:
        raw = raw + p.bias.double()
    raw.requires_grad_()
    z = raw * p.logit_scale
    if p.softcap is not None:
        z = p.softcap * torch.tanh(z / p.softcap)
    warmth = p.temperature
    z = z / (warmth.double().unsqueeze(1) if isinstance(warmth, Tensor) else warmth)
    logprobs, entropies = naive.logprob_entropy(z, u.targets)
    loss = (u.of_logprobs.double() * logprobs).sum()
    if u.of_entropies is not None:
        loss = loss + (u.of_entropies.double() * entropies).sum()
    return torch.autograd.grad(loss, raw)[0]


def multiplied(d: Tensor, of: Asked) -> dict[str, Tensor]:
    """Return what a gradient by the raw products gives, by name."""
    p = of.projection
    found = {
        "hidden": d @ p.weight.double(),
        "weight": d.T @ p.hidden.double(),
        "bias": d.sum(0),
    }
    if p.low_hidden is not None and p.low_weight is not None:
        found["low_hidden"] = d @ p.low_weight.double()
        found["low_weight"] = d.T @ p.low_hidden.double()
    return found


def with_means(d: Tensor, plan: certified.Plan) -> Tensor:
    """Return a gradient by the raw products with the means of left-out tiles in their place."""
    size, vocabulary = d.shape
    is_made = plan.made.repeat_interleave(plan.row_block, 0)[:size]
    is_made = is_made.repeat_interleave(plan.block, 1)[:, :vocabulary]
    of_columns = torch.arange(vocabulary) // plan.block
    means = (plan.sums.double().T / of_columns.bincount())[:, of_columns]
    found = torch.empty_like(d)
    found[plan.order] = torch.where(is_made, d[plan.order], means)
    return found


def by_block(d: Tensor) -> Tensor:
    """Return sums over the columns of each block, (K, n)."""
    blocks = -(-d.shape[1] // certified.BLOCK)
    padded = torch.nn.functional.pad(d, (0, blocks * certified.BLOCK - d.shape[1]))
    return padded.view(len(d), blocks, certified.BLOCK).sum(-1).T
