"""Entropy advantage, from the paper's formula."""

from dataclasses import replace

import torch

from rlvr.batch import initial_terms
from rlvr.entropy import entropy_advantage
from tests.golden.golden import Golden, tensor


def check_entropy_advantage(golden: Golden) -> None:
    options, mask = golden.options, golden.mask
    config = entropy_advantage.Config(alpha=options["alpha"], kappa=options["kappa"])
    control = entropy_advantage.build(config)
    assert control.apply is not None
    batch = golden.batch(torch.zeros(mask.shape, dtype=golden.dtype))
    batch = replace(batch, entropies=golden.input("entropy")).zero_padding()
    terms, _ = control.apply(initial_terms(batch), batch, {}, {})
    expected = tensor(golden.outputs["advantages"], golden.dtype)
    golden.check(terms.advantages[mask], expected[mask].tolist(), "advantages")


CHECKS = {
    "entropy_advantage": check_entropy_advantage,
}
