"""Top-entropy tokens (80/20): train on the tokens of highest entropy only.

    selected: the max(1, ceil(fraction M)) tokens with the largest entropy H_t of the current policy
    loss = mean over the selected tokens                                       denominator `selected`
    loss = sum over the selected tokens / all tokens                           denominator `all`

M counts the tokens of the policy loss. Ties go to the first tokens. With `selected` a token that is trained on weighs
1 / fraction of what it does in plain GRPO, so entropy can fall faster; with `all` it weighs the same.

Scope: update (all micro-batches, all processes); `micro_batch` is the authors'. `per: sequence` ranks within each
sequence, the threshold of SIREN's baseline.
Differs from the paper: the scope. TRL's `top_entropy_quantile` keeps the denominator (`all`).
Paper: Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement Learning for LLM Reasoning
https://arxiv.org/abs/2506.01939
Code: Shenzhi-Wang/Beyond-the-80-20-Rule-RLVR@6f5dda6f `get_global_entropy_top_mask`
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rlvr.batch import LossTerms, TokenBatch
from rlvr.entropy.control import DROP, EntropyControl, Scope, State, Stats, ratio

# authors' code: int(x + 0.9999), so that 0.2 x 55 = 11.000000000000002 is 11 tokens, not 12
_NEARLY_ONE = 0.9999


class Config(BaseModel):
    """Options of the top-entropy selection."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    fraction: float = Field(default=0.2, gt=0, le=1)
    """Share of tokens trained on; 0.2 in the paper, 1 turns the method off."""
    per: Literal["update", "sequence"] = "update"
    """Tokens that are ranked together; `update` in the paper, `sequence` in SIREN's baseline."""
    denominator: Literal["selected", "all"] = "selected"
    """Tokens that the loss is averaged over; `selected` in the paper, `all` in TRL."""
    scope: Scope = "update"
    """Population of the ranking; `micro_batch` is the authors' code."""


OFF = Config(fraction=1.0)
"""Plain GRPO."""


def select(
    entropies: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], fraction: float
) -> Bool[Tensor, "B T"]:
    """Return, in each row, the max(1, ceil(fraction M)) of its M masked tokens with the largest entropy.

    Example:
        >>> select(torch.tensor([[0.1, 0.7, 0.4, 9.0]]), torch.tensor([[True, True, True, False]]), 0.5)
        tensor([[False,  True,  True, False]])
    """
    counts = [
        min(max(1, int(tokens * fraction + _NEARLY_ONE)), tokens)
        for tokens in mask.sum(-1).tolist()
    ]
    ranked = entropies.masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(mask.shape[-1], device=mask.device)
    is_first = places < torch.tensor(counts, device=mask.device, dtype=torch.long).unsqueeze(-1)
    return torch.zeros_like(mask).scatter(-1, ranked, is_first)


def build(config: Config) -> EntropyControl:
    """Return the control."""

    def measure(
        population: TokenBatch,
        state: State,  # noqa: ARG001
        generator: torch.Generator,  # noqa: ARG001
    ) -> dict[str, Tensor]:
        if population.entropies is None:
            raise ValueError("top_entropy needs entropies")
        entropies, mask = population.entropies, population.mask
        if config.per == "sequence":
            selected = select(entropies, mask, config.fraction)
        else:
            one_row = entropies.flatten().unsqueeze(0), mask.flatten().unsqueeze(0)
            selected = select(*one_row, config.fraction)
        selected = selected.view_as(mask)
        marks = {"selected": selected}
        return marks | {DROP: mask & ~selected} if config.denominator == "selected" else marks

    def apply(
        terms: LossTerms,
        batch: TokenBatch,
        marks: Mapping[str, Tensor],
        state: State,  # noqa: ARG001
    ) -> tuple[LossTerms, Stats]:
        selected = marks["selected"]
        stats = {"selected_fraction": ratio(selected.sum(), batch.mask.sum())}
        if batch.entropies is not None:
            own = torch.where(selected, batch.entropies.detach(), 0.0)
            stats["selected_entropy"] = ratio(own.sum(), selected.sum())
        return replace(terms, weights=terms.weights.masked_fill(~selected, 0.0)), stats

    return EntropyControl(
        name="top_entropy",
        needs=frozenset({"old_entropies"}),
        scope=config.scope,
        measures_current_policy=True,
        idle="fraction 1 selects every token" if config.fraction == 1 else None,
        measure=measure,
        apply=apply,
        scales_advantage=True,
    )
