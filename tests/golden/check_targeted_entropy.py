"""Targeted entropy: value and force at given mean entropies."""

from dataclasses import replace

import torch

from rlvr.batch import initial_terms
from rlvr.entropy import targeted_entropy
from tests.entropy import toy
from tests.golden.golden import Golden


def check_targeted_entropy(golden: Golden) -> None:
    batch = toy.facts(4, 1, rehearsal=0)
    # four tokens: their mean is exact, also at the target, where the force is 0
    batch = replace(batch, mask=torch.ones_like(batch.mask))
    for row in golden.outputs["rows"]:
        config = targeted_entropy.Config(target=row["target"], coef=row["coef"])
        control = targeted_entropy.build(config)
        assert control.measure is not None
        assert control.apply is not None
        mean = torch.tensor(row["entropy"], dtype=golden.dtype, requires_grad=True)
        entropies = mean.expand(batch.mask.shape)
        population = replace(batch, entropies=entropies.detach())
        marks = control.measure(population, control.init(), torch.Generator())
        tokens = replace(batch, entropies=entropies)
        terms, _ = control.apply(initial_terms(tokens), tokens, marks, control.init())
        term = terms.regularizers["targeted_entropy"]
        (force,) = torch.autograd.grad(term, mean)
        golden.check(term, row["loss_term"], f"term at {row['entropy']}")
        golden.check(force, row["d_loss_d_entropy"], f"force at {row['entropy']}")


CHECKS = {
    "confucius_ter": check_targeted_entropy,
}
