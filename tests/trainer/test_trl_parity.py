"""The empty chain is TRL: the same loss and the same gradient, for every loss type that we map."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from rlvr import aggregate, divergence, surrogate
from rlvr.batch import RolloutBatch
from rlvr.loss import Objective
from tests.trainer import tiny

LENGTH = 8

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": (
        {"loss_type": "grpo"},
        {"aggregate": partial(aggregate.sequence_mean, count_empty=True)},
    ),
    "dr_grpo": (
        {"loss_type": "dr_grpo"},
        {"aggregate": partial(aggregate.sequence_sum, length=LENGTH)},
    ),
    "dapo": ({"loss_type": "dapo"}, {}),
    "dapo with clip-higher": ({"loss_type": "dapo", "epsilon_high": 0.28}, {"clip_high": 0.28}),
    "bnpo in one micro-batch": ({"loss_type": "bnpo"}, {}),
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 2.0},
        # TRL's bound is absolute and there is none below
        {"surrogate": surrogate.cispo, "clip_high": 1.0, "clip_low": 1.0},
    ),
    "sapo": (
        {"loss_type": "sapo"},
        {
            "surrogate": surrogate.sapo,
            "aggregate": partial(aggregate.sequence_mean, count_empty=True),
        },
    ),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        {
            "surrogate": surrogate.gspo,
            "aggregate": partial(aggregate.sequence_mean, count_empty=True),
        },
    ),
    "dapo with KL": ({"loss_type": "dapo", "beta": 0.1}, {"kl_coef": 0.1}),
    "dapo with uncorrected KL": (
        {"loss_type": "dapo", "beta": 0.1, "use_bias_correction_kl": False},
        {"kl_coef": 0.1, "kl_correction": False},
    ),
}


def trl_inputs(batch: RolloutBatch) -> dict[str, Any]:
    return {
        "prompt_ids": batch.prompt_ids,
        "prompt_mask": batch.prompt_mask.long(),
        "completion_ids": batch.completion_ids,
        "completion_mask": batch.completion_mask.long(),
        "advantages": batch.advantages[:, 0],
        "num_items_in_batch": batch.mask.sum(),
        "old_per_token_logps": batch.old_logprobs,
        "ref_per_token_logps": batch.ref_logprobs,
    }


@pytest.mark.parametrize("name", CASES)
def test_empty_chain_has_trls_loss_and_gradient(name: str, tmp_path: Path) -> None:
    theirs, ours = CASES[name]
    parts: dict[str, Any] = {"surrogate": surrogate.clipped, "aggregate": aggregate.token_mean}
    objective = Objective(**(parts | {"kl_estimator": divergence.k3} | ours))
    one_update = tiny.plan(prompts_per_update=4, micro_batch_size=16)
    made = tiny.trainer(tmp_path, objective, one_update, **theirs)
    made.ref_model = None
    batch = tiny.rollout(rehearsal=False, dtype=torch.float32)
    # near the policy, so that some tokens are clipped and some are not
    with torch.no_grad():
        logprobs = made.look(batch).logprobs
    noise = torch.randn(2, *logprobs.shape, generator=torch.Generator().manual_seed(1))
    old, reference = logprobs + 0.3 * noise
    batch = replace(batch, old_logprobs=old, ref_logprobs=reference)

    [loss] = made.losses(batch)
    ours_gradient = tiny.gradient(made, batch)

    made.current_gradient_accumulation_steps = 1
    made.args.steps_per_generation = 1
    made.model.zero_grad()
    expected = GRPOTrainer._compute_loss(made, made.model, trl_inputs(batch))
    expected.backward()
    theirs_gradient = torch.cat([p.grad.flatten() for p in made.model.parameters()])

    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    scale = theirs_gradient.norm()
    assert scale > 1e-3
    # theirs is rounded in other places: single entries of both are 1e-6 of the largest from the exact ones
    assert (ours_gradient - theirs_gradient).norm() <= 1e-6 * scale
