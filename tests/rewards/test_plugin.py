"""A user's own reward function, found by path and run in the workers."""

import math
import textwrap

import pytest

from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Outcome, Sample


def write(folder, code, name="mine.py"):
    path = folder / name
    path.write_text(textwrap.dedent(code))
    return path


def score(path, *texts, function="reward", prompt="p", answer=None, row=None):
    with Scorer([f"{path}:{function}"], workers=1) as scorer:
        return scorer.score([Sample(prompt, text, answer, row or {}) for text in texts])


@pytest.mark.parametrize(
    ("returned", "outcome", "reward"),
    [
        ("True", Outcome.CORRECT, 1.0),
        ("False", Outcome.WRONG, 0.0),
        ("1", Outcome.CORRECT, 1.0),
        ("2.5", Outcome.CORRECT, 2.5),
        ("0.25", Outcome.PARTIAL, 0.25),
        ("-0.5", Outcome.WRONG, -0.5),
    ],
)
def test_a_number_is_the_reward_and_a_truth_value_is_a_verdict(tmp_path, returned, outcome, reward):
    path = write(tmp_path, f"def reward(sample): return {returned}")
    (scored,) = score(path, "x")
    assert (scored.verdict.outcome, scored.reward) == (outcome, reward)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return float('nan')", "nan"),
        ("return float('inf')", "inf"),
        ("return None", "None"),
        ("return 'good'", "not a number"),
        ("return [1.0]", "not a number"),
        ("raise KeyError('gold')", "KeyError: 'gold'"),
        ("return sample.no_such", "AttributeError"),
    ],
)
def test_what_is_no_number_is_a_crash_with_the_reason(tmp_path, body, reason):
    (scored,) = score(write(tmp_path, f"def reward(sample): {body}"), "x")
    assert scored.verdict.outcome is Outcome.CRASHED
    assert reason in scored.verdict.reason
    assert math.isnan(scored.reward)


def test_a_function_sees_prompt_answer_and_all_columns(tmp_path):
    code = """
        from rlvr.rewards.verdict import Outcome, Verdict
        def reward(sample):
            right = sample.answer == "4" and sample.row["level"] == 3 and sample.prompt == "2+2"
            return Verdict(Outcome.PARTIAL, fraction=0.5, reason="half") if right else False
    """
    (scored,) = score(write(tmp_path, code), "x", prompt="2+2", answer="4", row={"level": 3})
    assert (scored.verdict.reason, scored.reward) == ("half", 0.5)


def test_a_trl_reward_function_works_unchanged(tmp_path):
    code = """
        def reward(completions, answer, **kwargs):
            assert len(completions) == len(answer) == len(kwargs["level"])
            return [1.0 if a in c else 0.0 for c, a in zip(completions, answer)]
        def chat(prompts, completions, answer):
            return [float(c[0]["content"] == a) for c, a in zip(completions, answer)]
        def silent(completions, **kwargs):
            return [None for _ in completions]
        def short(completions, **kwargs):
            return []
    """
    path = write(tmp_path, code)
    row = {"level": 1}
    assert [s.reward for s in score(path, "it is 4", "5", answer="4", row=row)] == [1.0, 0.0]
    messages = [{"role": "user", "content": "2+2"}]
    assert score(path, "4", function="chat", prompt=messages, answer="4")[0].reward == 1.0
    assert score(path, "4", function="silent")[0].verdict.outcome is Outcome.SKIPPED
    assert score(path, "4", function="short")[0].verdict.outcome is Outcome.CRASHED


def test_columns_that_a_trl_function_asks_for_are_known_before_it_runs(tmp_path):
    path = write(tmp_path, "def f(completions, solution, level=1, **kw): return [1.0]")
    assert Scorer([f"{path}:f"]).columns == ("solution",)


@pytest.mark.parametrize(
    ("code", "item", "message"),
    [
        ("def reward(sample): return 1", "none.py:reward", "there is no file"),
        ("def reward(sample): return 1", "mine.py:rewrad", "Did you mean 'reward'?"),
        ("def reward(sample): return 1", "mine.py", "names no function"),
        ("def reward(sample) return 1", "mine.py:reward", "not valid Python"),
        ("def reward(a, b): return 1", "mine.py:reward", "must take one argument"),
        ("def reward(completions, completion_ids): 0", "mine.py:reward", "completion_ids"),
    ],
)
def test_a_function_that_cannot_be_a_reward_is_refused_before_anything_starts(
    tmp_path, code, item, message
):
    write(tmp_path, code)
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        Scorer([str(tmp_path / item)])


def test_a_module_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no module 'no_such_module'"):
        Scorer(["no_such_module:reward"])


def test_a_function_of_an_importable_module_works():
    with Scorer(["math:isnan"], workers=1) as scorer:  # C code: only the worker can tell
        assert "TypeError" in scorer.score([Sample("p", "x")])[0].verdict.reason


def test_the_file_is_not_imported_in_the_trainers_process(tmp_path):
    code = """
        import os
        from pathlib import Path
        Path(__file__).with_suffix(".log").open("a").write(f"{os.getpid()} ")
        def reward(sample): return True
    """
    path = write(tmp_path, code)
    import os

    assert score(path, "x")[0].reward == 1.0
    assert str(os.getpid()) not in path.with_suffix(".log").read_text().split()


def test_a_file_whose_import_fails_is_an_error_at_start(tmp_path):
    path = write(tmp_path, "import no_such_package\ndef reward(sample): return 1")
    with Scorer([f"{path}:reward"], workers=2) as scorer:
        with pytest.raises(ValueError, match="No module named 'no_such_package'"):
            scorer.start()
        with pytest.raises(ValueError, match="No module named"):
            scorer.score([Sample("p", "x")])


def test_a_file_whose_import_ends_the_process_is_an_error_at_start(tmp_path):
    path = write(tmp_path, "import os\nos._exit(5)\ndef reward(sample): return 1")
    with (
        Scorer([f"{path}:reward"], workers=1) as scorer,
        pytest.raises(RuntimeError, match="exit code 5"),
    ):
        scorer.start()


def test_a_neighbouring_file_can_be_imported(tmp_path):
    write(tmp_path, "LIMIT = 3", "neighbour_of_reward.py")
    code = """
        from neighbour_of_reward import LIMIT
        def reward(sample): return len(sample.completion) <= LIMIT
    """
    assert [s.reward for s in score(write(tmp_path, code), "abc", "abcd")] == [1.0, 0.0]


def test_a_random_function_is_asked_once_for_each_equal_completion(tmp_path):
    code = """
        count = 0
        def reward(sample):
            global count
            count += 1
            return float(count)
    """
    assert [s.reward for s in score(write(tmp_path, code), "a", "a", "a")] == [1.0, 2.0, 3.0]
