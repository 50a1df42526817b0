"""One generation: sample, score, advantages, statistics, and what the controls make of it."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import torch
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch, Seen
from rlvr.check.plan import BatchPlan
from rlvr.entropy.control import Rehearsal, State, Stats, quotient
from rlvr.loss import Objective
from rlvr.processes import Processes
from rlvr.rewards.scorer import Scored, Scorer
from rlvr.rewards.verdict import Outcome, Sample
from rlvr.rollout.completion import OUTCOMES, Completion, as_rows, with_scores
from rlvr.rollout.dynamic import (
    DynamicSampling,
    Supply,
    account,
    choose,
    have_signal,
    rows_of,
    spread,
)
from rlvr.rollout.rehearsal import (
    as_rehearsal,
    choose_mastered,
    draw,
    join_all,
    load_buffer,
    save_buffer,
)
from rlvr.rollout.rows import trim
from rlvr.rollout.stream import prompt_stream

logger = logging.getLogger(__name__)

REHEARSAL = "rehearsal.pt"
REFILL_SEEDS = 2**40
"""Between the sampling seeds of a rollout's batches: far beyond the number of any update."""

Row = Mapping[str, Any]
Advantage = Callable[[Tensor, Tensor], Tensor]


class Policy(Protocol):
    """What a generation needs of the trainer."""

    pad_token: int

    @property
    def processes(self) -> Processes:
        """The processes of the run."""

    def complete(
        self, prompts: list[Any], *, seed: int, temperature: float | None = None
    ) -> list[Completion]:
        """Return one completion for each of this process's prompts."""

    def look(self, rows: RolloutBatch, names: Collection[str] = ()) -> Seen:
        """Return this process's rows as the policy sees them, with the named statistics, without gradient."""

    def reference_logprobs(self, rows: RolloutBatch) -> Tensor:
        """Return log-probs of this process's rows under the reference policy."""

    def tokens_with(self, text: str) -> Tensor:
        """Return which tokens of the vocabulary have this in their text, (V,) bool."""


@dataclass(frozen=True)
class Generation:
    """What a rollout returns."""

    rows: RolloutBatch
    """Of all processes, as they are trained on."""
    state: State
    """Of the controls, after they have seen the generation."""
    stats: dict[str, float]
    """Of the whole generation."""
    records: list[dict[str, Any]]
    """This process's own completions, for the run folder."""
    supply: Supply
    """What is left to the next generation."""
    recovered: bool
    """Whether some rows were sampled by the policy of the generation before."""


@dataclass(frozen=True)
class Sampled:
    """The policy's own rows of a generation, and everything that was sampled for them."""

    rows: RolloutBatch
    """Of all processes; whole groups, in order."""
    numbers: list[int]
    """Row of the data of each group."""
    completions: list[Completion]
    """This process's own."""
    scored: list[Scored]
    """Of the completions."""
    trained: dict[int, int]
    """Place of a completion -> its row; those that are missing are not trained on."""
    scoring: float
    """Seconds."""
    supply: Supply
    stats: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Surveyed:
    """What the initial policy makes of some prompts."""

    numbers: list[int]
    """Rows of the data that were sampled."""
    right: list[int]
    """Right completions of each."""
    mastered: list[int]
    """Those of `numbers` whose share of right completions is high enough."""
    rehearsal: RolloutBatch | None
    """A right completion of each mastered prompt, in their order; None where none is."""


