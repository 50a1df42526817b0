"""Options with which each entropy control does something on the small populations of the tests; {} without an entry."""

from functools import cache
from typing import Any

from rlvr.entropy.control import build_control, control_names

REACHES: dict[str, dict[str, Any]] = {
    "clip_cov": {"fraction": 0.2, "covariance_low": 0.1},
    "kl_cov": {"fraction": 0.2},
    "entropy_budget": {
        "start": 1.0
    },  # at its neutral level, before an entropy is known, it is plain GRPO
    "adaptive_entropy": {"coef_init": 0.005},
    "siren": {"anchor": 0.5, "coef": 0.1},
    "overlong": {"max_completion_length": 8, "buffer": 6},
    "clip_b": {"mu": 0.5},
    "clip_v": {"mu": 0.5, "max_fraction": 0.2},
    "lp_reg": {"fraction": 0.5},
    "clip_higher": {"clip_high": 0.6},
}
"""Thresholds and fractions within reach of some tens of tokens."""

KEEPS_ENTROPY: dict[str, dict[str, Any]] = {
    "clip_cov": {"fraction": 0.3, "covariance_low": 0.1, "clip_low": None, "clip_high": None},
    "kl_cov": {"fraction": 0.3, "kl_coef": 2.0},
    "steer": {"weight_min": 0.1},
    "aepo": {"target": 1.5, "rows": 16, "temperature_high": 2.0},
    "dph": {"coef": 1.0, "rows_per_update": 16},
    "entropy_bonus": {"coef": 0.05},
    "entropy_budget": {"target": 1.2},
    "targeted_entropy": {"target": 1.5, "coef": 0.05},
    "adaptive_entropy": {"target": 1.5, "delta": 0.01, "coef_max": 0.1},
    "top_entropy": {"fraction": 0.2, "denominator": "all"},
    "dcpo": {"target": 1.5},
    "clip_b": {"mu": 1.0},
    "clip_v": {"mu": 1.0, "max_fraction": 0.2},
    "lp_reg": {"fraction": 1.0, "coef": 0.3, "clip_low": None, "clip_high": None},
}
"""Options with which a control keeps more entropy than plain GRPO on the bandit."""

MOVES_NO_ENTROPY: dict[str, str] = {
    "siren": "selects tokens within a completion; those of the bandit have one token, of which none is selected",
    "entropy_advantage": "every advantage grows, so right arms are pushed up harder and wrong ones down less",
    "overlong": "changes rewards by length; every arm of the bandit is one token long",
    "ares": "sets how uncertain an answer may be by its prompt's difficulty, up or down; no window fits one token",
    "empg": "scales steps up where the policy is certain, right or wrong; says nothing about its entropy",
    "clip_higher": "without shared parameters a wider clip lets the policy move further, and entropy falls faster",
}
"""Controls of which no more entropy is claimed, and why."""


def built(name: str) -> Any:
    """Return the control with its options of `REACHES`."""
    return build_control(name, REACHES.get(name, {}))


@cache
def statistics() -> list[str]:
    """Return every statistic that some control reads."""
    controls = [built(name) for name in control_names()]
    return sorted(set().union(*(item.statistics | item.old_statistics for item in controls)))
