"""Length: a soft punishment of completions that near the length limit, in [-1, 0].

    0                                          up to max_length - buffer tokens
    (max_length - buffer - length) / buffer    on the buffer
    -1                                         from max_length on

Add it to a verifier of the answer, `- length: {max_length: 4096, weight: 0.5}`. The completion's
length is in tokens; where it is not known the verdict is skipped, as characters would be a guess.
The control `overlong` is the same slope on the finished reward, whichever verifiers made it.
Paper: DAPO: An Open-Source LLM Reinforcement Learning System at Scale https://arxiv.org/abs/2503.14476
"""

from collections.abc import Callable
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlvr.rewards.verdict import Outcome, Sample, Verdict, skipped

COLUMNS: tuple[str, ...] = ()
BOUNDED = True


class Config(BaseModel):
    """Options of the length verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_length: int = Field(ge=1)
    """Tokens of a completion at which generation stops; 20480 in the paper."""
    buffer: int | None = Field(default=None, ge=1)
    """Tokens before `max_length` on which the punishment grows; null: a fifth of it, as in the
    paper (4096 of 20480)."""

    @model_validator(mode="after")
    def _buffer_is_within_the_limit(self) -> Self:
        if self.buffer is not None and self.buffer > self.max_length:
            raise ValueError(
                f"buffer {self.buffer} is above max_length {self.max_length}, so the empty completion "
                "would be punished; a fifth of it is the paper's"
            )
        return self


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier."""
    buffer = config.buffer or max(1, config.max_length // 5)

    def verify(sample: Sample) -> Verdict:
        length = sample.length
        if length is None and sample.truncated:
            length = config.max_length
        if length is None:
            return skipped("the completion's length in tokens is not known")
        return punished(overlong(length, config.max_length, buffer), f"{length} tokens")

    return verify


def overlong(length: int, max_length: int, buffer: int) -> float:
    """Return the punishment of a length.

    Example:
        >>> overlong(80, 100, 20), overlong(90, 100, 20), overlong(100, 100, 20)
        (0.0, -0.5, -1.0)
    """
    return 0.0 - min(1.0, max(0, length - (max_length - buffer)) / buffer)


def punished(value: float, reason: str) -> Verdict:
    """Return the verdict whose reward is a punishment in [-1, 0]; 0 is correct.

    Example:
        >>> punished(-0.25, "")
        Verdict(outcome=<Outcome.PARTIAL: 'partial'>, fraction=0.75, reason='', seconds=0.0, value=-0.25)
    """
    if value == 0:
        return Verdict(Outcome.CORRECT, value=0.0)
    if value == -1:
        return Verdict(Outcome.WRONG, reason=reason, value=-1.0)
    return Verdict(Outcome.PARTIAL, fraction=1 + value, reason=reason, value=value)
