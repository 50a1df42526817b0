"""Evaluation of a set: the same numbers on any number of processes, and nothing counted that was not judged."""

from itertools import count

import pytest

from rlvr.evaluate.suite import Generation, evaluate_set, prepare_rows
from rlvr.rewards.scorer import Scorer

ROWS = [{"prompt": f"p{i}", "answer": str(i), "task": "t"} for i in range(7)]
ANSWERS = {f"p{i}": [str(i), "wrong", f" {i} ", "other"][: 4 - i % 3] for i in range(7)}


def policy():
    """Return a policy that gives the answers of each prompt in turn, whoever asks."""
    calls = {prompt: count() for prompt in ANSWERS}

    def generate(prompts, n):
        drawn = []
        for prompt in prompts:
            own = ANSWERS[prompt]
            texts = [own[next(calls[prompt]) % len(own)] for _ in range(n)]
            drawn.append([Generation(text, 3, truncated=text == "other") for text in texts])
        return drawn

    return generate


def measure(world: int = 1, rank: int = 0, gather=lambda records: records):
    with Scorer(["exact"]) as scorer:
        return evaluate_set(
            "t",
            ROWS,
            policy(),
            scorer,
            samples=4,
            ks=[1, 4, 9],
            rank=rank,
            world=world,
            gather=gather,
        )


@pytest.mark.parametrize("world", [2, 3, 8])
def test_the_number_of_processes_never_matters(world):
    alone, records = measure()
    shares: list[list] = []

    def own_then_all(own):
        shares.append(own)
        return records

    for rank in range(world):
        measure(world, rank, own_then_all)
    together, gathered = measure(world, 0, lambda _: [r for share in shares for r in share])
    assert together == alone
    assert gathered == records


def test_every_process_asks_as_often():
    def calls_of(rank: int) -> int:
        calls = 0

        def generate(prompts, n):
            nonlocal calls
            calls += 1
            return [[Generation("x", 1, False)] * n for _ in prompts]

        with Scorer(["exact"]) as scorer:
            evaluate_set(
                "t", ROWS, generate, scorer, samples=2, ks=[1], batch_size=4, rank=rank, world=4
            )
        return calls

    assert len({calls_of(rank) for rank in range(4)}) == 1


def test_pass_at_k_counts_right_samples():
    metrics, _ = measure()
    # right of 4 samples: i % 3 = 0: 2 of (i, wrong, _i_, other); 1: (i, wrong, _i_, i) 3; 2: (i, wrong, i, wrong) 2
    right = [2, 3, 2, 2, 3, 2, 2]
    assert metrics["eval/t/pass@1"] == pytest.approx(sum(right) / 4 / 7)
    assert metrics["eval/t/pass@4"] == 1
    assert "eval/t/pass@9" not in metrics
    assert metrics["eval/t/prompts"] == 7


def test_repeated_prompts_count_once_and_unusable_golds_not_at_all():
    rows = [*ROWS, *ROWS[:2], {"prompt": "bad", "answer": ""}]
    kept, notes = prepare_rows("t", rows, lambda row: None if row["answer"] else "it is empty")
    assert [row["prompt"] for row in kept] == [f"p{i}" for i in range(7)]
    assert any("10 rows are 8 different prompts" in note for note in notes)
    assert any("it is empty" in note for note in notes)


def test_a_set_without_a_usable_row_is_an_error():
    with pytest.raises(ValueError, match="no row is left to evaluate"):
        prepare_rows("t", [{"prompt": "a", "answer": ""}], lambda _: "it is empty")
