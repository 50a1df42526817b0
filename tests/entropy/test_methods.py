"""One worked example for each method, and the edge that its paper cares about."""

import math
from dataclasses import replace

import pytest
import torch

from rlvr.batch import Origin, RolloutBatch, TokenBatch
from rlvr.entropy import aepo, clip_cov, dph, kl_cov, steer
from rlvr.entropy.control import chain
from rlvr.kernels.naive import logprob_entropy
from rlvr.loss import update_metrics
from tests.entropy import toy


def tokens(logprobs: list[float], advantages: list[float], **facts: list[float]) -> TokenBatch:
    """Return one sequence."""
    own = torch.tensor([logprobs], dtype=torch.float64)
    mask = torch.ones_like(own, dtype=torch.bool)
    made = {name: torch.tensor([values], dtype=torch.float64) for name, values in facts.items()}
    return TokenBatch(
        logprobs=own,
        old_logprobs=made.pop("old_logprobs", own),
        advantages=torch.tensor([advantages], dtype=torch.float64),
        mask=mask,
        rehearsal_mask=~mask,
        origin=torch.zeros(1, dtype=torch.long),
        **made,
    )


def test_covariance_is_centred_over_the_tokens_that_count():
    # means -2 and 0: (-1 + 2)(1 - 0) = 1, (-3 + 2)(-1 - 0) = 1, (-2 + 2)(0 - 0) = 0
    cov = clip_cov.covariance(
        torch.tensor([[-1.0, -3.0, -2.0, -9.0]]),
        torch.tensor([[1.0, -1.0, 0.0, 50.0]]),
        torch.tensor([[True, True, True, False]]),
    )
    assert cov.tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_clip_cov_detaches_at_least_one_token_and_only_candidates():
    assert clip_cov.detached_count(2e-4, 100) == 1
    assert clip_cov.detached_count(2e-4, 20_000) == 4
    candidate = torch.tensor([[True, False, True, True]])
    cov = torch.tensor([[1.0, 9.0, 2.0, 3.0]])
    chosen = clip_cov.pick(candidate, cov, 2, torch.Generator().manual_seed(0))
    assert chosen.sum() == 2
    assert not (chosen & ~candidate).any()
    assert clip_cov.pick(candidate, cov, 99, torch.Generator()).sum() == 3


def test_clip_cov_picks_every_candidate_alike():
    candidate = torch.ones(1, 4, dtype=torch.bool)
    cov = torch.arange(4.0)[None]
    counts = torch.zeros(4)
    for seed in range(400):
        counts += clip_cov.pick(candidate, cov, 1, torch.Generator().manual_seed(seed))[0]
    # 400 draws of 4: 100 each, deviation sqrt(400 x 1/4 x 3/4) = 8.7
    assert (counts - 100).abs().max() < 4 * 8.7


def test_clip_cov_leaves_the_denominator_alone():
    objective = toy.objective(
        chain(clip_cov.build(clip_cov.Config(fraction=0.3, covariance_low=0.0)))
    )
    decision = objective.decide(toy.facts(), [torch.arange(8)], {"clip_cov": {}}, seed=0)
    assert decision.marks["clip_cov"]["detached"].any()
    assert decision.weights.sum().item() == pytest.approx(1)
    assert (decision.weights[decision.marks["clip_cov"]["detached"]] > 0).all()


def test_kl_cov_selects_the_largest_covariances():
    cov = torch.tensor([[0.1, 0.9, -0.5, 0.4]])
    mask = torch.tensor([[True, False, True, True]])
    assert kl_cov.select(cov, mask, 0.5).tolist() == [[False, False, False, True]]
    assert kl_cov.select(cov, mask, 0.7).tolist() == [[True, False, False, True]]
    assert kl_cov.select(cov, mask, 1e-9).sum() == 1


def test_kl_cov_charges_the_distance_to_the_old_policy_where_selected():
    batch = tokens([-1.0, -3.0], [1.0, -1.0], old_logprobs=[-1.5, -2.0])
    objective = toy.objective(chain(kl_cov.build(kl_cov.Config(fraction=1.0, kl_coef=2.0))))
    decision = objective.decide(batch, [torch.arange(1)], {"kl_cov": {}}, seed=0)
    loss, _ = objective.loss(batch, decision)
    # mean of -A r + 2 |log r|: (-e^0.5 + 2 x 0.5 + e^-1 + 2 x 1) / 2, and no clip of e^0.5 > 1.28
    expected = (-math.exp(0.5) + 1 + math.exp(-1) + 2) / 2
    assert loss.item() == pytest.approx(expected)


