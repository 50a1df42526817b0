"""Reasoning-gym problems: the own answer counts, and what only fools the task's scorer does not."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards import registry
from rlvr.rewards.reasoning_gym import Config, answer_text, fault
from rlvr.rewards.verdict import Sample

gym = pytest.importorskip("reasoning_gym")
TASKS = sorted(set(gym.factory.DATASETS) - {"composite"})
FEW = [
    "chain_sum",
    "countdown",
    "game_of_life",
    "graph_color",
    "knights_knaves",
    "n_queens",
    "number_sorting",
    "puzzle24",
    "rearc",
    "simple_integration",
    "tower_of_hanoi",
    "word_sorting",
]
FORMS = [
    "{}",
    "<answer>{}</answer>",
    "<think>1, 2 or 3?</think>\n<answer>\n{}\n</answer>",
    r"So it is $\boxed{{{}}}$.",
    "The answer is {}",
]
MEANINGLESS = [
    "?",
    "0",
    "1",
    "-1",
    "nan",
    "inf",
    "1e999",
    "yes",
    "No",
    "True",
    "[]",
    "{}",
    "[[]]",
    "()",
    "a",
    "_",
    "×",
    "0/1",
    "1/0",
    "''",
    "U",
    "00:00",
    "None",
]
MEANINGLESS += ["I do not know", "6*4*1*1", "(P ∨ ¬P)", "UDLR" * 50, "0 days", "No solution"]


def judge(text, entry, **options):
    stored = json.dumps(entry)
    return registry.build("reasoning_gym", options)(Sample("p", text, None, {"entry": stored}))


def is_right(text, entry):
    return judge(text, entry).outcome == "correct"


def problems(task, size=2, seed=11, **options):
    dataset = gym.create_dataset(task, seed=seed, size=size, **options)
    return [json.loads(json.dumps(dataset[index])) for index in range(size)]


def own_answer(entry):
    """Return the entry's answer, or the example in its metadata; None where there is neither."""
    metadata = entry["metadata"]
    if "possible_answer" in metadata:
        return json.dumps(metadata["possible_answer"])
    return entry["answer"] or metadata.get("example_correct_answer")


def check_own_answer(task):
    for entry in problems(task):
        if gold := own_answer(entry):
            for form in FORMS:
                verdict = judge(form.format(gold), entry)
                assert verdict.outcome == "correct", (form, gold, verdict.reason)


def check_meaningless(task):
    for entry in problems(task):
        for answer in MEANINGLESS:
            if answer != own_answer(entry):
                assert not is_right(f"<answer>{answer}</answer>", entry), (
                    answer,
                    own_answer(entry),
                )


@pytest.mark.parametrize("task", FEW)
def test_a_problem_accepts_its_own_answer_in_every_usual_place(task):
    check_own_answer(task)


@pytest.mark.parametrize("task", FEW)
def test_a_meaningless_answer_is_right_for_no_problem(task):
    check_meaningless(task)


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(set(TASKS) - set(FEW)))
def test_every_task_of_the_package_can_be_judged(task):
    check_own_answer(task)
    check_meaningless(task)


@pytest.mark.parametrize("task", ["countdown", "n_queens", "number_sorting", "spiral_matrix"])
@pytest.mark.parametrize("prefix", ["", "24 or ", "1+"])
def test_an_answer_is_never_run_as_a_program(task, prefix, tmp_path):
    mark = tmp_path / "mark"
    (entry,) = problems(task, size=1)
    for attack in (
        f"{prefix}__import__('os').system('touch {mark}')",
        f"{prefix}open({str(mark)!r}, 'w')",
        f"{prefix}(open)({str(mark)!r}, 'w')",
        f"[{prefix}x for x in [open({str(mark)!r}, 'w')]]",
        f"{prefix}sqrt(\"__import__('os').system('touch {mark}')\")",
        f"{prefix}ｅｘｅｃ('open({str(mark)!r}, chr(119))')",
    ):
        assert not is_right(f"<answer>{attack}</answer>", entry)
        assert not mark.exists()


