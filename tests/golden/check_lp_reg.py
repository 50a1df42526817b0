"""Lp-Reg against the authors' code: target, loss, gradient, and the shares they log."""

from dataclasses import replace

import torch
from torch import Tensor

from rlvr.batch import TokenBatch, initial_terms
from rlvr.entropy import lp_reg
from rlvr.kernels.statistics import FILTERED, of_logits, statistic
from rlvr.surrogate import clipped
from tests.golden.golden import Golden, tensor


def check_lp_reg(golden: Golden) -> None:
    options, outputs, mask = golden.options, golden.outputs, golden.mask
    assert options["kl_type"] == "low_var_kl"
    config = lp_reg.Config(
        fraction=options["logp_neg_k_percent"],
        positive_fraction=options["logp_pos_k_percent"],
        proxy_min_p=options["minp_p_threshold"],
        coef=options["ppo_kl_coef"],
        clip_low=options["cliprange_low"],
        clip_high=options["cliprange_high"],
        form="authors",
    )
    name = statistic("min_p_logprob", config.proxy_min_p)
    logits, actions = golden.input("old_logits"), torch.tensor(golden.inputs["actions"])
    found = of_logits(logits.flatten(0, 1), actions.flatten(), [name])[name].view_as(mask)
    theirs = tensor(outputs["target_log_prob"], golden.dtype)
    # a token that is taken out has FILTERED here and the logit -1e4, not quite a log-prob, there
    is_out = mask & (found == FILTERED)
    assert (theirs[is_out] < FILTERED / 2).all()
    golden.check(found[mask & ~is_out], theirs[mask & ~is_out].tolist(), "target")

    def batch(logprobs: Tensor) -> TokenBatch:
        return replace(golden.batch(logprobs), old_statistics={name: found}).zero_padding()

    golden.check_loss(golden.objective(lp_reg.build(config)), batch)
    check_logged(golden, config, batch(golden.input("log_prob")))


def check_logged(golden: Golden, config: lp_reg.Config, tokens: TokenBatch) -> None:
    mask = golden.mask
    away = lp_reg.distance(tokens.logprobs, tokens.old_logprobs, config)
    golden.check(away[mask].mean(), golden.outputs["ppo_kl"], "distance from the old policy")
    assert config.clip_low is not None
    assert config.clip_high is not None
    terms = initial_terms(tokens, clip_low=config.clip_low, clip_high=config.clip_high)
    terms = replace(terms, log_ratio_limit=torch.inf)
    unclipped = replace(terms, clip_low=torch.inf, clip_high=torch.inf)
    is_clipped = clipped(terms, tokens) > clipped(unclipped, tokens)
    golden.check(is_clipped[mask].double().mean(), golden.outputs["pg_clipfrac"], "share clipped")


CHECKS = {"lp_reg": check_lp_reg}
