"""Entropy moves the way a method's docstring says, on a bandit whose entropy is exact.

A small run of the whole contract: plan, rollout, shape, measure, apply, step; several updates a rollout.
"""

from collections.abc import Collection

import pytest
import torch
from torch import Tensor

from rlvr.advantage import group_zscore
from rlvr.aggregate import token_mean
from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy.control import Chain, build_control, chain, control_names
from rlvr.loss import Objective
from rlvr.rollout.cut import assign_updates
from rlvr.rollout.rehearsal import as_rehearsal, draw
from rlvr.rollout.rows import token_batch
from rlvr.surrogate import clipped
from tests.entropy.settings import KEEPS_ENTROPY, MOVES_NO_ENTROPY
from tests.entropy.toy import look

CONTEXTS, ARMS, GROUP, UPDATES = 16, 5, 8, 4
RIGHT = torch.tensor([True, True, False, False, True])  # three of five arms earn 1


def pulls(
    table: Tensor,
    contexts: Tensor,
    temperature: float,
    origin: Origin,
    generator: torch.Generator,
    names: Collection[str] = (),
) -> RolloutBatch:
    taken = torch.multinomial((table[contexts] / temperature).softmax(-1), 1, generator=generator)
    seen = look(table[contexts].unsqueeze(1), taken, names)
    rewards = RIGHT[taken.squeeze(-1)].double()
    groups = contexts + (CONTEXTS if origin is Origin.TEMPERED else 0)
    mask = torch.ones_like(taken, dtype=torch.bool)
    return RolloutBatch(
        prompt_ids=contexts.unsqueeze(-1),
        prompt_mask=mask,
        completion_ids=taken,
        completion_mask=mask,
        mask=mask,
        advantages=group_zscore(rewards, groups).unsqueeze(-1),
        rewards=rewards,
        group_ids=groups,
        origin=torch.full_like(contexts, origin),
        old_logprobs=seen.logprobs,
        old_entropies=seen.entropies,
        old_statistics=seen.statistics,
        ref_logprobs=seen.logprobs,
        segment_ids=torch.zeros_like(taken),
    )


def entropies_of_a_run(controls: Chain, rollouts: int = 25, step: float = 12.0) -> list[float]:
    """Return the exact mean entropy, nats, before each rollout and at the end."""
    objective = Objective(clipped, token_mean, controls, clip_high=0.28)
    generator = torch.Generator().manual_seed(0)
    table = 0.5 * torch.randn(CONTEXTS, ARMS, generator=generator, dtype=torch.float64)
    everyone = torch.arange(CONTEXTS).repeat_interleave(GROUP)
    first = pulls(table, everyone, 1.0, Origin.POLICY, generator)
    buffer = as_rehearsal(first.rows(first.rewards == 1))
    state = controls.init()
    names = controls.statistics | controls.old_statistics
    curve = []
    for number in range(rollouts):
        curve.append(mean_entropy(table))
        plan = controls.plan(state)
        batch = pulls(table, everyone, 1.0, Origin.POLICY, generator, names)
        if plan.tempered is not None:
            some = everyone[: int(plan.tempered.prompt_fraction * CONTEXTS) * GROUP]
            batch = batch.join(
                pulls(table, some, plan.tempered.temperature, Origin.TEMPERED, generator, names)
            )
        batch, state, _ = controls.reward(batch, state)
        batch, state, _ = controls.shape(batch, state)
        if plan.rehearsal is not None:
            batch = batch.join(draw(buffer, plan.rehearsal.rows_per_update * UPDATES, number))
        # two passes: without shared parameters the first pass meets a policy that has not moved
        for rows in 2 * assign_updates(batch, CONTEXTS // UPDATES, UPDATES):
            part = batch.rows(rows)
            free = table.clone().requires_grad_()
            now = look(free[part.prompt_ids.squeeze(-1)].unsqueeze(1), part.completion_ids, names)
            population = token_batch(part, now.map(lambda _, value: value.detach()))
            decision = objective.decide(population, [torch.arange(len(part))], state, number)
            loss, stats = objective.loss(token_batch(part, now), decision)
            loss.backward()
            assert free.grad is not None
            table = table - step * free.grad
            means = {key: float(pair[0] / pair[1].clamp(min=1e-9)) for key, pair in stats.items()}
            state = controls.step(state, means)
    return [*curve, mean_entropy(table)]


def mean_entropy(table: Tensor) -> float:
    log_p = table.log_softmax(-1)
    return float(-(log_p.exp() * log_p).sum(-1).mean())


@pytest.fixture(scope="module")
def plain() -> list[float]:
    return entropies_of_a_run(Chain())


def test_plain_grpo_loses_entropy(plain: list[float]) -> None:
    assert plain[-1] < 0.8 * plain[0]


def test_every_control_says_which_way_it_moves_the_entropy() -> None:
    assert set(control_names()) == KEEPS_ENTROPY.keys() | MOVES_NO_ENTROPY.keys()


@pytest.mark.parametrize("name", KEEPS_ENTROPY)
def test_method_keeps_more_entropy_than_plain_grpo(name: str, plain: list[float]) -> None:
    curve = entropies_of_a_run(chain(build_control(name, KEEPS_ENTROPY[name])))
    assert sum(curve) / len(curve) > sum(plain) / len(plain) + 0.02
