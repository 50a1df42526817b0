"""What flows between the steps of an update: a generation, its tokens, and the terms of their loss.

Legend: B sequences, T completion tokens, P prompt tokens. Log-probs and entropies are in nats.
Facts (`RolloutBatch`, `TokenBatch`) are read-only; a control returns changed `LossTerms`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

Marks = Mapping[str, Mapping[str, Tensor]]
"""What the controls decided about a population: control name -> mark name -> (B, T) tensor."""


class Origin(IntEnum):
    """Where a row of a generation comes from."""

    POLICY = 0
    """Sampled from the policy at the recipe's temperature."""
    TEMPERED = 1
    """Sampled from the policy at a temperature a control asked for."""
    REHEARSAL = 2
    """Sampled from the initial policy before training; never part of the policy loss."""


class _Rows:
    """Indexing and joining by row for a dataclass whose tensors all have the rows first."""

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                yield item.name, value

    def rows(self, index: Tensor) -> Self:
        """Return the rows `index` (integer or bool), in that order."""
        picked: dict[str, Any] = {name: value[index] for name, value in self._tensors()}
        return replace(self, **picked)  # type: ignore[type-var]

    def to(self, device: torch.device | str) -> Self:
        """Return the same rows with every tensor on `device`."""
        moved: dict[str, Any] = {name: value.to(device) for name, value in self._tensors()}
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class RolloutBatch(_Rows):
    """A generation: every row of every process, in an order that does not depend on the layout."""

    prompt_ids: Int[Tensor, "B P"]
    """Left padded."""
    prompt_mask: Bool[Tensor, "B P"]
    completion_ids: Int[Tensor, "B T"]
    """Right padded."""
    completion_mask: Bool[Tensor, "B T"]
    """Tokens that exist: what the model attends to."""
    mask: Bool[Tensor, "B T"]
    """Tokens that count in the loss: a part of `completion_mask`."""
    advantages: Float[Tensor, "B T"]
    rewards: Float[Tensor, " B"]
    """NaN: left out of its group."""
    group_ids: Int[Tensor, " B"]
    """Position of the prompt in the generation; -1 for rehearsal rows."""
    origin: Int[Tensor, " B"]
    outcomes: Int[Tensor, " B"] | None = None
    """Position of the verdict's outcome in `rlvr.rewards.verdict.Outcome`."""
    truncated: Bool[Tensor, " B"] | None = None
    """Cut at the length limit."""
    old_logprobs: Float[Tensor, "B T"] | None = None
    old_entropies: Float[Tensor, "B T"] | None = None
    ref_logprobs: Float[Tensor, "B T"] | None = None
    initial_logprobs: Float[Tensor, "B T"] | None = None
    sampling_logprobs: Float[Tensor, "B T"] | None = None

    def __len__(self) -> int:
        return self.prompt_ids.shape[0]

    def join(self, other: "RolloutBatch") -> "RolloutBatch":
        """Return these rows followed by those of `other`, padded to a common width.

        A statistic that one side lacks is 0 there.
        """
        prompt_width = max(self.prompt_ids.shape[1], other.prompt_ids.shape[1])
        width = max(self.completion_ids.shape[1], other.completion_ids.shape[1])
        left, right = dict(self._tensors()), dict(other._tensors())
        joined: dict[str, Any] = {}
        for name in left.keys() | right.keys():
            like = left[name] if name in left else right[name]
            parts = [
                rows[name] if name in rows else like.new_zeros(size, *like.shape[1:])
                for rows, size in ((left, len(self)), (right, len(other)))
            ]
            if name in ("prompt_ids", "prompt_mask"):
                parts = [pad(part, (prompt_width - part.shape[1], 0)) for part in parts]
            elif like.dim() == 2:
                parts = [pad(part, (0, width - part.shape[1])) for part in parts]
            joined[name] = torch.cat(parts)
        return replace(self, **joined)

    @property
    def is_scored(self) -> Bool[Tensor, " B"]:
        """Rows with a reward that counts: not rehearsal, not left out of their group."""
        return (self.origin != Origin.REHEARSAL) & ~torch.isnan(self.rewards)


@dataclass(frozen=True)
class TokenBatch(_Rows):
    """The completion tokens of one micro-batch, or of a whole update. Padding holds 0."""

    logprobs: Float[Tensor, "B T"]
    """Of the current policy; carries gradient in the loss, none in a population."""
    old_logprobs: Float[Tensor, "B T"]
    """Of the policy that generated, computed by the trainer."""
    advantages: Float[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    """Tokens of the policy loss."""
    rehearsal_mask: Bool[Tensor, "B T"]
    """Tokens of rehearsal rows; disjoint from `mask`."""
    origin: Int[Tensor, " B"]
    entropies: Float[Tensor, "B T"] | None = None
    old_entropies: Float[Tensor, "B T"] | None = None
    ref_logprobs: Float[Tensor, "B T"] | None = None
    initial_logprobs: Float[Tensor, "B T"] | None = None
    sampling_logprobs: Float[Tensor, "B T"] | None = None

    def __len__(self) -> int:
        return self.logprobs.shape[0]

    @property
    def is_policy_row(self) -> Bool[Tensor, " B"]:
        """Rows that count in the policy loss, also when all their tokens are masked."""
        return self.origin != Origin.REHEARSAL

    def zero_padding(self) -> Self:
        """Return the batch with 0 where neither mask is set, so that padding never reaches a number.

        A NaN there neither reaches the loss nor, through the backward pass, the gradient.
        """
        padding = ~(self.mask | self.rehearsal_mask)
        cleaned: dict[str, Any] = {
            name: value.masked_fill(padding, 0.0)
            for name, value in self._tensors()
            if value.is_floating_point()
        }
        return replace(self, **cleaned)


@dataclass(frozen=True)
class LossTerms:
    """What the policy loss is made of, token by token. Controls return changed copies."""

    advantages: Float[Tensor, "B T"]
    weights: Float[Tensor, "B T"]
    """Multiplies the surrogate; at 0 the token stays in the denominator."""
    penalty: Float[Tensor, "B T"]
    """Added to the weighted surrogate."""
    clip_low: float
    clip_high: float
    """Bounds of the ratio are 1 - clip_low and 1 + clip_high; inf is no bound."""
    dual_clip: float | None = None
    """Bound c of the ratio where the advantage is negative; None is no bound."""
    log_ratio_limit: float = 20.0
    """The log-ratio is clamped to +- this before the exponential; inf is no clamp."""
    regularizers: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    """Added to the loss as they are; their weights come from the whole update, so parts add up."""

    def regularize(self, name: str, value: Float[Tensor, ""]) -> "LossTerms":
        """Return the terms with one more regularizer.

        Raises:
            ValueError: If there is one of that name already.
        """
        if name in self.regularizers:
            raise ValueError(f"two controls add the regularizer {name!r}; use each control once")
        return replace(self, regularizers={**self.regularizers, name: value})


def initial_terms(
    batch: TokenBatch,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> LossTerms:
    """Return the terms of plain GRPO: every token of weight 1, no penalty, no regularizer."""
    return LossTerms(
        advantages=batch.advantages,
        weights=torch.ones_like(batch.advantages),
        penalty=torch.zeros_like(batch.advantages),
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
    )
