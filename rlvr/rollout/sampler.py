"""Sampling: completions of prompts, their verdicts, and what policy and reference make of them."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Protocol

import torch
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch, Seen
from rlvr.loss import Objective
from rlvr.processes import Processes
from rlvr.rewards.scorer import Scored, Scorer
from rlvr.rewards.verdict import Outcome, Sample
from rlvr.rollout.completion import Completion, as_rows, with_scores
from rlvr.rollout.draws import seed_of
from rlvr.rollout.rows import sampled_by

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]


class Policy(Protocol):
    """What a generation needs of the trainer."""

    pad_token: int

    @property
    def processes(self) -> Processes:
        """The processes of the run."""

    def complete(
        self, prompts: list[Any], *, seeds: Sequence[int], temperature: float | None = None
    ) -> list[Completion]:
        """Return one completion for each of this process's prompts, each by its own seed."""

    def look(self, rows: RolloutBatch, names: Collection[str] = ()) -> Seen:
        """Return this process's rows as the policy sees them, with the named statistics, without gradient."""

    def reference_logprobs(self, rows: RolloutBatch) -> Tensor:
        """Return log-probs of this process's rows under the reference policy."""

    def tokens_with(self, text: str) -> Tensor:
        """Return which tokens of the vocabulary have this in their text, (V,) bool."""


@dataclass(frozen=True)
class Batch:
    """What one call of the policy gave."""

    completions: list[Completion]
    """This process's own."""
    scored: list[Scored]
    """Of the completions."""
    rows: RolloutBatch
    """Of all processes, in the order of the requests."""
    scoring: float
    """Seconds."""


@dataclass(frozen=True)
class _Text:
    """What is judged of a completion; light enough to be shown to all processes."""

    place: int
    """Position among the requests of all processes; below 0: a filler."""
    row: int
    text: str
    truncated: bool
    length: int


