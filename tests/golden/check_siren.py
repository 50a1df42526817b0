"""SIREN against the authors' code, from logits."""

from functools import partial

import torch
from torch import Tensor

from rlvr import aggregate
from rlvr.batch import Origin, TokenBatch
from rlvr.entropy import siren
from rlvr.kernels.statistics import of_logits, statistic
from rlvr.loss import Objective
from tests.golden.golden import Golden, tensor


def check_siren(golden: Golden) -> None:
    options, outputs, mask = golden.options, golden.outputs, golden.mask
    config = siren.Config(
        mass=options["entropy_topp"],
        most=options["entropy_topk"],
        quantile=options["mask_ratio"],
        coef=options["entropy_coeff"],
        anchor=options["entropy_anchor"],
        form="authors",
    )
    assert options["entropy_agg_mode"] == "seq-mean-token-mean"
    head = statistic("top_p_entropy", config.mass, config.most)
    nucleus = statistic("nucleus_entropy", config.mass)
    actions = torch.tensor(golden.inputs["actions"])

    def batch(logits: Tensor) -> TokenBatch:
        found = of_logits(logits.flatten(0, 1), actions.flatten(), [head, nucleus])
        taken = logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        return TokenBatch(
            logprobs=taken,
            old_logprobs=golden.input("old_log_prob"),
            advantages=golden.input("advantages"),
            mask=mask,
            rehearsal_mask=torch.zeros_like(mask),
            origin=torch.full((len(mask),), Origin.POLICY),
            statistics={name: value.view(mask.shape) for name, value in found.items()},
        ).zero_padding()

    logits = golden.input("logits")
    fixed = batch(logits)
    entropies = fixed.statistics[head]

    def compare(ours: Tensor, name: str, where: Tensor) -> None:
        theirs = tensor(outputs[name], golden.dtype)
        golden.check(ours[where], theirs[where].tolist(), name)

    compare(entropies, "top_p_entropy", mask)
    compare(fixed.statistics[nucleus], "textbook_nucleus_entropy", mask)
    bounds = siren.lower_bound(entropies.float(), mask, config.quantile)
    compare(bounds, "lower_bound", mask.any(-1))
    selected = siren.peak_mask(entropies, mask, config)
    golden.check(selected, outputs["peak_mask"], "peak mask")

    def loss_and_gradient(objective: Objective) -> tuple[Tensor, Tensor]:
        free = logits.clone().requires_grad_()
        everything = [torch.arange(len(mask))]
        decided = objective.decide(fixed, everything, objective.chain.init(), 0)
        value, _ = objective.loss(batch(free), decided)
        return value.detach(), torch.autograd.grad(value, free)[0]

    # SIREN's copy of this mode is also divided by the rows
    modes = {
        "seq-mean-token-sum-norm": partial(aggregate.sequence_sum, length=mask.shape[1]),
        "seq-mean-token-mean": partial(aggregate.sequence_mean, count_empty=True),
        "token-mean": aggregate.token_mean,
    }
    mean = modes[options["loss_agg_mode"]]
    total, gradient = loss_and_gradient(golden.objective(siren.build(config), aggregate=mean))
    policy, policy_gradient = loss_and_gradient(golden.objective(aggregate=mean))
    golden.check(policy, outputs["pg_loss"], "policy loss")
    golden.check(total, outputs["total_loss"], "total loss")
    golden.check(gradient, outputs["grad_logits_total"], "gradient")
    golden.check(total - policy, outputs["regularizer"], "regularizer")
    golden.check(
        gradient - policy_gradient, outputs["grad_logits_regularizer"], "regularizer's gradient"
    )

    rows = fixed.is_policy_row
    whole = (siren.peak_weights(entropies, mask, rows, config) * entropies).sum()
    golden.check(whole, outputs["entropy_loss"], "aggregated entropy")
    golden.check((whole - options["entropy_anchor"]).square(), outputs["mse"], "square")


CHECKS = {
    "siren": check_siren,
}
