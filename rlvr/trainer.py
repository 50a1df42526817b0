"""The GRPO trainer: TRL's loop, sampling and saving around rlvr's rollouts, decisions and loss.

The only file that knows TRL's internals (1.16). TRL generates, counts optimizer steps, accumulates gradients, saves;
a generation is gathered to all processes in an order that does not depend on the layout, decisions about it are made
there by pure functions, and each process computes the loss of its own rows.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import pad, use_adapter

from rlvr.batch import Origin, RolloutBatch, TokenBatch
from rlvr.check.plan import BatchPlan
from rlvr.entropy.control import Rehearsal, Stats
from rlvr.kernels.naive import logprob_entropy
from rlvr.loss import Decision, Objective, covariance_of
from rlvr.rewards.scorer import Scored, Scorer
from rlvr.rewards.verdict import Outcome, Sample
from rlvr.rollout.cut import assign_updates, deal
from rlvr.rollout.rehearsal import (
    as_rehearsal,
    choose_mastered,
    draw,
    join_all,
    load_buffer,
    save_buffer,
)
from rlvr.rollout.rows import rollout_metrics, token_batch, trim
from rlvr.rollout.stream import prompt_stream

CONTROL_STATE = "control_state.json"
ROLLOUT = "rollout.pt"
REHEARSAL = "rehearsal.pt"
OUTCOMES = list(Outcome)

Row = Mapping[str, Any]
Advantage = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Completion:
    """One sampled completion, on the process that sampled it."""

    prompt_ids: list[int]
    completion_ids: list[int]
    text: str
    truncated: bool
    """Cut at the length limit."""
    sampling_logprobs: list[float] | None
    """As the sampler reports them."""
    row: int = 0
    """Of the data."""
    place: int = 0
    """Position among the requests of all processes; -1: a filler that keeps processes in step."""


@dataclass(frozen=True)
class Hooks:
    """What a run does around updates, besides training; every function is optional."""

    write: Callable[[dict[str, Any]], None] | None = None
    """Take the metrics of one update (on the first process)."""
    write_completions: Callable[[int, list[dict[str, Any]]], Any] | None = None
    """Take the completions of the rollout that starts before an update (on the first process)."""
    completions_every: int = 1
    """Updates between two rollouts whose completions are kept, at least."""
    evaluate: "Callable[[Trainer], dict[str, float]] | None" = None
    """Return held-out metrics; called on every process."""
    evaluate_every: int = 0
    """Updates between two evaluations; 0: none in between."""


class Trainer(GRPOTrainer):
    """A `trl.GRPOTrainer` whose rollouts, rewards and loss are rlvr's.

    Args:
        model: Hub id, folder, or a model.
        tokenizer: Its padding side must be left.
        rows: The data: `prompt` (text or messages) and what the verifiers need.
        scorer: Judges completions.
        advantage: From rewards and group ids, each (B,), to advantages.
        objective: The loss, with its entropy controls.
        plan: How generations are used.
        arguments: TRL's; batch sizes must be those of the plan.
        folder: The run folder, where a rehearsal buffer is kept.
        hooks: What to do around updates.
        mask_truncated: Whether completions cut at the length limit are kept out of the loss.
        model_card: Whether TRL writes its README.md into checkpoints.
        options: Further arguments of `GRPOTrainer`, such as `peft_config`.
    """

    # TRL's types allow for None before training
    model: Any
    lr_scheduler: Any

    def __init__(
        self,
        model: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Row],
        *,
        scorer: Scorer,
        advantage: Advantage,
        objective: Objective,
        plan: BatchPlan,
        arguments: GRPOConfig,
        folder: Path,
        hooks: Hooks | None = None,
        mask_truncated: bool = False,
        **options: Any,
    ) -> None:
        self._rows = rows
        self._scorer = scorer
        self._advantage = advantage
        self._objective = objective
        self._plan = plan
        self._folder = folder
        self._hooks = hooks or Hooks()
        self._mask_truncated = mask_truncated
        self.control_state = objective.chain.init()
        self._rollout: RolloutBatch | None = None
        self._updates: list[Tensor] = []
        self._decision: Decision | None = None
        self._mine: list[Tensor] = []
        self._position = 0
        self._sums: Stats = {}
        self._rollout_stats: dict[str, float] = {}
        self._metrics_row: dict[str, Any] = {}
        self._last_entropy: float | None = None
        self._update_started = 0.0
        self._rehearsal: RolloutBatch | None = None
        generations = -(-arguments.max_steps // plan.updates_per_rollout)
        order = prompt_stream(len(rows), generations * plan.prompts_per_rollout, arguments.seed)
        # one epoch for TRL: the whole run, so that a resumed run finds its place by counting
        stream = Dataset.from_dict({"prompt": [""] * len(order), "row": order})
        arguments.shuffle_dataset = False
        super().__init__(
            model=model,
            reward_funcs=_scored_by_rlvr,
            args=arguments,
            train_dataset=stream,
            processing_class=tokenizer,
            **options,
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(_AfterUpdate(self))
        self._is_exact = self.model.dtype == torch.float64

    # ------------------------------------------------------------------ sampling

    @contextmanager
    def _sampling(
        self, seed: int, *, temperature: float, top_p: float | None, max_tokens: int | None
    ) -> Iterator[None]:
        """Sample with these settings and this seed; the global random state is left as it was."""
        wanted: dict[str, Any] = {"temperature": temperature}
        if top_p is not None:
            wanted["top_p"] = top_p
        if max_tokens is not None:
            wanted["max_completion_length" if self.use_vllm else "max_new_tokens"] = max_tokens
        if not self.use_vllm and temperature == 0:
            wanted = {**wanted, "do_sample": False, "temperature": 1.0}
        target = self.vllm_generation if self.use_vllm else self.generation_config
        kept = {name: getattr(target, name) for name in wanted}
        kept_kwargs = None if self.use_vllm else dict(self.generation_kwargs)
        for name, value in wanted.items():
            setattr(target, name, value)
        if kept_kwargs is not None:
            self.generation_kwargs.update(wanted)
        device = self.accelerator.device
        devices = [device] if device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed((seed * 100_003 + self.accelerator.process_index) % 2**63)
                yield
        finally:
            for name, value in kept.items():
                setattr(target, name, value)
            if kept_kwargs is not None:
                self.generation_kwargs.clear()
                self.generation_kwargs.update(kept_kwargs)

    def complete(
        self,
        prompts: list[Any],
        *,
        seed: int,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
    ) -> list[Completion]:
        """Return one completion for each of this process's prompts.

        Every process has to call it equally often.

        Args:
            prompts: Text or messages.
            seed: Of the sampling; processes differ.
            temperature: None: the recipe's; 0: greedy.
            top_p: None: the recipe's.
            max_tokens: None: the recipe's.
        """
        limit = max_tokens or int(self.max_completion_length or 0)
        prompt_ids, images, extra = self._tokenize_prompts(prompts)
        temperature = self.temperature if temperature is None else temperature
        was_training = self.model.training
        self.model.eval()
        with self._sampling(seed, temperature=temperature, top_p=top_p, max_tokens=max_tokens):
            completion_ids, logprobs = self._generate_single_turn(prompt_ids, images, extra, 1)
        self.model.train(was_training)
        texts = self._tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        return [
            Completion(
                prompt_ids=list(prompt_ids[i]),
                completion_ids=ids,
                text=texts[i],
                truncated=len(ids) >= limit and ids[-1] not in self.eos_token_ids,
                sampling_logprobs=logprobs[i] if logprobs is not None else None,
            )
            for i, ids in enumerate(completion_ids)
        ]

    def _sample(
        self, requests: Sequence[int], *, seed: int, temperature: float | None = None
    ) -> list[Completion]:
        """Return this process's share of one completion for each requested row of the data."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        share = -(-len(requests) // world)
        places = range(rank * share, (rank + 1) * share)
        rows = [requests[place % len(requests)] for place in places]
        prompts = [self._rows[row]["prompt"] for row in rows]
        completions = self.complete(prompts, seed=seed, temperature=temperature)
        return [
            replace(item, row=row, place=place if place < len(requests) else -1)
            for item, row, place in zip(completions, rows, places, strict=True)
        ]

    def _score(self, completions: Sequence[Completion]) -> list[Scored]:
        rows = self._rows
        samples = [
            Sample(
                prompt=rows[item.row]["prompt"],
                completion=item.text,
                answer=rows[item.row].get("answer"),
                row=rows[item.row],
                truncated=item.truncated,
            )
            for item in completions
        ]
        return self._scorer.score(samples)

    def _collect(
        self,
        completions: Sequence[Completion],
        scored: Sequence[Scored],
        *,
        origin: Origin,
        first_group: int,
        group_size: int,
        statistics: bool,
        reference: bool,
    ) -> RolloutBatch:
        """Return the completions of all processes as rows, in the order of their requests."""
        device = self.accelerator.device
        places = torch.tensor([item.place for item in completions], device=device)
        masks = [torch.ones(len(item.completion_ids)) for item in completions]
        prompt_masks = [torch.ones(len(item.prompt_ids)) for item in completions]
        right = partial(pad, padding_side="right")
        left = partial(pad, padding_side="left")
        pad_token = self._tokenizer.pad_token_id
        completion_mask = right(masks, padding_value=0).to(device).bool()
        rewards = torch.tensor([item.reward for item in scored], dtype=torch.float32)
        batch = RolloutBatch(
            prompt_ids=left(
                [torch.tensor(item.prompt_ids) for item in completions], padding_value=pad_token
            ).to(device),
            prompt_mask=left(prompt_masks, padding_value=0).to(device).bool(),
            completion_ids=right(
                [torch.tensor(item.completion_ids) for item in completions],
                padding_value=pad_token,
            ).to(device),
            completion_mask=completion_mask,
            mask=completion_mask,
            advantages=torch.zeros(completion_mask.shape, device=device),
            rewards=rewards.to(device),
            group_ids=first_group + places.clamp(min=0) // group_size,
            origin=torch.full_like(places, origin),
            outcomes=torch.tensor(
                [OUTCOMES.index(item.verdict.outcome) for item in scored], device=device
            ),
            truncated=torch.tensor([item.truncated for item in completions], device=device),
            sampling_logprobs=self._sampling_logprobs(completions, device),
        )
        if statistics:
            logprobs, entropies = self._no_gradient_pass(self.model, batch)
            batch = replace(batch, old_logprobs=logprobs, old_entropies=entropies)
        if reference:
            batch = replace(batch, ref_logprobs=self._reference_logprobs(batch))
        return self._gather(batch, places)

    def _sampling_logprobs(
        self, completions: Sequence[Completion], device: torch.device
    ) -> Tensor | None:
        if any(item.sampling_logprobs is None for item in completions):
            return None
        rows = [torch.tensor(item.sampling_logprobs, dtype=torch.float32) for item in completions]
        return pad(rows, padding_value=0, padding_side="right").to(device)

    def _gather(self, batch: RolloutBatch, places: Tensor) -> RolloutBatch:
        """Return the rows of all processes ordered by place, fillers left out."""
        gathered: dict[str, Tensor] = {}
        for item in fields(batch):
            value = getattr(batch, item.name)
            if value is not None:
                gathered[item.name] = self._gather_rows(
                    value, left=item.name in ("prompt_ids", "prompt_mask")
                )
        places = self._gather_rows(places)
        order = places.argsort(stable=True)
        order = order[places[order] >= 0]
        return RolloutBatch(**gathered).rows(order)

    def _gather_rows(self, value: Tensor, *, left: bool = False) -> Tensor:
        if self.accelerator.num_processes == 1:
            return value
        kind = value.dtype
        value = value.to(torch.uint8) if kind == torch.bool else value
        if value.dim() > 1:
            value = self.accelerator.pad_across_processes(value, dim=1, pad_first=left)
        value = self.accelerator.gather(value.contiguous())
        return value.to(kind)

    # ------------------------------------------------------------------ forward passes

    def _forward(self, model: Any, batch: RolloutBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return log-probs and entropies of the completion tokens, (B, T), and a MoE's auxiliary loss."""
        input_ids = torch.cat([batch.prompt_ids, batch.completion_ids], dim=1)
        attention = torch.cat([batch.prompt_mask, batch.completion_mask], dim=1).long()
        width = batch.completion_ids.shape[1]
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention,
            # as in generation: padding on the left moves no token
            "position_ids": (attention.cumsum(-1) - 1).clamp(min=0),
        }
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        with self.accelerator.autocast():
            if self._is_exact:  # TRL's fused head computes in float32
                output = model(**inputs, logits_to_keep=width + 1)
                logprobs, entropies = logprob_entropy(
                    output.logits[:, :-1], batch.completion_ids, temperature=self.temperature
                )
            else:
                labels = input_ids.masked_fill(attention == 0, -100)
                labels[:, :-width] = -100
                output = model(**inputs, labels=labels, fused_lm_head=True)
                logprobs, entropies = output.log_probs[:, -width:], output.entropy
                entropies = entropies[:, -width:] if entropies is not None else logprobs
        return logprobs, entropies, output.aux_loss if self.aux_loss_enabled else None

    @torch.no_grad()
    def _no_gradient_pass(self, model: Any, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
        """Return log-probs and entropies of all rows of this process, a micro-batch at a time."""
        shape = batch.completion_ids.shape
        logprobs = torch.zeros(shape, device=self.accelerator.device, dtype=self._dtype)
        entropies = torch.zeros_like(logprobs)
        rows = torch.arange(len(batch))
        checkpointing: Any = self.args.gradient_checkpointing_kwargs
        with disable_gradient_checkpointing(model, checkpointing):
            for chosen in rows.split(self.args.per_device_train_batch_size):
                part = trim(batch.rows(chosen))
                one, two, _ = self._forward(model, part)
                width = one.shape[1]
                logprobs[chosen, :width] = one.to(self._dtype)
                entropies[chosen, :width] = two.to(self._dtype)
        return logprobs, entropies

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self._is_exact else torch.float32

    def _reference_logprobs(self, batch: RolloutBatch) -> Tensor:
        if self.ref_model is not None:
            return self._no_gradient_pass(self.ref_model, batch)[0]
        model = self.accelerator.unwrap_model(self.model)
        with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
            return self._no_gradient_pass(self.model, batch)[0]

    # ------------------------------------------------------------------ a generation

    @property
    def _needs_statistics(self) -> bool:
        """Whether log-probs and entropies of the sampling policy must be computed apart."""
        chain = self._objective.chain
        return (
            self._plan.updates_per_rollout > 1
            or chain.measures_current_policy
            or bool(chain.needs & {"old_logprobs", "old_entropies"})
            or self._objective.correction_max is not None
        )

    def _roll_out(self, row_numbers: Sequence[int]) -> RolloutBatch:
        """Return a new generation: sampled, scored, with advantages, as the controls shape it."""
        started = time.monotonic()
        plan, chain = self._plan, self._objective.chain
        wanted = chain.plan(self.control_state)
        update = self.state.global_step
        seed = self.args.seed * 1_000_003 + update
        needs_reference = self._objective.kl_coef != 0 or "ref_logprobs" in chain.needs
        collect = partial(
            self._collect,
            group_size=plan.group_size,
            statistics=self._needs_statistics,
            reference=needs_reference,
        )
        parts: list[RolloutBatch] = []
        records: list[dict[str, Any]] = []
        requests = list(row_numbers)
        kinds: list[tuple[Origin, float | None, int]] = [(Origin.POLICY, None, len(requests))]
        if wanted.tempered is not None:
            prompts = int(wanted.tempered.prompt_fraction * plan.prompts_per_rollout)
            if prompts:
                count = prompts * plan.group_size
                kinds.append((Origin.TEMPERED, wanted.tempered.temperature, count))
        scoring = 0.0
        verifier_parts: dict[str, list[float]] = {}
        for origin, temperature, count in kinds:
            completions = self._sample(
                requests[:count], seed=seed + origin, temperature=temperature
            )
            before = time.monotonic()
            scored = self._score(completions)
            scoring += time.monotonic() - before
            first_group = 0 if origin is Origin.POLICY else plan.prompts_per_rollout
            parts.append(collect(completions, scored, origin=origin, first_group=first_group))
            if origin is Origin.POLICY:
                records = self._records(completions, scored)
                for item in scored:
                    for name, value in item.parts.items():
                        verifier_parts.setdefault(name, []).append(value)
        rollout = self._with_advantages(join_all(parts))
        rollout, stats = chain.shape(rollout, self.control_state)
        self._rollout_stats = {name: _quotient(value) for name, value in stats.items()}
        self._rollout_stats |= self._mean_parts(verifier_parts)
        self._write_completions(update, records, rollout)
        if wanted.rehearsal is not None:
            rows = wanted.rehearsal.rows_per_update * self._updates_per_pass
            buffer = self._rehearsal_buffer(wanted.rehearsal)
            rollout = rollout.join(draw(buffer, rows, seed).to(self.accelerator.device))
        self._rollout_stats["time/score"] = scoring
        self._rollout_stats["time/rollout"] = time.monotonic() - started
        return rollout

    def _with_advantages(self, rollout: RolloutBatch) -> RolloutBatch:
        advantages = self._advantage(rollout.rewards, rollout.group_ids)
        counts = rollout.is_scored
        if self._mask_truncated and rollout.truncated is not None:
            counts = counts & ~rollout.truncated
        return replace(
            rollout,
            mask=rollout.mask & counts.unsqueeze(-1),
            advantages=advantages.to(self._dtype).unsqueeze(-1).expand_as(rollout.mask).clone(),
        )

    def _mean_parts(self, parts: Mapping[str, list[float]]) -> dict[str, float]:
        means = {}
        for name, values in parts.items():
            sums = torch.tensor(
                [
                    sum(v for v in values if not math.isnan(v)),
                    sum(not math.isnan(v) for v in values),
                ],
                dtype=torch.float64,
            )
            sums = self.accelerator.reduce(sums.to(self.accelerator.device), reduction="sum")
            means[f"rewards/{name}"] = _quotient(sums)
        return means

    def _records(
        self, completions: Sequence[Completion], scored: Sequence[Scored]
    ) -> list[dict[str, Any]]:
        """Return what is kept of this process's completions."""
        if self._hooks.write_completions is None:
            return []
        records = []
        for item, judged in zip(completions, scored, strict=True):
            row = self._rows[item.row]
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
                    "length": len(item.completion_ids),
                    "truncated": item.truncated,
                    "rewards": judged.parts,
                }
            )
        return records

    def _write_completions(
        self, update: int, records: list[dict[str, Any]], rollout: RolloutBatch
    ) -> None:
        write = self._hooks.write_completions
        every = self._hooks.completions_every
        generation = update // self._plan.updates_per_rollout
        if write is None or every == 0:
            return
        before = (generation - 1) * self._plan.updates_per_rollout // every
        if generation > 0 and update // every == before:
            return
        gathered = gather_object(records)
        if not self.accelerator.is_main_process:
            return
        advantages = {
            int(place): float(value)
            for place, value in zip(
                range(len(rollout)), rollout.advantages[:, 0].tolist(), strict=True
            )
            if rollout.origin[place] == Origin.POLICY
        }
        kept = sorted((r for r in gathered if r["place"] >= 0), key=lambda r: r["place"])
        for record in kept:
            record["advantage"] = advantages.get(record.pop("place"))
            record["generation"] = generation
        write(update + 1, kept)

    # ------------------------------------------------------------------ rehearsal

    def _rehearsal_buffer(self, wanted: Rehearsal) -> RolloutBatch:
        if self._rehearsal is None:
            path = Path(wanted.buffer) if wanted.buffer else self._folder / REHEARSAL
            if wanted.buffer is None and not path.exists():
                self._make_rehearsal(wanted, path)
            self._rehearsal = load_buffer(path)
        return self._rehearsal

    def _make_rehearsal(self, wanted: Rehearsal, path: Path) -> None:
        """Sample the initial policy until enough prompts are mastered, and keep one right answer of each."""
        if self.state.global_step > 0:
            raise ValueError(
                f"{path} is missing and the policy is no longer the initial one; put the file back, or name a "
                "buffer in entropy.dph.buffer"
            )
        order = prompt_stream(len(self._rows), len(self._rows), self.args.seed + 1)
        found: list[RolloutBatch] = []
        size = self._plan.prompts_per_rollout
        for start in range(0, len(order), size):
            requests = [row for row in order[start : start + size] for _ in range(wanted.samples)]
            completions = self._sample(requests, seed=self.args.seed - start - 1)
            rows = self._collect(
                completions,
                self._score(completions),
                origin=Origin.POLICY,
                first_group=0,
                group_size=wanted.samples,
                statistics=True,
                reference=False,
            )
            assert rows.outcomes is not None  # _collect sets them
            right = rows.outcomes == OUTCOMES.index(Outcome.CORRECT)
            chosen = choose_mastered(right.cpu(), rows.group_ids.cpu(), wanted.min_pass_rate)
            if len(chosen):
                found.append(as_rehearsal(rows.to("cpu").rows(chosen)))
            if sum(len(part) for part in found) >= wanted.buffer_rows:
                break
        if not found:
            raise ValueError(
                f"the initial policy masters none of {len(order)} prompts (at least {wanted.min_pass_rate:.0%} of "
                f"{wanted.samples} completions correct); lower entropy.dph.min_pass_rate, or use easier data"
            )
        if self.accelerator.is_main_process:
            save_buffer(
                join_all(found).rows(torch.arange(wanted.buffer_rows)[: sum(map(len, found))]), path
            )
        self.accelerator.wait_for_everyone()

    # ------------------------------------------------------------------ an update

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Return the rows of the next micro-batch, generating and deciding when it is time."""
        plan = self._plan
        micro_batch = self._step % plan.accumulation
        if micro_batch == 0:
            in_rollout = self.state.global_step % plan.updates_per_rollout
            if in_rollout == 0 or self._rollout is None:
                self._take_rollout(self._roll_out(self._row_numbers(generation_batch)))
            self._begin_update(in_rollout)
        return self._micro_batch(micro_batch)

    def losses(self, rollout: RolloutBatch, update: int = 0) -> Iterator[Tensor]:
        """Yield the loss of each micro-batch of one update on a given generation, without training.

        The sum of the gradients, averaged over processes, is that of the update.

        Args:
            rollout: The same on every process.
            update: Which of the updates on it; the policy counts as moved from the second on.
        """
        self._take_rollout(rollout)
        self._begin_update(update)
        for number in range(self._plan.accumulation):
            yield self._compute_loss(self.model, self._micro_batch(number))

    def _micro_batch(self, number: int) -> dict[str, Any]:
        assert self._decision is not None  # _begin_update decides
        mine = self._mine[number]
        # a process without a row of its own runs one that does not count, to stay in step
        is_idle = len(mine) == 0
        mine = torch.zeros(1, dtype=torch.long) if is_idle else mine
        rows = trim(self._update_rows().rows(mine))
        decision = self._decision.rows(mine).columns(rows.completion_ids.shape[1])
        return {"rollout": rows, "decision": decision, "is_idle": is_idle}

    def _row_numbers(self, generation_batch: Sequence[Mapping[str, int]]) -> list[int]:
        rows = torch.tensor(
            [item["row"] for item in generation_batch], device=self.accelerator.device
        )
        return self.accelerator.gather(rows).tolist()

    @property
    def _updates_per_pass(self) -> int:
        return self._plan.prompts_per_rollout // self._plan.prompts_per_update

    def _take_rollout(self, rollout: RolloutBatch) -> None:
        self._rollout = rollout
        self._updates = assign_updates(
            rollout.to("cpu"), self._plan.prompts_per_update, self._updates_per_pass
        )

    def _begin_update(self, in_rollout: int) -> None:
        """Deal the update's rows to processes and micro-batches, and decide about them."""
        assert self._rollout is not None  # _prepare_inputs takes one first
        self._update_started = time.monotonic()
        self._sums = {}
        self._position = in_rollout % self._updates_per_pass
        rows = self._update_rows()
        lengths = rows.completion_mask.sum(-1).cpu()
        world = self.accelerator.num_processes
        cut = deal(lengths, world, self._plan.accumulation)
        self._mine = cut[self.accelerator.process_index]
        everywhere = [part for process in cut for part in process if len(part)]
        population = self._population(rows, is_first=in_rollout == 0)
        seed = self.args.seed * 1_000_003 + self.state.global_step
        self._decision = self._objective.decide(population, everywhere, self.control_state, seed)

    def _update_rows(self) -> RolloutBatch:
        assert self._rollout is not None  # _prepare_inputs takes one first
        return self._rollout.rows(self._updates[self._position])

    def _population(self, rows: RolloutBatch, *, is_first: bool) -> TokenBatch:
        """Return every token of the update, of all processes, as the policy sees it now."""
        zeros = torch.zeros(rows.mask.shape, device=rows.mask.device, dtype=self._dtype)
        old = zeros if rows.old_logprobs is None else rows.old_logprobs
        logprobs, entropies = old, rows.old_entropies
        if not is_first and self._objective.chain.measures_current_policy:
            logprobs, entropies = self._current_statistics(rows)
        return token_batch(rows, logprobs, entropies)

    def _current_statistics(self, rows: RolloutBatch) -> tuple[Tensor, Tensor]:
        """Return log-probs and entropies under the current policy, of all processes' rows."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        share = -(-len(rows) // world)
        places = torch.arange(rank * share, (rank + 1) * share)
        mine = rows.rows((places % len(rows)).to(rows.mask.device))
        logprobs, entropies = self._no_gradient_pass(self.model, mine)
        gathered = self._gather_rows(logprobs), self._gather_rows(entropies)
        return gathered[0][: len(rows)], gathered[1][: len(rows)]

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        rollout, decision = inputs["rollout"], inputs["decision"]
        logprobs, entropies, auxiliary = self._forward(model, rollout)
        if "entropies" not in self._objective.chain.needs:
            entropies = entropies.detach()
        batch = token_batch(rollout, logprobs.to(self._dtype), entropies.to(self._dtype))
        loss, stats = self._objective.loss(batch, decision)
        if inputs["is_idle"]:
            loss, stats = loss * 0.0, {name: value * 0.0 for name, value in stats.items()}
        for name, value in stats.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        # gradients are averaged over processes; the parts of an update add up
        loss = loss * self.accelerator.num_processes
        if auxiliary is not None:
            loss = loss + self.router_aux_loss_coef * auxiliary / self._plan.accumulation
        return loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Run one micro-batch; after an update's last, advance the controls."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._step % self._plan.accumulation == 0:
            self._end_update()
        return loss

    def _end_update(self) -> None:
        names = sorted(self._sums)
        sums = torch.stack([self._sums[name] for name in names])
        sums = self.accelerator.reduce(sums, reduction="sum")
        means = {name: _quotient(value) for name, value in zip(names, sums, strict=True)}
        self.control_state = self._objective.chain.step(
            self.control_state, self._rollout_stats | means
        )
        self._metrics_row = self._update_metrics(means)
        self._last_entropy = means["entropy"]

    def _update_metrics(self, means: Mapping[str, float]) -> dict[str, Any]:
        assert self._rollout is not None  # an update has one
        step_size = self.lr_scheduler.get_last_lr()[0]
        last = self._last_entropy
        hidden = {"gain", "discriminator", "logprob", "advantage", "surprisal"}
        row: dict[str, Any] = {
            "generation": self.state.global_step // self._plan.updates_per_rollout,
            **rollout_metrics(self._update_rows(), OUTCOMES),
            "entropy/covariance": covariance_of(means, "logprob", "advantage"),
            "entropy/predicted_change": -step_size * covariance_of(means, "gain", "discriminator"),
            "entropy/measured_change": None if last is None else means["entropy"] - last,
            "time/update": time.monotonic() - self._update_started,
        }
        row |= {
            name: value
            for name, value in means.items()
            if name not in hidden and not name.startswith(("gain_", "logprob_"))
        }
        return row | self._rollout_stats

    # ------------------------------------------------------------------ metrics, checkpoints

    def after_update(self) -> None:
        """Evaluate when it is time; called after the optimizer has stepped."""
        every = self._hooks.evaluate_every
        is_last = self.state.global_step >= self.args.max_steps
        if self._hooks.evaluate and every and self.state.global_step % every == 0 and not is_last:
            self._metrics_row |= self._hooks.evaluate(self)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write one update's metrics to the run folder and to the trackers."""
        self._metrics["train"].clear()
        if "loss" in logs:
            logs.update(self._metrics_row)
        super().log(logs, start_time)
        if "loss" in logs and self._hooks.write and self.accelerator.is_main_process:
            self._hooks.write({"update": self.state.global_step, **logs})

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leave the card to `rlvr export`: TRL's would name a method that this is not."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            state = {
                "controls": self.control_state,
                "last_entropy": self._last_entropy,
                "rollout_stats": self._rollout_stats,
            }
            (folder / CONTROL_STATE).write_text(json.dumps(state, indent=1))
            if self.state.global_step % self._plan.updates_per_rollout and self._rollout:
                torch.save(vars(self._rollout.to("cpu")), folder / ROLLOUT)
        # transformers writes trainer_state.json last: a checkpoint with one is whole
        super()._save_checkpoint(model, trial)

    def restore(self, checkpoint: Path, update: int) -> None:
        """Take up controls, generation and place of a checkpoint; weights come with `train`.

        Raises:
            ValueError: If the checkpoint lacks them, or was made with other controls.
        """
        path = checkpoint / CONTROL_STATE
        if not path.is_file():
            raise ValueError(f"{checkpoint} has no {CONTROL_STATE}; it is not a checkpoint of rlvr")
        state = json.loads(path.read_text())
        expected, found = sorted(self.control_state), sorted(state["controls"])
        if expected != found:
            raise ValueError(
                f"{checkpoint} was made with the entropy controls {found}, the recipe has {expected}; resume with the "
                "recipe of the run (resolved.yaml)"
            )
        self.control_state = state["controls"]
        self._last_entropy = state["last_entropy"]
        self._rollout_stats = state["rollout_stats"]
        self._step = update * self._plan.accumulation
        if update % self._plan.updates_per_rollout:
            saved = torch.load(checkpoint / ROLLOUT, weights_only=True)
            self._take_rollout(RolloutBatch(**saved).to(self.accelerator.device))


class _AfterUpdate(TrainerCallback):
    """Tells the trainer that the optimizer has stepped."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._trainer.after_update()


def _quotient(pair: Tensor) -> float:
    numerator, denominator = pair.tolist()
    return numerator / denominator if denominator else 0.0


def _scored_by_rlvr(**_: Any) -> list[float | None]:
    raise AssertionError("rewards are computed by the scorer")
