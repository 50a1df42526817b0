"""Rewards of completions: verifiers run, their verdicts are combined by weight and by gate.

    reward = sum over verifiers of  weight x score(outcome)

A verifier with `when_correct` counts, and is run, only where the first verifier says correct. A
completion whose score is `drop` has the reward nan: it is left out of its group. With
`normalize: group` a verifier's scores are put on one scale within the completions of a prompt.
"""

import asyncio
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlvr.rewards.cache import VerdictCache
from rlvr.rewards.entry import parse_entries
from rlvr.rewards.pool import Pool
from rlvr.rewards.round import Round, bar
from rlvr.rewards.verdict import Outcome, Sample, Verdict
from rlvr.suggest import unknown_name

Scores = Mapping[str, float | Literal["drop"]]

DEFAULT_SCORES: Scores = {
    "correct": 1.0,
    "wrong": 0.0,
    "unparsable": 0.0,
    "timeout": "drop",
    "crashed": "drop",
    "skipped": "drop",
}
NORMALIZE_EPS = 1e-4
"""Added to a group's standard deviation, as GRPO's advantage has it."""


@dataclass(frozen=True)
class Scored:
    """A completion's reward and where it comes from.

    Attributes:
        reward: nan: leave the completion out of its group.
        verdict: Of the first verifier.
        parts: Weighted score of each verifier by name, in the order of the recipe; nan where its
            score is `drop`, 0 where its gate is closed. They add up to the reward, unless one is
            nan or normalised: parts are as they were before.
        verdicts: Of each verifier that ran, by name.
    """

    reward: float
    verdict: Verdict
    parts: dict[str, float]
    verdicts: dict[str, Verdict]


class Scorer:
    """Scores completions with a list of verifiers.

    Args:
        verifiers: Each a name, a mapping from one name to options, or `path/to/file.py:function`.
            Common options: `weight` (1), `when_correct` (false; true for `format`), `deadline`
            (seconds for one completion), `normalize` (null or group).
        deadline: Seconds for one completion and verifier, where neither says otherwise.
        batch_deadline: Seconds for one call of `score`.
        workers: Processes; None is this machine's cores shared among its training processes.
        scores: Reward of each outcome, a number or "drop"; what is missing has its default.
        memory_gib: Memory of one worker; None is unlimited.

    Raises:
        ValueError: For an unknown name or option, before any process starts.
    """

    def __init__(
        self,
        verifiers: Sequence[str | Mapping[str, Any]],
        *,
        deadline: float = 5.0,
        batch_deadline: float = 300.0,
        workers: int | None = None,
        scores: Scores | None = None,
        memory_gib: float | None = 4.0,
    ) -> None:
        for label, value in (("deadline", deadline), ("batch_deadline", batch_deadline)):
            if not value > 0:
                raise ValueError(f"rewards.{label} is {value}; it must be above 0 seconds")
        if workers is not None and workers < 1:
            raise ValueError(f"rewards.workers is {workers}; it must be at least 1, or null")
        self._scores = _scores(scores or {})
        self._entries = parse_entries(verifiers, deadline=deadline)
        self._batch_deadline = batch_deadline
        self._cache = VerdictCache()
        entries = list(enumerate(self._entries))
        self._pool = Pool(
            {i: (*entry.builtin, entry.deadline) for i, entry in entries if entry.builtin},
            {
                i: (entry.plugin, entry.deadline, entry.form.name)
                for i, entry in entries
                if entry.plugin
            },
            workers=workers or _local_share_of_cores(),
            memory=None if memory_gib is None else int(memory_gib * 2**30),
        )
        self.names = tuple(entry.name for entry in self._entries)
        """Of the verifiers, as in `Scored.parts`."""
        self.columns = tuple(dict.fromkeys(c for e in self._entries for c in e.columns))
        """Row columns that the verifiers need, `answer` among them where one does."""
        self.needs_groups = any(e.normalize or e.form.size is None for e in self._entries)
        """Whether a reward depends on the other completions of its prompt."""

    def start(self) -> None:
        """Start the workers, if any verifier needs them, and load users' functions there.

        Raises:
            ValueError: Where a user's function cannot be imported.
        """
        if any(entry.builtin or entry.plugin for entry in self._entries):
            self._pool.start()

    def fault(self, row: Mapping[str, Any]) -> str | None:
        """Return why the first verifier cannot judge any completion of this row; None if it can."""
        entry = self._entries[0]
        if entry.fault is None:
            return None
        reason = entry.fault(Sample(row.get("prompt", ""), "", row.get("answer"), row))
        return None if reason is None else f"{entry.name}: {reason}"

    def score(
        self,
        samples: Sequence[Sample],
        groups: Sequence[int] | None = None,
        *,
        progress: str | None = None,
    ) -> list[Scored]:
        """Return the scored samples in order; whatever a completion does, it gets a verdict.

        Args:
            samples: Completions.
            groups: Of each sample, equal for completions of one prompt; None: each by itself.
            progress: Label of a progress bar on a terminal's stderr; None: no bar.
        """
        groups = range(len(samples)) if groups is None else groups
        if len(groups) != len(samples):
            raise ValueError(f"{len(groups)} groups for {len(samples)} samples; give one for each")
        verdicts = Round(
            self._entries, self._pool, self._cache, samples, groups, self._batch_deadline
        )
        gated = [i for i, entry in enumerate(self._entries) if entry.when_correct]
        with bar(progress) as settled:
            verdicts.judge([i for i in range(len(self._entries)) if i not in gated], settled)
            verdicts.judge(gated, settled, only=verdicts.correct())
        return self._combine(verdicts.of, groups)

    async def ascore(
        self, samples: Sequence[Sample], groups: Sequence[int] | None = None
    ) -> list[Scored]:
        """Return what `score` returns, without holding up the event loop."""
        return await asyncio.to_thread(self.score, samples, groups)

    def close(self) -> None:
        """End the workers; a later `score` starts them again."""
        self._pool.close()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _combine(
        self, results: Sequence[dict[str, Verdict]], groups: Sequence[int]
    ) -> list[Scored]:
        rewards = [0.0] * len(results)
        parts: list[dict[str, float]] = [{} for _ in results]
        for place, entry in enumerate(self._entries):
            scores = [
                self._score(found[entry.name]) if entry.name in found else 0.0 for found in results
            ]
            counted = normalized(scores, groups) if entry.normalize else scores
            for i, found in enumerate(results):
                parts[i][entry.name] = entry.weight * scores[i]
                # a later verifier without a gold says nothing about this prompt's completions, all
                # of them alike; one that is late or crashed makes this one differ from them
                skipped = entry.name in found and found[entry.name].outcome is Outcome.SKIPPED
                if not (place and skipped and math.isnan(scores[i])):
                    rewards[i] += entry.weight * counted[i]
        return [
            Scored(reward, found[self.names[0]], part, _in_order(found, self.names))
            for reward, found, part in zip(rewards, results, parts, strict=True)
        ]

    def _score(self, verdict: Verdict) -> float:
        if verdict.value is not None:
            return verdict.value
        if verdict.outcome is Outcome.PARTIAL:
            return verdict.fraction * self._scores["correct"]
        return self._scores[verdict.outcome]