def test_the_question_is_no_answer_where_the_scorer_would_solve_it():
    (entry,) = problems("simple_integration", size=1)
    integrand, variable = entry["metadata"]["integrand"], entry["metadata"]["variable"]
    for text in (f"Integral({integrand}, {variable})", f"integrate({integrand}, {variable})"):
        assert not is_right(text, entry)
    (entry,) = problems("polynomial_multiplication", size=1)
    product = entry["metadata"]["polynomial_expr"]
    assert not is_right(f"expand({product})", entry)


def test_what_scores_on_any_problem_is_no_answer_to_this_one():
    universal = {
        "puzzle24": "6*4*1*1",
        "game_of_life_halting": "perhaps",
        "complex_arithmetic": "nan",
        "coin_flip": "0.",
    }
    for task, answer in universal.items():
        for entry in problems(task, size=3):
            scorer = gym.get_score_answer_fn(task)
            assert not is_right(f"<answer>{answer}</answer>", entry)
            assert is_right(f"<answer>{entry['answer']}</answer>", entry)
            assert entry["answer"] == "1" or scorer(answer, entry) == 1.0  # why the check is there


def test_another_right_answer_counts_where_there_are_several():
    entry = {
        "question": "Make 24 of 4, 7, 4, 1",
        "answer": "1*(7*4 - 4)",
        "metadata": {"source_dataset": "puzzle24", "numbers": [7, 4, 4, 1]},
    }
    assert is_right("<answer>4*(7-1)*4/4</answer>", entry) is False  # a 4 too many
    assert is_right("<answer>(7*4-4)/1</answer>", entry)
    assert is_right("<answer>4*7-4*1</answer>", entry)
    assert not is_right("<answer>24.9*1+0*7</answer>", entry)


def knights(**roles):
    said = ", and ".join(f"{name} is a {role}" for name, role in roles.items())
    return {"question": "", "answer": f"{said}.", "metadata": {"source_dataset": "knights_knaves"}}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Ann is a knight. Bob is a knave.", True),
        ("So Bob is a knave and Ann is a knight", True),
        ("Ann is a knight\nBob is a knave", True),
        ("Ann is a knight and a knave. Bob is a knave and a knight.", False),
        ("Ann is a knight, and Bob is a knave, or the reverse.", False),
        ("Either Ann is a knight and Bob is a knave, or Ann is a knave and Bob a knight.", False),
        ("It is false that Ann is a knight, and Bob is a knave.", False),
        ("Ann is a knight. Bob is a knave. Bob is a knight.", False),
        ("Ann is a knight. Bob is a knight.", False),
    ],
)
def test_islanders_have_one_role_each(text, right):
    assert is_right(text, knights(Ann="knight", Bob="knave")) is right


def test_an_answer_among_others_is_none():
    for entry in problems("word_sorting", size=2) + problems("gsm_symbolic", size=2):
        gold = entry["answer"]
        for text in (
            f"{gold}\nx",
            f"{gold}, x, y",
            f"{gold} or 17",
            f"not {gold}",
            f"{gold}\n{gold[:-1]}",
        ):
            assert not is_right(f"<answer>{text}</answer>", entry), text
    assert not is_right(r"\boxed{7} or \boxed{8}", problems("chain_sum", size=1)[0])


def test_a_list_of_words_may_be_written_with_other_separators():
    (entry,) = problems("word_sorting", size=1)
    assert is_right(entry["answer"].replace(",", ""), entry)
    assert is_right(entry["answer"].replace(", ", "\n"), entry)
    assert not is_right(" ".join(reversed(entry["answer"].split(", "))), entry)


def test_a_grid_may_be_drawn_with_other_separators():
    (entry,) = problems("mini_sudoku", size=1)
    rows = entry["answer"].split("\n")
    assert is_right("\n".join(row.replace(" ", " | ") for row in rows), entry)
    assert is_right("\n\n".join(f"{row} " for row in rows), entry)
    assert not is_right("\n".join([*rows[1:], rows[0]]), entry)
    assert not is_right("\n".join([*rows, *reversed(rows)]), entry)


