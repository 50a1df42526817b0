"""What flows between the steps of an update: a generation, its tokens, and the terms of their loss.

Legend: B sequences, T completion tokens, P prompt tokens. Log-probs and entropies are in nats.
Facts (`RolloutBatch`, `TokenBatch`) are read-only; a control returns changed `LossTerms`.
"""

from collections.abc import Callable, Iterator, Mapping
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
    """Indexing and joining by row for a dataclass whose tensors, alone or in a mapping, all have the rows first."""

    def tensors(self) -> Iterator[tuple[str, Tensor | Mapping[str, Tensor]]]:
        """Yield the fields that hold tensors."""
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, Tensor | Mapping):
                yield item.name, value

    def map(self, change: Callable[[str, Tensor], Tensor]) -> Self:
        """Return the same with `change(field, tensor)` in place of every tensor."""
        changed: dict[str, Any] = {
            name: {key: change(name, part) for key, part in value.items()}
            if isinstance(value, Mapping)
            else change(name, value)
            for name, value in self.tensors()
        }
        return replace(self, **changed)  # type: ignore[type-var]

    def rows(self, index: Tensor) -> Self:
        """Return the rows `index` (integer or bool), in that order."""
        return self.map(lambda _, value: value[index])

    def to(self, device: torch.device | str) -> Self:
        """Return the same rows with every tensor on `device`."""
        return self.map(lambda _, value: value.to(device))


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
    segment_ids: Int[Tensor, "B T"] | None = None
    """Step of its completion that a token belongs to, from 0; -1 at padding."""
    old_statistics: Mapping[str, Float[Tensor, "B T"]] = field(default_factory=dict)
    """Of the policy that generated, by the names of `rlvr.kernels.statistics`."""

    def __len__(self) -> int:
        return self.prompt_ids.shape[0]

    def join(self, other: "RolloutBatch") -> "RolloutBatch":
        """Return these rows followed by those of `other`, padded to a common width.

        A statistic that one side lacks is 0 there.
        """
        widths = [
            max(self.prompt_ids.shape[1], other.prompt_ids.shape[1]),
            max(self.completion_ids.shape[1], other.completion_ids.shape[1]),
        ]

        def stack(name: str, top: Tensor | None, bottom: Tensor | None) -> Tensor:
            like = top if top is not None else bottom
            assert like is not None  # a field of one of them
            parts = [
                like.new_zeros(size, *like.shape[1:]) if part is None else part
                for part, size in ((top, len(self)), (bottom, len(other)))
            ]
            if name in ("prompt_ids", "prompt_mask"):
                parts = [pad(part, (widths[0] - part.shape[1], 0)) for part in parts]
            elif like.dim() == 2:
                parts = [pad(part, (0, widths[1] - part.shape[1])) for part in parts]
            return torch.cat(parts)

        left, right = dict(self.tensors()), dict(other.tensors())
        joined: dict[str, Any] = {}
        for name in left.keys() | right.keys():
            one, two = left.get(name), right.get(name)
            if isinstance(one, Mapping) or isinstance(two, Mapping):
                tops, bottoms = getattr(self, name), getattr(other, name)
                joined[name] = {
                    key: stack(name, tops.get(key), bottoms.get(key))
                    for key in sorted(tops.keys() | bottoms.keys())
                }
            else:
                joined[name] = stack(name, one, two)
        return replace(self, **joined)

    @property
    def is_scored(self) -> Bool[Tensor, " B"]:
        """Rows with a reward that counts: not rehearsal, not left out of their group."""
        return (self.origin != Origin.REHEARSAL) & ~torch.isnan(self.rewards)


@dataclass(frozen=True)
class Seen(_Rows):
    """Completion tokens as a policy sees them."""

    logprobs: Float[Tensor, "B T"]
    """Of the sampled token."""
    entropies: Float[Tensor, "B T"] | None = None
    statistics: Mapping[str, Float[Tensor, "B T"]] = field(default_factory=dict)
    """By the names of `rlvr.kernels.statistics`."""


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
    completion_mask: Bool[Tensor, "B T"] | None = None
    """Tokens that exist, also those that no mask counts; None: those of the two masks."""
    statistics: Mapping[str, Float[Tensor, "B T"]] = field(default_factory=dict)
    """Of the current policy, by the names of `rlvr.kernels.statistics`; those with a gradient carry it in the loss."""
    old_statistics: Mapping[str, Float[Tensor, "B T"]] = field(default_factory=dict)
    """Of the policy that generated."""
    share: float = 1.0
    """Share of the update that these tokens stand for where a control measures one micro-batch at a time."""

    def __len__(self) -> int:
        return self.logprobs.shape[0]

    @property
    def is_policy_row(self) -> Bool[Tensor, " B"]:
        """Rows that count in the policy loss, also when all their tokens are masked."""
        return self.origin != Origin.REHEARSAL

    @property
    def exists(self) -> Bool[Tensor, "B T"]:
        """Tokens that were sampled, whether they count in the loss or not."""
        if self.completion_mask is None:
            return self.mask | self.rehearsal_mask
        return self.completion_mask

    def zero_padding(self) -> Self:
        """Return the batch with 0 at tokens that do not exist, so that padding never reaches a number.

        A NaN there neither reaches the loss nor, through the backward pass, the gradient.
        """
        padding = ~self.exists
        return self.map(
            lambda _, value: value.masked_fill(padding, 0.0) if value.is_floating_point() else value
        )


@dataclass(frozen=True)
class LossTerms:
    """What the policy loss is made of, token by token. Controls return changed copies."""

    advantages: Float[Tensor, "B T"]
    weights: Float[Tensor, "B T"]
    """Multiplies the surrogate; at 0 the token stays in the denominator."""
    penalty: Float[Tensor, "B T"]
    """Added to the weighted surrogate."""
    clip_low: float | Float[Tensor, "B T"]
    clip_high: float | Float[Tensor, "B T"]
    """Bounds of the ratio are 1 - clip_low and 1 + clip_high, for all tokens or for each; inf is no bound."""
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