def _scores(given: Scores) -> dict[str, float]:
    scores: dict[str, float] = {}
    for name in given:
        if name == "partial":
            raise ValueError("rewards.scores.partial cannot be set: it is fraction x correct")
        if name not in DEFAULT_SCORES:
            raise ValueError("rewards.scores: " + unknown_name("outcome", name, DEFAULT_SCORES))
    for name, value in {**DEFAULT_SCORES, **given}.items():
        if value == "drop" and name != "correct":
            scores[name] = math.nan
        elif (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ):
            scores[name] = float(value)
        else:
            allowed = "a number" if name == "correct" else "a number, or drop"
            raise ValueError(f"rewards.scores.{name} is {value!r}; it must be {allowed}")
    return scores


def _in_order(found: Mapping[str, Verdict], names: Sequence[str]) -> dict[str, Verdict]:
    return {name: found[name] for name in names if name in found}


def normalized(scores: Sequence[float], groups: Sequence[int]) -> list[float]:
    """Return (score - mean) / (standard deviation + 1e-4) within each group; nan is left out of it.

    Example:
        >>> [round(score, 3) for score in normalized([0.0, 10.0, 3.0], [1, 1, 2])]
        [-0.707, 0.707, 0.0]
    """
    members: dict[int, list[float]] = {}
    for score, group in zip(scores, groups, strict=True):
        if not math.isnan(score):
            members.setdefault(group, []).append(score)
    moments = {
        group: (statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0)
        for group, found in members.items()
    }
    return [
        score
        if math.isnan(score)
        else (score - moments[group][0]) / (moments[group][1] + NORMALIZE_EPS)
        for score, group in zip(scores, groups, strict=True)
    ]


def _local_share_of_cores() -> int:
    """Return this process's share of the machine's cores, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1)))
