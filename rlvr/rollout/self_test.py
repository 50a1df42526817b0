"""Before the first update: does the engine that samples know the policy that is trained?

A few prompts are completed by the engine, and the trainer looks at the same tokens. With Δ = log π_trainer - log π_sampler
of each sampled token:

    mean |Δ|          the noise of two implementations, or more
    mean exp(Δ)       the importance weight: 1 for any two policies that can say the same tokens; below 1 it is the mass of
                      the tokens that the sampler had not cut off
    temperature       a sampler at the temperature τ of the trainer's policy has, to first order in 1/τ - 1,
                      Δ = (1 - 1/τ) (log π_trainer + H), H the entropy of the token's distribution: least squares gives
                      τ, and how much of Σ Δ² it explains
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.rollout.completion import Completion, as_rows
from rlvr.rollout.draws import seed_of

if TYPE_CHECKING:
    from rlvr.trainer import Trainer

logger = logging.getLogger(__name__)

PROMPTS = 8
"""Completed by each process, whose engine may be its own."""
MOST_TOKENS = 64
"""Of a completion."""
NOISE = 0.05
"""Mean |Δ|, nats, up to which two implementations agree. Reported with bfloat16 on both sides: 0.011 (Qwen3-4B, Megatron and
vLLM, github.com/vllm-project/vime/issues/64); a standard deviation of 0.05 (Qwen2.5-0.5B, TRL and vLLM,
github.com/huggingface/trl/issues/6789) and of 0.03, with float32 0.002 (Qwen2.5-0.5B, DeepSpeed and vLLM,
github.com/ServiceNow/Fast-LLM/pull/525)."""
FOREIGN = 0.2
"""Mean |Δ|, nats, from which it is not noise: logits that are off by 0.2 each give 0.02 to 0.11
(tests/rollout/test_self_test.py)."""
UNRELATED = 2.0
"""Mean |Δ|, nats, from which the two have nothing to do with each other."""
APART = 0.1
"""|Δ|, nats, of a token that is counted as apart: its ratio is outside [0.9, 1.1]."""
_TEMPERATURE = (0.05, 0.5, 0.02)
"""|1 / τ - 1|, share of Σ Δ² that τ explains, and mean |Δ| that together make a temperature."""
_CUT = (0.02, 0.9, 0.01)
"""Mean of -Δ, its share of mean |Δ|, and share of tokens with Δ above APART, at most, that together make a distribution that
was cut."""


@dataclass(frozen=True)
class Agreement:
    """What two policies make of the same tokens, sampled by one of them."""

    tokens: int
    mean: float
    """Of |Δ|, nats."""
    largest: float
    """|Δ|, nats."""
    apart: float
    """Share of tokens with |Δ| above APART."""
    likelier: float
    """Share of tokens with Δ above APART: likelier to the trainer than to the sampler."""
    weight: float
    """Mean importance weight."""
    lean: float
    """Mean of Δ, nats."""
    temperature: float
    """Of the sampler, the trainer's being 1."""
    explained: float
    """Share of Σ Δ² that the temperature explains, 0..1."""

    def __str__(self) -> str:
        return (
            f"mean |Δ| {self.mean:.2g} nats on {self.tokens} tokens, {self.apart:.1%} of them above {APART:g}, at most "
            f"{self.largest:.2g}; mean weight {self.weight:.3f}"
        )


