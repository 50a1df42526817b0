"""Reasoning-gym tasks, scored by the task's own `score_answer`.

Works for every task of the package by the name that the row's entry carries. Needs the package:
pip install 'rlvr[tasks]'. Scores between 0 and 1 are partial verdicts.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict

from rlvr.rewards.extraction import short_answer
from rlvr.rewards.verdict import CORRECT, Outcome, Sample, Verdict, skipped, unparsable, wrong

COLUMNS = ("entry",)
BOUNDED = False
NEEDS = ("reasoning_gym", "tasks")  # package, extra of rlvr that installs it


class Config(BaseModel):
    """The reasoning-gym verifier has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def build(config: Config) -> Callable[[Sample], Verdict]:  # noqa: ARG001 - every verifier takes one
    """Return the verifier."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    score_function = cache(reasoning_gym.get_score_answer_fn)

    def verify(sample: Sample) -> Verdict:
        entry = _entry(sample.row.get("entry"))
        task = entry.get("metadata", {}).get("source_dataset") if entry else None
        if task not in DATASETS:
            return skipped("the row's `entry` is not an entry of a reasoning-gym data set")
        answer = short_answer(sample.completion)
        if not answer:
            return unparsable("no answer")
        score = float(score_function(task)(answer, entry))
        if score >= 1.0:
            return CORRECT
        return Verdict(Outcome.PARTIAL, fraction=score) if score > 0 else wrong()

    return verify


def _entry(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, dict) and "metadata" in value else None
