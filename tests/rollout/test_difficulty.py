"""Prompts are remembered by what became of them, chosen by it, and none is lost."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rollout.difficulty import (
    DIFFICULTY,
    Memory,
    prompt_id,
    read_memory,
    write_memory,
)
from rlvr.rollout.dynamic import DynamicSampling, Supply
from rlvr.rollout.prompts import PromptSource
from rlvr.rollout.stream import prompt_stream
from tests.rollout import scripted
from tests.rollout.scripted import FILTER, GROUP, PROMPTS, difficulty


def knowing(rates: list[float], judged: float = 8.0) -> Memory:
    """Return a memory of one visit each; NaN: never judged."""
    known = torch.tensor(rates, dtype=torch.float64)
    seen = ~known.isnan()
    blank = Memory.blank(len(rates))
    return replace(
        blank, right=known.nan_to_num() * judged, judged=seen * judged, visits=seen.long()
    )


def test_counts_fade_with_each_visit_and_not_in_between():
    memory = Memory.blank(3)
    right, judged = torch.tensor([4, 1]), torch.tensor([4, 4])
    memory = memory.after([2, 0], right, judged, keep=0.5)
    memory = memory.after([0], torch.tensor([4]), torch.tensor([4]), keep=0.5)
    assert memory.right.tolist() == [4.5, 0.0, 4.0]  # 1 / 2 + 4, never seen, 4
    assert memory.judged.tolist() == [6.0, 0.0, 4.0]
    assert memory.visits.tolist() == [2, 0, 1]
    assert memory.last.tolist() == [3, 0, 2]
    assert memory.clock == 3
    assert memory.pass_rates.isnan().tolist() == [False, True, False]


def test_a_visit_of_which_nothing_was_judged_teaches_nothing():
    memory = knowing([0.25])
    after = memory.after([0], torch.tensor([0]), torch.tensor([0]), keep=0.5)
    assert after.pass_rates.item() == 0.25
    assert after.visits.item() == 1
    assert after.clock == 1


visits = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8)), max_size=40)


@given(visits, st.sampled_from([0.0, 0.5, 1.0]))
def test_a_memory_of_0_knows_the_last_visit_and_one_of_1_all_of_them(seen, keep):
    memory = Memory.blank(5)
    for row, right in seen:
        memory = memory.after([row], torch.tensor([right]), torch.tensor([8]), keep=keep)
    for row in {row for row, _ in seen}:
        own = [right / 8 for number, right in seen if number == row]
        powers = [keep ** (len(own) - 1 - i) for i in range(len(own))]
        expected = sum(p * w for p, w in zip(own, powers, strict=True)) / sum(powers)
        assert memory.pass_rates[row].item() == pytest.approx(expected)


@given(st.integers(1, 20), st.integers(0, 100), st.integers(0, 5))
def test_a_memory_that_neither_filters_nor_weights_leaves_the_stream_as_it_is(rows, start, seed):
    plain = PromptSource(rows, seed)
    remembering = PromptSource(rows, seed, difficulty(rows))
    memory = knowing([0.5] * rows)
    expected = prompt_stream(rows, rows, seed, start=start)
    for source in (plain, remembering):
        found = source.take(rows, start, memory)
        assert (found.numbers, found.position) == (expected, start + rows)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 5))
def test_a_filter_that_leaves_nothing_out_is_the_stream(batches, count, seed):
    rows = batches * count
    options = difficulty(rows, min_pass_rate=0.1, max_pass_rate=0.9)
    source, memory = PromptSource(rows, seed, options), knowing([0.5] * rows)
    position, numbers = 0, []
    for _ in range(3 * batches):
        found = source.take(count, position, memory)
        numbers += found.numbers
        position = found.position
    assert numbers == prompt_stream(rows, 3 * rows, seed)
    assert position == 3 * rows


def test_a_filter_passes_over_what_is_outside_the_range_and_keeps_the_order_of_the_rest():
    rates = [0.0, 0.125, 0.5, 0.875, 1.0, float("nan")] * 4
    source = PromptSource(24, 7, difficulty(24, min_pass_rate=0.125, max_pass_rate=0.875))
    inside = [row for row in prompt_stream(24, 24, 7) if row % 6 not in (0, 4)]
    found = source.take(16, 0, knowing(rates))
    assert found.numbers == inside  # the bounds belong to the range, and so does what is not known
    assert (found.revisited, found.stand_ins) == (0, 0)


def test_a_prompt_is_not_left_out_before_it_was_visited_often_enough():
    options = difficulty(4, max_pass_rate=0.9, min_visits=2)
    memory = replace(knowing([1.0] * 4), visits=torch.tensor([1, 2, 1, 3]))
    found = PromptSource(4, 0, options).take(2, 0, memory)
    assert sorted(found.numbers) == [0, 2]


def test_where_too_few_are_in_the_range_the_closest_to_it_stand_in():
    rates = [0.0, 0.25, 0.5, 0.75, 0.9, 1.0]
    source = PromptSource(6, 3, difficulty(6, min_pass_rate=0.4, max_pass_rate=0.6))
    found = source.take(4, 5, knowing(rates))
    assert found.numbers[0] == 2
    # 0.15 away: both 0.25 and 0.75; then 0.9, 0.3 away
    assert sorted(found.numbers[1:3]) == [1, 3]
    assert found.numbers[3] == 4
    assert found.stand_ins == 3


@given(
    st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0, float("nan")]), min_size=1, max_size=20),
    st.sampled_from([None, 0.05]),
    st.data(),
)
def test_a_rollout_always_has_its_size_and_no_prompt_twice(rates, floor, data):
    rows = len(rates)
    options = difficulty(rows, min_pass_rate=0.2, max_pass_rate=0.8, weight_floor=floor)
    count = data.draw(st.integers(1, rows))
    before = data.draw(st.sets(st.integers(0, rows - 1)))
    position = data.draw(st.integers(0, 5 * rows))
    found = PromptSource(rows, 1, options).take(count, position, knowing(rates), before)
    assert len(set(found.numbers)) == len(found.numbers) == count
    assert found.position > position
    if rows - len(before) >= count:
        assert not before & set(found.numbers)


def test_what_was_left_out_is_looked_at_again_and_costs_its_share_at_most():
    rows, count, revisit_after = 60, 5, 3.0
    options = difficulty(rows, min_pass_rate=0.1, max_pass_rate=0.9, revisit_after=revisit_after)
    source, memory, position = PromptSource(rows, 0, options), options.start, 0
    rates = torch.tensor([0, 4, 8]).repeat(20)  # a third each: too hard, right, too easy
    sampled: list[list[int]] = []
    revisited = 0
    for _ in range(400):
        found = source.take(count, position, memory)
        position = found.position
        judged = torch.full((count,), 8)
        memory = memory.after(found.numbers, rates[found.numbers], judged, keep=0.5)
        sampled.append(found.numbers)
        revisited += found.revisited
        assert found.stand_ins == 0
    first = {row for numbers in sampled[: rows // count] for row in numbers}
    assert first == set(range(rows))
    later = Counter(row for numbers in sampled[rows // count :] for row in numbers)
    assert set(later) == set(range(rows))  # none is lost
    outside = sum(later[row] for row in range(rows) if rates[row] != 4)
    assert outside == revisited > 0
    assert outside / sum(later.values()) <= 1 / revisit_after
    for row in range(0, rows, 3):  # too hard
        at = [count * i for i, numbers in enumerate(sampled) if row in numbers]
        assert all(b - a >= revisit_after * rows for a, b in pairwise(at))


def test_prompts_are_drawn_in_proportion_to_their_weights():
    rates = [0.0, 0.25, 0.5, 1.0, float("nan")]
    options = difficulty(5, weight_floor=0.05)
    weights = torch.tensor([0.05, 0.2375, 0.3, 0.05, 0.3], dtype=torch.float64)
    memory = knowing(rates)
    torch.testing.assert_close(options.weights(memory), weights)
    source, draws = PromptSource(5, 11, options), 8_000
    pairs = [source.take(2, place, memory).numbers for place in range(draws)]
    shares = weights / weights.sum()
    first = torch.bincount(torch.tensor([pair[0] for pair in pairs])) / draws
    # five standard deviations of a share of so many draws
    torch.testing.assert_close(first.double(), shares, rtol=0, atol=5 * (0.25 / draws) ** 0.5)
    after_2 = torch.tensor([second for one, second in pairs if one == 2])
    rest = shares.clone().index_fill(0, torch.tensor(2), 0.0)
    found = torch.bincount(after_2, minlength=5) / len(after_2)
    bound = 5 * (0.25 / len(after_2)) ** 0.5
    torch.testing.assert_close(found.double(), rest / rest.sum(), rtol=0, atol=bound)


def test_a_weighted_drawing_may_be_filtered():
    rates = [0.0, 0.5, 1.0] * 10
    options = difficulty(30, min_pass_rate=0.1, max_pass_rate=0.9, weight_floor=0.05)
    found = PromptSource(30, 0, options).take(12, 0, knowing(rates))
    assert sorted(found.numbers[:10]) == list(range(1, 30, 3))
    assert found.stand_ins == 2


def test_a_memory_survives_a_checkpoint_and_is_refused_by_other_data(tmp_path):
    memory = knowing([1 / 3, float("nan"), 0.7]).after(
        [0, 2], torch.tensor([1, 2]), torch.tensor([3, 7]), keep=0.3
    )
    supply = Supply(17, memory=memory)
    saved = json.loads(json.dumps(supply.save(tmp_path)))
    again = Supply.load(saved, tmp_path, rows=3)
    assert again.position == 17
    for name, value in vars(memory).items():
        assert torch.equal(torch.as_tensor(getattr(again.memory, name)), torch.as_tensor(value))
    with pytest.raises(ValueError, match="remembers 3 prompts, but the data has 4"):
        Supply.load(saved, tmp_path, rows=4)
    (tmp_path / "difficulty.pt").unlink()
    with pytest.raises(ValueError, match=r"has no difficulty\.pt"):
        Supply.load(saved, tmp_path, rows=3)


ROWS = [
    {"prompt": "1+1="},
    {"prompt": [{"role": "user", "content": "ü" * 300}]},
    {"prompt": "3+3="},
    {"prompt": "4+4="},
]


def test_the_file_tells_a_later_run_by_the_prompts_what_is_known_of_them(tmp_path):
    memory = knowing([0.25, 1 / 3, float("nan"), 1.0])
    write_memory(memory, ROWS, tmp_path / DIFFICULTY)
    lines = [json.loads(line) for line in (tmp_path / DIFFICULTY).read_text().splitlines()]
    assert [(line["row"], line["pass_rate"], line["visits"]) for line in lines] == [
        *((0, 0.25, 1), (1, 0.3333, 1), (3, 1.0, 1))
    ]
    assert lines[0]["prompt"] == "1+1="
    assert len(lines[1]["prompt"]) < 130
    others = [ROWS[3], {"prompt": "new"}, ROWS[1]]
    for place in (tmp_path, tmp_path / DIFFICULTY):
        found = read_memory(place, others)
        assert found.visits.tolist() == [1, 0, 1]
        assert found.right.tolist() == [8.0, 0.0, memory.right[1].item()]  # not rounded
        assert (found.clock, found.last.tolist()) == (0, [0, 0, 0])
    assert [path.name for path in tmp_path.iterdir()] == [DIFFICULTY]


def test_a_file_that_says_nothing_of_the_prompts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no pass rates at"):
        read_memory(tmp_path, ROWS)
    path = tmp_path / DIFFICULTY
    good = {"prompt_id": prompt_id(ROWS[0]), "right": 1.0, "judged": 2.0, "visits": 1}
    path.write_text(json.dumps(good) + "\n" + json.dumps({"prompt_id": "x"}) + "\n")
    with pytest.raises(ValueError, match=r"difficulty\.jsonl:2 .*'right'"):
        read_memory(path, ROWS)
    path.write_text(json.dumps(good | {"prompt_id": "x"}) + "\n")
    with pytest.raises(ValueError, match="none of the 4 prompts"):
        read_memory(path, ROWS)


# ---------------------------------------------------------------------- in a rollout


def test_a_filter_takes_what_teaches_nothing_out_of_later_rollouts(tmp_path):
    data = list(range(16))  # half of them teach nothing: rules 0 and 1 of tests/rollout/scripted.py
    made = scripted.roller(tmp_path, data, None, difficulty=difficulty(16, **FILTER))
    first, later = scripted.generations(made, 8)[:4], scripted.generations(made, 8)[4:]
    seen = sorted(row for found in first for row in scripted.sources(found.rows))
    assert seen == data
    assert first[0].stats["difficulty/too_easy_fraction"] == 0
    for found in later:
        assert all(row % 4 >= 2 for row in scripted.sources(found.rows))
        assert (found.rows.advantages[:, 0] != 0).all()
        assert found.stats["difficulty/too_easy_fraction"] == 0.25
        assert found.stats["difficulty/too_hard_fraction"] == 0.25
        assert found.stats["difficulty/prompts_seen"] == 16
        assert found.stats["difficulty/pass_rate"] == 0.5  # 4 x 1, 4 x 0, 8 x 1/2


def test_with_dynamic_sampling_a_filter_saves_the_refills(tmp_path):
    data = list(range(32))
    dynamic = DynamicSampling(5, keep_leftovers=True)
    plain = scripted.generations(scripted.roller(tmp_path, data, dynamic), 12)
    filtering = difficulty(32, **FILTER)
    filtered = scripted.generations(
        scripted.roller(tmp_path, data, dynamic, difficulty=filtering), 12
    )
    consumed = [
        sum(found.stats["rollout/prompts_consumed"] for found in run[-5:])
        for run in (plain, filtered)
    ]
    assert consumed[1] == 5 * PROMPTS < consumed[0]
    for found in filtered:
        assert (found.rows.advantages[:, 0] != 0).all()


def test_every_sampled_group_is_remembered_once_whether_it_is_trained_on_or_not(tmp_path):
    data = list(range(32))
    dynamic = DynamicSampling(5, keep_leftovers=True)
    made = scripted.roller(tmp_path, data, dynamic, difficulty=difficulty(32))
    consumed = 0
    for found in scripted.generations(made, 5):
        consumed += int(found.stats["rollout/prompts_consumed"])
        memory = found.supply.memory
        assert memory.clock == memory.visits.sum() == consumed
        taken = Counter(prompt_stream(32, consumed, scripted.SEED))
        assert memory.visits.tolist() == [taken[row] for row in range(32)]
        known = memory.visits > 0
        rates = torch.tensor([1.0, 0.0, 0.5, 0.5], dtype=torch.float64).repeat(8)
        assert torch.equal(memory.pass_rates[known], rates[known])


def test_a_rollout_that_stopped_between_two_goes_on_as_if_it_had_not(tmp_path):
    data = list(range(16))
    for options in (FILTER, {"weight_floor": 0.05}, FILTER | {"weight_floor": 0.05}):
        made = scripted.roller(
            tmp_path, data, None, difficulty=difficulty(16, revisit_after=1.0, **options)
        )
        whole = scripted.generations(made, 12)
        for stop in (3, 7):
            saved = whole[stop].supply.save(tmp_path)
            supply = Supply.load(saved, tmp_path, rows=16)
            next_one = made.generation(stop + 1, {}, supply)
            assert scripted.sources(next_one.rows) == scripted.sources(whole[stop + 1].rows)
            assert next_one.stats["difficulty/pass_rate"] == pytest.approx(
                whole[stop + 1].stats["difficulty/pass_rate"], abs=0
            )


def test_too_few_prompts_in_the_range_are_said_once(tmp_path, caplog):
    data = [0, 1, 4, 5, 8, 9]  # none of them teaches
    made = scripted.roller(tmp_path, data, None, difficulty=difficulty(6, **FILTER))
    with caplog.at_level("WARNING", logger="rlvr"):
        found = scripted.generations(made, 5)
    assert [item.stats["difficulty/stand_ins"] for item in found[2:]] == [PROMPTS] * 3
    [message] = [r.getMessage() for r in caplog.records if "pass_rate" in r.getMessage()]
    assert "the closest to it stand in" in message


def test_the_file_is_written_with_what_the_supply_remembers(tmp_path):
    made = scripted.roller(tmp_path, list(range(16)), None, difficulty=difficulty(16))
    last = scripted.generations(made, 2)[-1]
    made.write_difficulty(last.supply)
    lines = (tmp_path / DIFFICULTY).read_text().splitlines()
    assert len(lines) == 2 * PROMPTS
    assert {json.loads(line)["judged"] for line in lines} == {float(GROUP)}
    again = read_memory(tmp_path, made.rows)
    assert torch.equal(again.right, last.supply.memory.right)


def test_a_file_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    made = scripted.roller(tmp_path, list(range(16)), None, difficulty=difficulty(16))
    [last] = scripted.generations(made, 1)
    (tmp_path / DIFFICULTY).mkdir()
    with caplog.at_level("WARNING", logger="rlvr"):
        made.write_difficulty(last.supply)
    assert "was not written" in caplog.text
