"""Clip_B: take out the rare tokens whose punishment lowers the entropy most, judged against the batch.

    S_t = π_old,t (H_old,t + ln π_old,t)
    dropped: A_t < 0 and S_t - mean S < -mu std S

A dropped token leaves the loss and its denominator; advantages stay. The first-order entropy change of one token's
update is -A r (S - N), N the mean of S under the policy: a negative advantage on a token with S below that mean lowers
the entropy. Mean and population standard deviation are over the tokens of the policy loss; below a standard deviation
of 1e-12 nothing is dropped.

Scope: generation, once before it is cut into updates, with statistics of the policy that generated.
Differs from the paper: the authors' code puts the sampler's log-probs beside the trainer's entropies; here both are the
trainer's, as its comment says.
Paper: On the Entropy Dynamics in Reinforcement Fine-Tuning of Large Language Models https://arxiv.org/abs/2602.03392
Code: hiyuchang/Trinity-RFT@eedef4b5 `ClipBAdvantageFn` (a fork of agentscope-ai/Trinity-RFT)
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy.control import EntropyControl, State, Stats, ratio
from rlvr.entropy_change import discriminator

SMALLEST_DEVIATION = 1e-12  # authors' code


class Config(BaseModel):
    """Options of Clip_B."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    mu: float | None = Field(default=2.5, ge=0)
    """Standard deviations of S below its mean from which a token is dropped; 2.5 in the paper, null drops none."""


OFF = Config(mu=None)
"""Plain GRPO."""


def tokens_of_the_loss(rollout: RolloutBatch) -> Bool[Tensor, "B T"]:
    """Return the tokens of the policy loss: those that count, of rows that are not rehearsal."""
    return rollout.mask & (rollout.origin != Origin.REHEARSAL).unsqueeze(-1)


def moments(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
    """Return mean and population standard deviation over the masked tokens; 0 and 0 without a token."""
    count = mask.sum().clamp(min=1)
    mean = torch.where(mask, values, 0.0).sum() / count
    variance = torch.where(mask, (values - mean) ** 2, 0.0).sum() / count
    return mean, variance.sqrt()


def dropped_stats(
    dropped: Bool[Tensor, "B T"], negative: Bool[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Stats:
    """Return the dropped share of the tokens, and of those of negative advantage."""
    return {
        "dropped_fraction": ratio(dropped.sum(), mask.sum()),
        "dropped_negative_fraction": ratio((dropped & negative).sum(), negative.sum()),
    }


def build(config: Config) -> EntropyControl:
    """Return the control."""

    def shape(rollout: RolloutBatch, state: State) -> tuple[RolloutBatch, State, Stats]:
        if rollout.old_logprobs is None or rollout.old_entropies is None:
            raise ValueError("clip_b needs old_logprobs and old_entropies")
        mask = tokens_of_the_loss(rollout)
        s = discriminator(rollout.old_logprobs.double(), rollout.old_entropies.double())
        mean, deviation = moments(s, mask)
        negative = mask & (rollout.advantages < 0)
        dropped = torch.zeros_like(mask)
        if config.mu is not None and deviation >= SMALLEST_DEVIATION:
            dropped = negative & (s - mean < -config.mu * deviation)
        stats = dropped_stats(dropped, negative, mask) | {
            "discriminator": ratio(mean, 1.0),
            "discriminator_std": ratio(deviation, 1.0),
        }
        return replace(rollout, mask=rollout.mask & ~dropped), state, stats

    return EntropyControl(
        name="clip_b",
        needs=frozenset({"old_logprobs", "old_entropies"}),
        idle="mu is null" if config.mu is None else None,
        shape=shape,
    )
