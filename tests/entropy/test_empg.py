"""EMPG: a worked example, and the rows and tokens that stay out of it."""

import math
from dataclasses import replace

import pytest
import torch

from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy import empg
from tests.entropy.generations import generation, permuted, widened

STEPS = torch.tensor([[0, 0, 1], [0, -1, -1]])


def shaped(rollout: RolloutBatch, **options: object) -> RolloutBatch:
    control = empg.build(empg.Config(**options))  # type: ignore[arg-type]
    assert control.shape is not None
    return control.shape(rollout, control.init())[0]


def two_completions() -> RolloutBatch:
    """Return steps of mean entropy 2, 0 and 1."""
    return generation([1.0, -1.0], [[1.0, 3.0, 0.0], [1.0]], segment_ids=STEPS)


def test_a_step_is_scaled_by_its_certainty_and_earns_that_of_the_next():
    # h = 1, 0, 1/2;  e^-h = .3679, 1, .6065 with mean .6581;  g = .5590, 1.5195, .9216
    # A g + .1 f: .5590 + .1 x 1, 1.5195, -.9216; their mean .4190 goes
    e = [math.exp(-1), 1.0, math.exp(-0.5)]
    g = [3 * value / sum(e) for value in e]
    values = [g[0] + 0.1, g[1], -g[2]]
    mean = sum(values) / 3
    a, b, c = (value - mean for value in values)
    found = shaped(two_completions()).advantages
    # 1e-8 in the denominator of h
    torch.testing.assert_close(found[0], torch.tensor([a, a, b]).double(), atol=1e-7, rtol=0)
    assert found[1, 0].item() == pytest.approx(c, abs=1e-7)


def test_what_the_bonus_adds_is_known_without_centring():
    with_bonus = shaped(two_completions(), centre=False, zeta=0.5)
    without = shaped(two_completions(), centre=False, zeta=0.0)
    # only the first step has a next one, and that one is the most certain: f = 1
    mask = two_completions().mask
    difference = (with_bonus.advantages - without.advantages)[mask]
    torch.testing.assert_close(difference, torch.tensor([0.5, 0.5, 0.0, 0.0]).double())


def test_the_scale_alone_keeps_the_mean_size_over_steps():
    rollout = generation([1.0] * 3, [[0.1], [0.9], [0.4]], segment_ids=torch.zeros(3, 1).long())
    found = shaped(rollout, centre=False, zeta=0.0)
    assert found.advantages.mean().item() == pytest.approx(1.0)
    assert found.advantages[0, 0] > found.advantages[2, 0] > found.advantages[1, 0]


def test_a_group_with_one_outcome_is_left_alone_unless_the_paper_is_asked_for():
    rollout = generation(
        [1.0, -1.0, 0.0, 0.0],
        [[1.0, 2.0], [1.5, 1.0], [9.0, 0.0], [0.0, 9.0]],
        groups=[0, 0, 1, 1],
        segment_ids=torch.tensor([[0, 1]] * 4),
    )
    sound = shaped(rollout)
    assert (sound.advantages[2:] == 0).all()
    # its steps move neither minimum, maximum nor mean
    torch.testing.assert_close(
        sound.advantages[:2], shaped(rollout.rows(torch.arange(2))).advantages
    )
    paper = shaped(rollout, uniform_groups="shape", centre=False).advantages
    # row 2: its next step has entropy 0, the least: zeta x 1; row 3: the most, zeta / e
    torch.testing.assert_close(paper[2], torch.tensor([0.1, 0.0]).double())
    torch.testing.assert_close(paper[3, 0].item(), 0.1 * math.exp(-1), atol=1e-7, rtol=0)


def test_a_completion_at_its_groups_mean_still_belongs_to_a_group_that_says_something():
    rollout = generation([1.0, 0.0, -1.0], [[1.0, 0.5]] * 3, segment_ids=torch.tensor([[0, 1]] * 3))
    assert shaped(rollout).advantages[1, 0] != 0


def with_rows_that_take_no_part() -> RolloutBatch:
    """Return the two completions, one of a crashed verifier, one tempered, and an empty one."""
    return generation(
        [1.0, -1.0, 0.0, 1.0, 0.5],
        [[1.0, 3.0, 0.0], [1.0], [7.0, 7.0], [8.0, 0.0], []],
        rewards=[1.0, 0.0, math.nan, 1.0, 1.0],
        origin=torch.tensor([Origin.POLICY] * 3 + [Origin.TEMPERED, Origin.POLICY]),
        segment_ids=torch.tensor([*STEPS.tolist(), [0, 1, -1], [0, 1, -1], [-1, -1, -1]]),
    )


def test_rows_without_a_reward_tempered_rows_and_empty_ones_take_no_part():
    rollout = with_rows_that_take_no_part()
    found = shaped(rollout)
    expected = shaped(two_completions()).advantages
    mask = two_completions().mask
    torch.testing.assert_close(found.advantages[:2][mask], expected[mask])
    assert torch.equal(found.advantages[2:], rollout.advantages[2:])


def test_masked_tokens_are_no_part_of_a_step():
    rollout = two_completions()
    mask = rollout.mask.clone()
    mask[0, 1] = False  # the step's mean entropy is then 1, not 2
    torch.testing.assert_close(
        empg.find_steps(STEPS, mask).means(rollout.old_entropies),
        torch.tensor([1.0, 0.0, 1.0]).double(),
    )
    assert shaped(replace(rollout, mask=mask)).advantages[0, 1] == 1.0


def test_neither_the_order_of_rows_nor_padding_matters():
    rollout = with_rows_that_take_no_part()
    found = shaped(rollout).advantages
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(shaped(permuted(rollout, order)).advantages, found[order])
    wide = shaped(widened(rollout, 2))
    mask = rollout.mask
    assert torch.equal(wide.advantages[:, :3][mask], found[mask])


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_steps_are_finite(rows):
    rollout = two_completions().rows(torch.arange(rows))
    for alone in (rollout, replace(rollout, mask=rollout.mask & False)):
        found = shaped(alone, uniform_groups="shape")
        assert found.advantages[alone.mask].isfinite().all()


def test_off_changes_nothing_and_says_so():
    control = empg.build(empg.OFF)
    assert control.idle is not None
    assert control.shape is not None
    rollout = two_completions()
    assert control.shape(rollout, {})[0] is rollout
    assert empg.build(empg.Config(k=0.0)).idle is None


def test_it_asks_for_steps_with_its_separator():
    plan = empg.build(empg.Config(step_separator="Step")).plan
    assert plan is not None
    assert plan({}).step_separator == "Step"


def test_without_steps_is_an_error():
    with pytest.raises(ValueError, match="segment_ids"):
        shaped(replace(two_completions(), segment_ids=None))
