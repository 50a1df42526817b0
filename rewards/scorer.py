"""Rewards of completions: verifiers run, their verdicts are combined by weight and by gate.

    reward = sum over verifiers of  weight x score(outcome)

A verifier with `when_correct` counts, and is run, only where the first verifier says correct. A
completion whose score is `drop` has the reward nan: it is left out of its group.
"""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlvr.rewards import plugin
from rlvr.rewards.cache import VerdictCache
from rlvr.rewards.entry import Entry, parse_entries
from rlvr.rewards.pool import Pool
from rlvr.rewards.verdict import Outcome, Sample, Verdict
from rlvr.rewards.wire import pack, sample_message
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


@dataclass(frozen=True)
class Scored:
    """A completion's reward and where it comes from.

    Attributes:
        reward: nan: leave the completion out of its group.
        verdict: Of the first verifier.
        parts: Weighted part of each verifier by name, in the order of the recipe; nan where its
            score is `drop`, 0 where its gate is closed. Otherwise they add up to the reward.
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
            Common options: `weight` (1) and `when_correct` (false; true for `format`).
        deadline: Seconds for one completion and verifier.
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
        self._entries = parse_entries(verifiers)
        self._batch_deadline = batch_deadline
        self._cache = VerdictCache()
        entries = list(enumerate(self._entries))
        self._pool = Pool(
            {index: entry.builtin for index, entry in entries if entry.builtin},
            {index: entry.plugin for index, entry in entries if entry.plugin},
            workers=workers or _local_share_of_cores(),
            deadline=deadline,
            memory=None if memory_gib is None else int(memory_gib * 2**30),
        )
        self.names = tuple(entry.name for entry in self._entries)
        """Of the verifiers, as in `Scored.parts`."""
        self.columns = tuple(dict.fromkeys(c for e in self._entries for c in e.columns))
        """Row columns that the verifiers need, `answer` among them where one does."""

    def start(self) -> None:
        """Start the workers, if any verifier needs them, and load users' functions there.

        Raises:
            ValueError: Where a user's function cannot be imported.
        """
        if any(entry.builtin or entry.plugin for entry in self._entries):
            self._pool.start()

    def score(self, samples: Sequence[Sample]) -> list[Scored]:
        """Return the scored samples in order; whatever a completion does, it gets a verdict."""
        end = time.monotonic() + self._batch_deadline
        results: list[dict[str, Verdict]] = [{} for _ in samples]
        everything = range(len(samples))
        self._verify(samples, results, [(s, v) for v in self._open() for s in everything], end)
        first = self.names[0]
        correct = [i for i in everything if results[i][first].outcome is Outcome.CORRECT]
        self._verify(samples, results, [(s, v) for v in self._gated() for s in correct], end)
        return [self._combine(verdicts) for verdicts in results]

    def close(self) -> None:
        """End the workers; a later `score` starts them again."""
        self._pool.close()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> list[int]:
        return [i for i, entry in enumerate(self._entries) if not entry.when_correct]

    def _gated(self) -> list[int]:
        return [i for i, entry in enumerate(self._entries) if entry.when_correct]

    def _verify(
        self,
        samples: Sequence[Sample],
        results: list[dict[str, Verdict]],
        tasks: list[tuple[int, int]],
        end: float,
    ) -> None:
        """Fill in the verdicts of (sample, verifier) pairs: inline, from the cache, or by the pool."""
        requests: list[bytes] = []
        waiting: list[list[tuple[int, int]]] = []
        asked: dict[bytes, int] = {}
        for task in tasks:
            sample, entry = samples[task[0]], self._entries[task[1]]
            verdict = _inline(entry, sample)
            if verdict is None:
                request = _request(task, sample, entry)
                verdict = self._cache.get(request)
                if verdict is None:
                    place = asked.setdefault(request, len(requests))
                    # a user's function may be random: equal samples are asked each for itself
                    if place == len(requests) or entry.plugin is not None:
                        requests.append(request)
                        waiting.append([task])
                    else:
                        waiting[place].append(task)
                    continue
            results[task[0]][entry.name] = verdict
        if not requests:
            return
        left = max(0.0, end - time.monotonic())
        verdicts = self._pool.run(requests, batch_deadline=left)
        for request, pairs, verdict in zip(requests, waiting, verdicts, strict=True):
            for sample_index, entry_index in pairs:
                results[sample_index][self._entries[entry_index].name] = verdict
            if self._entries[pairs[0][1]].plugin is None:
                self._cache.put(request, verdict)

    def _combine(self, verdicts: dict[str, Verdict]) -> Scored:
        parts: dict[str, float] = {}
        reward = 0.0
        for entry in self._entries:
            verdict = verdicts.get(entry.name)
            part = 0.0 if verdict is None else entry.weight * self._score(verdict)
            parts[entry.name] = part
            # a later verifier without a gold says nothing about this prompt's completions, all of
            # them alike; one that is late or crashed would make this completion differ from them
            says_nothing = (
                verdict is not None
                and verdict.outcome is Outcome.SKIPPED
                and entry is not self._entries[0]
            )
            if not (says_nothing and math.isnan(part)):
                reward += part
        ordered = {name: verdicts[name] for name in self.names if name in verdicts}
        return Scored(reward, verdicts[self.names[0]], parts, ordered)

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


def _inline(entry: Entry, sample: Sample) -> Verdict | None:
    if entry.inline is None:
        return None
    began = time.perf_counter()
    try:
        verdict = entry.inline(sample)
    except Exception as error:  # no completion may end the run
        verdict = Verdict(Outcome.CRASHED, reason=plugin.describe(error))
    if verdict is None:
        return None
    seconds = time.perf_counter() - began
    return Verdict(verdict.outcome, verdict.fraction, verdict.reason, seconds, verdict.value)


def _request(task: tuple[int, int], sample: Sample, entry: Entry) -> bytes:
    return pack({"verifier": task[1], "sample": sample_message(sample, entry.sent_columns)})


def _local_share_of_cores() -> int:
    """Return this process's share of the machine's cores, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1)))