def test_partial_scores_count_only_from_the_least_that_is_asked_for():
    (entry,) = problems("mini_sudoku", size=1)
    row, *rest = entry["answer"].split("\n")
    nearly = "\n".join([" ".join(reversed(row.split())), *rest])
    assert judge(nearly, entry).outcome == "wrong"
    assert judge(nearly, entry, min_score=0.5).outcome == "partial"
    assert judge(nearly, entry, min_score=0.95).outcome == "wrong"
    assert judge(entry["answer"], entry, min_score=0.5).outcome == "correct"
    for task in ("countdown", "fraction_simplification", "cryptarithm"):  # 0.01 for any attempt
        assert judge("A=1", problems(task, size=1)[0], min_score=1e-6).fraction == 0


def test_a_scorer_that_raises_says_wrong_and_leaves_the_entry_as_it_was():
    (entry,) = problems("prime_factorization", size=1)
    with pytest.raises(ValueError, match="invalid literal"):
        gym.get_score_answer_fn("prime_factorization")("2 3", entry)
    assert judge("2 3", entry).outcome == "wrong"
    (entry,) = problems("knight_swap", size=1)
    assert [is_right(entry["answer"], entry) for _ in range(3)] == [True] * 3


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (None, "not a mapping"),
        ("{", "not a mapping"),
        ({"answer": "7"}, "not a mapping"),
        ({"metadata": {"source_dataset": "chain_sum"}}, "no `answer`"),
        ({"answer": "7", "metadata": {}}, "no task None"),
        ({"answer": "7", "metadata": {"source_dataset": ["chain_sum"]}}, "no task ['chain_sum']"),
        ({"answer": "7", "metadata": {"source_dataset": "chainsum"}}, "did you mean 'chain_sum'"),
    ],
)
def test_a_row_that_is_no_problem_says_so_and_is_skipped(entry, says):
    sample = Sample("p", "7", None, {"entry": entry})
    assert says in fault(sample, Config())
    assert registry.build("reasoning_gym", {})(sample).outcome == "skipped"


def test_a_problem_whose_own_answer_is_refused_is_skipped():
    entry = {"answer": "seven", "metadata": {"source_dataset": "prime_factorization"}}
    assert judge("seven", entry).outcome == "skipped"


@pytest.mark.parametrize("text", ["", "<think>7", "<answer></answer>"])
def test_no_answer_is_unparsable(text):
    assert judge(text, problems("chain_sum", size=1)[0]).outcome == "unparsable"


ENTRIES = [problems(task, size=1)[0] for task in ("chain_sum", "game_of_life", "survo")]


@given(st.text(max_size=80), st.sampled_from(ENTRIES))
def test_every_text_gets_a_verdict_and_its_answer_alone_gets_the_same(text, entry):
    whole = judge(text, entry)
    sample = Sample("p", text, None, {"entry": entry})
    assert whole.outcome in {"correct", "wrong", "unparsable"}
    assert judge(answer_text(sample, Config()), entry).outcome == whole.outcome


@pytest.mark.slow
def test_the_package_agrees_on_which_answers_are_fully_right():
    given_folder = os.environ.get("RLVR_SHARED_DATA")
    folder = Path(given_folder) if given_folder else Path(__file__).parents[3] / "shared" / "data"
    path = folder / "puzzle_bench" / "dev.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"there is no {path}; set RLVR_SHARED_DATA to its folder")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["variant"] != "spaces"]
    differ = []
    for row in rows:
        metadata = row["metadata"] | {"source_dataset": row["task"]}
        entry = {"question": row["question"], "answer": row["gold"], "metadata": metadata}
        if is_right(row["candidate"], entry) != (row["reference_score"] == 1.0):
            differ.append((row["task"], row["variant"]))
    assert len(differ) <= 0.002 * len(rows), differ