@dataclass(frozen=True)
class Roller:
    """Makes generations.

    Args:
        policy: The trainer.
        rows: The data.
        scorer: Judges completions.
        advantage: From rewards and group ids to advantages, each (B,).
        objective: Says which statistics its loss and controls need.
        plan: How many prompts and completions.
        folder: The run folder, where a rehearsal buffer is kept.
        mask_truncated: Whether completions cut at the length limit are kept out of the loss.
        seed: Of the run.
        dynamic: How groups without signal are replaced; None: they are trained on.
    """

    policy: Policy
    rows: Sequence[Row]
    scorer: Scorer
    advantage: Advantage
    objective: Objective
    plan: BatchPlan
    folder: Path
    mask_truncated: bool
    seed: int
    dynamic: DynamicSampling | None = None
    warned: set[Outcome] = field(default_factory=set)
    """Outcomes that were said on the screen."""

    def generation(
        self,
        row_numbers: Sequence[int],
        update: int,
        state: State,
        supply: Supply = Supply(),  # noqa: B008 (frozen)
    ) -> Generation:
        """Return a new generation.

        Args:
            row_numbers: Rows of the data to complete, each `group_size` times; the same on every process. With dynamic
                sampling those of the stream, from the supply's position on, are taken instead.
            update: Optimizer steps done; seeds the sampling.
            state: Of the controls.
            supply: What the generation before left.
        """
        started = monotonic()
        chain = self.objective.chain
        plan = chain.plan(state)
        seed = self.seed * 1_000_003 + update
        sampled = (
            self._plain(row_numbers, seed)
            if self.dynamic is None
            else self._with_signal(self.dynamic, seed, supply)
        )
        rows, scoring = sampled.rows, sampled.scoring
        if plan.tempered is not None:
            prompts = int(plan.tempered.prompt_fraction * self.plan.prompts_per_rollout)
            if prompts:
                _, _, tempered, more = self._sample(
                    self._each(sampled.numbers[:prompts]),
                    seed + 1,
                    origin=Origin.TEMPERED,
                    first_group=self.plan.prompts_per_rollout,
                    temperature=plan.tempered.temperature,
                )
                rows, scoring = rows.join(tempered), scoring + more
        rows, state, sums = self.credit(rows, plan.step_separator, state)
        records = self._records(sampled, rows)
        rows, state, shaped = chain.shape(rows, state)
        stats = {name: quotient(value) for name, value in (sums | shaped).items()}
        stats |= self._mean_parts(
            [
                judged
                for item, judged in zip(sampled.completions, sampled.scored, strict=True)
                if item.place >= 0
            ]
        )
        if plan.rehearsal is not None:
            rows = rows.join(self._rehearsal_rows(plan.rehearsal, seed, update))
        stats |= sampled.stats | {"time/score": scoring, "time/rollout": monotonic() - started}
        recovered = bool(sampled.stats.get("rollout/recovered"))
        return Generation(rows, state, stats, records, sampled.supply, recovered)

    def _each(self, numbers: Sequence[int]) -> list[int]:
        """Return every number `group_size` times."""
        return [number for number in numbers for _ in range(self.plan.group_size)]

    def _plain(self, row_numbers: Sequence[int], seed: int) -> Sampled:
        """Return the completions of the given rows, whatever they earned."""
        completions, scored, rows, scoring = self._sample(
            row_numbers, seed, origin=Origin.POLICY, first_group=0
        )
        return Sampled(
            rows=rows,
            numbers=list(row_numbers[:: self.plan.group_size]),
            completions=completions,
            scored=scored,
            trained={place: place for place in range(len(row_numbers))},
            scoring=scoring,
            supply=Supply(),
        )

    def _with_signal(self, dynamic: DynamicSampling, seed: int, supply: Supply) -> Sampled:
        """Return leftovers, then new groups whose rewards differ; see rlvr/rollout/dynamic.py."""
        prompts, size = self.plan.prompts_per_rollout, self.plan.group_size
        recovered, position = len(supply.numbers), supply.position
        numbers: list[int] = []
        completions: list[Completion] = []
        scored: list[Scored] = []
        parts: list[RolloutBatch] = []
        signal = torch.zeros(0, dtype=torch.bool)
        scoring = 0.0
        while not parts or (
            recovered + int(signal.sum()) < prompts and len(parts) <= dynamic.max_refills
        ):
            new = prompt_stream(len(self.rows), prompts, self.seed, start=position)
            found, judged, rows, seconds = self._sample(
                self._each(new),
                seed + len(parts) * REFILL_SEEDS,
                origin=Origin.POLICY,
                first_group=0,
                observe=False,
            )
            before = len(numbers) * size
            completions += [
                replace(item, place=item.place + before) if item.place >= 0 else item
                for item in found
            ]
            scored += judged
            numbers += new
            parts.append(rows)
            signal = torch.cat([signal, have_signal(rows.rewards, self._counts(rows), size).cpu()])
            position += prompts
            scoring += seconds
        everything = join_all(parts)
        choice = choose(signal.tolist(), prompts - recovered)
        rest = choice.rest if dynamic.keep_leftovers else []
        groups = [*choice.kept, *choice.fillers, *rest]
        rows = self._observed(everything.rows(rows_of(groups, size)))
        trained = prompts - recovered
        left = rows.rows(rows_of(range(trained, len(groups)), size))
        rows = rows.rows(rows_of(range(trained), size))
        if supply.leftovers is not None:
            rows = supply.leftovers.to(rows.rewards.device).join(rows)
        order = spread(recovered + len(choice.kept), len(choice.fillers))
        rows = replace(
            rows.rows(rows_of(order, size)),
            group_ids=torch.arange(prompts, device=rows.group_ids.device).repeat_interleave(size),
        )
        sources = [None] * recovered + groups[:trained]
        all_numbers = [*supply.numbers, *(numbers[group] for group in groups[:trained])]
        return Sampled(
            rows=rows,
            numbers=[all_numbers[place] for place in order],
            completions=completions,
            scored=scored,
            trained={
                group * size + i: row * size + i
                for row, place in enumerate(order)
                if (group := sources[place]) is not None
                for i in range(size)
            },
            scoring=scoring,
            supply=Supply(position, trim(left), tuple(numbers[group] for group in rest))
            if rest
            else Supply(position),
            stats={
                "rollout/prompts_consumed": len(numbers),
                "rollout/refills": len(parts) - 1,
                "rollout/recovered": recovered,
                **account(everything, signal, size),
            },
        )

    def _sample(
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
    ) -> tuple[list[Completion], list[Scored], RolloutBatch, float]:
        """Return this process's completions, their scores, the rows of all processes, and the seconds of scoring."""
        processes = self.policy.processes
        places = processes.share(len(requests))
        numbers = [requests[place % len(requests)] for place in places]
        prompts = [self.rows[number]["prompt"] for number in numbers]
        completions = [
            replace(item, row=number, place=place if place < len(requests) else -1)
            for item, number, place in zip(
                self.policy.complete(prompts, seed=seed, temperature=temperature),
                numbers,
                places,
                strict=True,
            )
        ]
        before = monotonic()
        scored = self._score(completions)
        scoring = monotonic() - before
        rows = as_rows(
            completions,
            pad_token=self.policy.pad_token,
            origin=origin,
            first_group=first_group,
            group_size=group_size or self.plan.group_size,
        )
        rows = with_scores(rows, scored).to(processes.device)
        if observe:
            rows = self._seen(rows, self._needs_statistics if statistics is None else statistics)
        where = torch.tensor([item.place for item in completions], device=processes.device)
        return completions, scored, processes.gather_batch(rows, where), scoring

    def _seen(self, rows: RolloutBatch, statistics: bool) -> RolloutBatch:
        """Return this process's rows with what the policy, if it is asked, and the reference make of them."""
        if statistics:
            chain = self.objective.chain
            seen = self.policy.look(rows, chain.statistics | chain.old_statistics)
            rows = replace(
                rows,
                old_logprobs=seen.logprobs,
                old_entropies=seen.entropies,
                old_statistics=seen.statistics,
            )
        if self._needs_reference:
            rows = replace(rows, ref_logprobs=self.policy.reference_logprobs(rows))
        return rows

    def _observed(self, rows: RolloutBatch) -> RolloutBatch:
        """Return rows of all processes as `_seen` returns those of one; the processes share the work."""
        processes = self.policy.processes
        places = torch.tensor(processes.share(len(rows)))
        mine = self._seen(rows.rows(places % len(rows)), self._needs_statistics)
        where = places.masked_fill(places >= len(rows), -1)
        return processes.gather_batch(mine, where.to(processes.device))

    @property
    def _needs_statistics(self) -> bool:
        """Whether log-probs and entropies of the sampling policy must be computed apart from the loss."""
        chain = self.objective.chain
        return (
            self.plan.updates_per_rollout > 1
            or (self.dynamic is not None and self.dynamic.keep_leftovers)
            or chain.measures_current_policy
            or bool(chain.needs & {"old_logprobs", "old_entropies"})
            or bool(chain.statistics | chain.old_statistics)
            or self.objective.correction_max is not None
        )

    @property
    def _needs_reference(self) -> bool:
        return self.objective.kl_coef != 0 or "ref_logprobs" in self.objective.chain.needs

    def _score(self, completions: Sequence[Completion]) -> list[Scored]:
        samples = []
        for item in completions:
            row = self.rows[item.row]
            samples.append(
                Sample(row["prompt"], item.text, row.get("answer"), row, truncated=item.truncated)
            )
        scored = self.scorer.score(samples)
        self._warn(scored)
        return scored

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

    def _steps(self, rows: RolloutBatch, separator: str) -> Tensor:
        """Return the step of each token, (B, T) from 0: a token whose text has the separator ends one."""
        ends = self.policy.tokens_with(separator).to(rows.completion_ids.device)
        is_end = ends[rows.completion_ids] & rows.completion_mask
        steps = is_end.long().cumsum(-1) - is_end.long()
        return steps.masked_fill(~rows.completion_mask, -1)

    def credit(
        self, rows: RolloutBatch, step_separator: str | None, state: State
    ) -> tuple[RolloutBatch, State, Stats]:
        """Return scored rows with their steps, the rewards that the controls make of them, and advantages."""
        if step_separator is not None:
            rows = replace(rows, segment_ids=self._steps(rows, step_separator))
        rows, state, sums = self.objective.chain.reward(rows, state)
        return self._with_advantages(rows), state, sums

    def _counts(self, rows: RolloutBatch) -> Tensor:
        """Return which completions may count in the loss, (B,) bool."""
        if self.mask_truncated and rows.truncated is not None:
            return rows.is_scored & ~rows.truncated
        return rows.is_scored

    def _with_advantages(self, rows: RolloutBatch) -> RolloutBatch:
        advantages = self.advantage(rows.rewards, rows.group_ids)
        counts = self._counts(rows) & ~torch.isnan(
            advantages
        )  # NaN: taken out of the loss (rlvr/advantage.py)
        advantages = advantages.nan_to_num(nan=0.0).unsqueeze(-1)
        return replace(
            rows,
            mask=rows.mask & counts.unsqueeze(-1),
            advantages=advantages.expand(rows.mask.shape).to(rows.advantages.dtype).clone(),
        )

    def _records(self, sampled: Sampled, rows: RolloutBatch) -> list[dict[str, Any]]:
        """Return what the run folder keeps of this process's completions."""
        advantages = rows.advantages[:, 0].tolist()
        entropies = None
        if rows.old_entropies is not None:
            totals = rows.old_entropies.masked_fill(~rows.completion_mask, 0.0).sum(-1)
            entropies = (totals / rows.completion_mask.sum(-1).clamp(min=1)).tolist()
        records = []
        for item, judged in zip(sampled.completions, sampled.scored, strict=True):
            if item.place < 0:
                continue
            row = self.rows[item.row]
            place = sampled.trained.get(item.place)
            records.append(
                {
                    "place": item.place,
                    "prompt": row["prompt"],
                    "completion": item.text,
                    "answer": row.get("answer"),
                    "task": row.get("task"),
                    "reward": judged.reward,
                    "verdict": judged.verdict.outcome.value,
                    "reason": judged.verdict.reason,
                    "advantage": None if place is None else advantages[place],
                    "length": len(item.completion_ids),
                    "truncated": item.truncated,
                    "entropy": None if entropies is None or place is None else entropies[place],
                    "rewards": judged.parts,
                }
            )
        return records

    def _mean_parts(self, scored: Sequence[Scored]) -> dict[str, float]:
        """Return the mean of each verifier's part of the reward, over all processes."""
        means = {}
        for name in self.scorer.names:
            values = torch.tensor([item.parts[name] for item in scored], dtype=torch.float64)
            values = values[~torch.isnan(values)]
            pair = torch.stack([values.sum(), torch.tensor(float(len(values))).double()])
            means[f"rewards/{name}"] = quotient(self.policy.processes.sum(pair))
        return means

    # ------------------------------------------------------------------ rehearsal

    def _rehearsal_rows(self, wanted: Rehearsal, seed: int, update: int) -> RolloutBatch:
        path = Path(wanted.buffer) if wanted.buffer else self.folder / REHEARSAL
        if wanted.buffer is None and not path.exists():
            self._make_buffer(wanted, path, update)
        updates = self.plan.updates_per_rollout // self.plan.passes
        drawn = draw(load_buffer(path), wanted.rows_per_update * updates, seed)
        return drawn.to(self.policy.processes.device)

    def _make_buffer(self, wanted: Rehearsal, path: Path, update: int) -> None:
        """Sample the initial policy until enough prompts are mastered, and keep one right answer of each."""
        if update > 0:
            raise ValueError(
                f"{path} is missing and the policy is no longer the initial one; put the file back, or name a "
                "buffer in entropy.dph.buffer"
            )
        found: list[RolloutBatch] = []
        for part in self.survey(wanted.samples, wanted.min_pass_rate):
            if part.rehearsal is not None:
                found.append(part.rehearsal)
            if sum(map(len, found)) >= wanted.buffer_rows:
                break
        if not found:
            raise ValueError(
                f"the initial policy masters none of {len(self.rows)} prompts (at least {wanted.min_pass_rate:.0%} "
                f"of {wanted.samples} completions correct); lower entropy.dph.min_pass_rate, or use easier data"
            )
        processes = self.policy.processes
        if processes.is_first:
            buffer = join_all(found)
            save_buffer(buffer.rows(torch.arange(min(len(buffer), wanted.buffer_rows))), path)
        processes.wait()

    def survey(self, samples: int, min_pass_rate: float) -> Iterator[Surveyed]:
        """Yield what the policy, which must be the initial one, masters, a rollout's worth of prompts at a time.

        Args:
            samples: Completions per prompt.
            min_pass_rate: Share of a prompt's completions that must be right, 0..1.
        """
        order = prompt_stream(len(self.rows), len(self.rows), self.seed + 1)
        size = self.plan.prompts_per_rollout
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            _, _, rows, _ = self._sample(
                [row for row in numbers for _ in range(samples)],
                -1 - start - self.seed,
                origin=Origin.POLICY,
                first_group=0,
                group_size=samples,
                statistics=True,
            )
            assert rows.outcomes is not None  # as_rows sets them
            right = (rows.outcomes == OUTCOMES.index(Outcome.CORRECT)).cpu()
            chosen = choose_mastered(right, rows.group_ids.cpu(), min_pass_rate)
            yield Surveyed(
                numbers=numbers,
                right=right.view(len(numbers), samples).sum(-1).tolist(),
                mastered=[numbers[place // samples] for place in chosen.tolist()],
                rehearsal=as_rehearsal(rows.to("cpu").rows(chosen)) if len(chosen) else None,
            )
