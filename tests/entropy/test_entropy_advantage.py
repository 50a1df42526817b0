"""The entropy advantage: its worked example, its bound, its edges."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from rlvr.batch import TokenBatch, initial_terms
from rlvr.entropy import entropy_advantage
from rlvr.entropy.control import build_control, chain
from tests.entropy import toy


def tokens(advantages: list[float], entropies: list[float]) -> TokenBatch:
    """Return one sequence."""
    own = torch.tensor([entropies], dtype=torch.float64)
    mask = torch.ones_like(own, dtype=torch.bool)
    return TokenBatch(
        logprobs=-own,
        old_logprobs=-own,
        advantages=torch.tensor([advantages], dtype=torch.float64),
        mask=mask,
        rehearsal_mask=~mask,
        origin=torch.zeros(1, dtype=torch.long),
        entropies=own,
    )


def shaped(batch: TokenBatch, **options: float) -> tuple[Tensor, dict[str, float]]:
    control = build_control("entropy_advantage", options)
    assert control.apply is not None
    terms, stats = control.apply(initial_terms(batch), batch, {}, {})
    return terms.advantages, {name: float(pair[0] / pair[1]) for name, pair in stats.items()}


def test_the_bonus_is_alpha_times_the_entropy_up_to_a_share_of_the_advantage():
    # 0.4 x 1 = 0.4; 0.4 x 2 = 0.8, but at most 1 / 2; -1 + 0.4; -1 + 1/2; 0 stays 0
    advantages, stats = shaped(tokens([1.0, 1.0, -1.0, -1.0, 0.0], [1.0, 2.0, 1.0, 2.0, 2.0]))
    assert advantages.tolist() == [pytest.approx([1.4, 1.5, -0.6, -0.5, 0.0])]
    assert stats == pytest.approx({"bonus": (0.4 + 0.5 + 0.4 + 0.5) / 5, "limited_fraction": 3 / 5})


def test_above_one_kappa_keeps_every_sign_and_at_one_wrong_answers_lose_their_uncertain_tokens():
    batch = tokens([-1.0, -0.2], [1.0, 1.0])
    assert (shaped(batch, kappa=1.01)[0] < 0).all()
    # 0.4 < 1: -0.6 is left; 0.4 >= 0.2: nothing is left of the second
    assert shaped(batch, kappa=1.0)[0].tolist() == [pytest.approx([-0.6, 0.0])]
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        entropy_advantage.Config(kappa=0.9)


def test_the_bonus_never_accumulates_over_the_updates_of_a_rollout():
    batch, table, taken = toy.facts(), toy.logits(8, 7), toy.actions(8, 7)
    objective = toy.objective(chain(build_control("entropy_advantage", {})))
    before = batch.advantages.clone()
    first, second = (toy.loss_and_gradient(objective, batch, table, taken)[1] for _ in range(2))
    assert (first == second).all()
    assert (batch.advantages == before).all()


def test_the_bonus_carries_no_gradient():
    batch = tokens([1.0], [1.0])
    assert batch.entropies is not None
    control = build_control("entropy_advantage", {})
    assert control.apply is not None
    live = replace(batch, entropies=batch.entropies.requires_grad_())
    assert not control.apply(initial_terms(live), live, {}, {})[0].advantages.requires_grad


def test_an_alpha_of_zero_is_said_to_do_nothing():
    assert build_control("entropy_advantage", {"alpha": 0.0}).idle == "alpha is 0"
