"""ARES: worked examples of windows, buckets, rewards and the dynamic KL, and the form that pays for wrong answers."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch
from rlvr.divergence import k3
from rlvr.entropy import _ares_reward as rule
from rlvr.entropy import ares
from rlvr.entropy._ares_kl import BUCKET
from rlvr.entropy.control import Chain, State, chain, quotient
from rlvr.rollout.rows import token_batch
from tests.entropy import toy
from tests.entropy.generations import generation, grid, permuted, widened

NAN = math.nan


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rewarded(
    rollout: RolloutBatch, state: State | None = None, **options: Any
) -> tuple[Tensor, State, dict[str, float]]:
    """Return rewards, the next state, and the means of the statistics."""
    control = ares.build(ares.Config(**options))
    assert control.reward is not None
    rewards, after, stats = control.reward(rollout, control.init() | (state or {}))
    return rewards, after, {name: quotient(pair) for name, pair in stats.items()}


# ---------------------------------------------------------------------- windows and thresholds


def test_a_window_is_the_mean_of_tokens_that_all_exist():
    entropies = grid([[1.0, 2.0, 3.0, 6.0], [5.0, 7.0]], filling=NAN)
    mask = ~entropies.isnan()
    own, complete = rule.window_means(entropies, mask, 2)
    assert complete.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert own[complete].tolist() == [1.5, 2.5, 4.5, 6.0]
    following, complete = rule.window_means(entropies, mask, 2, ahead=1)
    assert complete.tolist() == [[True, True, False, False], [False] * 4]
    assert following[complete].tolist() == [2.5, 4.5]


def test_a_window_longer_than_the_width_is_never_complete():
    ones = torch.ones(2, 3, dtype=torch.bool)
    for ahead in (0, 1):
        means, complete = rule.window_means(torch.ones(2, 3), ones, 9, ahead=ahead)
        assert means.shape == complete.shape == (2, 3)
        assert not complete.any()


@pytest.mark.parametrize("percentile", [0.0, 30.0, 95.0, 100.0])
def test_a_rows_percentile_is_that_of_its_own_values(percentile):
    values = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    valid = torch.arange(9) < torch.tensor([9, 4, 1, 2, 0]).unsqueeze(-1)
    found = rule.row_percentiles(values.masked_fill(~valid, NAN), valid, percentile)
    for row in range(4):
        expected = values[row, valid[row]].quantile(percentile / 100)
        torch.testing.assert_close(found[row], expected)
    assert found[4].isnan()


def test_the_threshold_is_the_mean_of_the_completions_percentiles():
    # windows of 1; the 95th percentile of two values a < b is a + .95 (b - a): .95, 2.95, 5; mean 2.966
    rollout = generation(
        [0.0] * 4, [[0.0, 1.0], [2.0, 3.0], [5.0], []], rewards=[1.0, 0.0, 0.0, 1.0]
    )
    _, state, stats = rewarded(rollout, window=1)
    assert state["threshold"] == pytest.approx((0.95 + 2.95 + 5) / 3)
    # above it: 3 and 5
    assert stats["windows"] == pytest.approx(2 / 4)


def test_the_threshold_can_follow_slowly():
    rollout = generation([0.0], [[2.0, 2.0]], rewards=[0.0])
    _, state, _ = rewarded(rollout, {"threshold": 1.0}, window=1, threshold_ema=0.75)
    assert state["threshold"] == pytest.approx(0.75 * 1.0 + 0.25 * 2.0)


def test_only_windows_after_chosen_tokens_count():
    ids = torch.tensor([[7, 8, 9], [8, 8, 0]])
    rollout = generation(
        [0.0] * 2, [[1.0, 2.0, 3.0], [4.0, 4.0, 0.0]], rewards=[0.0, 0.0], completion_ids=ids
    )
    _, _, stats = rewarded(rollout, window=1, percentile=0.0)
    # thresholds 1 and 0, mean .5: five windows above it
    assert stats["windows"] == pytest.approx(5 / 2)
    _, _, stats = rewarded(rollout, window=1, percentile=0.0, trigger_tokens=(8, 5))
    assert stats["windows"] == pytest.approx(3 / 2)


# ---------------------------------------------------------------------- buckets


def eight(right: int, entropies: float = 1.0) -> list[tuple[float, list[float]]]:
    return [(float(place < right), [entropies]) for place in range(8)]


def test_buckets_are_those_of_the_paper_with_eight_completions():
    rows = [row for right in (8, 6, 5, 3, 2, 0) for row in eight(right)]
    rollout = generation(
        [0.0] * 48,
        [row[1] for row in rows],
        rewards=[row[0] for row in rows],
        groups=[place // 8 for place in range(48)],
    )
    _, state, stats = rewarded(rollout)
    easy, medium, hard = rule.BUCKETS.values()
    assert state["buckets"] == [easy, easy, medium, medium, hard, hard]
    assert [stats[f"{name}_fraction"] for name in rule.BUCKETS] == pytest.approx([1 / 3] * 3)


def test_rows_without_a_reward_and_tempered_rows_move_no_bucket_and_keep_their_rewards():
    # 1 of 2 is right among those that count: medium; with the others 3 of 4 would be easy
    rollout = generation(
        [0.0] * 5,
        [[1.0], [2.0], [9.0], [9.0], [3.0]],
        rewards=[1.0, 0.0, NAN, 1.0, 1.0],
        groups=[0, 0, 0, 0, 1],
        origin=torch.tensor([Origin.POLICY] * 3 + [Origin.TEMPERED] * 2),
    )
    rewards, state, stats = rewarded(
        rollout, {"target": dict.fromkeys(rule.BUCKETS, 0.0)}, window=1
    )
    assert state["buckets"] == [rule.BUCKETS["medium"]]
    assert stats["medium_fraction"] == 1
    assert rewards[2].isnan()
    assert rewards[3:].tolist() == [1.0, 1.0]
    # nor do they move the threshold: percentiles 1 and 2
    assert state["threshold"] == pytest.approx(1.5)


# ---------------------------------------------------------------------- the paper's reward


def hard_group() -> RolloutBatch:
    """Return four wrong answers with 0, 1, 2 and 3 windows above the threshold."""
    return generation(
        [0.0] * 4,
        [[0.0] * 3, [9.0, 0.0, 0.0], [9.0, 9.0, 0.0], [9.0] * 3],
        rewards=[0.0] * 4,
    )


PAST = {"threshold": 1.0, "target": {"easy": None, "medium": None, "hard": 1.0}}
SLOW = {"window": 1, "threshold_ema": 0.999}


def test_wrong_answers_with_too_few_windows_pay_where_it_is_hard():
    rewards, state, stats = rewarded(hard_group(), PAST, **SLOW)
    # mean N 1.5, variance 1.25, λ = .5 / 1.25 = .4; short of the target 1: by 1, 0, 0, 0
    torch.testing.assert_close(rewards, double(-0.4, 0.0, 0.0, 0.0))
    assert state["target"]["hard"] == pytest.approx(0.9 * 1.0 + 0.1 * 1.5)
    assert stats["entropy_reward"] == pytest.approx(-0.1)
    half, _, _ = rewarded(hard_group(), PAST, **SLOW, reward_coef=0.5)
    torch.testing.assert_close(half, double(-0.2, 0.0, 0.0, 0.0))


def test_wrong_answers_with_too_many_windows_pay_where_it_is_easy():
    past = {"threshold": 1.0, "target": {"easy": 1.0, "medium": None, "hard": None}}
    rewards, _, _ = rewarded(hard_group(), past, **SLOW, easy_from=0.0, medium_from=0.0)
    torch.testing.assert_close(rewards, double(0.0, 0.0, -0.4, -0.8))


def test_nobody_pays_while_a_bucket_is_below_its_target():
    past = {**PAST, "target": dict.fromkeys(rule.BUCKETS, 2.0)}
    rewards, _, _ = rewarded(hard_group(), past, **SLOW)
    assert (rewards == 0).all()


def test_the_first_generation_only_sets_the_targets():
    rewards, state, _ = rewarded(hard_group(), {"threshold": 1.0}, **SLOW)
    assert (rewards == 0).all()
    assert state["target"] == {"easy": None, "medium": None, "hard": 1.5}


def test_with_the_papers_own_target_nobody_ever_pays():
    counts = double(0.0, 3.0, 5.0)
    assert rule.penalty_rate(counts, counts.mean().item()) == 0


def test_a_penalty_is_bounded_where_the_counts_are_all_alike():
    rollout = generation([0.0] * 2, [[9.0], [9.0]], rewards=[0.0, 0.0])
    past = {"threshold": 1.0, "target": dict.fromkeys(rule.BUCKETS, 0.5)}
    # the rate is .5 / 1e-8 where it is not bounded
    options = {**SLOW, "easy_from": 0.0, "medium_from": 0.0}
    assert rewarded(rollout, past, **options)[0].tolist() == [-1.0, -1.0]
    assert rewarded(rollout, past, **options, penalty_max=0.25)[0].tolist() == [-0.25, -0.25]


@pytest.mark.parametrize("seed", range(5))
def test_in_the_sound_form_no_answer_is_rewarded_and_no_right_one_pays(seed):
    rollout = random_generation(seed)
    past = {"target": dict.fromkeys(rule.BUCKETS, 0.4)}
    rewards, _, _ = rewarded(rollout, past, window=2)
    change = rewards - rollout.rewards
    is_right = rollout.rewards == 1
    assert (change[is_right] == 0).all()
    assert (change[~is_right & ~change.isnan()] <= 0).all()
    assert (change < 0).any()


def random_generation(seed: int, **facts: Any) -> RolloutBatch:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 9, (24,), generator=generator)
    entropies = 2 * torch.rand(24, 8, generator=generator, dtype=torch.float64)
    rewards = torch.randint(0, 2, (24,), generator=generator).double()
    rewards[3] = NAN
    statistics = {"top_k_entropy:10": 0.9 * entropies, "top_k_mass:10": 1 - 0.1 * entropies / 2}
    return generation(
        [0.0] * 24,
        [row[:length].tolist() for row, length in zip(entropies, lengths, strict=True)],
        rewards=rewards.tolist(),
        groups=[place // 4 for place in range(24)],
        old_statistics={name: value[:, : int(lengths.max())] for name, value in statistics.items()},
        **facts,
    )


# ---------------------------------------------------------------------- the authors' reward


def test_in_the_authors_form_wrong_answers_always_earn():
    rollout = random_generation(0)
    rewards, _, _ = rewarded(rollout, form="authors", window=2)
    wrong = rollout.rewards == 0
    assert wrong.any()
    # at least half of .6 alpha
    assert (rewards[wrong] >= 0.3 * 0.4).all()


def test_the_authors_targets_are_rounded_and_alpha_follows_what_rounding_leaves():
    statistics = {"top_k_entropy:10": torch.zeros(4, 4), "top_k_mass:10": torch.ones(4, 4)}
    high = grid([[0.0, 9.0, 9.0, 9.0], [0.0, 9.0, 0.0, 0.0], [0.0, 9.0, 9.0, 0.0], [0.0] * 4])
    statistics["top_k_entropy:10"] = high
    rollout = generation(
        [0.0] * 4,
        [[0.0] * 4] * 4,
        rewards=[0.0] * 4,
        groups=[0, 0, 0, 1],
        old_statistics=statistics,
    )
    _, state, stats = rewarded(rollout, {"threshold": 1.0}, form="authors", window=1)
    assert stats["windows"] == pytest.approx(6 / 4)
    # prompts have means 2 and 0, their mean is 1: no distance
    assert state["target"]["hard"] == 1
    assert state["alpha"]["hard"] == 0.5
    second = replace(rollout, group_ids=torch.tensor([0, 1, 2, 3]))
    _, state, _ = rewarded(second, {"threshold": 1.0}, form="authors", window=1)
    # a mean of 1.5 is rounded to the even 2: hard, so alpha grows by .05 x .5
    assert state["target"]["hard"] == 2
    assert state["alpha"]["hard"] == pytest.approx(0.525)
    assert state["alpha"]["easy"] == 0.5


def test_the_authors_count_with_the_threshold_of_the_generation_before():
    rollout = random_generation(1)
    first = rewarded(rollout, form="authors", window=2)
    later = rewarded(rollout, {"threshold": 0.0}, form="authors", window=2)
    assert later[1]["threshold"] == pytest.approx(0.01 * first[1]["threshold"])
    forgets = rewarded(rollout, {"threshold": 0.0}, form="authors", window=2, threshold_ema=0.0)
    assert forgets[1]["threshold"] == first[1]["threshold"]
    assert forgets[2]["windows"] > first[2]["windows"]


def test_the_tail_counts_as_one_token():
    p = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64)
    top = p[:, :2]
    found = rule.with_tail(-(top * top.log()).sum(-1, keepdim=True), top.sum(-1, keepdim=True))
    merged = double(0.5, 0.25, 0.25)
    assert found.item() == pytest.approx(-(merged * merged.log()).sum().item())


@pytest.mark.parametrize(
    ("form", "name", "value"), [("sound", "alpha_rate", 0.1), ("authors", "target_ema", 0.5)]
)
def test_an_option_of_the_other_form_is_refused(form, name, value):
    with pytest.raises(ValueError, match=f"{name} has no effect with form {form}"):
        ares.Config(form=form, **{name: value})


def test_buckets_and_bounds_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"medium_from 0\.9 is above easy_from"):
        ares.Config(medium_from=0.9)
    with pytest.raises(ValueError, match=r"kl_scale_min 2\.0 is above kl_scale_max"):
        ares.Config(kl_scale_min=2.0, kl_scale_max=1.0)


# ---------------------------------------------------------------------- both forms


@pytest.mark.parametrize("form", ["sound", "authors"])
def test_neither_the_order_of_rows_nor_padding_matters(form):
    rollout = random_generation(2)
    past = {"target": dict.fromkeys(rule.BUCKETS, 0.5)}
    rewards, state, stats = rewarded(rollout, past, form=form, window=2)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1)).tolist()
    other, other_state, other_stats = rewarded(permuted(rollout, order), past, form=form, window=2)
    torch.testing.assert_close(other, rewards[order], equal_nan=True)
    assert other_state["buckets"] == state["buckets"]
    assert other_stats == pytest.approx(stats)
    wide, wide_state, wide_stats = rewarded(widened(rollout, 5), past, form=form, window=2)
    torch.testing.assert_close(wide, rewards, equal_nan=True)
    assert wide_state == state
    assert wide_stats == pytest.approx(stats)


@pytest.mark.parametrize("form", ["sound", "authors"])
@pytest.mark.parametrize("rows", [0, 1, 24])
def test_generations_with_nothing_to_count_keep_their_rewards_finite(form, rows):
    rollout = random_generation(3).rows(torch.arange(rows))
    empty = replace(rollout, mask=rollout.mask & False)
    for given in (rollout, empty, replace(empty, rewards=torch.full((rows,), NAN).double())):
        rewards, state, _ = rewarded(given, form=form)
        assert torch.equal(rewards.isnan(), given.rewards.isnan())
        assert json.loads(json.dumps(state, allow_nan=False)) == state


# ---------------------------------------------------------------------- the dynamic KL


def three_groups() -> tuple[RolloutBatch, Chain]:
    """Return an easy, a medium and a hard prompt of two completions, with reference log-probs, after `shape`."""
    old = grid([[-1.0, -2.0], [-1.0], [-2.0, -3.0], [-1.5], [-0.5], [-2.5, -1.0]])
    shift = grid([[0.1, 0.3], [-0.2], [0.4, 0.0], [0.2], [-0.5], [0.6, 0.1]])
    rollout = generation(
        [0.0] * 6,
        [[1.0, 1.0], [1.0], [1.0, 1.0], [1.0], [1.0], [1.0, 1.0]],
        rewards=[1.0, 1.0, 1.0, 0.0, 0.0, 0.0],
        groups=[0, 0, 1, 1, 2, 2],
        old_logprobs=old,
        ref_logprobs=old + shift,
    )
    return rollout, chain(ares.build(ares.Config(kl_coef=0.5)))


def test_the_kl_is_a_mean_over_tokens_times_the_scale_of_their_bucket():
    rollout, controls = three_groups()
    state = controls.init()
    rollout, state, _ = controls.reward(rollout, state)
    rollout, state, _ = controls.shape(rollout, state)
    state["ares"]["kl_scale"] = {"easy": 1.0, "medium": 10.0, "hard": 100.0}
    seen = toy.Seen(rollout.old_logprobs, rollout.old_entropies)
    batch = token_batch(rollout, seen)
    objective = toy.objective(controls)
    decision = objective.decide(batch, [torch.arange(6)], state, 0)
    loss, stats = objective.loss(batch, decision)
    plain, _ = toy.objective().loss(batch, toy.objective().decide(batch, [torch.arange(6)], {}, 0))
    scales = double(1, 1, 10, 10, 100, 100).unsqueeze(-1)
    kl = torch.where(batch.mask, k3(batch.logprobs, batch.ref_logprobs), 0.0)
    torch.testing.assert_close(loss - plain, 0.5 * (scales * kl).sum() / 9)
    # the controller sees means over completions of their means over tokens
    assert quotient(stats["ares/kl_hard"]) == pytest.approx(
        (kl[4, 0] + (kl[5, 0] + kl[5, 1]) / 2).item() / 2
    )


@pytest.mark.parametrize(("form", "pulls"), [("sound", True), ("authors", False)])
def test_a_token_far_from_the_reference_pulls_in_the_sound_form_and_moves_the_controller_by_ten(
    form, pulls
):
    logprobs = double(-9.0).unsqueeze(0).requires_grad_()
    # u = e^8: k3 is 2972 nats
    rollout = generation([0.0], [[1.0]], ref_logprobs=double(-1.0).unsqueeze(0))
    controls = chain(ares.build(ares.Config(form=form, kl_coef=1.0, reward_coef=0.0)))
    objective = toy.objective(controls)
    batch = token_batch(rollout, toy.Seen(logprobs))
    decision = objective.decide(
        token_batch(rollout, toy.Seen(logprobs.detach())), [torch.arange(1)], controls.init(), 0
    )
    loss, stats = objective.loss(batch, decision)
    loss.backward()
    assert quotient(stats["ares/kl_medium"]) == 10
    # the derivative of k3 is 1 - u
    assert logprobs.grad.item() == pytest.approx(1 - math.exp(8) if pulls else 0.0)


def test_the_bucket_is_that_of_the_answers_not_of_the_rewards_made_of_them():
    rollout, controls = three_groups()
    state = controls.init()
    before = rollout
    rollout, state, _ = controls.reward(rollout, state)
    # a control after this one takes the rewards of right answers away
    rollout, _, _ = controls.shape(replace(rollout, rewards=-rollout.rewards), state)
    assert rollout.old_statistics[BUCKET][:, 0].tolist() == [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0]
    assert BUCKET not in before.old_statistics


def test_groups_that_no_reward_has_seen_count_as_medium():
    rollout, controls = three_groups()
    state = controls.init()
    _, state, _ = controls.reward(rollout.rows(torch.arange(2)), state)
    marked, _, _ = controls.shape(rollout, state)
    assert marked.old_statistics[BUCKET][:, 0].tolist() == [-1.0, -1.0, 0.0, 0.0, 0.0, 0.0]


def test_a_bucket_far_from_the_reference_is_held_more_and_one_near_it_less():
    control = ares.build(ares.Config(kl_target=0.01, kl_interval=1))
    assert control.step is not None
    state = control.init()
    for _ in range(200):
        state = control.step(
            state, {"ares/kl_easy": 0.05, "ares/kl_hard": 0.001, "ares/kl_medium": NAN}
        )
    scales = state["kl_scale"]
    assert scales["easy"] > 1 > scales["hard"]
    assert scales["medium"] == 1
    assert state["kl"]["medium"] is None
    # the averaged error is bounded: .2 x .05 a step at most
    assert scales["easy"] <= math.exp(200 * 0.05 * 0.2)


def test_the_controller_waits_in_its_dead_zone_and_between_its_steps():
    config = ares.Config(kl_interval=3, kl_deadzone=0.1)
    state = ares.build(config).init()
    moved = []
    for _ in range(6):
        state = ares.next_kl_scales(state, {"easy": 0.05, "medium": 0.0109}, config)
        moved.append(state["kl_scale"]["easy"])
    assert moved[:2] == [1.0, 1.0]
    assert 1 < moved[2] == moved[3] == moved[4] < moved[5]
    assert state["kl_scale"]["medium"] == 1


def test_off_is_nothing_at_all():
    control = ares.build(ares.OFF)
    assert control.idle is not None
    assert (
        control.reward is control.shape is control.measure is control.apply is control.step is None
    )
    assert not control.needs
    alone = ares.build(ares.Config(kl_coef=0.0))
    assert alone.needs == {"old_entropies"}
    assert alone.measure is None
    authors = ares.build(ares.Config(form="authors", kl_coef=0.0))
    assert authors.old_statistics == {"top_k_entropy:10", "top_k_mass:10"}
    rollout = random_generation(4)
    only_kl, _, _ = rewarded(rollout, reward_coef=0.0)
    torch.testing.assert_close(only_kl, rollout.rewards, equal_nan=True, rtol=0, atol=0)