def test_steer_weighs_the_largest_change_least():
    half = math.log(0.5)
    batch = tokens([half, half, half], [0.0, 1.0, -2.0], old_entropies=[1.0, 1.0, 1.0])
    # Ω = A / .5 x .5 x .5 x (ln .5 + 1) = A x 0.1534; u = 0, 0.1534, 0.3069
    change = steer.entropy_change(batch)
    torch.testing.assert_close(change, torch.tensor([[0.0, 1.0, -2.0]]).double() * 0.5 * (half + 1))
    weights = steer.token_weights(batch, steer.Config(weight_min=0.8))
    # exp(ln(0.8) u / max u): 1, sqrt(0.8), 0.8
    torch.testing.assert_close(weights, torch.tensor([[1.0, math.sqrt(0.8), 0.8]]).double())
    linear = steer.token_weights(
        batch, steer.Config(mapping="linear", weight_min=0.8, weight_max=1.2)
    )
    torch.testing.assert_close(linear, torch.tensor([[1.2, 1.0, 0.8]]).double())


def test_steer_of_a_rate_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"weight_min 1\.5 is above weight_max 1\.0"):
        steer.Config(weight_min=1.5)
    with pytest.raises(ValueError, match="exponential mapping starts at weight 1"):
        steer.Config(weight_max=1.2)


def generation(advantages: list[float], tempered: list[float]) -> RolloutBatch:
    """Return rows of one token; the ids of the completions are 0, 1, 2 ..."""
    count = len(advantages) + len(tempered)
    ids = torch.arange(count).unsqueeze(-1)
    mask = torch.ones_like(ids, dtype=torch.bool)
    origin = [Origin.POLICY] * len(advantages) + [Origin.TEMPERED] * len(tempered)
    return RolloutBatch(
        prompt_ids=ids,
        prompt_mask=mask,
        completion_ids=ids,
        completion_mask=mask,
        mask=mask,
        advantages=torch.tensor(advantages + tempered).unsqueeze(-1),
        rewards=torch.ones(count),
        group_ids=torch.arange(count) // 2,
        origin=torch.tensor(origin),
    )


def shaped(entropy: float, form: str, tempered: list[float]) -> RolloutBatch:
    config = aepo.Config(target=0.5, rows=4, form=form)  # type: ignore[arg-type]
    control = aepo.build(config)
    assert control.shape is not None
    return control.shape(generation([0.5, -0.5, 0.5, -0.5], tempered), {"entropy": entropy})[0]


def test_aepo_adds_its_positives_as_reinforce_rows():
    rows = shaped(0.3, "sound", [0.7, -0.7, 0.7, -0.7])
    assert rows.completion_ids.squeeze(-1).tolist() == [0, 1, 2, 3, 4, 6]
    assert rows.advantages.squeeze(-1).tolist() == [0.5, -0.5, 0.5, -0.5, 1.0, 1.0]


def test_aepo_of_the_authors_gives_up_main_rows_for_them():
    rows = shaped(0.3, "authors", [0.7, -0.7, 0.7, -0.7])
    assert rows.completion_ids.squeeze(-1).tolist() == [4, 6, 2, 3]


@pytest.mark.parametrize("form", ["sound", "authors"])
def test_aepo_goes_on_without_a_positive(form):
    rows = shaped(0.3, form, [-0.7, 0.0])
    assert rows.completion_ids.squeeze(-1).tolist() == [0, 1, 2, 3]


def test_aepo_warms_below_the_target_and_cools_above():
    control = aepo.build(aepo.Config(target=0.5))
    assert control.plan is not None
    assert control.step is not None
    state = control.init()
    for entropy, temperature in ((0.4, 1.2), (0.5, 1.2), (0.6, 0.8)):
        state = control.step(state, {"entropy": entropy, "surprisal": 9.0})
        tempered = control.plan(state).tempered
        assert tempered is not None
        assert tempered.temperature == temperature
    assert control.step(state, {"entropy": math.nan, "surprisal": math.nan}) == state


