"""First-order entropy change against the exact change of a small step on the logits."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from rlvr.batch import TokenBatch
from rlvr.entropy import steer
from rlvr.entropy_change import discriminator, expected_discriminator, first_order_change
from rlvr.kernels.naive import logprob_entropy
from rlvr.kernels.statistics import of_logits
from tests.golden.golden import Golden, tensor


def check_entropy_change(golden: Golden) -> None:
    eta, outputs, mask = golden.options["eta"], golden.outputs, golden.mask
    logits, actions = golden.input("logits"), torch.tensor(golden.inputs["actions"])
    logprobs, entropies = logprob_entropy(logits, actions)
    found = of_logits(logits.flatten(0, 1), actions.flatten(), ["sum_p2", "sum_p2_logp"])
    sums = {name: value.view_as(logprobs) for name, value in found.items()}
    advantages, old = golden.input("advantages"), golden.input("old_log_prob")
    gains = advantages * (logprobs - old).exp()
    sampled = discriminator(logprobs, entropies)
    expected = expected_discriminator(entropies, sums["sum_p2"], sums["sum_p2_logp"])

    def compare(ours: Tensor, name: str, unit: float = 1.0) -> None:
        # changes in units of the step: they are far below the absolute tolerance
        theirs = tensor(outputs[name], golden.dtype)[mask] / unit
        golden.check(ours[mask] / unit, theirs.tolist(), name)

    compare(entropies, "entropy")
    compare(sums["sum_p2"], "collision_probability")
    compare(sampled, "S")
    compare(expected, "N")
    compare(first_order_change(gains, sampled, expected, eta), "first_order_delta", eta)

    step = eta * gains.unsqueeze(-1) * (one_hot(actions, logits.shape[-1]) - logits.softmax(-1))
    _, after = logprob_entropy(logits + step, actions)
    compare(after - entropies, "exact_delta", eta)

    batch = TokenBatch(
        logprobs=logprobs,
        old_logprobs=old,
        advantages=advantages,
        mask=mask,
        rehearsal_mask=torch.zeros_like(mask),
        origin=torch.zeros(len(mask), dtype=torch.long),
        old_entropies=entropies,
    )
    theirs = -eta * steer.entropy_change(batch)
    compare(theirs, "steer_code_delta", eta)
    compare(theirs * logprobs.exp(), "steer_ratio_form_delta", eta)


CHECKS = {
    "entropy_change": check_entropy_change,
}
