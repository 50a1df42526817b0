"""Completions that an advantage function takes out of the loss are as if they had not been sampled."""

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
