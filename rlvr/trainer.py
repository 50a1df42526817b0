"""The GRPO trainer: TRL's loop, sampling and saving around rlvr's generations, decisions and loss.

The only file that knows TRL's internals (1.16). TRL generates, counts optimizer steps, accumulates gradients, saves.
A generation is gathered to all processes in an order that does not depend on the layout, decisions about it are made
there by pure functions, and each process computes the loss of its own rows.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import DistributedType, is_peft_model
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing, unwrap_model_for_generation
from trl.trainer import grpo_trainer
from trl.trainer.utils import use_adapter

from rlvr import checkpoint, not_finite
from rlvr.batch import RolloutBatch, Seen, TokenBatch
from rlvr.check.plan import BatchPlan
from rlvr.console import plural, say
from rlvr.entropy.control import State, Stats, quotient
from rlvr.head import Head
from rlvr.kernels.linear import Certificate
from rlvr.kernels.projection import compute_dtype
from rlvr.logprobs import KernelOptions, add_token_forward, describe, of_tokens
from rlvr.loss import Decision, Objective, update_metrics
from rlvr.processes import Processes
from rlvr.quantization import train_in_float32
from rlvr.rewards.scorer import Scorer
from rlvr.rollout.completion import OUTCOMES, Completion, as_rows
from rlvr.rollout.cut import Lengths, assign_updates, deal
from rlvr.rollout.difficulty import Difficulty
from rlvr.rollout.dynamic import DynamicSampling, Supply
from rlvr.rollout.generate import distinct, generate
from rlvr.rollout.generation import Advantage, Roller
from rlvr.rollout.rows import rollout_metrics, token_batch, trim
from rlvr.rollout.sampler import Row

CONTROL_STATE = "control_state.json"
ROLLOUT = "rollout.pt"


@dataclass(frozen=True)
class Hooks:
    """What a run does around updates, besides training; every function is optional."""

    write: Callable[[dict[str, Any]], Any] | None = None
    """Take the metrics of one update; called on the first process."""
    write_completions: Callable[[int, list[dict[str, Any]]], Any] | None = None
    """Take the completions of the rollout that an update starts; called on the first process."""
    completions_every: int = 0
    """Updates between two rollouts whose completions are kept, at least; 0: never."""
    before: "Callable[[Trainer], Any] | None" = None
    """Look at the trainer when it is ready, before the first update and the first evaluation, also of a run that goes on;
    called on every process."""
    evaluate: "Callable[[Trainer], dict[str, float]] | None" = None
    """Return held-out metrics; called on every process."""
    evaluate_every: int = 0
    """Updates between two evaluations; 0: none in between."""
    evaluate_at_start: bool = False
    """Whether the policy is evaluated before the first update."""
    evaluate_at_end: bool = False
    """Whether the policy is evaluated after the last update."""
    save: "Callable[[Trainer], Any] | None" = None
    """Save the final policy; called on every process after the last update, before it is evaluated."""


@dataclass(frozen=True)
class Part:
    """One micro-batch of an update, before its backward pass."""

    loss: Tensor
    """With those of the other micro-batches and processes it adds up to the update's."""
    rows: RolloutBatch
    """Trimmed to the longest."""
    seen: Seen
    """What the loss was made of, with gradient."""
    weights: Tensor
    """(B, T): each token's weight in the reduction, 0 outside the policy loss."""


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
        folder: The run folder.
        mask_truncated: Whether completions cut at the length limit are kept out of the loss.
        generate_together: Completions that transformers generates together on one process; None: all.
        dynamic: How groups without signal are replaced; None: they are trained on.
        difficulty: How prompts are remembered and chosen; None: they are not.
        kernel: How log-probs are computed; None: the defaults.
        options: Further arguments of `GRPOTrainer`, such as `peft_config`.
    """

    # TRL's types allow for None before training
    model: Any
    lr_scheduler: Any

    # of the generation and of the update at hand
    _rollout_facts: RolloutBatch
    """The generation, on the CPU."""
    _now: RolloutBatch
    """The rows of the update."""
    _facts: RolloutBatch
    """The same, on the CPU."""
    _lengths: Lengths
    """Theirs."""

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
        mask_truncated: bool = False,
        generate_together: int | None = None,
        dynamic: DynamicSampling | None = None,
        difficulty: Difficulty | None = None,
        kernel: KernelOptions | None = None,
        **options: Any,
    ) -> None:
        self._objective = objective
        self._plan = plan
        self.hooks = Hooks()
        self._generate_together = generate_together
        self._kernel = kernel or KernelOptions()
        self._certificate: Certificate | None = None
        self.control_state = objective.chain.init()
        self._supply = Supply()
        self._recovered = False
        self._rollout: RolloutBatch | None = None
        self._rollout_stats: dict[str, float] = {}
        self._rollout_row: dict[str, float] = {}
        self._updates: list[Tensor] = []
        self._mine: list[Tensor] = []
        self._decision: Decision | None = None
        self._sums: Stats = {}
        self._started = 0.0
        self._loss = torch.zeros(())
        self._row: dict[str, Any] = {}
        self._last_entropy: float | None = None
        with _adapter_on_the_head():
            super().__init__(
                model=model,
                reward_funcs=_scored_by_rlvr,
                args=arguments,
                train_dataset=Dataset.from_dict({"prompt": [""]}),  # see get_train_dataloader
                processing_class=tokenizer,
                **options,
            )
        train_in_float32(self.model)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Clock(self))
        self.pad_token: int = self._tokenizer.pad_token_id
        self.processes = Processes(self.accelerator)
        self._dtype = compute_dtype(self.model.dtype)
        add_token_forward(self._causal(self.model))
        if self.ref_model is not None:
            add_token_forward(self._causal(self.ref_model))
        self._roller = Roller(
            policy=self,
            rows=rows,
            scorer=scorer,
            advantage=advantage,
            objective=objective,
            plan=plan,
            folder=folder,
            mask_truncated=mask_truncated,
            seed=arguments.seed,
            dynamic=dynamic,
            difficulty=difficulty,
        )

    # ------------------------------------------------------------------ the policy

    @property
    def roller(self) -> Roller:
        """What makes generations."""
        return self._roller

    def describe_kernel(self) -> str:
        """Return in words how log-probs are computed.

        Raises:
            ValueError: If the model's head does not allow what the recipe wants.
        """
        with self.accelerator.autocast():
            return describe(
                self._head(self.model),
                self._kernel,
                sorted(self._objective.chain.statistics | self._objective.chain.old_statistics),
                device=self.processes.device,
                dtype=self.model.dtype,
            )

    def use(self, objective: Objective, state: State) -> None:
        """Go on with another objective, its controls in this state."""
        self._objective = objective
        self._roller = replace(self._roller, objective=objective)
        self.control_state = state

    def load_weights(self, folder: Path) -> None:
        """Take the weights, or the adapter, of a saved policy.

        Raises:
            ValueError: If there are none.
        """
        try:
            self._load_from_checkpoint(str(folder))
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"no weights of this model can be loaded from {folder} ({reason})"
            ) from None

    def save_memory(self) -> None:
        """Compute activations again in backward passes where the arguments say so; `train` does it by itself."""
        if self.args.gradient_checkpointing:
            self.model.train()
            self.model.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)

    def complete(
        self,
        prompts: list[Any],
        *,
        seeds: Sequence[int],
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        together: int | None = None,
        untruncated: bool = False,
    ) -> list[Completion]:
        """Return one completion for each of this process's prompts.

        Every process has to call it equally often.

        Args:
            prompts: Text or messages.
            seeds: Of each completion, which depends on nothing else; vllm, which seeds itself, takes no notice.
            temperature: None: the recipe's; 0: greedy.
            top_p: None: the recipe's.
            max_tokens: None: the recipe's.
            together: Completions that transformers generates together; None: the recipe's.
            untruncated: Whether the policy itself is sampled: no top_p, top_k, min_p, penalty, or form that is imposed.
        """
        limit = max_tokens or int(self.max_completion_length or 0)
        # the completions of a prompt share its tokens
        different, places = distinct(prompts)
        tokens, _, _ = self._tokenize_prompts(different)
        prompt_ids = [tokens[place] for place in places]
        wanted: dict[str, Any] = {
            "temperature": self.temperature if temperature is None else temperature,
            "top_p": self.top_p if top_p is None else top_p,
            "max_completion_length" if self.use_vllm else "max_new_tokens": limit,
        }
        if untruncated:
            wanted |= {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
            if self.use_vllm:
                wanted |= {"structured_outputs_regex": None, "generation_kwargs": {}}
        was_training = self.model.training
        self.model.eval()
        with self._sampling(wanted):
            is_greedy = wanted["temperature"] == 0
            completion_ids, logprobs = self._draw(
                prompt_ids, None if is_greedy else seeds, together
            )
        self.model.train(was_training)
        texts = self._tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        return [
            Completion(
                prompt_ids=list(prompt_ids[i]),
                completion_ids=ids,
                text=texts[i],
                truncated=len(ids) >= limit and ids[-1] not in self.eos_token_ids,
                sampling_logprobs=logprobs[i] if logprobs else None,
            )
            for i, ids in enumerate(completion_ids)
        ]

    def _draw(
        self, prompt_ids: list[list[int]], seeds: Sequence[int] | None, together: int | None
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Return completions of this process's prompts and the sampler's log-probs, empty if it has none.

        Without seeds decoding is greedy.
        """
        if self.use_vllm or self.use_transformers_continuous_batching:  # which batch by themselves
            torch.manual_seed(seeds[0] if seeds else self.args.seed)
            completion_ids, logprobs = self._generate_single_turn(prompt_ids, None, {}, 1)
            return completion_ids, logprobs or []
        size = together or self._generate_together or len(prompt_ids)
        completions: list[list[int]] = []
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,  # type: ignore[attr-defined]
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,  # type: ignore[arg-type]
            ) as unwrapped,
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            for start in range(0, len(prompt_ids), size):
                part = slice(start, start + size)
                completions += generate(
                    self._causal(unwrapped),
                    prompt_ids[part],
                    seeds=seeds and seeds[part],
                    config=self.generation_config,
                    ends=self.eos_token_ids,
                    pad_token=self.pad_token,
                )
        return completions, []

    @contextmanager
    def _sampling(self, wanted: dict[str, Any]) -> Iterator[None]:
        """Sample with these settings; settings and random state are then as before."""
        if wanted["temperature"] == 0 and not self.use_vllm:
            wanted = wanted | {"do_sample": False, "temperature": 1.0}
        target = self.vllm_generation if self.use_vllm else self.generation_config
        # transformers lets the model's own generation settings win over defaults; TRL overwrites those with these
        overriding = {} if self.use_vllm else self.generation_kwargs
        kept = {name: getattr(target, name) for name in wanted}
        devices = [self.processes.device] if self.processes.device.type == "cuda" else []
        try:
            for name, value in wanted.items():
                setattr(target, name, value)
            overriding.update(wanted)
            with torch.random.fork_rng(devices=devices):
                yield
        finally:
            for name, value in kept.items():
                setattr(target, name, value)
            overriding.update(kept)

    def mean_entropies(self, completions: Sequence[Completion]) -> list[float]:
        """Return the mean entropy of each completion's tokens, nats, at the recipe's temperature."""
        rows = as_rows(completions, pad_token=self.pad_token).to(self.processes.device)
        entropies = self.look(rows).entropies
        assert entropies is not None  # of a policy, not a reference
        totals = entropies.masked_fill(~rows.mask, 0.0).sum(-1)
        return (totals / rows.mask.sum(-1).clamp(min=1)).tolist()

    def _forward(
        self,
        model: Any,
        rows: RolloutBatch,
        names: Collection[str] = (),
        certificate: Certificate | None = None,
    ) -> tuple[Seen, Tensor | None]:
        """Return the completion tokens as the model sees them, with the named statistics, and a MoE's auxiliary loss."""
        inputs = _inputs(rows)
        width = rows.completion_ids.shape[1]
        wants_auxiliary = self.aux_loss_enabled and torch.is_grad_enabled()
        if wants_auxiliary:
            inputs["output_router_logits"] = True

        def score(hidden: Tensor, head: Head) -> dict[str, Tensor]:
            found = of_tokens(
                hidden[:, -width - 1 : -1],
                head,
                rows.completion_ids,
                rows.completion_mask,
                names,
                temperature=self.temperature,
                options=self._kernel,
                live=self._objective.live(rows),
                certificate=certificate,
            )
            return {"logprobs": found.logprobs, "entropies": found.entropies, **found.statistics}

        with self.accelerator.autocast():
            output = dict(model(**inputs, score=score))
        auxiliary = output.pop("aux_loss", None)
        logprobs, entropies = output.pop("logprobs"), output.pop("entropies")
        return Seen(logprobs, entropies, output), auxiliary

    def _causal(self, model: Any) -> Any:
        """Return the language model without what distributes it and without its adapter."""
        unwrapped = self.accelerator.unwrap_model(model)
        return unwrapped.get_base_model() if is_peft_model(unwrapped) else unwrapped

    def _head(self, model: Any) -> Head:
        causal = self._causal(model)
        return Head(causal.get_output_embeddings(), causal.config.get_text_config())

    @torch.no_grad()
    def logits(self, rows: RolloutBatch, most: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the policy's logits over the temperature, (N, V), of completion tokens with their rows and columns.

        Args:
            rows: Of this process.
            most: Tokens at a time.
        """
        head = self._head(self.model)
        for chosen, part in self._cut(rows):
            with self.accelerator.autocast():
                output = self.model(**_inputs(part), score=lambda hidden, _head: {"hidden": hidden})
            own = output["hidden"][:, -part.completion_ids.shape[1] - 1 : -1]
            for places in part.completion_mask.nonzero().split(most):
                row, column = places.unbind(-1)
                with self.accelerator.autocast():
                    logits = head(own[row, column])
                yield chosen[row.cpu()], column, logits.to(self._dtype) / self.temperature

    @torch.no_grad()
    def _observe(self, model: Any, rows: RolloutBatch, names: Collection[str] = ()) -> Seen:
        """Return this process's rows as a model sees them, a micro-batch at a time."""
        logprobs, entropies = torch.zeros(
            2, *rows.mask.shape, device=self.processes.device, dtype=self._dtype
        )
        statistics = {name: torch.zeros_like(logprobs) for name in names}
        checkpointing: Any = self.args.gradient_checkpointing_kwargs
        with disable_gradient_checkpointing(model, checkpointing):
            for chosen, part in self._cut(rows):
                width = part.completion_ids.shape[1]
                found, _ = self._forward(model, part, names)
                assert found.entropies is not None  # _forward gives them
                logprobs[chosen, :width] = found.logprobs
                entropies[chosen, :width] = found.entropies
                for name, values in found.statistics.items():
                    statistics[name][chosen, :width] = values
        return Seen(logprobs, entropies, statistics)

    def look(self, rows: RolloutBatch, names: Collection[str] = ()) -> Seen:
        """Return this process's rows as the policy sees them, with the named statistics, without gradient."""
        return self._observe(self.model, rows, names)

    def reference_logprobs(self, rows: RolloutBatch) -> Tensor:
        """Return log-probs of this process's rows under the initial policy."""
        if self.ref_model is not None:
            return self._observe(self.ref_model, rows).logprobs
        model = self.accelerator.unwrap_model(self.model)
        with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
            return self._observe(self.model, rows).logprobs

    @cache  # noqa: B019 (a trainer lives as long as its process)
    def tokens_with(self, text: str) -> Tensor:
        """Return which tokens of the vocabulary have this in their text, (V,) bool."""
        words = self._tokenizer.batch_decode([[token] for token in range(len(self._tokenizer))])
        found = torch.zeros(self._head(self.model).vocabulary, dtype=torch.bool)
        found[: len(words)] = torch.tensor([text in word for word in words])
        return found

    # ------------------------------------------------------------------ an update

    def get_train_dataloader(self) -> Any:
        """Return one item an update: the run is one epoch for TRL, and what it samples is the roller's business."""
        return DataLoader(range(self.args.max_steps), collate_fn=lambda _: {})  # type: ignore[arg-type]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:  # noqa: ARG002
        """Run one update: generate and decide when it is time, every micro-batch, then advance the controls.

        A step of TRL's loop is a whole update, as the number of micro-batches differs from update to update.
        """
        self._started = time.monotonic()
        heartbeat, update = self.processes.heartbeat, self.state.global_step
        in_rollout = update % self._plan.updates_per_rollout
        if in_rollout == 0:
            with heartbeat.phase("rollout", update):
                self._roll_out(update)
        with heartbeat.phase("deciding", update):
            self._begin_update(in_rollout)
        with heartbeat.phase("training"):
            for micro_batch in self._micro_batches(model):
                super().training_step(model, micro_batch, num_items_in_batch)
                self._count_left_out()
        self._end_update()
        heartbeat.begin("optimizer")
        return self._loss

    def _micro_batches(self, model: Any) -> Iterator[dict[str, Any]]:
        """Yield the inputs of each micro-batch; gradients are added up over processes with the last."""
        *first, last = self._mine
        self.accelerator.gradient_state._set_sync_gradients(False)
        waits = self.accelerator.distributed_type != DistributedType.DEEPSPEED
        with self.accelerator.no_sync(model) if waits else nullcontext():
            for mine in first:
                yield self._micro_batch(mine)
        self.accelerator.gradient_state._set_sync_gradients(True)
        yield self._micro_batch(last) | {"is_last": True}

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Return what `_micro_batches` prepared, where TRL would generate."""
        return generation_batch

    def _roll_out(self, update: int) -> None:
        generation = self._roller.generation(update, self.control_state, self._supply)
        self.control_state = generation.state
        self._supply, self._recovered = generation.supply, generation.recovered
        self._rollout_stats = self._rollout_row = generation.stats
        self._take_rollout(generation.rows)
        self._keep_completions(update, generation.records)

    def _take_rollout(self, rows: RolloutBatch) -> None:
        self._rollout = rows
        # lengths, groups and advantages are asked for in every update: once a rollout, not once a question
        self._rollout_facts = rows.to("cpu")
        plan = self._plan
        self._updates = assign_updates(
            self._rollout_facts, plan.prompts_per_update, plan.updates_per_pass
        )

    def _keep_completions(self, update: int, records: list[dict[str, Any]]) -> None:
        every, write = self.hooks.completions_every, self.hooks.write_completions
        last = update - self._plan.updates_per_rollout
        if write is None or every == 0 or (last >= 0 and update // every == last // every):
            return
        gathered = self.processes.gather_list(records)
        if self.processes.is_first:
            generation = update // self._plan.updates_per_rollout
            ordered = sorted(gathered, key=lambda record: record["place"])
            write(update + 1, [record | {"generation": generation} for record in ordered])

    def _begin_update(self, in_rollout: int, *, with_idle_rows: bool = False) -> None:
        """Decide about the update's rows, and deal those that teach something to processes and micro-batches."""
        assert self._rollout is not None  # _take_rollout comes first
        self._sums = {}
        self._loss = torch.zeros((), device=self.processes.device)
        chosen = self._updates[in_rollout % len(self._updates)]
        self._now = rows = self._rollout.rows(chosen)
        is_there = self._rollout.mask.device == self._rollout_facts.mask.device
        self._facts = facts = rows if is_there else self._rollout_facts.rows(chosen)
        self._lengths = Lengths.of(facts)
        everywhere = self._deal(torch.arange(len(rows)))
        has_moved = in_rollout > 0 or self._recovered
        population = self._population(rows, has_moved=has_moved)
        decision = self._objective.decide(
            population,
            [part for process in everywhere for part in process if len(part)],
            self.control_state,
            seed=self.args.seed * 1_000_003 + self.state.global_step,
        )
        self._decision = decision
        is_idle = self._objective.idle_rows(facts)
        # experts are balanced by every row
        if with_idle_rows or self.aux_loss_enabled or not is_idle.any():
            self._mine = everywhere[self.processes.rank]
            return
        self._mine = self._deal((~is_idle).nonzero().squeeze(-1))[self.processes.rank]
        idle = is_idle.nonzero().squeeze(-1)
        # as the controls see them now, or as the policy saw them that sampled them; a forward pass only for those that no
        # policy has looked at
        is_known = (
            has_moved and self._objective.chain.measures_current_policy
        ) or rows.old_logprobs is not None
        batch = population.rows(idle) if is_known else self._looked_at(rows.rows(idle))
        with torch.no_grad():
            _, stats = self._objective.loss(batch, decision.rows(idle))
        if self.processes.is_first:  # each has all of them
            self._count(stats)

    def _deal(self, positions: Tensor) -> list[list[Tensor]]:
        """Return the update's rows at these positions as `[process][micro-batch] -> positions`."""
        dealt = deal(
            self._lengths.rows(positions),
            processes=self.processes.count,
            most_rows=self._plan.micro_batch_size,
            most_tokens=self._plan.tokens_per_micro_batch,
        )
        return [[positions[part] for part in process] for process in dealt]

    def _cut(self, rows: RolloutBatch) -> Iterator[tuple[Tensor, RolloutBatch]]:
        """Yield micro-batches of this process's rows, of which every process has as many, as (positions, trimmed rows)."""
        lengths = Lengths.of(rows)
        [parts] = deal(
            lengths,
            most_rows=self._plan.micro_batch_size,
            most_tokens=self._plan.tokens_per_micro_batch,
        )
        if self._plan.tokens_per_micro_batch is not None:
            # every process takes as many steps
            most = max(self.processes.gather_list([len(parts)]))
            parts += parts[-1:] * (most - len(parts))
        for part in parts:
            yield part, trim(rows.rows(part), lengths.rows(part))

    def _looked_at(self, rows: RolloutBatch) -> TokenBatch:
        """Return the tokens of rows that every process has, as the policy sees them now; each looks at a share."""
        places = torch.tensor(self.processes.share(len(rows))) % len(rows)
        seen = self.look(rows.rows(places), self._objective.chain.statistics)
        return token_batch(
            rows, seen.map(lambda _, value: self.processes.gather(value)[: len(rows)])
        )

    def _population(self, rows: RolloutBatch, *, has_moved: bool) -> TokenBatch:
        """Return every token of the update, of all processes, as the policy sees it now."""
        chain = self._objective.chain
        if has_moved and chain.measures_current_policy:
            return self._looked_at(rows)
        if rows.old_logprobs is None:  # then no control looks at them
            nothing = torch.zeros(rows.mask.shape, device=rows.mask.device, dtype=self._dtype)
            return token_batch(rows, Seen(nothing))
        statistics = {name: rows.old_statistics[name] for name in chain.statistics}
        return token_batch(rows, Seen(rows.old_logprobs, rows.old_entropies, statistics))

    def _micro_batch(self, mine: Tensor) -> dict[str, Any]:
        assert self._decision is not None  # _begin_update decides
        # a process without a row of its own runs the shortest, which does not count, to stay in step
        counts = len(mine) > 0
        mine = mine if counts else self._lengths.completions.argmin().view(1)
        rows = trim(self._now.rows(mine), self._lengths.rows(mine))
        decision = self._decision.rows(mine).columns(rows.completion_ids.shape[1])
        return {"rows": rows, "decision": decision, "counts": counts, "is_last": False}

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        loss = self._part(model, inputs).loss
        self._loss = self._loss + loss.detach()
        if inputs["is_last"]:
            self._check_loss()
        return loss

    def _part(self, model: Any, inputs: Any) -> Part:
        rows: RolloutBatch = inputs["rows"]
        chain = self._objective.chain
        if self._kernel.tolerance is not None:
            self._certificate = Certificate(self._kernel.tolerance)
        seen, auxiliary = self._forward(model, rows, chain.statistics, self._certificate)
        if "entropies" not in chain.needs and seen.entropies is not None:
            seen = replace(seen, entropies=seen.entropies.detach())
        batch = token_batch(rows, seen)
        loss, stats = self._objective.loss(batch, inputs["decision"])
        if inputs["counts"]:
            self._count(stats)
        else:
            loss = loss * 0.0
        # gradients are averaged over processes; the parts of an update add up
        loss = loss * self.processes.count
        if auxiliary is not None:
            loss = loss + self.router_aux_loss_coef * auxiliary / len(self._mine)
        return Part(loss, rows, seen, inputs["decision"].weights)

    def _count_left_out(self) -> None:
        """Count what the backward pass of a micro-batch left out under its certificate."""
        if self._certificate is None:
            return
        report = self._certificate.report
        self._count(
            {
                "kernel/left_out": self._pair(report.left_out, report.whole),
                "kernel/tiles_made": self._pair(report.tiles_made, report.tiles),
            }
        )

    def _count(self, stats: Stats) -> None:
        for name, value in stats.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def _pair(self, part: float, whole: float) -> Tensor:
        return torch.tensor([part, whole], device=self.processes.device, dtype=torch.float64)

    # ------------------------------------------------------------------ numbers that are none

    def _check_loss(self) -> None:
        """Stop before the last backward pass of an update, and so before the optimizer, if a loss is not finite."""
        if not self.processes.sum(self._loss).isfinite():
            self._stop("loss")

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the gradient norm; stop before the optimizer steps if it is not finite."""
        norm = super()._get_grad_norm(model, grad_norm)
        # DeepSpeed steps by itself, and skips the step; half precision skips steps until its loss scale fits
        is_skipped = self.accelerator.optimizer_step_was_skipped
        if not self.args.fp16 and (is_skipped or not math.isfinite(norm)):
            self._stop("gradient")
        return norm

    def _stop(self, what: str) -> NoReturn:
        """Save the completions that are to blame, and the policy, and end the run."""
        update = self.state.global_step
        folder = self._roller.folder / not_finite.FOLDER / f"update-{update + 1}"
        blamed = self._blamed()
        guilty = [item for item in blamed if item["not_finite"]]
        kept = guilty or blamed
        rows = self._now.rows(torch.tensor([item["row"] for item in kept], dtype=torch.long))
        not_finite.save(folder, self.processes.rank, rows, kept)
        self.save_model(str(folder / "policy"))
        count = sum(self.processes.gather_list([len(guilty)]))
        which = (
            f"{plural(count, 'completion')} with numbers that are not finite: "
            if count
            else "no completion shows it by itself; all of the update: "
        )
        raise not_finite.NotFiniteError(
            f"update {update + 1}: the {what} is not finite. The optimizer has not stepped: the policy is that of update "
            f"{update}, saved in {folder / 'policy'}; {which}{folder}/rank-*.jsonl. Usual causes: a learning rate that is "
            "too high, a model.dtype that is too narrow, damaged weights"
        )

    @torch.no_grad()
    def _blamed(self) -> list[dict[str, Any]]:
        """Return what is said of each of this process's rows of the update, first of all what is not finite in it."""
        found: list[dict[str, Any]] = []
        for mine in self._mine:
            inputs = self._micro_batch(mine)
            rows, decision = inputs["rows"], inputs["decision"]
            seen, _ = self._forward(self.model, rows, self._objective.chain.statistics)
            batch = token_batch(rows, seen)
            each = torch.arange(len(rows)).split(1)
            losses = [self._objective.loss(batch.rows(i), decision.rows(i))[0] for i in each]
            said = not_finite.describe(
                rows, batch, torch.stack(losses), self._tokenizer.batch_decode
            )
            # a filler is nobody's row
            found += [{"row": row} | item for row, item in zip(mine.tolist(), said, strict=False)]
        return found

    # ------------------------------------------------------------------ an update, without training

    def losses(self, rows: RolloutBatch, update: int = 0) -> Iterator[Tensor]:
        """Yield the loss of each micro-batch of one update on a given generation, without training.

        The sum of their gradients, averaged over processes, is that of the update.

        Args:
            rows: The generation, the same on every process.
            update: Which of the updates on it; from the second on the policy counts as moved.
        """
        for part in self.parts(rows, update):
            yield part.loss

    def parts(
        self, rows: RolloutBatch, update: int = 0, *, with_idle_rows: bool = False
    ) -> Iterator[Part]:
        """Yield what `losses` yields, with what each loss was made of.

        Args:
            rows: The generation, the same on every process.
            update: Which of the updates on it.
            with_idle_rows: Whether rows that have no gradient are computed too.
        """
        self._take_rollout(rows)
        self._begin_update(update, with_idle_rows=with_idle_rows)
        for mine in self._mine:
            yield self._part(self.model, self._micro_batch(mine))

    def _end_update(self) -> None:
        means = self.means()
        self.control_state = self._objective.chain.step(
            self.control_state, self._rollout_stats | means
        )
        self._row = {
            "generation": self.state.global_step // self._plan.updates_per_rollout,
            **rollout_metrics(self._facts, OUTCOMES),
            **update_metrics(means, self.lr_scheduler.get_last_lr()[0], self._last_entropy),
            **self._rollout_row,
            "time/update": time.monotonic() - self._started,
        }
        self._rollout_row = {}
        self._last_entropy = means["entropy"]

    def means(self) -> dict[str, float]:
        """Return the statistics of the micro-batches since the update began, over all processes."""
        # a process whose rows were all fillers has no sums of its own
        names = sorted(
            {name for item in self.processes.gather_list([sorted(self._sums)]) for name in item}
        )
        nothing = torch.zeros(2, device=self.processes.device, dtype=torch.float64)
        sums = self.processes.sum(torch.stack([self._sums.get(name, nothing) for name in names]))
        return {name: quotient(pair) for name, pair in zip(names, sums.cpu(), strict=True)}

    # ------------------------------------------------------------------ metrics, checkpoints

    def before_training(self) -> None:
        """Evaluate the initial policy; called when the model is ready and trackers listen."""
        hooks = self.hooks
        if hooks.before:
            hooks.before(self)
        if hooks.evaluate and hooks.evaluate_at_start and self.state.global_step == 0:
            metrics = hooks.evaluate(self)
            super().log(dict(metrics))
            self._write(metrics)

    def after_update(self) -> None:
        """Save and evaluate when it is time; called after the optimizer has stepped."""
        self.processes.heartbeat.end()  # of the optimizer
        hooks, update = self.hooks, self.state.global_step
        is_last = update >= self.args.max_steps
        if is_last and self.processes.is_first:
            self._roller.write_difficulty(self._supply)
        if is_last and hooks.save:
            hooks.save(self)
        is_due = hooks.evaluate_every > 0 and update % hooks.evaluate_every == 0
        if hooks.evaluate and (hooks.evaluate_at_end if is_last else is_due):
            self._row |= hooks.evaluate(self)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write one update's metrics to the run folder and to the trackers."""
        self._metrics["train"].clear()
        is_update = "loss" in logs
        if is_update:
            logs.update(self._row)
        metrics = dict(logs)
        super().log(logs, start_time)
        if is_update:
            metrics.pop("epoch", None)  # of TRL's loop, for which the run is one
            self._write(metrics)

    def _write(self, metrics: Mapping[str, Any]) -> None:
        if self.hooks.write and self.processes.is_first:
            self.hooks.write({"update": self.state.global_step, **metrics})

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leave the card to `rlvr export`: TRL's would name a method that this is not."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.processes.heartbeat.phase("saving"):
            self._try_to_save(model, trial)

    def _try_to_save(self, model: Any, trial: Any) -> None:
        """Write a checkpoint; where the disk is full, say so and go on with those that are there."""
        folder = Path(str(self.args.output_dir))
        name = f"{checkpoint.PREFIX}{self.state.global_step}"
        if not self._has_room(folder):
            return
        writes = self.args.should_save
        keep = self.args.save_total_limit
        problem = checkpoint.in_steps(
            self.processes,
            partial(self._save_own, folder, name) if writes else None,
            partial(super()._save_checkpoint, model, trial),
            partial(checkpoint.publish, folder, name, keep) if writes else None,
        )
        if problem is not None:
            self._say_unsaved(problem)
        if not writes:
            return
        if problem is None:
            self._roller.write_difficulty(self._supply)
        else:
            checkpoint.remains(folder)

    def _get_output_dir(self, trial: Any) -> str:
        """Return where TRL writes a checkpoint, which is not where it will be found."""
        return str(Path(super()._get_output_dir(trial)) / checkpoint.WRITING)

    def _save_own(self, checkpoints: Path, name: str) -> None:
        """Begin a checkpoint with what TRL does not know of."""
        folder = checkpoint.place(checkpoints) / name
        folder.mkdir()
        state = {
            "controls": self.control_state,
            "last_entropy": self._last_entropy,
            "rollout_stats": self._rollout_stats,
            "stream": self._supply.save(folder),
        }
        (folder / CONTROL_STATE).write_text(json.dumps(state, indent=1))
        if self.state.global_step % self._plan.updates_per_rollout and self._rollout:
            torch.save(vars(self._rollout.to("cpu")), folder / ROLLOUT)

    def _has_room(self, folder: Path) -> bool:
        """Return whether every process finds room for a checkpoint: the last one's size, or that of weights and optimizer."""
        folder.mkdir(parents=True, exist_ok=True)
        needed = checkpoint.size(checkpoint.checkpoints(folder)[:1])
        if not needed:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            # Adam keeps two numbers for each weight
            needed = 3 * sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in trained)
        free = min(self.processes.gather_list([shutil.disk_usage(folder).free]))
        if free < needed:
            self._say_unsaved(f"{needed / 2**20:,.1f} MiB are needed, {free / 2**20:,.1f} are free")
        return free >= needed

    def _say_unsaved(self, reason: str) -> None:
        say(
            f"checkpoint of update {self.state.global_step} was not written to {self.args.output_dir}: {reason}; training "
            "goes on, and the next checkpoint is tried"
        )

    def restore(self, folder: Path) -> int:
        """Take up controls, generation and place of a checkpoint, and return its update; weights come with `train`.

        Raises:
            ValueError: If the checkpoint lacks them, or was made with other controls.
        """
        path = folder / CONTROL_STATE
        if not path.is_file():
            raise ValueError(f"{folder} has no {CONTROL_STATE}; it is not a checkpoint of rlvr")
        state = json.loads(path.read_text())
        expected, found = sorted(self.control_state), sorted(state["controls"])
        if expected != found:
            raise ValueError(
                f"{folder} was made with the entropy controls {found}, the recipe has {expected}; resume with the "
                "recipe of the run (resolved.yaml)"
            )
        try:
            self._objective.chain.check_resumed(state["controls"])
        except ValueError as error:
            raise ValueError(
                f"{folder / CONTROL_STATE}: {error}; resume from another checkpoint, or start a new run"
            ) from None
        self.control_state = state["controls"]
        self._last_entropy = state["last_entropy"]
        self._rollout_stats = state["rollout_stats"]
        self._supply = Supply.load(state["stream"], folder, len(self._roller.rows))
        update = checkpoint.update_of(folder)
        if update % self._plan.updates_per_rollout:
            saved = torch.load(folder / ROLLOUT, weights_only=True)
            self._take_rollout(RolloutBatch(**saved).to(self.processes.device))
        return update


class _Clock(TrainerCallback):
    """Tells the trainer that training begins, and that the optimizer has stepped."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._trainer.before_training()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._trainer.after_update()


@contextmanager
def _adapter_on_the_head() -> Iterator[None]:
    """Let a model through whose head has an adapter: TRL refuses it, since its own log-probs would pass it by."""
    kept = grpo_trainer.BaseTunerLayer
    grpo_trainer.BaseTunerLayer = _NoLayer  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        grpo_trainer.BaseTunerLayer = kept  # type: ignore[misc]


class _NoLayer:
    """What no layer is."""


def _inputs(rows: RolloutBatch) -> dict[str, Any]:
    """Return what a model is called with."""
    attention = torch.cat([rows.prompt_mask, rows.completion_mask], dim=1).long()
    return {
        "input_ids": torch.cat([rows.prompt_ids, rows.completion_ids], dim=1),
        "attention_mask": attention,
        # as in generation: padding on the left moves no token
        "position_ids": (attention.cumsum(-1) - 1).clamp(min=0),
    }


def _scored_by_rlvr(**_: Any) -> list[float | None]:
    raise AssertionError("rewards are computed by the scorer")
