"""Advantages, aggregates and divergences: relations, and examples worked by hand."""

import math
from functools import partial
from itertools import combinations

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
    advantage.pshw,
    partial(advantage.pass_at_k, k=2),
]
EVERY = [*ESTIMATORS, advantage.psr_nsr]
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


@pytest.mark.parametrize("estimator", EVERY)
def test_a_completion_left_out_moves_nobody(estimator):
    without = estimator(rewards(1.0, 0.0, 0.0, 1.0), torch.tensor([0, 0, 1, 1]))
    left_out = estimator(rewards(1.0, 0.0, math.nan, 0.0, 1.0), torch.tensor([0, 0, 0, 1, 1]))
    torch.testing.assert_close(left_out[[0, 1, 3, 4]], without)
    assert left_out[2] == 0


@pytest.mark.parametrize("estimator", EVERY)
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


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_group_of_one_has_an_advantage_of_zero(estimator):
    result = estimator(rewards(1, 0, 0, 1, 0), torch.tensor([0, 1, 1, 1, 2]))
    assert result[[0, 4]].tolist() == [0, 0]
    assert result[3] > 0


@pytest.mark.parametrize("estimator", [e for e in EVERY if e is not advantage.batch_zscore])
def test_a_group_is_what_it_is_alone_whatever_its_size_and_company(estimator):
    sizes = [1, 2, 5, 8]
    values = rewards(1, 1, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1, math.nan, 1, 0, 1)
    ids = torch.arange(4).repeat_interleave(torch.tensor(sizes))
    alone = [estimator(part, torch.full((len(part),), 7)) for part in values.split(sizes)]
    torch.testing.assert_close(estimator(values, ids), torch.cat(alone), rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e is not advantage.pshw])
def test_a_constant_added_to_all_rewards_changes_nothing(estimator):
    values = rewards(0, 1, 1, 1, 0, 0, 0, 1, 0, 1, 1, 0)
    threshold = {"threshold": 3.5} if isinstance(estimator, partial) else {}
    shifted = partial(estimator, **threshold)(values + 3, groups)
    torch.testing.assert_close(shifted, estimator(values, groups))


@given(
    st.lists(st.sampled_from([0.0, 1.0, 0.3]), min_size=12, max_size=12),
    st.floats(-5, 5),
    st.floats(0.1, 10),
)
def test_hardness_depends_on_where_a_reward_lies_between_low_and_high(values, low, width):
    plain = advantage.pshw(rewards(*values), groups)
    moved = advantage.pshw(low + width * rewards(*values), groups, low=low, high=low + width)
    torch.testing.assert_close(moved, plain, rtol=1e-6, atol=1e-9)


def test_the_rarer_the_right_answer_the_more_a_prompt_weighs():
    # 1 of 3: μ = -1/3, weight 1.256 + 0.256 / 3; R - μ = 4/3. 2 of 3: μ = 1/3; R - μ = 2/3
    result = advantage.pshw(rewards(1, 0, 0, 1, 1, 0), groups[:6])
    assert result[0].item() == pytest.approx((1.256 + 0.256 / 3) * 4 / 3)
    assert result[3].item() == pytest.approx((1.256 - 0.256 / 3) * 2 / 3)
    assert result[5].item() == pytest.approx(-(1.256 - 0.256 / 3) * 4 / 3)


@pytest.mark.parametrize("right", range(7))
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_mean_over_all_subsets_of_the_group(right, k):
    values = [1.0] * right + [0.0] * (6 - right)
    earned = {chosen: max(values[i] for i in chosen) for chosen in combinations(range(6), k)}
    mean = sum(earned.values()) / len(earned)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in earned.values()) / len(earned))
    expected = []
    for i in range(6):
        own = [value for chosen, value in earned.items() if i in chosen]
        expected.append((sum(own) / len(own) - mean) / (deviation + 1e-6))
    result = advantage.pass_at_k(rewards(*values), torch.zeros(6, dtype=torch.long), k=k)
    torch.testing.assert_close(result, rewards(*expected), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("n", "right", "k"), [(8, 5, 4), (8, 8, 4), (8, 0, 4), (4, 2, 4), (3, 1, 4)]
)
def test_pass_at_k_of_one_outcome_of_all_subsets_or_of_no_subset_is_exactly_zero(n, right, k):
    values = torch.tensor([1.0] * right + [0.0] * (n - right))
    result = advantage.pass_at_k(values, torch.zeros(n, dtype=torch.long), k=k, eps=0.1)
    assert (result == 0).all()


def test_pass_at_k_of_a_large_group_is_finite_and_keeps_its_signs():
    values = torch.zeros(512)
    values[:7] = 1
    result = advantage.pass_at_k(values, torch.zeros(512, dtype=torch.long), k=256)
    assert torch.isfinite(result).all()
    assert (result[:7] > 0).all()
    assert (result[7:] < 0).all()


def test_a_class_of_weight_zero_is_taken_out_and_a_completion_without_reward_is_not():
    values = rewards(1, 0, math.nan)
    for options, expected in [
        ({}, rewards(0.1, -1, 0)),
        ({"positive": 0.0}, rewards(math.nan, -1, 0)),
        ({"positive": 1.0, "negative": 0.0}, rewards(1, math.nan, 0)),
        ({"threshold": -1.0}, rewards(0.1, 0.1, 0)),
    ]:
        result = advantage.psr_nsr(values, groups[:3], **options)
        torch.testing.assert_close(result, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("estimator", "problem"),
    [
        (partial(advantage.pshw, low=1.0), "low 1.0 is not below high 1.0"),
        (partial(advantage.pass_at_k, k=0), "k is 0"),
        (partial(advantage.psr_nsr, positive=0.0, negative=0.0), "one must be above 0"),
        (partial(advantage.psr_nsr, negative=-1.0), "none below"),
    ],
)
def test_options_without_a_meaning_are_refused(estimator, problem):
    with pytest.raises(ValueError, match=problem):
        estimator(rewards(1, 0), groups[:2])


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


def test_a_budget_takes_tokens_in_the_order_of_rows_and_cuts_the_end_of_the_last():
    # 2 + 0 + 3 tokens and a hole: the fifth and sixth counted are the last row's
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1], [1, 1, 0, 0]]).bool()
    rows = torch.ones(4, dtype=torch.bool)
    weights = aggregate.token_budget(mask, rows, tokens=4)
    assert (4 * weights).int().tolist() == [[1, 1, 0, 0], [0] * 4, [1, 0, 1, 0], [0] * 4]
    assert weights.sum() == 1
    uncut = aggregate.token_budget(mask, rows, tokens=4, cut=False)
    assert (uncut == mask.double() / 4).all()


@given(st.integers(1, 40), st.integers(0, 30))
def test_a_budget_keeps_all_there_is_or_exactly_itself(budget, tokens):
    mask = (torch.arange(40) < tokens).view(5, 8).flip(0)
    weights = aggregate.token_budget(mask, torch.ones(5, dtype=torch.bool), tokens=budget)
    assert int((weights > 0).sum()) == min(budget, tokens)
    assert weights.sum().item() == pytest.approx(min(budget, tokens) / budget)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="tokens is 0"):
        aggregate.token_budget(groups[None] > 0, groups[:1] == 0, tokens=0)


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
