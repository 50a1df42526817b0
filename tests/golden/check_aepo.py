"""AEPO against the authors' code."""

import torch

from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy import aepo
from tests.golden.golden import Golden, tensor


def check_aepo(golden: Golden) -> None:
    options, inputs, outputs = golden.options, golden.inputs, golden.outputs
    config = aepo.Config(
        target=options["entropy_base"],
        temperature_high=options["temperature_high"],
        temperature_low=options["temperature_low"],
        rows=options["reinforce_sample_num"],
        advantage_threshold=options["advantage_threshold"],
        form="authors",
    )
    control = aepo.build(config)
    state = {"entropy": inputs["previous_step_entropy"]}
    assert control.plan is not None
    assert control.shape is not None
    tempered = control.plan(state).tempered
    assert tempered is not None
    assert tempered.temperature == outputs["temperature"]
    assert (
        int(tempered.prompt_fraction * inputs["num_prompts"])
        == outputs["num_prompts_second_rollout"]
    )

    parts = [(inputs["main"], Origin.POLICY, 0), (inputs["second_rollout"], Origin.TEMPERED, 1000)]
    rows = []
    for part, origin, first_id in parts:
        mask = tensor(part["response_mask"], golden.dtype) > 0
        count = len(mask)
        ids = (first_id + torch.arange(count)).unsqueeze(-1)
        rows.append(
            RolloutBatch(
                prompt_ids=ids,
                prompt_mask=torch.ones_like(ids, dtype=torch.bool),
                completion_ids=torch.zeros_like(mask, dtype=torch.long),
                completion_mask=mask,
                mask=mask,
                advantages=tensor(part["grpo_advantages"], golden.dtype),
                rewards=tensor(part["token_level_scores"], golden.dtype).sum(-1),
                group_ids=torch.zeros(count, dtype=torch.long),
                origin=torch.full((count,), origin),
            )
        )
    rollout = rows[0].join(rows[1])
    shaped, _, _ = control.shape(rollout, state)
    positives = aepo.is_positive(rollout, config.advantage_threshold)
    assert int(positives.sum()) == outputs["num_positive"]
    assert int((shaped.origin == Origin.TEMPERED).sum()) == outputs["num_used"]
    assert shaped.prompt_ids.squeeze(-1).tolist() == outputs["final_row_id"]
    golden.check(shaped.advantages, outputs["final_advantages"], "advantages")


CHECKS = {
    "aepo": check_aepo,
}
