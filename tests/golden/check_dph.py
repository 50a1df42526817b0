"""DPH-RL against the authors' code."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlvr.batch import Origin, TokenBatch
from rlvr.entropy import dph
from tests.golden.golden import Golden, tensor


def rehearsal(golden: Golden) -> Callable[[Tensor], TokenBatch]:
    initial = golden.input("init_log_prob")

    def make(logprobs: Tensor) -> TokenBatch:
        return TokenBatch(
            logprobs=logprobs,
            old_logprobs=logprobs.detach(),
            advantages=torch.zeros_like(initial),
            mask=torch.zeros_like(golden.mask),
            rehearsal_mask=golden.mask,
            origin=torch.full((len(initial),), Origin.REHEARSAL),
            initial_logprobs=initial,
        ).zero_padding()

    return make


def check_dph(golden: Golden) -> None:
    options = golden.options
    names = {"forward": "forward", "js_low_var": "js", "alpha": "alpha", "js": "js_mixture"}
    config = dph.Config(
        divergence=names[options["sft_loss_mode"]],  # type: ignore[arg-type]
        coef=options["sft_loss_coeff"],
        alpha=options.get("alpha_coeff", 0.2),
        on_policy_fraction=0.0,
        form="authors",
    )
    make = rehearsal(golden)
    batch = make(golden.input("log_prob"))
    assert batch.initial_logprobs is not None
    per_token = dph.rehearsal_divergence(batch.logprobs, batch.initial_logprobs, config)
    valid = golden.mask
    expected = tensor(golden.outputs["per_token"], golden.dtype)
    golden.check(per_token[valid], expected[valid].tolist(), "per token")
    golden.check_loss(golden.objective(dph.build(config)), make)


def check_dph_on_policy(golden: Golden) -> None:
    options = golden.options
    is_drawn = options["random_draw_1_to_10"] <= options["js_ratio"]
    config = dph.Config(
        divergence="js_mixture",
        coef=options["sft_loss_coeff"],
        on_policy_fraction=1.0,
        form="authors",
    )
    control = dph.build(config) if is_drawn else None
    golden.check_loss(golden.objective(control), loss=golden.outputs["loss_term"])


CHECKS = {
    "dph_forward": check_dph,
    "dph_js_low_var": check_dph,
    "dph_alpha": check_dph,
    "dph_js": check_dph,
    "dph_js_onpolicy": check_dph_on_policy,
}
