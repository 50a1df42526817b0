"""Top-entropy selection: worked examples, and how it counts and averages."""

import math

import pytest
import torch

from rlvr.batch import TokenBatch
from rlvr.entropy import top_entropy
from rlvr.entropy.control import DROP, chain, kept_tokens
from tests.entropy import toy


def two_rows() -> TokenBatch:
    """Return a long row of low entropies and a short one of high entropies; ratio 1, advantages 1 and -2."""
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    logprobs = torch.full((2, 4), -1.0, dtype=torch.float64)
    return TokenBatch(
        logprobs=logprobs,
        old_logprobs=logprobs,
        advantages=torch.tensor([[1.0], [-2.0]], dtype=torch.float64).expand(2, 4).clone(),
        mask=mask,
        rehearsal_mask=mask & False,
        origin=torch.zeros(2, dtype=torch.long),
        entropies=torch.tensor([[0.1, 0.4, 0.2, 0.3], [1.0, 2.0, 9.0, 9.0]], dtype=torch.float64),
    ).zero_padding()


def loss_of(config: top_entropy.Config) -> tuple[float, torch.Tensor]:
    batch = two_rows()
    objective = toy.objective(chain(top_entropy.build(config)))
    decision = objective.decide(batch, [torch.arange(2)], {"top_entropy": {}}, seed=0)
    loss, _ = objective.loss(batch, decision)
    return loss.item(), decision.marks["top_entropy"]["selected"]


def test_the_highest_entropies_of_the_update_are_selected_and_averaged():
    # ceil(0.5 x 6) = 3 tokens: 2.0, 1.0, 0.4; losses 2, 2, -1; mean 1
    loss, selected = loss_of(top_entropy.Config(fraction=0.5))
    assert selected.tolist() == [[False, True, False, False], [True, True, False, False]]
    assert loss == pytest.approx(1.0)


def test_the_denominator_of_all_tokens_is_that_of_the_unselected_loss():
    # the same three tokens over six
    loss, _ = loss_of(top_entropy.Config(fraction=0.5, denominator="all"))
    assert loss == pytest.approx(0.5)


def test_ranks_within_a_sequence_take_as_large_a_share_of_each():
    # 2 of 4 and 1 of 2: losses -1, -1, 2
    loss, selected = loss_of(top_entropy.Config(fraction=0.5, per="sequence"))
    assert selected.tolist() == [[False, True, False, True], [False, True, False, False]]
    assert loss == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("tokens", "fraction", "count"),
    [
        (55, 0.2, 11),  # 0.2 x 55 is 11.000000000000002 in binary
        (56, 0.2, 12),
        (5, 1e-6, 1),
        (7, 1.0, 7),
        (0, 0.2, 0),
    ],
)
def test_the_count_is_rounded_up_and_at_least_one(tokens, fraction, count):
    mask = (torch.arange(60) < tokens).unsqueeze(0)
    assert top_entropy.select(torch.rand(1, 60), mask, fraction).sum() == count


def test_ties_go_to_the_first_tokens():
    mask = torch.tensor([[False, True, True, True, True]])
    selected = top_entropy.select(torch.ones(1, 5), mask, 0.5)
    assert selected.tolist() == [[False, True, True, False, False]]


def test_entropies_are_those_of_the_current_policy():
    batch, table, taken = toy.facts(), toy.logits(8, 7), toy.actions(8, 7)
    objective = toy.objective(chain(top_entropy.build(top_entropy.Config(fraction=0.3))))
    population = toy.seen(batch, table, taken)
    decision = objective.decide(population, [torch.arange(8)], {"top_entropy": {}}, seed=0)
    kept = kept_tokens(population, decision.marks)
    now = population.entropies
    assert now is not None
    assert not torch.equal(now, batch.old_entropies)
    assert kept.sum() == math.ceil(0.3 * int(batch.mask.sum()))
    assert now[kept].min() > now[population.mask & ~kept].max()
    assert torch.equal(kept, population.mask & ~decision.marks["top_entropy"][DROP])


def test_the_authors_scope_ranks_within_each_micro_batch():
    # one row each: ceil(0.5 x 4) = 2 and ceil(0.5 x 2) = 1
    control = top_entropy.build(top_entropy.Config(fraction=0.5, scope="micro_batch"))
    objective = toy.objective(chain(control))
    parts = [torch.tensor([0]), torch.tensor([1])]
    decision = objective.decide(two_rows(), parts, {"top_entropy": {}}, seed=0)
    selected = decision.marks["top_entropy"]["selected"]
    assert selected.tolist() == [[False, True, False, True], [False, True, False, False]]
