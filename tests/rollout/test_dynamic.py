"""Groups that teach nothing are replaced, what is left over is used, and every prompt is accounted for."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.advantage import group_zscore
from rlvr.aggregate import token_mean
from rlvr.batch import Origin
from rlvr.entropy.control import build_control, chain
from rlvr.loss import Objective
from rlvr.rollout.dynamic import DynamicSampling, Supply, choose, have_signal, spread
from rlvr.rollout.stream import prompt_stream
from rlvr.surrogate import clipped
from tests.rollout import scripted
from tests.rollout.scripted import GROUP, PROMPTS, SEED
from tests.trainer import tiny


def taken(rows: list[int], start: int, count: int) -> list[int]:
    """Return what the stream of these rows gives."""
    return [rows[place] for place in prompt_stream(len(rows), count, SEED, start=start)]


def teaches(row: int) -> bool:
    return row % 4 >= 2


rewards = st.lists(st.sampled_from([0.0, 0.5, 1.0, torch.nan]), min_size=3, max_size=3)


@given(st.lists(rewards, min_size=1, max_size=8))
def test_a_group_has_signal_exactly_where_its_advantages_are_not_all_zero(groups):
    flat = torch.tensor([reward for group in groups for reward in group])
    ids = torch.arange(len(groups)).repeat_interleave(3)
    found = have_signal(flat, torch.ones(len(flat), dtype=torch.bool), 3)
    advantages = group_zscore(flat, ids).view(-1, 3)
    assert found.tolist() == (advantages != 0).any(-1).tolist()


def test_a_group_of_which_nothing_counts_in_the_loss_has_no_signal():
    counts = torch.tensor([False, False, True, False])
    found = have_signal(torch.tensor([1.0, 0.0, 1.0, 0.0]), counts, 2)
    assert found.tolist() == [False, True]


@given(st.lists(st.booleans(), min_size=6, max_size=30), st.integers(1, 6))
def test_as_many_groups_are_chosen_as_are_wanted_signal_first_in_order(signal, wanted):
    choice = choose(signal, wanted)
    good = [group for group, has_signal in enumerate(signal) if has_signal]
    assert choice.kept + choice.rest == good
    assert len(choice.kept) + len(choice.fillers) == wanted
    assert not any(signal[group] for group in choice.fillers)
    assert not (choice.fillers and choice.rest)


@given(st.integers(0, 20), st.integers(0, 20))
def test_groups_without_signal_are_spread_over_the_updates(first, second):
    order = spread(first, second)
    assert sorted(order) == list(range(first + second))
    assert [place for place in order if place < first] == list(range(first))
    for end in range(len(order) + 1):
        share = sum(place < first for place in order[:end])
        assert abs(share - end * first / max(first + second, 1)) <= 1


@given(st.integers(1, 20), st.integers(0, 70), st.integers(0, 30))
def test_the_stream_can_be_entered_anywhere(rows, start, count):
    whole = prompt_stream(rows, start + count, 3)
    assert prompt_stream(rows, count, 3, start=start) == whole[start:]


def test_a_rollout_trains_on_the_first_groups_of_the_stream_that_have_signal(tmp_path):
    data = list(range(16))
    made = scripted.roller(tmp_path, data, DynamicSampling(5, keep_leftovers=False))
    [found] = scripted.generations(made, 1)
    refills = found.stats["rollout/refills"]
    sampled = taken(data, 0, PROMPTS * (refills + 1))
    assert scripted.sources(found.rows) == [row for row in sampled if teaches(row)][:PROMPTS]
    assert found.rows.group_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (found.rows.advantages[:, 0] != 0).all()
    assert sum(map(teaches, sampled[:-PROMPTS])) < PROMPTS  # not one refill more than needed
    assert found.supply == Supply(len(sampled))


def test_a_rollout_that_needs_no_refill_is_the_plain_one(tmp_path):
    data = [2, 3, 6, 7, 10, 11]
    plain = scripted.roller(tmp_path, data, None).generation(0, {})
    dynamic = scripted.roller(tmp_path, data, DynamicSampling(3, keep_leftovers=False))
    [found] = scripted.generations(dynamic, 1)
    one, other = dict(plain.rows.tensors()), dict(found.rows.tensors())
    assert one.keys() == other.keys()
    for name in one.keys() - {"old_statistics"}:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, equal_nan=True)
    assert plain.records == found.records


def test_leftovers_open_the_next_rollout_as_the_policy_that_sampled_them_saw_them(tmp_path):
    data = list(range(16))
    made = scripted.roller(tmp_path, data, DynamicSampling(5, keep_leftovers=True))
    first, second, third = scripted.generations(made, 3)
    signal = [row for row in taken(data, 0, third.supply.position) if teaches(row)]
    used = [row for found in (first, second, third) for row in scripted.sources(found.rows)]
    assert used == signal[: 3 * PROMPTS]  # none lost, none twice, in the stream's order
    left = len(first.supply.numbers)
    assert left > 0
    assert [data[number] for number in first.supply.numbers] == used[PROMPTS : PROMPTS + left]
    assert second.stats["rollout/recovered"] == left
    assert second.recovered
    assert not first.recovered
    is_old = torch.arange(len(second.rows)) < left * GROUP
    version = torch.where(is_old, 0, 1).unsqueeze(-1)
    expected = -second.rows.completion_ids.float() - 100 * version
    mask = second.rows.completion_mask
    assert torch.equal(second.rows.old_logprobs[mask], expected[mask])
    assert torch.equal(second.rows.old_entropies[mask], -expected[mask])
    assert (second.rows.advantages[:, 0] != 0).all()


def test_refills_end_and_groups_without_signal_fill_up(tmp_path):
    data = [0, 1, 2, 4, 5, 8, 9, 12, 13, 16]  # one of ten teaches
    made = scripted.roller(tmp_path, data, DynamicSampling(1, keep_leftovers=True))
    for start, found in enumerate(scripted.generations(made, 4)):
        assert found.stats["rollout/refills"] == 1
        assert found.stats["rollout/prompts_consumed"] == 2 * PROMPTS
        sampled = taken(data, 2 * PROMPTS * start, 2 * PROMPTS)
        trained = scripted.sources(found.rows)
        good = [row for row in sampled if teaches(row)]
        assert [row for row in trained if teaches(row)] == good
        assert len(found.rows) == PROMPTS * GROUP
        idle = [not teaches(row) for row in trained for _ in range(GROUP)]
        assert ((found.rows.advantages[:, 0] == 0) == torch.tensor(idle)).all()
        assert found.supply.leftovers is None


def test_only_what_is_trained_on_is_looked_at_by_the_policy(tmp_path):
    data = list(range(16))
    made = scripted.roller(tmp_path, data, DynamicSampling(5, keep_leftovers=True))
    found = scripted.generations(made, 3)
    left = len(found[-1].supply.numbers)
    assert made.policy.looked == (3 * PROMPTS + left) * GROUP


def test_every_prompt_is_accounted_for(tmp_path):
    data = list(range(16))
    made = scripted.roller(tmp_path, data, DynamicSampling(5, keep_leftovers=True))
    position = 0
    for found in scripted.generations(made, 4):
        sampled = taken(data, position, int(found.stats["rollout/prompts_consumed"]))
        position += len(sampled)
        assert found.supply.position == position
        counts = Counter(row % 4 for row in sampled)
        shares = {"kept": counts[2] + counts[3], "all_right": counts[0], "all_wrong": counts[1]}
        for name, count in shares.items():
            assert found.stats[f"group/{name}_fraction"] == count / len(sampled)
        # the reward of the policy is that of all it sampled
        right = counts[0] + (counts[2] + counts[3]) / 2
        assert found.stats["rewards/exact"] == pytest.approx(right / len(sampled))


def test_completions_that_are_not_trained_on_are_kept_without_an_advantage(tmp_path):
    data = list(range(16))
    made = scripted.roller(tmp_path, data, DynamicSampling(5, keep_leftovers=True))
    for found in scripted.generations(made, 2):
        records = found.records
        consumed = int(found.stats["rollout/prompts_consumed"])
        assert [record["place"] for record in records] == list(range(consumed * GROUP))
        new = PROMPTS - int(found.stats["rollout/recovered"])
        trained = [record for record in records if record["advantage"] is not None]
        own = found.rows.rows(found.rows.group_ids >= PROMPTS - new)
        assert [record["advantage"] for record in trained] == own.advantages[:, 0].tolist()
        assert [int(record["prompt"]) for record in trained[::GROUP]] == scripted.sources(own)
        assert all(record["entropy"] is not None for record in trained)


def test_tempered_rows_are_of_the_first_prompts_that_are_trained_on(tmp_path):
    controls = chain(build_control("aepo", {"rows": 2, "prompt_fraction": 0.5}))
    data = list(range(16))
    dynamic = DynamicSampling(5, keep_leftovers=True)
    made = scripted.roller(tmp_path, data, dynamic, chain=controls)
    seen = []  # what aepo chooses from

    def watch(rows, state):
        seen.append(rows)
        return rows.rewards, state, {}

    watched = chain(replace(controls.controls[0], reward=watch))
    made = replace(made, objective=replace(made.objective, chain=watched))
    state = watched.init()
    supply = Supply()
    for update in range(2):
        found = made.generation(update, state, supply)
        supply, rows = found.supply, seen[-1]
        tempered = rows.rows(rows.origin == Origin.TEMPERED)
        own = rows.rows(rows.origin == Origin.POLICY)
        assert scripted.sources(tempered) == scripted.sources(own)[:2]
        assert tempered.group_ids.tolist() == [PROMPTS, PROMPTS, PROMPTS + 1, PROMPTS + 1]
    assert found.stats["rollout/recovered"] > 0


def test_leftovers_survive_the_disk(tmp_path):
    made = scripted.roller(tmp_path, list(range(16)), DynamicSampling(5, keep_leftovers=True))
    supply = scripted.generations(made, 1)[0].supply
    again = Supply.load(supply.save(tmp_path), tmp_path, 16)
    assert (again.position, again.numbers) == (supply.position, supply.numbers)
    for name, value in supply.leftovers.tensors():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(again.leftovers, name), value, equal_nan=True)
    saved = supply.save(tmp_path)
    (tmp_path / "leftovers.pt").unlink()
    with pytest.raises(ValueError, match=r"no leftovers\.pt"):
        Supply.load(saved, tmp_path, 16)


def test_with_recovered_rows_controls_see_the_policy_that_is_trained(tmp_path):
    controls = chain(build_control("kl_cov", {"fraction": 0.3}))
    objective = Objective(clipped, token_mean, controls)
    made = tiny.trainer(tmp_path, objective, dtype=torch.float64)
    made._take_rollout(tiny.rollout(rehearsal=False))

    def marked(in_rollout: int, *, recovered: bool) -> torch.Tensor:
        made._recovered = recovered
        made._begin_update(in_rollout)
        [mark] = made._decision.marks["kl_cov"].values()
        return mark

    fresh = marked(made._plan.updates_per_rollout, recovered=False)  # the same rows, another pass
    assert torch.equal(marked(0, recovered=True), fresh)
    assert not torch.equal(marked(0, recovered=False), fresh)  # its log-probs are made up


@pytest.mark.slow
def test_the_number_of_processes_never_matters_to_what_is_kept(tmp_path):
    worker = Path(scripted.__file__)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for launcher, name in (([], "one"), (torchrun, "two")):
        done = subprocess.run(
            [sys.executable, *launcher, str(worker), str(tmp_path / name)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, *two = (
        torch.load(tmp_path / name, weights_only=False) for name in ("one.0", "two.0", "two.1")
    )
    for other in two:
        assert one.keys() == other.keys() == scripted.CASES.keys()
        for case, expected in one.items():
            for (rows, stats, supply), (rows2, stats2, supply2) in zip(
                expected, other[case], strict=True
            ):
                torch.testing.assert_close(rows2, rows, rtol=0, atol=0, equal_nan=True)
                assert stats2 == pytest.approx(stats)
                assert supply2 == supply