def test_dph_is_the_mean_over_rehearsal_tokens_and_leaves_the_policy_loss_alone():
    batch = toy.facts()
    table, taken = toy.logits(8, 7), toy.actions(8, 7)
    plain, _, _, _ = toy.loss_and_gradient(toy.objective(), batch, table, taken)
    loss, _, _, _ = toy.loss_and_gradient(
        toy.objective(chain(dph.build(dph.Config(coef=0.5)))), batch, table, taken
    )
    seen = toy.seen(batch, table, taken)
    assert seen.initial_logprobs is not None
    log_u = (seen.logprobs - seen.initial_logprobs)[batch.rehearsal_mask]
    expected = plain + 0.5 * (log_u.exp() - log_u - 1).mean()
    torch.testing.assert_close(loss, expected)


def test_dph_in_its_sound_form_keeps_a_gradient_where_the_authors_value_clamp_takes_it():
    for form, has_gradient in (("sound", True), ("authors", False)):
        config = dph.Config(form=form)  # type: ignore[arg-type]
        logprobs = torch.tensor([[-1.0]], dtype=torch.float64, requires_grad=True)
        initial = torch.tensor([[-5.0]], dtype=torch.float64)  # f = e^4 - 4 - 1 = 49.6 > 10
        dph.rehearsal_divergence(logprobs, initial, config).sum().backward()
        assert logprobs.grad is not None
        assert bool(logprobs.grad.abs() > 0) == has_gradient


def test_a_mark_to_drop_takes_tokens_out_of_the_denominator():
    from rlvr.entropy.control import DROP, EntropyControl

    batch = toy.facts()
    first_row = torch.zeros_like(batch.mask)
    first_row[0] = True
    control = EntropyControl(name="test", measure=lambda *_: {DROP: first_row})
    objective = toy.objective(chain(control))
    decision = objective.decide(batch, [torch.arange(8)], {"test": {}}, seed=0)
    without = replace(batch, mask=batch.mask & ~first_row)
    plain = toy.objective().decide(without, [torch.arange(8)], {}, seed=0)
    assert torch.equal(decision.weights, plain.weights)


def test_tokens_that_the_sampler_drew_from_another_policy_are_weighed_up_to_a_bound():
    # π_old / π_sampler: 0.5, 1, 3, the last bounded by 2; ratio 1, so a token's loss is -A
    sampler = [-1 - math.log(0.5), -1.0, -1 - math.log(3)]
    batch = tokens([-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], sampling_logprobs=sampler)
    objective = toy.objective(correction_max=2.0)
    decision = objective.decide(batch, [torch.arange(1)], {}, seed=0)
    loss, _ = objective.loss(batch, decision)
    assert loss.item() == pytest.approx(-(0.5 + 1 + 2) / 3)
    uncorrected, _ = toy.objective().loss(batch, decision)
    assert uncorrected.item() == pytest.approx(-1)


def test_a_kl_without_a_reference_is_an_error():
    batch = tokens([-1.0], [1.0])
    objective = toy.objective(kl_coef=0.1)
    decision = objective.decide(batch, [torch.arange(1)], {}, seed=0)
    with pytest.raises(ValueError, match="no ref_logprobs"):
        objective.loss(batch, decision)


def test_the_predicted_entropy_change_is_that_of_a_softmax_step():
    """Against the exact change of a small policy-gradient step on every position's logits."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    taken = torch.multinomial(logits.softmax(-1), 1, generator=generator)
    # the likeliest action is the right one; centred for each position, as a group's advantages are
    likeliest, best = logits.softmax(-1).max(-1, keepdim=True)
    advantages = (taken == best).double() - likeliest
    logprobs, entropies = logprob_entropy(logits.unsqueeze(1), taken)
    mask = torch.ones_like(logprobs, dtype=torch.bool)
    batch = TokenBatch(
        logprobs=logprobs,
        old_logprobs=logprobs,
        advantages=advantages,
        mask=mask,
        rehearsal_mask=~mask,
        origin=torch.zeros(4000, dtype=torch.long),
        entropies=entropies,
    )
    objective = toy.objective()
    decision = objective.decide(batch, [torch.arange(4000)], {}, seed=0)
    _, stats = objective.loss(batch, decision)
    means = {name: float(pair[0] / pair[1]) for name, pair in stats.items()}
    step = 1e-3
    predicted = update_metrics(means, step, None)["entropy/predicted_change"]
    onehot = torch.nn.functional.one_hot(taken.squeeze(-1), 5)
    moved = logits + step * advantages * (onehot - logits.softmax(-1))
    _, after = logprob_entropy(moved.unsqueeze(1), taken)
    measured = float((after - entropies).mean())
    assert predicted is not None
    assert abs(measured) > 1e-5
    # the prediction puts the sampled S in place of S - N: equal on average over actions
    assert predicted == pytest.approx(measured, rel=0.1)
