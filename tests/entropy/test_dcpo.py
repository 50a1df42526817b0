"""DCPO: a worked example, and the updates in which it has nothing to reinforce."""

import json
import math
from dataclasses import replace

import pytest
import torch

from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy import dcpo
from rlvr.kernels.statistics import of_logits
from tests.entropy.generations import generation, grid, permuted, widened

NAN = math.nan


def four(**facts: object) -> RolloutBatch:
    """Return a right row and three wrong ones; π^T / π is 2 then 4 at T = 1.2, 1/2 then 1/4 at T = 0.8."""
    step = math.log(2)
    old = grid([[-3.0, -4.0], [-1.0], [-1.0], [-1.0, -2.0]])
    by = torch.tensor([[step, 2 * step]], dtype=torch.float64)
    given = {
        "old_logprobs": old,
        "old_statistics": {"tempered_logprob:1.2": old + by, "tempered_logprob:0.8": old - by},
    }
    return generation(
        [1.5, -0.5, -0.5, -0.5],
        [[0.0, 0.0], [0.0], [0.0], [0.0, 0.0]],
        rewards=[1.0, 0.0, 0.0, 0.0],
        **(given | facts),
    )


def shaped(rollout: RolloutBatch, entropy: float, **options: object) -> RolloutBatch:
    control = dcpo.build(dcpo.Config(**options))  # type: ignore[arg-type]
    assert control.shape is not None
    return control.shape(rollout, {"entropy": entropy})[0]


def test_right_rows_are_mixed_with_their_weight_at_the_other_temperature():
    # one of four is right, |.5 - .45| = .05: b = .05 / .25 = .2, a = .2 / 1.2 = 1/6
    low = shaped(four(), 0.45).advantages
    expected = [5 / 6 * 1.5 + 2 / 6, 5 / 6 * 1.5 + 4 / 6]
    torch.testing.assert_close(low[0], torch.tensor(expected, dtype=torch.float64))
    # wrong rows are scaled: three of them stay opposite to the policy gradient part of the right one
    torch.testing.assert_close(low[3], torch.full((2,), -0.5 * 5 / 6, dtype=torch.float64))
    high = shaped(four(), 0.55).advantages
    expected = [5 / 6 * 1.5 + 1 / 12, 5 / 6 * 1.5 + 1 / 24]
    torch.testing.assert_close(high[0], torch.tensor(expected, dtype=torch.float64))


def test_the_distance_to_the_target_is_bounded():
    # b = .1 / .25 = .4, a = .4 / 1.4 = 2/7, however far the entropy is
    for entropy in (0.0, 0.4):
        found = shaped(four(), entropy).advantages[3, 0].item()
        assert found == pytest.approx(-0.5 * 5 / 7)
    assert shaped(four(), 0.0, gap_max=0.2).advantages[3, 0].item() == pytest.approx(-0.5 / 1.8)


def test_at_the_target_nothing_changes():
    rollout = four()
    assert torch.equal(shaped(rollout, 0.5).advantages, rollout.advantages)


@pytest.mark.parametrize("form", ["sound", "authors"])
@pytest.mark.parametrize("rewards", [[0.0] * 4, [0.05] * 4, [NAN] * 4], ids=str)
def test_without_a_right_row_nothing_changes(form, rewards):
    rollout = replace(four(), rewards=torch.tensor(rewards, dtype=torch.float64))
    assert torch.equal(shaped(rollout, 0.0, form=form).advantages, rollout.advantages)


def test_tempered_rows_and_rows_without_a_reward_stay_as_they_are_and_are_not_counted():
    origin = torch.tensor([Origin.POLICY] * 3 + [Origin.TEMPERED])
    rewards = torch.tensor([1.0, 0.0, NAN, 1.0], dtype=torch.float64)
    found = shaped(replace(four(), origin=origin, rewards=rewards), 0.45)
    # one of two is right: b = .05 / .5 = .1, a = 1/11
    assert found.advantages[0, 0].item() == pytest.approx(10 / 11 * 1.5 + 2 / 11)
    assert found.advantages[1, 0].item() == pytest.approx(-0.5 * 10 / 11)
    assert torch.equal(found.advantages[2:], four().advantages[2:])


def test_neither_the_order_of_rows_nor_padding_matters():
    found = shaped(four(), 0.3).advantages
    order = [2, 0, 3, 1]
    torch.testing.assert_close(shaped(permuted(four(), order), 0.3).advantages, found[order])
    mask = four().mask
    wide = shaped(widened(four(), 3), 0.3).advantages
    assert torch.equal(wide[:, :2][mask], found[mask])


def test_the_weight_raises_rare_answers_above_the_target_temperature_and_lowers_them_below():
    # right answers of probability .8 and .1 of three: π^T / π at T = 1.2 favours the second
    logits = torch.tensor([[0.8, 0.1, 0.1]]).log().expand(2, 3)
    for temperature in (1.2, 0.8):
        name = f"tempered_logprob:{temperature}"
        tempered = of_logits(logits, torch.tensor([0, 1]), [name])[name].exp()
        weights = tempered / torch.tensor([0.8, 0.1])
        assert bool(weights[1] > 1 > weights[0]) == (temperature > 1)


def test_the_forms_regulate_entropy_and_surprisal():
    stats = {"entropy": 0.3, "surprisal": 0.4}
    for form, measured in (("sound", 0.3), ("authors", 0.4)):
        control = dcpo.build(dcpo.Config(form=form))  # type: ignore[arg-type]
        assert control.step is not None
        state = control.step(control.init(), stats)
        assert state == {"entropy": measured}
        assert json.loads(json.dumps(state)) == state
        assert control.step(state, {"entropy": NAN, "surprisal": NAN}) == state
        assert control.step(state, {}) == state


def test_it_asks_for_both_temperatures_unless_it_is_off():
    control = dcpo.build(dcpo.Config(temperature_high=1.5))
    assert control.old_statistics == {"tempered_logprob:1.5", "tempered_logprob:0.8"}
    off = dcpo.build(dcpo.OFF)
    assert not off.old_statistics
    assert not off.needs
    assert off.idle is not None
