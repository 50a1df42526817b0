"""The same rollout has one gradient: however it is cut, by rows or tokens, with or without the rows that cannot teach.

Two processes are in tests/distributed; there the same holds for every cut and control.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvr import aggregate, surrogate
from rlvr.batch import RolloutBatch
from rlvr.entropy.control import build_control, chain
from rlvr.loss import Objective
from rlvr.rollout.rows import sampled_by
from tests.entropy.settings import REACHES
from tests.trainer import tiny

OBJECTIVES = {
    "plain": ((), aggregate.token_mean),
    "mean of sequences": ((), aggregate.sequence_mean),
    "clip_cov": (("clip_cov",), aggregate.token_mean),
    "steer": (("steer",), aggregate.sequence_mean),
    "entropy_bonus": (("entropy_bonus",), aggregate.token_mean),
}

cuts = st.fixed_dictionaries(
    {
        "micro_batch_size": st.integers(1, 9),
        "tokens_per_micro_batch": st.none() | st.integers(10, 200),
    }
)


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a trainer of each objective, its policy a little away from the one that sampled."""
    made = {}
    for name, (names, reduce) in OBJECTIVES.items():
        controls = chain(*(build_control(item, REACHES.get(item, {})) for item in names))
        objective = Objective(surrogate.clipped, reduce, controls, clip_high=0.28)
        made[name] = tiny.trainer(tmp_path_factory.mktemp("cut"), objective, dtype=torch.float64)
    return made


def rollout(made: Any, seed: int, idle: list[bool], prompts: list[int]) -> RolloutBatch:
    """Return a generation whose prompts have different lengths and of which some groups have no advantage."""
    rows = tiny.rollout(seed=seed, rehearsal=False)
    chain_ = made._objective.chain
    width = rows.prompt_mask.shape[1]
    lengths = torch.tensor(prompts).repeat_interleave(4).unsqueeze(-1)
    rows = replace(rows, prompt_mask=torch.arange(width) >= width - lengths)
    rows = sampled_by(rows, made.look(rows, chain_.statistics | chain_.old_statistics))
    noise = 0.2 * torch.randn_like(rows.advantages)
    is_idle = torch.tensor(idle).repeat_interleave(4).unsqueeze(-1)
    return replace(
        rows,
        old_logprobs=rows.old_logprobs + noise,
        advantages=rows.advantages.masked_fill(is_idle, 0.0),
    )


def gradient(made: Any, rows: RolloutBatch, **options: Any) -> tuple[Tensor, dict[str, float]]:
    made.model.zero_grad()
    for part in made.parts(rows, 1, **options):  # the policy has moved
        part.loss.backward()
    flat = torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])
    return flat, made.means()


@pytest.mark.parametrize("name", OBJECTIVES)
@given(
    seed=st.integers(0, 99),
    idle=st.lists(st.booleans(), min_size=4, max_size=4),
    prompts=st.lists(st.integers(1, 9), min_size=4, max_size=4),
    cut=cuts,
)
@settings(deadline=None, max_examples=12, phases=[Phase.generate])
def test_no_cut_and_no_skipping_changes_the_gradient_or_a_statistic(
    trainers: dict[str, Any],
    name: str,
    seed: int,
    idle: list[bool],
    prompts: list[int],
    cut: dict[str, Any],
) -> None:
    made = trainers[name]
    torch.manual_seed(seed)
    made._plan = tiny.plan(prompts_per_update=4, micro_batch_size=16)
    rows = rollout(made, seed, idle, prompts)
    whole, _ = gradient(made, rows, with_idle_rows=True)
    _, statistics = gradient(made, rows)
    made._plan = replace(made._plan, **cut)
    found, others = gradient(made, rows)
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(others, statistics, rtol=1e-9, atol=1e-12)
