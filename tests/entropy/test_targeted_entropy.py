"""Targeted entropy: its worked example, its force, its stage."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rlvr.batch import TokenBatch, initial_terms
from rlvr.entropy import targeted_entropy
from rlvr.entropy.control import EntropyControl, build_control, chain
from tests.entropy import toy


def four_tokens() -> TokenBatch:
    batch = toy.facts(4, 1, rehearsal=0)
    return replace(batch, mask=torch.ones_like(batch.mask))


def term(
    control: EntropyControl, batch: TokenBatch, entropies: Tensor, parts: list[list[int]]
) -> Tensor:
    """Return the sum of the regularizer over the parts of an update."""
    assert control.measure is not None
    assert control.apply is not None
    population = replace(batch, entropies=entropies.detach())
    marks = control.measure(population, control.init(), torch.Generator())
    total = torch.zeros((), dtype=torch.float64)
    for rows in parts:
        some = torch.tensor(rows)
        part = replace(batch.rows(some), entropies=entropies[some])
        own = {name: mark[some] for name, mark in marks.items()}
        terms, _ = control.apply(initial_terms(part), part, own, control.init())
        total = total + terms.regularizers["targeted_entropy"]
    return total


def test_parts_on_both_sides_of_the_target_pull_the_way_of_the_whole():
    # mean of 0.2, 0.4, 1.0, 2.0 is 0.9: 0.1 |0.9 - 0.6| = 0.03, force 0.1 / 4 on each token
    entropies = torch.tensor([[0.2], [0.4], [1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    control = build_control("targeted_entropy", {"target": 0.6, "coef": 0.1})
    value = term(control, four_tokens(), entropies, [[0], [1, 2], [3]])
    assert value.item() == pytest.approx(0.03)
    (force,) = torch.autograd.grad(value, entropies)
    assert force.flatten().tolist() == pytest.approx([0.025] * 4)


def test_the_force_changes_sign_at_the_target_and_is_zero_on_it():
    entropies = torch.full((4, 1), 0.5, dtype=torch.float64, requires_grad=True)
    forces = []
    for target in (0.4, 0.5, 0.6):
        control = build_control("targeted_entropy", {"target": target, "coef": 1.0})
        value = term(control, four_tokens(), entropies, [[0, 1, 2, 3]])
        assert value.item() == pytest.approx(abs(0.5 - target))
        forces.append(float(torch.autograd.grad(value, entropies)[0].sum()))
    assert forces == pytest.approx([1.0, 0.0, -1.0])


@pytest.mark.parametrize("target", [0.3, 1.2])
def test_alone_it_takes_the_entropy_to_the_target(target):
    batch, table, taken = toy.facts(), toy.logits(8, 7), toy.actions(8, 7)
    still = replace(batch, advantages=torch.zeros_like(batch.advantages))
    options = {"target": target, "coef": 0.1}
    objective = toy.objective(chain(build_control("targeted_entropy", options)))

    def entropy() -> float:
        now = toy.look(table, taken).entropies
        assert now is not None
        return float(now[batch.mask].mean())

    start = entropy()
    for _ in range(150):
        table = table - 20 * toy.loss_and_gradient(objective, still, table, taken)[1]
    assert abs(start - target) > 0.2
    assert entropy() == pytest.approx(target, abs=0.02)


def test_after_its_last_update_it_adds_nothing():
    control = targeted_entropy.build(targeted_entropy.Config(until_update=2))
    batch = toy.facts()
    assert control.measure is not None
    assert control.apply is not None
    assert control.step is not None
    state, present = control.init(), []
    for _ in range(4):
        marks = control.measure(batch, state, torch.Generator())
        terms, _ = control.apply(initial_terms(batch), batch, marks, state)
        present.append("targeted_entropy" in terms.regularizers)
        state = control.step(state, {})
    assert present == [True, True, False, False]


def test_a_coefficient_of_zero_is_said_to_do_nothing():
    assert build_control("targeted_entropy", {"coef": 0.0}).idle == "coef is 0"
