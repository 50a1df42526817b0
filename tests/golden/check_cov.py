"""Clip-Cov and KL-Cov against verl."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rlvr.entropy import clip_cov, kl_cov
from rlvr.loss import Decision
from tests.golden.golden import Golden, tensor


def check_clip_cov(golden: Golden) -> None:
    options, outputs = golden.options, golden.outputs
    config = clip_cov.Config(
        fraction=options["clip_cov_ratio"],
        covariance_low=options["clip_cov_lb"],
        covariance_high=options["clip_cov_ub"],
        clip_low=options["clip_ratio_low"],
        clip_high=options["clip_ratio_high"],
    )
    objective = golden.objective(clip_cov.build(config))
    candidate = tensor(outputs["candidate_mask"], golden.dtype) > 0

    def choose(selected: Tensor) -> Callable[[Decision], Decision]:
        def change(decided: Decision) -> Decision:
            assert (decided.marks["clip_cov"]["candidate"] == candidate).all()
            detached = decided.marks["clip_cov"]["detached"]
            assert int(detached.sum()) == outputs["num_selected"]
            assert not (detached & ~candidate).any()
            marks = {"clip_cov": {"candidate": candidate, "detached": selected}}
            return replace(decided, marks=marks)

        return change

    first = outputs["identity_permutation"]
    chosen = tensor(first["selected_mask"], golden.dtype) > 0
    golden.check_loss(
        objective, loss=first["loss"], grad=first["grad_log_prob"], decision=choose(chosen)
    )
    for seeded in outputs["seeded"].values():
        chosen = torch.zeros_like(candidate)
        for row, column in seeded["selected"]:
            chosen[row, column] = True
        golden.check_loss(
            objective, loss=seeded["loss"], grad=seeded["grad_log_prob"], decision=choose(chosen)
        )


def check_kl_cov(golden: Golden) -> None:
    options, outputs = golden.options, golden.outputs
    config = kl_cov.Config(
        fraction=options["kl_cov_ratio"], kl_coef=options["ppo_kl_coef"], when_all_equal="select"
    )
    theirs = tensor(outputs["selected_mask"], golden.dtype) > 0

    def check_selection(decided: Decision) -> Decision:
        ours = decided.marks["kl_cov"]["selected"]
        assert int(ours.sum()) == outputs["num_selected"]
        if outputs["selection_is_unique"]:
            assert (ours == theirs).all()
        # a tie at the last place is theirs to break
        return replace(decided, marks={"kl_cov": {"selected": theirs}})

    batch = golden.batch(golden.input("log_prob"))
    ours = clip_cov.covariance(batch.logprobs, batch.advantages, batch.mask)
    golden.check(ours, outputs["covariance"], "covariance")
    golden.check_loss(golden.objective(kl_cov.build(config)), decision=check_selection)


CHECKS = {
    "clip_cov": check_clip_cov,
    "kl_cov": check_kl_cov,
}
