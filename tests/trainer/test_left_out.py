"""What an advantage function or a token budget leaves out of the loss is as if it had not been sampled."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from rlvr import advantage, aggregate, surrogate
from rlvr.batch import RolloutBatch
from rlvr.loss import Aggregate, Objective
from tests.trainer import tiny

NSR = partial(advantage.psr_nsr, positive=0.0)
REDUCTIONS = [aggregate.token_mean, aggregate.sequence_mean]


def rewarded(*values: float) -> RolloutBatch:
    return replace(tiny.rollout(rehearsal=False), rewards=torch.tensor(values))


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda function: function.__name__)
def test_a_class_taken_out_counts_neither_in_the_sum_nor_in_the_mean(
    reduction: Aggregate, tmp_path: Path
) -> None:
    made = tiny.trainer(tmp_path, Objective(surrogate.gpg, reduction), dtype=torch.float64)
    roller = replace(made._roller, advantage=NSR)
    batch = rewarded(*[1.0, 0.0, 0.0, 1.0] * 4)
    with_all = roller._with_advantages(batch)
    assert not with_all.advantages.isnan().any()
    assert not with_all.mask[batch.rewards == 1].any()
    wrong = with_all.rows(batch.rewards == 0)
    whole = tiny.gradient(made, with_all)
    assert whole.abs().max() > 1e-6
    torch.testing.assert_close(whole, tiny.gradient(made, wrong), rtol=1e-9, atol=1e-12)


def test_an_update_that_is_all_taken_out_teaches_nothing(tmp_path: Path) -> None:
    made = tiny.trainer(tmp_path, dtype=torch.float64)
    roller = replace(made._roller, advantage=NSR)
    assert (tiny.gradient(made, roller._with_advantages(rewarded(*[1.0] * 16))) == 0).all()


def test_a_token_budget_cuts_the_same_tokens_whatever_the_layout(tmp_path: Path) -> None:
    batch = tiny.rollout(rehearsal=False)
    first = batch.mask[:8].sum()  # of the first update
    objective = Objective(surrogate.gpg, partial(aggregate.token_budget, tokens=int(first) - 3))
    gradients = []
    for size in (8, 3, 1):
        plan = tiny.plan(micro_batch_size=size)
        made = tiny.trainer(tmp_path, objective, plan, dtype=torch.float64)
        gradients.append(tiny.gradient(made, batch))
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-9, atol=1e-12)
    # what is cut are the last three tokens of the last row that has any, by hand
    flat = batch.mask.clone()
    counted = flat[:8].flatten().nonzero().squeeze(-1)
    flat.view(-1)[counted[-3:]] = False
    uncut = partial(aggregate.token_budget, tokens=int(first) - 3, cut=False)
    made = tiny.trainer(tmp_path, Objective(surrogate.gpg, uncut), dtype=torch.float64)
    expected = tiny.gradient(made, replace(batch, mask=flat))
    torch.testing.assert_close(gradients[0], expected, rtol=1e-9, atol=1e-12)
