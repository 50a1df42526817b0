"""DCPO against the authors' code."""

import torch

from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy import dcpo
from rlvr.kernels.naive import logprob_entropy
from rlvr.kernels.statistics import of_logits, statistic
from tests.golden.golden import Golden, tensor


def check_dcpo(golden: Golden) -> None:
    options, inputs, outputs = golden.options, golden.inputs, golden.outputs
    config = dcpo.Config(
        target=options["entropy_base"],
        temperature_high=options["temperature_high"],
        temperature_low=options["temperature_low"],
        gap_max=options["max_gap"],
        reward_threshold=options["score_threshold"],
        form="authors",
    )
    control = dcpo.build(config)
    assert control.shape is not None
    assert control.step is not None
    state = control.step(control.init(), {"surprisal": inputs["previous_step_entropy"]})

    logits, actions = golden.input("old_logits"), torch.tensor(inputs["actions"])
    logprobs, entropies = logprob_entropy(logits, actions)
    names = control.old_statistics
    found = of_logits(logits.flatten(0, 1), actions.flatten(), names)
    statistics = {name: values.view_as(logprobs) for name, values in found.items()}
    name = statistic("tempered_logprob", outputs["temperature"])
    golden.check((statistics[name] - logprobs).exp(), outputs["entropy_factor"], "weights")

    rows = torch.arange(len(actions))
    rollout = RolloutBatch(
        prompt_ids=rows.unsqueeze(-1),
        prompt_mask=torch.ones(len(rows), 1, dtype=torch.bool),
        completion_ids=actions,
        completion_mask=golden.mask,
        mask=golden.mask,
        advantages=golden.input("advantages"),
        rewards=golden.input("token_level_scores").sum(-1),
        group_ids=torch.zeros_like(rows),
        origin=torch.full_like(rows, Origin.POLICY),
        old_logprobs=logprobs,
        old_entropies=entropies,
        old_statistics=statistics,
    )
    is_right = rollout.rewards > config.reward_threshold
    assert is_right.int().tolist() == outputs["bool_reward"]
    shaped, _, stats = control.shape(rollout, state)
    means = {key: pair[0] / pair[1] for key, pair in stats.items()}
    golden.check(means["right_fraction"], outputs["true_ratio"], "share of right rows")
    golden.check(means["share"], outputs["alpha"], "alpha")
    golden.check(means["temperature"], outputs["temperature"], "temperature")
    valid = golden.mask
    expected = tensor(outputs["advantages"], golden.dtype)
    golden.check(shaped.advantages[valid], expected[valid].tolist(), "advantages")


CHECKS = {"dcpo": check_dcpo}
