"""Advantages, aggregates and divergences: relations, and examples worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr import advantage, aggregate, divergence
from rlvr.entropy import dph

ESTIMATORS = [
    advantage.group_zscore,
    advantage.group_mean,
    advantage.leave_one_out,
    advantage.batch_zscore,
]
groups = torch.arange(4).repeat_interleave(3)


def rewards(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(values=st.lists(st.floats(-3, 3), min_size=12, max_size=12))
def test_advantages_of_a_group_add_up_to_zero(estimator, values):
    sums = estimator(rewards(*values), groups).view(4, 3).sum(-1)
    torch.testing.assert_close(sums, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_group_with_one_outcome_has_advantages_of_exactly_zero(estimator):
    # 0.1 + 0.1 + 0.1 is not 0.3: the mean is rounded
    values = rewards(0.1, 0.1, 0.1, 0.7, 0.7, 0.7, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0)
    result = estimator(values, groups)
    assert (result[:6] == 0).all()
    assert (result[9:] == 0).all()
    assert result[7] > 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_completion_left_out_moves_nobody(estimator):
    without = estimator(rewards(1.0, 0.0, 0.0, 1.0), torch.tensor([0, 0, 1, 1]))
    left_out = estimator(rewards(1.0, 0.0, math.nan, 0.0, 1.0), torch.tensor([0, 0, 0, 1, 1]))
    torch.testing.assert_close(left_out[[0, 1, 3, 4]], without)
    assert left_out[2] == 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_order_of_completions_never_matters(estimator):
    values = rewards(*range(12))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        estimator(values[order], groups[order]), estimator(values, groups)[order]
    )


def test_zscore_divides_by_the_sample_deviation():
    # 1, 0, 0: mean 1/3, deviation sqrt((4 + 1 + 1) / 9 / 2) = sqrt(1/3)
    result = advantage.group_zscore(rewards(1, 0, 0), torch.zeros(3, dtype=torch.long), eps=0.0)
    expected = rewards(2 / 3, -1 / 3, -1 / 3) / math.sqrt(1 / 3)
    torch.testing.assert_close(result, expected)


AGGREGATES = [aggregate.token_mean, aggregate.sequence_mean]


@pytest.mark.parametrize("function", AGGREGATES)
def test_weights_of_a_mean_add_up_to_one(function):
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    rows = torch.ones(3, dtype=torch.bool)
    assert function(mask, rows).sum().item() == pytest.approx(1)
    assert (function(mask, rows)[~mask] == 0).all()


@pytest.mark.parametrize(
    "function",
    [*AGGREGATES, aggregate.sequence_sum, lambda m, r: aggregate.token_budget(m, r, tokens=5)],
)
def test_no_token_is_no_weight(function):
    mask = torch.zeros(2, 3, dtype=torch.bool)
    assert (function(mask, torch.ones(2, dtype=torch.bool)) == 0).all()


def test_an_empty_sequence_counts_where_trl_counts_it():
    mask = torch.tensor([[True, True], [False, False]])
    rows = torch.ones(2, dtype=torch.bool)
    assert aggregate.sequence_mean(mask, rows).sum() == 1
    assert aggregate.sequence_mean(mask, rows, count_empty=True).sum() == 0.5


@given(st.floats(-5, 0), st.floats(-5, 0))
def test_k3_is_never_negative_and_zero_only_at_equality(one, other):
    value = divergence.k3(torch.tensor([[one]]).double(), torch.tensor([[other]]).double())
    assert value >= 0
    if abs(one - other) > 1e-3:
        assert value > 0


@pytest.mark.parametrize("estimator", [divergence.k1, divergence.k3])
def test_estimators_average_to_the_divergence(estimator):
    generator = torch.Generator().manual_seed(0)
    log_p = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(-1)
    log_q = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(-1)
    exact = (log_p.exp() * (log_p - log_q)).sum()
    # the expectation over p, computed exactly
    average = (log_p.exp() * estimator(log_p[None], log_q[None])[0]).sum()
    torch.testing.assert_close(average, exact)


F_DIVERGENCES = {
    "forward": dph.forward,
    "js": dph.js,
    "alpha 0.2": lambda log_u: dph.alpha_divergence(log_u, 0.2),
    "alpha 0.9": lambda log_u: dph.alpha_divergence(log_u, 0.9),
}


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_a_policy_that_has_not_moved_feels_no_force(name):
    log_u = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    value = F_DIVERGENCES[name](log_u).sum()
    value.backward()
    assert value.abs() < 1e-12
    assert log_u.grad is not None
    assert log_u.grad.abs().max() < 1e-12


@pytest.mark.parametrize("name", F_DIVERGENCES)
@given(log_u=st.floats(-4, 4))
def test_f_divergences_are_convex_in_u_and_not_negative(name, log_u):
    f = F_DIVERGENCES[name]
    u = math.exp(log_u)

    def at(value: float) -> float:
        return float(f(torch.tensor([[math.log(value)]], dtype=torch.float64)))

    assert at(u) >= -1e-12
    assert at(u) <= 0.5 * (at(u * 0.9) + at(u * 1.1)) + 1e-12


def test_alpha_tends_to_forward_kl():
    log_u = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    torch.testing.assert_close(
        dph.alpha_divergence(log_u, 1 - 1e-7), dph.forward(log_u), rtol=1e-5, atol=1e-6
    )