@dataclass(frozen=True)
class Sampler:
    """Samples and judges.

    Args:
        policy: The trainer.
        rows: The data.
        scorer: Judges completions.
        objective: Says which statistics its loss and controls need.
        group_size: Completions per prompt.
        needs_statistics: Whether the policy has to look at what it sampled, apart from the loss.
        warned: Outcomes that were said on the screen; grows.
    """

    policy: Policy
    rows: Sequence[Row]
    scorer: Scorer
    objective: Objective
    group_size: int
    needs_statistics: bool
    warned: set[str]

    def each(self, numbers: Sequence[int]) -> list[int]:
        """Return every number `group_size` times."""
        return [number for number in numbers for _ in range(self.group_size)]

    def sample(
        self,
        requests: Sequence[int],
        seed: int,
        *,
        origin: Origin,
        first_group: int,
        group_size: int | None = None,
        temperature: float | None = None,
        statistics: bool | None = None,
        observe: bool = True,
    ) -> Batch:
        """Return completions of rows of the data, and what they are worth.

        Args:
            requests: Rows of the data, one for each completion; the same on every process.
            seed: Of the sampling; each completion has one of its own, of this, its prompt and its place.
            origin: Of the rows.
            first_group: Group of the first completions.
            group_size: Completions per prompt; None: the plan's.
            temperature: None: the recipe's.
            statistics: Whether the policy looks at the rows; None: if the loss or a control needs it.
            observe: False: neither policy nor reference look at them.
        """
        processes = self.policy.processes
        places = processes.share(len(requests))
        numbers = [requests[place % len(requests)] for place in places]
        prompts = [self.rows[number]["prompt"] for number in numbers]
        seeds = [seed_of(seed, *pair) for pair in zip(numbers, places, strict=True)]
        heartbeat = processes.heartbeat
        with heartbeat.phase("sampling"):
            sampled = self.policy.complete(prompts, seeds=seeds, temperature=temperature)
        completions = [
            replace(item, row=number, place=place if place < len(requests) else -1)
            for item, number, place in zip(sampled, numbers, places, strict=True)
        ]
        before = monotonic()
        size = group_size or self.group_size
        with heartbeat.phase("scoring"):
            scored = self._score(completions, size)
        scoring = monotonic() - before
        rows = as_rows(
            completions,
            pad_token=self.policy.pad_token,
            origin=origin,
            first_group=first_group,
            group_size=size,
        )
        rows = with_scores(rows, scored).to(processes.device)
        if observe:
            rows = self._seen(rows, self.needs_statistics if statistics is None else statistics)
        where = torch.tensor([item.place for item in completions], device=processes.device)
        return Batch(completions, scored, processes.gather_batch(rows, where), scoring)

    def _seen(self, rows: RolloutBatch, statistics: bool) -> RolloutBatch:
        """Return this process's rows with what the policy, if it is asked, and the reference make of them."""
        with self.policy.processes.heartbeat.phase("statistics"):
            if statistics:
                chain = self.objective.chain
                seen = self.policy.look(rows, chain.statistics | chain.old_statistics)
                rows = sampled_by(rows, seen)
            if self._needs_reference:
                rows = replace(rows, ref_logprobs=self.policy.reference_logprobs(rows))
        return rows

    def observed(self, rows: RolloutBatch) -> RolloutBatch:
        """Return rows of all processes as `_seen` returns those of one; the processes share the work."""
        processes = self.policy.processes
        places = torch.tensor(processes.share(len(rows)))
        mine = self._seen(rows.rows(places % len(rows)), self.needs_statistics)
        where = places.masked_fill(places >= len(rows), -1)
        return processes.gather_batch(mine, where.to(processes.device))

    @property
    def _needs_reference(self) -> bool:
        return self.objective.kl_coef != 0 or "ref_logprobs" in self.objective.chain.needs

    def _score(self, completions: Sequence[Completion], group_size: int) -> list[Scored]:
        """Return what this process's completions are worth."""
        mine = [
            # a filler is in no group: it has a place of its own below 0
            _Text(
                item.place if item.place >= 0 else -1 - index,
                *(item.row, item.text, item.truncated, len(item.completion_ids)),
            )
            for index, item in enumerate(completions)
        ]
        judged = mine
        if self.scorer.needs_groups:
            # a group may be cut between processes: each judges the whole of those that it has a part of
            groups = {text.place // group_size for text in mine}
            others = {text.place: text for text in self.policy.processes.gather_list(mine)}
            whole = {p: t for p, t in others.items() if p >= 0 and p // group_size in groups}
            everything = whole | {text.place: text for text in mine}
            judged = [everything[place] for place in sorted(everything)]
        each = {self._matters(text): text for text in judged}
        found = self.scorer.score(
            [self._sample(text) for text in each.values()],
            [t.place // group_size if t.place >= 0 else t.place for t in each.values()],
        )
        of = dict(zip(each, found, strict=True))
        scored = [of[self._matters(text)] for text in mine]
        self._warn(scored)
        return scored

    def _matters(self, text: "_Text") -> object:
        """Return what a completion's verdict depends on: what is written twice for a prompt is judged once."""
        if self.scorer.needs_groups:
            return text.place
        return text.row, text.text, text.truncated, text.length

    def _sample(self, text: "_Text") -> Sample:
        row = self.rows[text.row]
        return Sample(
            row["prompt"], text.text, row.get("answer"), row, text.truncated, length=text.length
        )

    def _warn(self, scored: Sequence[Scored]) -> None:
        """Say, once for each outcome, that completions are not judged by what they say."""
        for outcome in (Outcome.CRASHED, Outcome.TIMEOUT, Outcome.SKIPPED):
            concerned = [item.verdict for item in scored if item.verdict.outcome is outcome]
            if concerned and outcome not in self.warned and self.policy.processes.is_first:
                self.warned.add(outcome)
                logger.warning(
                    "%d of %d completions are %s (%s); rewards.scores.%s says what that earns; it is counted as "
                    "verdict/%s and said once",
                    *(len(concerned), len(scored), outcome, concerned[0].reason or "no reason"),
                    *(outcome, outcome),
                )
