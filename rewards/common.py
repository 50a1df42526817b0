"""Options that every verifier of a recipe's list may be given, whatever it is."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Common(BaseModel):
    """Options that every verifier of the list may be given."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Of its score in the reward."""
    when_correct: bool | None = None
    """Counts, and is run, only where the first verifier says correct; null: its own default."""
    deadline: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds for one completion; null: its own default, else rewards.deadline."""
    normalize: Literal["group"] | None = None
    """group: in the reward its score is (score - mean) / (standard deviation + 1e-4) over the
    prompt's completions, so that verifiers of different scales count alike (GDPO,
    arXiv:2601.05242); null: as it is."""


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options that every verifier has, and the verifier's own."""
    common = {key: value for key, value in options.items() if key in Common.model_fields}
    return common, {key: value for key, value in options.items() if key not in common}
