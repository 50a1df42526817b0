"""`rlvr reward test`: which of the things that a reward should hold to does it hold to?"""

import json

import pytest

from rlvr.reward.contract import FAILED, NOT_APPLICABLE, PASSED, check
from rlvr.reward.example import EXAMPLES, OPTIONS, load_examples
from rlvr.reward.new import STYLES, new
from rlvr.reward.trial import Trial
from rlvr.rewards.registry import names
from tests.test_cli import run

ASKS_A_SERVICE = {"judge"}
FAULTY = """
import os, random, re, time

def contains(sample):
    return str(sample.answer) in sample.completion

def last_number(sample):
    found = re.findall(r"-?\\d+", sample.completion)
    return bool(found) and int(found[-1]) == int(sample.answer)

def chance(sample):
    return random.random()

def length(sample):
    return len(sample.completion) < 2000

def nothing(sample):
    return float("nan")

def dies(sample):
    os._exit(1)

def sleeps(sample):
    if "9^" in sample.completion:
        time.sleep(60)
    return f"{{{sample.answer}}}" in sample.completion and sample.completion.count("{") == 1

def needs(sample):
    return sample.row["level"] == 3

def empty_too(sample):
    return not sample.completion.strip() or f"{{{sample.answer}}}" in sample.completion

def second(group):
    return [float(number % 2 == 0) for number, _ in enumerate(group)]
"""


@pytest.fixture
def faulty(tmp_path):
    path = tmp_path / "faulty.py"
    path.write_text(FAULTY)
    return lambda name: f"{path}:{name}"


LAST_OF_ONE_SCORER = "unicode digits"
"""The checks after this one start scorers of their own, which takes time."""


def results(verifier, data=None, until=None, workers=1, **options):
    """Return the results by name, up to the check `until`."""
    found = {}
    chosen = {verifier: {**OPTIONS.get(verifier, {}), **options}}
    with Trial(chosen, load_examples(verifier, data), workers) as trial:
        for result in check(trial):
            found[result.name] = result
            if result.name == until:
                break
    return found


def states(verifier, data=None, until=None, **options):
    found = results(verifier, data, until, **options)
    return {name: result.state for name, result in found.items()}


def test_every_built_in_verifier_has_example_rows():
    assert set(names()) <= set(EXAMPLES)


@pytest.mark.parametrize("verifier", ["exact", "countdown", "format", "subset_sum"])
def test_a_built_in_verifier_holds_to_all_of_it(verifier):
    failing = [result for result in results(verifier).values() if result.state == FAILED]
    assert failing == []


@pytest.mark.slow
@pytest.mark.parametrize("verifier", sorted(set(names()) - ASKS_A_SERVICE))
def test_every_built_in_verifier_holds_to_all_of_it(verifier):
    failing = [result for result in results(verifier).values() if result.state == FAILED]
    assert failing == []


@pytest.mark.parametrize("style", STYLES)
def test_a_new_reward_of_each_style_passes(tmp_path, style):
    path = new("mine", style, tmp_path)
    found = states(f"{path}:mine", until=None if style == "group" else LAST_OF_ONE_SCORER)
    assert set(found.values()) == {PASSED}


@pytest.mark.parametrize(
    ("function", "failing", "passing"),
    [
        ("contains", {"several boxes", "A or B or C"}, {"right answer passes", "empty completion"}),
        ("last_number", {"several boxes", "giant integers", "1 MB of output"}, {"towers"}),
        ("chance", {"asked again", "order does not matter", "inside asyncio"}, {"rows"}),
        ("nothing", {"ordinary completions", "towers"}, {"rows"}),
        ("dies", {"ordinary completions", "broken text"}, {"rows"}),
        ("empty_too", {"empty completion"}, {"right answer passes", "prompt echo"}),
        ("second", {"order does not matter"}, {"asked again"}),
    ],
)
def test_a_faulty_reward_fails_where_it_is_at_fault(faulty, function, failing, passing):
    last = None if failing & {"asked again", "order does not matter"} else LAST_OF_ONE_SCORER
    found = states(faulty(function), until=last)
    assert {name for name in failing if found[name] != FAILED} == set()
    assert {name for name in passing if found[name] != PASSED} == set()