def compare(
    sampler: Float[Tensor, "B T"],
    trainer: Float[Tensor, "B T"],
    entropies: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> Agreement:
    """Return how far the log-probs of sampled tokens agree.

    Args:
        sampler: As the engine reports them, nats.
        trainer: As the trainer sees them, nats.
        entropies: Of the trainer's distributions, nats.
        mask: Tokens that exist; at least one.

    Example:
        >>> import torch
        >>> logprobs = torch.tensor([[-1.0, -2.0]])
        >>> found = compare(logprobs, logprobs - 0.1, -logprobs, torch.ones(1, 2, dtype=torch.bool))
        >>> found.tokens, round(found.mean, 6), round(found.weight, 6)
        (2, 0.1, 0.904837)
    """
    own, entropy = trainer[mask].double(), entropies[mask].double()
    difference = own - sampler[mask].double()
    surprise = own + entropy
    squared = (difference**2).sum()
    share = (difference * surprise).sum() / (surprise**2).sum().clamp(min=1e-12)
    left = ((difference - share * surprise) ** 2).sum()
    return Agreement(
        tokens=len(own),
        mean=difference.abs().mean().item(),
        largest=difference.abs().max().item(),
        apart=(difference.abs() > APART).double().mean().item(),
        likelier=(difference > APART).double().mean().item(),
        weight=difference.exp().mean().item(),
        lean=difference.mean().item(),
        # 1 - 1/τ is below 1
        temperature=1 / max(1 - share.item(), 1e-3),
        explained=(1 - left / squared).item() if squared > 0 else 0.0,
    )


def fault(found: Agreement, temperature: float) -> str | None:
    """Return why the engine does not sample the policy that is trained, and what to do; None: it does.

    Args:
        found: What the two make of the same tokens.
        temperature: The recipe's.

    Example:
        >>> fault(Agreement(400, 0.01, 0.2, 0.01, 0.01, 1.0, 0.0, 1.0, 0.0), 1.0) is None
        True
    """
    scale, explained, least = _TEMPERATURE
    cut, one_way, likelier = _CUT
    if not found.mean < UNRELATED:  # nan is a fault too
        return (
            "the log-probs have nothing to do with each other: another model, another tokenizer, or completions in "
            "another order. In server mode: start the server with the model and the revision of the recipe"
        )
    if (
        abs(1 / found.temperature - 1) > scale
        and found.explained > explained
        and found.mean > least
    ):
        # a cut sharpens too, and few tokens do not tell them apart
        cuts = "" if found.likelier > likelier else ", or unlikely tokens are cut off"
        return (
            f"the sampler's log-probs are those of a temperature near {temperature * found.temperature:.2g}{cuts}; "
            f"rollout.temperature is {temperature:g}. In server mode: start the server with --logprobs-mode "
            "processed_logprobs, and without logits processors of its own"
        )
    if -found.lean > max(cut, one_way * found.mean) and found.likelier <= likelier:
        return (
            f"every token is likelier to the sampler than to the trainer, by {-found.lean:.2g} nats: unlikely "
            f"tokens are cut off, the log-probs are those of the {found.weight:.0%} that is kept, and no weight corrects that. In server "
            "mode: start the server without logits processors of its own"
        )
    if found.mean > FOREIGN:
        return (
            "that is not noise but another policy: weights that did not arrive, or a model that the engine computes "
            "otherwise. Check that the engine has the model of the recipe, try training.vllm_model_impl: transformers, "
            "or sample with rollout.engine: transformers"
        )
    return None


def check_sampler(trainer: "Trainer", prompts: Sequence[Any]) -> str:
    """Let the engine complete some prompts, compare, and return what was found as a line.

    Every process has to call it; each compares its own engine, and all of them hear of a fault.

    Args:
        trainer: Ready to train; its engine reports log-probs.
        prompts: Text or messages; as many as PROMPTS are used, again from the first where there are fewer.

    Raises:
        ValueError: If the engine of a process does not sample the policy that is trained.
    """
    few = [prompts[place % len(prompts)] for place in range(PROMPTS)]
    rank = trainer.processes.rank
    completions = trainer.complete(
        few,
        seeds=[seed_of("self-test", rank, place) for place in range(PROMPTS)],
        max_tokens=min(MOST_TOKENS, int(trainer.max_completion_length or MOST_TOKENS)),
        untruncated=True,
    )
    everywhere = trainer.processes.gather_list([(rank, _compared(trainer, completions))])
    temperature = trainer.temperature
    for where, found in everywhere:
        why = found if isinstance(found, str) else fault(found, temperature)
        if why is not None:
            said = "" if isinstance(found, str) else f" ({found})"
            raise ValueError(
                f"rollout.engine: vllm does not sample the policy that is trained{_on(where, trainer)}: {why}{said}"
            )
    worst = max((found for _, found in everywhere), key=lambda found: found.mean)
    tokens = sum(found.tokens for _, found in everywhere)
    if worst.mean > NOISE:
        logger.warning(
            "the log-probs of vllm and of the trainer differ more than bfloat16 explains (%s): rollout.correction_max "
            "weighs tokens for it; less of it: model.dtype float16 on both sides, no quantization of the sampler",
            worst,
        )
    return f"vllm, log-probs agree: mean |Δ| {worst.mean:.2g} nats on {tokens} tokens"


def _compared(trainer: "Trainer", completions: Sequence[Completion]) -> Agreement | str:
    """Return what engine and trainer make of this process's completions, or why nothing can be said."""
    for item in completions:
        if item.sampling_logprobs is None:
            return (
                "it reports no log-probs. In server mode: start the server with --logprobs-mode processed_logprobs "
                "--max-logprobs -1"
            )
        if any(value is None or value != value for value in item.sampling_logprobs):
            return (
                "some of its log-probs are not numbers: its weights, or its arithmetic, are broken"
            )
        if len(item.sampling_logprobs) != len(item.completion_ids):
            return (
                f"it reports {len(item.sampling_logprobs)} log-probs of a completion of {len(item.completion_ids)} "
                "tokens; the versions of trl and vllm may not fit (rlvr doctor)"
            )
    rows = as_rows(completions, pad_token=trainer.pad_token).to(trainer.processes.device)
    seen = trainer.look(rows)
    assert seen.entropies is not None  # of a policy, not a reference
    assert rows.sampling_logprobs is not None  # just looked at
    return compare(rows.sampling_logprobs, seen.logprobs, seen.entropies, rows.completion_mask)


def _on(rank: int, trainer: "Trainer") -> str:
    return f" on process {rank}" if trainer.processes.count > 1 else ""
