"""The batch plan: what adds up for any number of processes, and what is said when nothing does."""

import math
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlvr.check.plan import LARGEST_DEFAULT, plan_batches
from rlvr.recipe import Recipe, RecipeError


def recipe(prompts=512, part=32, group=8, size=None, passes=1):
    return Recipe.model_validate(
        {
            "model": {"path": "tiny"},
            "data": {"task": "countdown"},
            "training": {"updates": 1, "micro_batch_size": size},
            "rollout": {
                "prompts_per_rollout": prompts,
                "prompts_per_update": part,
                "group_size": group,
                "passes": passes,
            },
        }
    )


sizes = st.tuples(
    st.integers(1, 24), st.integers(1, 40), st.integers(2, 20), st.integers(1, 3)
)  # updates in a pass, M, G, passes


@given(sizes, st.integers(1, 64), st.none() | st.integers(1, 64))
@settings(deadline=None, max_examples=300)
def test_every_completion_of_a_rollout_is_used_once_a_pass(size, processes, micro_batch):
    updates, part, group, passes = size
    given_recipe = recipe(updates * part, part, group, micro_batch, passes)
    total = part * group
    share = total // processes
    try:
        plan = plan_batches(given_recipe, processes)
    except RecipeError:
        assert total % processes
        return
    trl = plan.trl_arguments()
    batch = trl["per_device_train_batch_size"]
    # a step of TRL's is an update: P G = share x W x updates of a pass
    assert batch == share
    assert updates * part * group == batch * processes * trl["steps_per_generation"]
    assert trl["gradient_accumulation_steps"] == 1
    assert trl["steps_per_generation"] == updates
    assert plan.updates_per_rollout == updates * passes
    assert plan.completions_per_process * processes == updates * part * group
    assert plan.micro_batch_size == min(micro_batch or LARGEST_DEFAULT, share)
    assert (plan.micro_batches - 1) * plan.micro_batch_size < share
    assert plan.micro_batches * plan.micro_batch_size >= share


@given(sizes, st.integers(1, 64))
@settings(deadline=None, max_examples=200)
def test_the_process_counts_that_an_error_names_work(size, processes):
    updates, part, group, _ = size
    assume((part * group) % processes)
    with pytest.raises(RecipeError) as caught:
        plan_batches(recipe(updates * part, part, group), processes)
    message = str(caught.value)
    [counts] = re.findall(r"run on ([\d or]+) processes", message)
    for count in map(int, counts.split(" or ")):
        plan_batches(recipe(updates * part, part, group), count)
    [prompts] = re.findall(r"prompts_per_update to ([\d or]+) \(", message)
    for number in map(int, prompts.split(" or ")):
        plan_batches(recipe(number, number, group), processes)


def test_an_open_micro_batch_has_sixteen_completions_at_most():
    assert plan_batches(recipe(part=32, group=8), 1).micro_batch_size == 16
    assert plan_batches(recipe(prompts=5, part=5, group=2), 1).micro_batch_size == 10
    # 34 completions: 3 passes, of 12, 11 and 11
    plan = plan_batches(recipe(prompts=17, part=17, group=2), 1)
    assert (plan.micro_batch_size, plan.micro_batches) == (16, 3)
    assert "3 micro-batches of up to 16" in plan.describe()


def test_a_published_recipe_on_eight_processes():
    # STEER: P 512, M 32, G 8; a process has 32 x 8 / 8 = 32 completions of an update
    plan = plan_batches(recipe(512, 32, 8, size=8), 8)
    assert plan.trl_arguments() == {
        "num_generations": 8,
        "per_device_train_batch_size": 32,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 16,
        "num_iterations": 1,
    }
    assert plan.updates_per_rollout == 16


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 8])
def test_trl_accepts_the_plan_and_derives_the_same_generation(monkeypatch, tmp_path, processes):
    from trl import GRPOConfig

    plan = plan_batches(recipe(64, 16, 4), processes)
    monkeypatch.setattr(GRPOConfig, "world_size", processes)
    config = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **plan.trl_arguments())
    assert config.generation_batch_size == 64 * 4


def test_epochs_become_whole_rollouts():
    plan = plan_batches(recipe(prompts=512, part=32), 1)
    assert plan.updates(rows=17398, epochs=1) == 17398 // 512 * 16
    assert plan.updates(rows=17398, epochs=10) == 17398 // 512 * 16 * 10
    assert plan.updates(rows=512, epochs=0.1) == 16
    assert plan.rollouts(updates=33) == 3


def test_data_smaller_than_a_rollout_is_refused_with_what_fits():
    plan = plan_batches(recipe(prompts=512, part=32), 1)
    with pytest.raises(RecipeError, match="has 100 prompts; set it to 96"):
        plan.check_rows(100)
    with pytest.raises(RecipeError, match="lower prompts_per_update, which is 32"):
        plan.check_rows(20)
    plan.check_rows(512)


def test_the_plan_says_when_a_rollout_is_used_for_one_update_only():
    assert "the ratio is 1" in plan_batches(recipe(32, 32), 1).describe()
    assert "the ratio is 1" not in plan_batches(recipe(64, 32), 1).describe()


def test_the_description_states_the_numbers():
    text = plan_batches(recipe(512, 32, 8), 8).describe()
    assert "512 prompts x 8 completions = 4096 completions, 512 on each of 8 processes" in text
    assert "16 updates per rollout" in text
    assert "2 micro-batches of 16" in text
    assert all(len(line) < 160 for line in text.splitlines())


def test_prompts_that_cannot_be_cut_are_computed_from_the_common_divisor():
    # 3 prompts x 8 on 16 processes: multiples of 16 / gcd(16, 8) = 2 prompts work
    assert math.gcd(16, 8) == 8
    with pytest.raises(RecipeError, match="prompts_per_update to 2 or 4 "):
        plan_batches(recipe(3, 3, 8), 16)
