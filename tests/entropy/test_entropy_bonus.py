"""The entropy bonus: its worked example, its sign, and whose entropy counts."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rlvr.batch import LossTerms, TokenBatch, initial_terms
from rlvr.entropy import entropy_bonus
from rlvr.entropy.control import build_control, chain
from tests.entropy import toy

LN2 = math.log(2)


def term(entropies: Tensor, batch: TokenBatch, coef: float) -> Tensor:
    """Return what the control adds to the loss of the batch."""
    control = entropy_bonus.build(entropy_bonus.Config(coef=coef))
    batch = replace(batch, entropies=entropies)
    assert control.measure is not None
    assert control.apply is not None
    marks = control.measure(batch, {}, torch.Generator())
    terms, _ = control.apply(initial_terms(batch), batch, marks, {})
    assert isinstance(terms, LossTerms)
    return terms.regularizers["entropy_bonus"]


def test_the_bonus_is_the_mean_entropy_times_the_coefficient():
    batch = toy.facts(2, 3, rehearsal=0)  # lengths 3 and 0
    entropies = torch.tensor([[LN2, 0.0, 2 * LN2], [9.0, 9.0, 9.0]], dtype=torch.float64)
    # -0.1 (ln 2 + 0 + 2 ln 2) / 3 = -0.1 ln 2
    assert term(entropies, batch, 0.1).item() == pytest.approx(-0.1 * LN2)
    assert term(entropies, batch, -0.1).item() == pytest.approx(0.1 * LN2)


def test_rows_of_the_initial_policy_and_masked_tokens_have_no_part_in_the_mean():
    batch = toy.facts(4, 3, rehearsal=1)
    assert batch.entropies is not None
    mask = batch.mask.clone()
    mask[0, 1] = False
    batch = replace(batch, mask=mask)
    elsewhere = torch.where(mask, batch.entropies, 1e9)
    expected = -batch.entropies[mask].mean()
    torch.testing.assert_close(term(elsewhere, batch, 1.0), expected)


def test_the_gradient_raises_the_entropy_and_that_of_a_negative_coefficient_lowers_it():
    batch, table, taken = toy.facts(), toy.logits(8, 7), toy.actions(8, 7)
    still = replace(batch, advantages=torch.zeros_like(batch.advantages))
    mask = batch.mask.unsqueeze(-1)

    def entropy_after(coef: float) -> float:
        objective = toy.objective(chain(build_control("entropy_bonus", {"coef": coef})))
        _, gradient, _, _ = toy.loss_and_gradient(objective, still, table, taken)
        # dL/dz_j = coef p_j (ln p_j + H) / tokens
        log_p = table.log_softmax(-1)
        p = log_p.exp()
        entropy = -(p * log_p).sum(-1, keepdim=True)
        expected = torch.where(mask, coef * p * (log_p + entropy) / batch.mask.sum(), 0.0)
        torch.testing.assert_close(gradient, expected)
        now = toy.look(table - 10 * gradient, taken).entropies
        assert now is not None
        return float(now[batch.mask].mean())

    assert entropy_after(-0.1) < entropy_after(0.0) < entropy_after(0.1)


def test_a_coefficient_of_zero_is_said_to_do_nothing():
    assert build_control("entropy_bonus", {"coef": 0.0}).idle == "coef is 0"
    assert build_control("entropy_bonus", {"coef": -1e-4}).idle is None


def test_every_level_of_the_actuator_is_an_option_the_bonus_takes():
    actuator = entropy_bonus.ACTUATOR
    for value in (actuator.least, actuator.neutral, actuator.most):
        control = build_control("entropy_bonus", dict.fromkeys(actuator.options, value))
        assert (control.idle is not None) == (value == 0)
    assert actuator.least < actuator.neutral < actuator.most
