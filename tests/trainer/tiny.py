"""Tiny real things for tests of the trainer: the shipped base policy, its task, a trainer on them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from rlvr.advantage import group_zscore
from rlvr.aggregate import token_mean
from rlvr.batch import Origin, RolloutBatch
from rlvr.check.plan import BatchPlan
from rlvr.entropy.control import Chain
from rlvr.loss import Objective
from rlvr.rewards.scorer import Scorer
from rlvr.surrogate import clipped
from rlvr.trainer import Trainer
from tests.entropy.settings import statistics

BASE = Path(__file__).parents[2] / "recipes" / "demo" / "base"
ROWS = [
    {"prompt": "5,8,7,7=17:", "answer": "7+7+8-5", "numbers": [5, 8, 7, 7], "target": 17},
    {"prompt": "1,2,3,4=10:", "answer": "1+2+3+4", "numbers": [1, 2, 3, 4], "target": 10},
    {"prompt": "9,2,3,4=18:", "answer": "9+2+3+4", "numbers": [9, 2, 3, 4], "target": 18},
    {"prompt": "6,2,3,4=15:", "answer": "6+2+3+4", "numbers": [6, 2, 3, 4], "target": 15},
]


def plan(**changes: int) -> BatchPlan:
    """Return a plan of 4 prompts x 4 completions, 2 updates a rollout."""
    start = BatchPlan(
        processes=1,
        prompts_per_rollout=4,
        prompts_per_update=2,
        group_size=4,
        passes=1,
        micro_batch_size=8,
    )
    return replace(start, **changes)


def trainer(
    folder: Path,
    objective: Objective | None = None,
    batch_plan: BatchPlan | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    updates: int = 2,
    model: Any = None,
    peft_config: Any = None,
    **arguments: Any,
) -> Trainer:
    """Return a trainer of the base policy on four countdown problems."""
    batch_plan = batch_plan or plan()
    options = {
        "max_completion_length": 8,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "beta": 0.0,
    }
    config = GRPOConfig(
        output_dir=str(folder / "checkpoints"),
        max_steps=updates,
        **(options | batch_plan.trl_arguments() | arguments),
    )
    return Trainer(
        model or AutoModelForCausalLM.from_pretrained(BASE, dtype=dtype),
        AutoTokenizer.from_pretrained(BASE, padding_side="left"),
        ROWS,
        scorer=Scorer(["countdown"]),
        advantage=group_zscore,
        objective=objective or Objective(clipped, token_mean, clip_high=0.28),
        plan=batch_plan,
        arguments=config,
        folder=folder,
        peft_config=peft_config,
    )


def rollout(
    *, seed: int = 0, rehearsal: bool = True, dtype: torch.dtype = torch.float64
) -> RolloutBatch:
    """Return a generation of 4 groups of 4 and, if wanted, 4 rehearsal rows; ragged, statistics made up."""
    generator = torch.Generator().manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(BASE, padding_side="left")
    prompts = tokenizer([row["prompt"] for row in ROWS])["input_ids"]
    rows, width = 16 + 4 * rehearsal, 8
    prompt_ids = torch.tensor([prompts[i // 4 % 4] for i in range(rows)])
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    completion_mask = torch.arange(width) < lengths[:, None]
    is_rehearsal = torch.arange(rows) >= 16
    shape = (rows, width)
    advantages = torch.randn(rows, 1, generator=generator, dtype=dtype).expand(shape).clone()

    def logprobs() -> torch.Tensor:
        return -3 * torch.rand(shape, generator=generator, dtype=dtype)

    return RolloutBatch(
        prompt_ids=prompt_ids,
        prompt_mask=torch.ones_like(prompt_ids, dtype=torch.bool),
        completion_ids=torch.randint(3, 20, shape, generator=generator),
        completion_mask=completion_mask,
        mask=completion_mask & ~is_rehearsal[:, None],
        advantages=advantages,
        rewards=torch.rand(rows, generator=generator),
        group_ids=torch.where(is_rehearsal, -1, torch.arange(rows) // 4),
        origin=torch.where(is_rehearsal, int(Origin.REHEARSAL), int(Origin.POLICY)),
        old_logprobs=logprobs(),
        old_entropies=torch.rand(shape, generator=generator, dtype=dtype) * 2,
        ref_logprobs=logprobs(),
        initial_logprobs=logprobs(),
        segment_ids=(torch.arange(width) // 3).expand(shape).masked_fill(~completion_mask, -1),
        old_statistics={name: logprobs().exp() for name in statistics()},
    )


def shaped(batch: RolloutBatch, chain: Chain) -> RolloutBatch:
    """Return the generation as the controls make it before its first update."""
    batch, state, _ = chain.reward(batch, chain.init())
    return chain.shape(batch, state)[0]


def gradient(made: Trainer, batch: RolloutBatch, update: int = 0) -> torch.Tensor:
    """Return the gradient of one update on a generation, flat, this process's part."""
    made.model.zero_grad()
    for loss in made.losses(batch, update):
        loss.backward()
    return torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])
