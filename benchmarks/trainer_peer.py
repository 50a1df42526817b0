"""`trl.GRPOTrainer` as someone who knows it runs a recipe of ours: the same knobs by TRL's names, nothing that costs time.

No tracker, no checkpoint, no printing, metrics every ten updates (TRL's default), verifiers called in process.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from rlvr.inputs import Inputs
from rlvr.recipe import Recipe
from rlvr.rollout.stream import prompt_stream

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Rollout:
    """What one cost."""

    update: int
    """Optimizer steps done before."""
    seconds: float
    scoring: float
    tokens: int
    """Of its completions."""


class Peer(GRPOTrainer):
    """TRL's trainer with a clock around its rollouts; `given`, if it is set, is what they return."""

    given: Batch | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.remove_callback(PrinterCallback)
        self.rollouts: list[Rollout] = []
        self._scoring = 0.0

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        began = time.perf_counter()
        self._scoring = 0.0
        if self.given is None:
            batch = super()._generate_and_score_completions(inputs)
        else:
            batch = dict(self.given)
        _wait(self.accelerator.device)
        seconds = time.perf_counter() - began
        tokens = int(batch["completion_mask"].sum())
        self.rollouts.append(Rollout(self.state.global_step, seconds, self._scoring, tokens))
        return batch

    def _calculate_rewards(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        found = super()._calculate_rewards(*arguments)
        self._scoring += time.perf_counter() - began
        return found

    def sample(self) -> Batch:
        """Return a rollout of the first prompts, as TRL makes it."""
        prompts = self.args.generation_batch_size // self.num_generations
        first = [self.train_dataset[i] for i in range(prompts) for _ in range(self.num_generations)]
        self.model.train()
        return self._generate_and_score_completions(first)

    def gradient(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the gradient of all updates on a rollout, flat, without a step between them."""
        rows, size = len(batch["advantages"]), self.args.per_device_train_batch_size
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        self.model.train()
        self.model.zero_grad()
        for start in range(0, rows, size):
            part = {
                name: value[start : start + size] if value.dim() else value
                for name, value in batch.items()
            }
            self._compute_loss(self.model, part).backward()
        return torch.cat([p.grad.flatten() for p in self.model.parameters()]).cpu()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def build_peer(
    recipe: Recipe,
    inputs: Inputs,
    reward: Callable[..., list[float]],
    callback: TrainerCallback,
    micro_batch_size: int,
) -> Peer:
    """Return TRL's trainer of a recipe.

    Args:
        recipe: Plain GRPO with a token mean.
        inputs: Of the recipe.
        reward: As TRL calls it.
        callback: Added to TRL's own.
        micro_batch_size: Completions of one forward and backward pass; divides those of an update.

    Raises:
        ValueError: If TRL has no name for what the recipe says.
    """
    updates, rollout = recipe.training.updates, recipe.rollout
    assert updates is not None  # the benchmark sets it
    rollouts = -(-updates * rollout.prompts_per_update // rollout.prompts_per_rollout)
    prompts = rollouts * rollout.prompts_per_rollout
    order = prompt_stream(len(inputs.rows), prompts, recipe.training.seed)

    return Peer(
        model=recipe.model.path,
        reward_funcs=reward,
        args=arguments(recipe, micro_batch_size),
        train_dataset=Dataset.from_list([dict(inputs.rows[number]) for number in order]),
        processing_class=inputs.tokenizer,
        callbacks=[callback],
    )


def arguments(recipe: Recipe, micro_batch_size: int) -> GRPOConfig:
    """Return TRL's arguments for a recipe; see `build_peer`."""
    _check(recipe)
    training, rollout, algorithm = recipe.training, recipe.rollout, recipe.algorithm
    completions = rollout.prompts_per_update * rollout.group_size
    if completions % micro_batch_size:
        raise ValueError(
            f"TRL cuts the {completions} completions of an update evenly: {micro_batch_size} of a micro-batch do not divide them"
        )
    accumulation = completions // micro_batch_size
    updates_per_rollout = rollout.prompts_per_rollout // rollout.prompts_per_update
    return GRPOConfig(
        output_dir=str(recipe.output / "trl"),
        max_steps=training.updates or 1,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation * updates_per_rollout,
        num_iterations=rollout.passes,
        num_generations=rollout.group_size,
        max_completion_length=rollout.max_completion_length,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        min_p=rollout.min_p,
        loss_type="dapo",  # a token mean
        epsilon=algorithm.clip_low,
        epsilon_high=algorithm.clip_high,
        beta=0.0,
        scale_rewards="group",
        learning_rate=training.learning_rate,
        seed=training.seed,
        shuffle_dataset=False,  # the rows come in the order of rlvr's prompts
        model_init_kwargs={"dtype": torch.float32},
        bf16=False,
        disable_dropout=True,
        use_cpu=training.device == "cpu",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **(training.model_extra or {}),
    )


def _check(recipe: Recipe) -> None:
    algorithm, rollout = recipe.algorithm, recipe.rollout
    said = {
        "algorithm.surrogate": (str(algorithm.surrogate), "clipped"),
        "algorithm.aggregate": (str(algorithm.aggregate), "token_mean"),
        "algorithm.advantage": (str(algorithm.advantage), "group_zscore"),
        "algorithm.dual_clip": (algorithm.dual_clip, None),
        "algorithm.kl_coef": (algorithm.kl_coef, 0.0),
        "algorithm.mask_truncated": (algorithm.mask_truncated, False),
        "entropy": (recipe.entropy, ()),
        "model.dtype": (recipe.model.dtype, "float32"),
        "model.lora": (recipe.model.lora, None),
        "rollout.engine": (rollout.engine, "transformers"),
        "rollout.dynamic_sampling": (rollout.dynamic_sampling, None),
    }
    for name, (value, known) in said.items():
        if value != known:
            raise ValueError(f"{name} is {value!r}; the peer is TRL with {known!r}")