def test_a_reward_that_hangs_is_ended_in_time(faulty):
    found = results(faulty("sleeps"), deadline=0.3)
    assert found["towers"].state == PASSED
    assert "1 by ending them in time" in found["towers"].detail
    assert found["deadline"].state == PASSED


def test_a_reward_that_looks_at_no_answer_is_not_judged_by_answers(faulty):
    found = states(faulty("length"), until=LAST_OF_ONE_SCORER)
    assert found["right answer passes"] == found["empty completion"] == NOT_APPLICABLE
    assert FAILED not in found.values()


def test_a_column_that_no_row_has_ends_the_trial(faulty, tmp_path):
    found = results(faulty("needs"))
    assert list(found) == ["rows"]
    assert found["rows"].state == FAILED
    assert "'level'" in found["rows"].detail
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f'{{"prompt": "?", "answer": "{i}", "level": 3}}\n' for i in range(3)))
    assert states(faulty("needs"), str(data), until="rows")["rows"] == PASSED


def test_rows_that_cannot_be_judged_are_named_and_the_others_tried(tmp_path):
    data = tmp_path / "rows.jsonl"
    rows = [{"prompt": "?", "answer": answer} for answer in ("one", "", "two")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = results("exact", str(data), until="wrong answer fails")
    assert found["rows"].detail.startswith(
        "2 usable; columns needed: answer; 1 unusable, such as row 2"
    )
    assert found["wrong answer fails"].state == PASSED
    data.write_text(json.dumps(rows[1]) + "\n")
    assert states("exact", str(data)) == {"rows": FAILED}


def test_completions_in_the_data_say_what_is_right(faulty, tmp_path):
    data = tmp_path / "rows.jsonl"
    rows = [{"prompt": "?", "right": "short", "wrong": "long " * 1000}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = states(faulty("length"), str(data), until=LAST_OF_ONE_SCORER)
    assert found["right answer passes"] == found["wrong answer fails"] == PASSED


def test_the_exit_code_says_whether_a_check_failed(faulty, capsys):
    code, out, _ = run(capsys, "reward", "test", faulty("contains"), "--json", "--workers", "1")
    found = json.loads(out)
    assert (code, found["passed"]) == (1, False)
    assert {item["state"] for item in found["checks"]} == {PASSED, FAILED}
    code, out, _ = run(capsys, "reward", "test", "format", "--workers", "1")
    assert code == 0
    assert "0 failed" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nath"], "unknown verifier 'nath'. Did you mean 'math'?"),
        (["nowhere.py:f"], "there is no file"),
        (["exact", "--options", "case=1"], "unknown option 'case'"),
        (["exact", "--options", "case"], "--options 'case': write KEY=VALUE"),
        (["exact", "--data", "nowhere.jsonl"], "no such file"),
    ],
    ids=["verifier", "file", "option", "value", "data"],
)
def test_bad_input_is_an_error_without_a_traceback(capsys, arguments, message):
    code, _, err = run(capsys, "reward", "test", *arguments)
    assert code == 2
    assert message in err


def test_a_new_reward_replaces_no_file_and_has_a_name_that_python_can_call(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "reward", "new", "mine")
    assert code == 0
    assert "rlvr reward test mine.py:mine" in out
    written = (tmp_path / "mine.py").read_text()
    code, _, err = run(capsys, "reward", "new", "mine", "--style", "group")
    assert (code, (tmp_path / "mine.py").read_text()) == (2, written)
    assert "mine.py is there already" in err
    assert run(capsys, "reward", "new", "my reward")[0] == 2
    _, _, err = run(capsys, "reward", "new", "other", "--style", "groop")
    assert "Did you mean 'group'?" in err
