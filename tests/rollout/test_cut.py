"""Rows reach updates, processes and micro-batches whole, once, and independent of the layout."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.batch import Origin
from rlvr.rollout.cut import Lengths, assign_updates, deal
from rlvr.rollout.rehearsal import choose_mastered, draw, load_buffer, save_buffer
from rlvr.rollout.rows import trim
from rlvr.rollout.stream import prompt_stream
from tests.trainer import tiny

rows_to_deal = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 30)), max_size=60)


def columns(pairs):
    return torch.tensor(pairs, dtype=torch.long).view(-1, 2).unbind(-1)


@given(rows_to_deal, st.integers(1, 5), st.integers(1, 9), st.none() | st.integers(1, 120))
@settings(deadline=None)
def test_every_row_is_dealt_once_and_evenly(pairs, processes, most_rows, most_tokens):
    lengths = Lengths(*columns(pairs))
    dealt = deal(lengths, processes=processes, most_rows=most_rows, most_tokens=most_tokens)
    assert sorted(int(row) for process in dealt for part in process for row in part) == list(
        range(len(pairs))
    )
    # in step: as many micro-batches everywhere, whose sizes differ by one at most
    for slot in zip(*dealt, strict=True):
        sizes = [len(part) for part in slot]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= most_rows


@given(rows_to_deal, st.integers(1, 5), st.integers(1, 120))
@settings(deadline=None)
def test_a_micro_batch_keeps_to_its_tokens_and_no_smaller_number_would_do(pairs, processes, most):
    prompts, completions = columns(pairs)

    def tokens(rows):
        return len(rows) * int(prompts[rows].max() + completions[rows].max()) if len(rows) else 0

    lengths = Lengths(prompts, completions)
    dealt = deal(lengths, processes=processes, most_rows=60, most_tokens=most)
    for part in (part for process in dealt for part in process):
        assert tokens(part) <= most or len(part) == 1
    # greedy: the first row of the next slot would not have fitted
    slots = [torch.cat(parts) for parts in zip(*dealt, strict=True)]
    for slot, following in pairwise(slots):
        order = completions[following].argsort(descending=True, stable=True)
        wider = torch.cat([slot, following[order][:1]])
        per_process = -(-len(wider) // processes)
        assert per_process * int(prompts[wider].max() + completions[wider].max()) > most


@given(st.lists(st.integers(0, 30), min_size=8, max_size=60), st.integers(1, 9))
@settings(deadline=None)
def test_a_micro_batch_holds_rows_of_neighbouring_lengths(lengths, most_rows):
    completions = torch.tensor(lengths)
    [parts] = deal(Lengths(torch.ones_like(completions), completions), most_rows=most_rows)
    taken = [sorted(lengths[int(row)] for row in part) for part in parts if len(part)]
    for longer, shorter in pairwise(taken):
        assert longer[0] >= shorter[-1]


def test_a_group_goes_to_one_update_whole_and_extra_rows_in_turn():
    batch = tiny.rollout()  # 4 groups of 4, 4 rehearsal rows
    updates = assign_updates(batch, prompts_per_update=2, updates=2)
    groups = [sorted(set(batch.group_ids[rows].tolist())) for rows in updates]
    assert groups == [[-1, 0, 1], [-1, 2, 3]]
    extra = [int((batch.origin[rows] == Origin.REHEARSAL).sum()) for rows in updates]
    assert extra == [2, 2]
    assert sorted(torch.cat(updates).tolist()) == list(range(20))


def test_trimming_takes_padding_and_nothing_else():
    batch = tiny.rollout()
    some = batch.rows(torch.tensor([0, 3, 5]))
    trimmed = trim(some)
    width = int(some.completion_mask.sum(-1).max())
    assert trimmed.completion_ids.shape[1] == width
    assert int(trimmed.completion_mask.sum()) == int(some.completion_mask.sum())
    assert torch.equal(trimmed.advantages, some.advantages[:, :width])


def test_joined_rows_keep_their_tokens_whatever_their_width():
    batch = tiny.rollout()
    narrow = trim(batch.rows(batch.completion_mask.sum(-1) <= 3))
    joined = narrow.join(batch)
    assert len(joined) == len(narrow) + len(batch)
    back = joined.rows(torch.arange(len(narrow)))
    assert torch.equal(
        back.completion_ids[back.completion_mask], narrow.completion_ids[narrow.completion_mask]
    )
    assert torch.equal(back.prompt_ids[back.prompt_mask], narrow.prompt_ids[narrow.prompt_mask])


@given(st.integers(1, 20), st.integers(0, 70), st.integers(0, 5))
def test_the_stream_goes_through_whole_epochs_without_a_gap(rows, count, seed):
    stream = prompt_stream(rows, count, seed)
    assert len(stream) == count
    for start in range(0, count - rows + 1, rows):
        assert sorted(stream[start : start + rows]) == list(range(rows))
    assert prompt_stream(rows, count + 3, seed)[:count] == stream


def test_a_prompt_is_mastered_at_the_pass_rate_and_not_below():
    correct = torch.tensor([True, True, False, True, True, False, False, False, False])
    groups = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    assert choose_mastered(correct, groups, 1.0).tolist() == [3]
    assert choose_mastered(correct, groups, 2 / 3).tolist() == [0, 3]


def test_a_buffer_survives_the_disk_and_is_drawn_evenly(tmp_path):
    batch = tiny.rollout()
    buffer = batch.rows(batch.origin == Origin.REHEARSAL)
    save_buffer(buffer, tmp_path / "rehearsal.pt")
    loaded = load_buffer(tmp_path / "rehearsal.pt")
    assert torch.equal(loaded.completion_ids, buffer.completion_ids)
    assert loaded.sampling_logprobs is None
    drawn = draw(loaded, 10, seed=3)
    counts = [int((drawn.initial_logprobs == row).all(-1).sum()) for row in loaded.initial_logprobs]
    assert sum(counts) == 10
    assert max(counts) - min(counts) <= 1
