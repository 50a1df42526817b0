"""One generation: sample, score, advantages, statistics, and what the controls make of it."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch
from rlvr.check.plan import BatchPlan
from rlvr.entropy.control import Rehearsal, State, Stats, quotient
from rlvr.loss import Objective
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Outcome
from rlvr.rollout.completion import OUTCOMES
from rlvr.rollout.difficulty import DIFFICULTY, Difficulty, write_memory
from rlvr.rollout.dynamic import DynamicSampling, Sampled, Supply, sample_with_signal
from rlvr.rollout.prompts import PromptSource
from rlvr.rollout.rehearsal import (
    as_rehearsal,
    choose_mastered,
    draw,
    join_all,
    load_buffer,
    save_buffer,
)
from rlvr.rollout.sampler import Policy, Row, Sampler
from rlvr.rollout.stream import prompt_stream
from rlvr.rollout.verifiers import measurements, verifier_metrics

logger = logging.getLogger(__name__)

REHEARSAL = "rehearsal.pt"
_STAND_INS = "stand_ins"

Advantage = Callable[[Tensor, Tensor], Tensor]


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
        difficulty: How prompts are remembered and chosen; None: they are not.
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
    difficulty: Difficulty | None = None
    warned: set[str] = field(default_factory=set)
    """What was said on the screen: outcomes, and that the filter leaves too few prompts."""

    def generation(
        self,
        update: int,
        state: State,
        supply: Supply = Supply(),  # noqa: B008 (frozen)
    ) -> Generation:
        """Return a new generation.

        Args:
            update: Optimizer steps done; seeds the sampling.
            state: Of the controls.
            supply: What the generation before left.
        """
        started = monotonic()
        chain = self.objective.chain
        plan = chain.plan(state)
        seed = self.seed * 1_000_003 + update
        sampled = self._sampled(seed, supply)
        rows, scoring = sampled.rows, sampled.scoring
        if plan.tempered is not None:
            prompts = plan.tempered.prompts(self.plan.prompts_per_rollout)
            if prompts:
                tempered = self.sampler.sample(
                    self.sampler.each(sampled.numbers[:prompts]),
                    seed + 1,
                    origin=Origin.TEMPERED,
                    first_group=self.plan.prompts_per_rollout,
                    temperature=plan.tempered.temperature,
                )
                rows, scoring = rows.join(tempered.rows), scoring + tempered.scoring
        rows, state, sums = self.credit(rows, plan.step_separator, state)
        records = self._records(sampled, rows)
        rows, state, shaped = chain.shape(rows, state)
        stats = {name: quotient(value) for name, value in (sums | shaped).items()}
        stats |= self._of_verifiers(sampled)
        if plan.rehearsal is not None:
            rows = rows.join(self._rehearsal_rows(plan.rehearsal, seed, update))
        stats |= sampled.stats | {"time/score": scoring, "time/rollout": monotonic() - started}
        self._warn_of_stand_ins(sampled.stats)
        recovered = bool(sampled.stats.get("rollout/recovered"))
        return Generation(rows, state, stats, records, sampled.supply, recovered)

    @property
    def source(self) -> PromptSource:
        """What gives prompts."""
        return PromptSource(len(self.rows), self.seed, self.difficulty)

    def _warn_of_stand_ins(self, stats: Mapping[str, float]) -> None:
        """Say, once, that the filter leaves too few prompts."""
        count = stats.get("difficulty/stand_ins", 0)
        if count and _STAND_INS not in self.warned and self.policy.processes.is_first:
            self.warned.add(_STAND_INS)
            logger.warning(
                "fewer prompts than a rollout needs are between rollout.difficulty.min_pass_rate and max_pass_rate: "
                "the closest to it stand in (%d of this rollout); widen the range, or add data; it is counted as "
                "difficulty/stand_ins and said once",
                count,
            )

    def write_difficulty(self, supply: Supply) -> None:
        """Write what is remembered of the prompts to the run folder; called on the first process."""
        if supply.memory is None:
            return
        path = self.folder / DIFFICULTY
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_memory(supply.memory, self.rows, path)
        except OSError as error:  # checkpoints have it too
            logger.warning("%s was not written (%s); training goes on", path, error.strerror)

    @property
    def sampler(self) -> Sampler:
        """What samples and judges."""
        chain = self.objective.chain
        needs_statistics = (
            self.plan.updates_per_rollout > 1
            or (self.dynamic is not None and self.dynamic.keep_leftovers)
            or chain.measures_current_policy
            or bool(chain.needs & {"old_logprobs", "old_entropies"})
            or bool(chain.statistics | chain.old_statistics)
            or self.objective.correction_max is not None
        )
        return Sampler(
            policy=self.policy,
            rows=self.rows,
            scorer=self.scorer,
            objective=self.objective,
            group_size=self.plan.group_size,
            needs_statistics=needs_statistics,
            warned=self.warned,
        )

    def _sampled(self, seed: int, supply: Supply) -> Sampled:
        """Return the policy's own rows, of the prompts that come next."""
        if self.dynamic is not None:
            return sample_with_signal(
                self.sampler,
                self.dynamic,
                self._counts,
                prompts=self.plan.prompts_per_rollout,
                seed=seed,
                source=self.source,
                supply=supply,
            )
        taken = self.source.take(self.plan.prompts_per_rollout, supply.position, supply.memory)
        requests = self.sampler.each(taken.numbers)
        batch = self.sampler.sample(requests, seed, origin=Origin.POLICY, first_group=0)
        memory, stats = self.source.remember(
            supply.memory, [taken], batch.rows, self.plan.group_size
        )
        return Sampled(
            rows=batch.rows,
            numbers=taken.numbers,
            completions=batch.completions,
            scored=batch.scored,
            trained={place: place for place in range(len(requests))},
            scoring=batch.scoring,
            supply=Supply(taken.position, memory=memory),
            stats=stats,
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
        # NaN: taken out of the loss (rlvr/advantage.py)
        counts = self._counts(rows) & ~torch.isnan(advantages)
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

    def _of_verifiers(self, sampled: Sampled) -> dict[str, float]:
        """Return the metrics of each verifier, over all processes."""
        names, processes = self.scorer.names, self.policy.processes
        pairs = zip(sampled.completions, sampled.scored, strict=True)
        # fillers stay in as nan: every process has as many rows
        measured = measurements([None if i.place < 0 else judged for i, judged in pairs], names)
        return verifier_metrics(processes.gather(measured.to(processes.device)).cpu(), names)

    # ------------------------------------------------------------------ rehearsal

    def _rehearsal_rows(self, wanted: Rehearsal, seed: int, update: int) -> RolloutBatch:
        path = Path(wanted.buffer) if wanted.buffer else self.folder / REHEARSAL
        if wanted.buffer is None and not path.exists():
            self._make_buffer(wanted, path, update)
        drawn = draw(load_buffer(path), wanted.rows_per_update * self.plan.updates_per_pass, seed)
        return drawn.to(self.policy.processes.device)

    def _make_buffer(self, wanted: Rehearsal, path: Path, update: int) -> None:
        """Sample the initial policy until enough prompts are mastered, and keep one right answer of each."""
        if update > 0:
            raise ValueError(
                f"{path} is missing and the policy is no longer the initial one; put the file back, or name a "
                "buffer in entropy.dph.buffer"
            )
        buffer = self.mastered(wanted, wanted.buffer_rows)
        if buffer is None:
            raise ValueError(
                f"the initial policy masters none of {len(self.rows)} prompts (at least {wanted.min_pass_rate:.0%} "
                f"of {wanted.samples} completions correct); lower entropy.dph.min_pass_rate, or use easier data"
            )
        processes = self.policy.processes
        if processes.is_first:
            save_buffer(buffer, path)
        processes.wait()

    def mastered(self, wanted: Rehearsal, most: int) -> RolloutBatch | None:
        """Return at most `most` right completions of the policy, which must be the initial one; None if it masters none."""
        found: list[RolloutBatch] = []
        for part in self.survey(wanted.samples, wanted.min_pass_rate):
            if part.rehearsal is not None:
                found.append(part.rehearsal)
            if sum(map(len, found)) >= most:
                break
        if not found:
            return None
        joined = join_all(found)
        return joined.rows(torch.arange(min(len(joined), most)))

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
            batch = self.sampler.sample(
                [row for row in numbers for _ in range(samples)],
                -1 - start - self.seed,
                origin=Origin.POLICY,
                first_group=0,
                group_size=samples,
                statistics=True,
            )
            rows = batch.rows
            assert rows.outcomes is not None  # as_rows sets them
            right = (rows.outcomes == OUTCOMES.index(Outcome.CORRECT)).cpu()
            chosen = choose_mastered(right, rows.group_ids.cpu(), min_pass_rate)
            yield Surveyed(
                numbers=numbers,
                right=right.view(len(numbers), samples).sum(-1).tolist(),
                mastered=[numbers[place // samples] for place in chosen.tolist()],
                rehearsal=as_rehearsal(rows.to("cpu").rows(chosen)) if len(chosen) else None,
            )
