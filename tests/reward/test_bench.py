"""A file of labelled completions: recognised by its fields, judged, and summed up in figures."""

import gzip
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from rlvr.reward.bench import bench
from rlvr.reward.forms import read_cases
from rlvr.reward.side_effect import Watch
from rlvr.reward.summary import quantile
from tests.test_cli import run

BOX = "<think>Let me see.</think>So it is $\\boxed{{{}}}$."
EXPRESSION = {"kind": "expr", "domain": "math", "policy": "", "source": "own"}
SHARED = Path(os.environ.get("RLVR_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")


def written(folder, rows, name="bench.jsonl"):
    path = folder / name
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def expression(gold, candidate, label, **fields):
    return {**EXPRESSION, "gold": gold, "candidate": candidate, "label": label, **fields}


def attack(kind, completion, expected, gold="7", domain="math", **fields):
    row = {"kind": kind, "domain": domain, "gold": gold, "completion": completion}
    return {**row, "expected_reward": expected, "policy": "", "id": f"{kind}-1", **fields}


def figures(folder, rows, **options):
    """Return the figures; what is said last in a box is judged, by a verifier that starts at once."""
    path = folder / "last.py"
    path.write_text(
        "from rlvr.rewards.verdict import CORRECT, skipped, wrong\n"
        "def last(sample):\n"
        "    if not sample.answer:\n        return skipped('no gold')\n"
        "    found = sample.completion.rpartition('boxed{')[2].partition('}')[0]\n"
        "    return CORRECT if found == sample.answer else wrong()\n"
    )
    return bench(written(folder, rows), workers=1, **{"verifier": f"{path}:last", **options})


def test_labels_and_verdicts_are_counted_against_each_other(tmp_path):
    rows = [
        expression("7", "7", 1, id="right"),
        expression("7", "8", 0, id="refused"),
        expression("7", "8", 1, id="label is wrong"),
        expression("7", "7", 0, id="label is wrong too"),
    ]
    found = figures(tmp_path, rows)
    assert (found["n"], found["accuracy"]) == (4, 0.5)
    assert (found["false_positive_rate"], found["false_negative_rate"]) == (0.5, 0.5)
    kinds = {item["id"]: item["kind"] for item in found["failures"]}
    assert kinds == {"label is wrong": "false_negative", "label is wrong too": "false_positive"}


def test_rows_with_a_policy_are_counted_apart(tmp_path):
    rows = [
        expression("7", "7", 1),
        expression("7", "8", 1, policy="rounding"),
        attack("attack", BOX.format(7), 0, policy="unit"),
    ]
    strict = figures(tmp_path, rows[:1])
    assert (strict["n"], strict["accuracy"]) == (1, 1.0)
    rows[1] |= {"kind": "expr"}
    found = figures(tmp_path, rows[:2])
    assert (found["n"], found["accuracy"]) == (1, 1.0)
    assert found["policy"]["n"] == 1
    assert found["policy"]["accuracy"] == 0.0
    found = figures(tmp_path, rows[2:])
    assert (found["n"], found["attacks"]) == (0, 0)
    assert found["policy"]["attacks_rewarded"] == 1


def test_a_share_is_a_reward_to_an_attack_but_no_error_for_others(tmp_path):
    share = tmp_path / "half.py"
    share.write_text("def half(sample):\n    return 0.5\n")
    rows = [attack("attack", "anything", 0), attack("benign", "anything", 1)]
    found = figures(tmp_path, rows, verifier=f"{share}:half")
    assert (found["attacks_rewarded"], found["benign_refused"]) == (1, 1)
    found = figures(tmp_path, [expression("7", "7", 0)], verifier=f"{share}:half")
    assert found["false_positives"] == 0


def test_a_row_without_usable_gold_must_be_skipped(tmp_path):
    rows = [
        attack("data_error", "\\boxed{}", None, gold=""),
        attack("data_error", BOX.format(7), None, gold="7"),
    ]
    found = figures(tmp_path, rows)
    assert (found["data_errors"], found["data_errors_scored"], found["n"]) == (2, 1, 0)


def test_segments_are_joined_to_a_long_completion(tmp_path):
    row = attack("attack", None, 0, completion_segments=[["\\boxed{", 2000], ["7", 1], ["}", 3]])
    _, (case,) = read_cases(written(tmp_path, [row]))
    assert case.sample.completion == "\\boxed{" * 2000 + "7}}}"


def test_a_verifier_that_dies_or_is_late_is_reported_and_pays_nothing(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(
        "import os, time\ndef bad(sample):\n"
        "    os._exit(3) if sample.answer == 'die' else time.sleep(60)\n"
    )
    rows = [attack("attack", "x", 0, gold="die"), attack("attack", "x", 0, gold="sleep")]
    found = figures(tmp_path, rows, verifier=f"{path}:bad", options=["deadline=0.2"])
    assert (found["crashes"], found["timeouts"], found["attacks_rewarded"]) == (1, 1, 0)


def test_the_json_is_one_object_and_nothing_else_is_on_stdout(tmp_path, capsys):
    path = written(tmp_path, [expression("7", "7", 1)], "bench.jsonl.gz")
    code, out, _ = run(capsys, "reward", "bench", str(path), "--json", "--workers", "1")
    found = json.loads(out)
    assert code == 0
    names = ("n", "accuracy", "false_positive_rate", "false_negative_rate", "attacks", "p99_s")
    names += ("attacks_rewarded", "benign", "benign_refused", "items_per_s", "timeouts", "crashes")
    assert set(names) <= found.keys()


def test_failures_are_written_with_their_completion(tmp_path):
    figures(tmp_path, [expression("7", "8", 1, id="a")], failures=tmp_path / "out" / "f.jsonl")
    (line,) = (tmp_path / "out" / "f.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert found["id"] == "a"
    assert found["completion"] == "\\boxed{8}"


def test_cases_of_one_id_are_told_apart(tmp_path):
    rows = [expression("7", "7", 1, id="same"), expression("7", "8", 0, id="same")]
    _, cases = read_cases(written(tmp_path, rows))
    assert [case.id for case in cases] == ["same", "same#2"]


def test_code_samples_find_their_tasks_beside_the_file_or_where_data_says(tmp_path):
    sample = {"task_id": "HumanEval/0", "completion": "    return 1\n", "passed": True}
    task = {"task_id": "HumanEval/0", "prompt": "def one():\n", "entry_point": "one"}
    task |= {"test": "def check(candidate):\n    assert candidate() == 1\n"}
    task |= {"canonical_solution": "    return 1\n"}
    path = written(tmp_path, [sample])
    with pytest.raises(ValueError, match=r"HumanEval.jsonl.gz, which is in none of .*--data"):
        read_cases(path)
    for folder in (tmp_path / "code_bench", tmp_path / "elsewhere"):
        folder.mkdir()
        written(folder, [task], "HumanEval.jsonl.gz")
    form, (case,) = read_cases(path)
    assert (form, case.verifier, case.expected) == ("code_samples", "code", 1.0)
    assert case.sample.completion == "def one():\n    return 1\n"
    assert read_cases(path, data=tmp_path / "elsewhere")[1] == [case]
    form, (reference,) = read_cases(tmp_path / "elsewhere" / "HumanEval.jsonl.gz")
    assert (form, reference.expected) == ("human_eval", 1.0)


def test_sql_rows_get_the_script_of_their_database(tmp_path):
    row = {"db": "shop", "gold_alternatives": ["SELECT 1"], "candidate_sql": "SELECT 1", "label": 1}
    (tmp_path / "databases.json").write_text(
        json.dumps({"shop": ["CREATE TABLE a(b)", "SELECT 2"]})
    )
    _, (case,) = read_cases(written(tmp_path, [row]))
    assert case.sample.row["database"] == "CREATE TABLE a(b);\nSELECT 2"
    with pytest.raises(ValueError, match="row 1: db is 'shops'; it must be one of shop"):
        read_cases(written(tmp_path, [row | {"db": "shops"}]))


def test_a_share_of_followed_instructions_is_expected_of_the_fraction(tmp_path):
    row = {"instruction_id_list": ["punctuation:no_comma"] * 2, "kwargs": [{}, {}], "response": "a"}
    _, (case,) = read_cases(written(tmp_path, [row | {"strict": [True, False], "key": 3}]))
    assert (case.id, case.verifier, case.expected) == ("3", "instructions", 0.5)


@pytest.mark.parametrize(
    ("task", "verifier"),
    [
        ({"name": "countdown", "numbers": [3, 5], "target": 8}, "countdown"),
        (
            {"name": "mini_sudoku", "clues": ["1 _ _ 4", "_ 4 1 _", "2 _ _ 3", "_ 3 2 _"]},
            "reasoning_gym",
        ),
        ({"name": "knights_knaves", "answer": {"Ann": "knight", "Bob": "knave"}}, "reasoning_gym"),
        ({"name": "word_sort", "answer": "ant bear"}, "reasoning_gym"),
        ({"name": "riddle", "answer": "noon"}, "exact"),
    ],
    ids=["countdown", "sudoku", "knights", "words", "text"],
)
def test_a_puzzle_goes_to_the_verifier_that_can_judge_it(tmp_path, task, verifier):
    row = attack("benign", "x", 1, domain="puzzle", task=task)
    _, (case,) = read_cases(written(tmp_path, [row]))
    assert case.verifier == verifier


def test_rows_of_ones_own_need_a_completion_and_a_label(tmp_path):
    rows = [
        {"prompt": "1+1?", "response": BOX.format(2), "gold": "2", "label": True},
        {"prompt": "1+2?", "response": BOX.format(2), "gold": "3", "label": 0},
    ]
    found = figures(tmp_path, rows)
    assert (found["n"], found["accuracy"]) == (2, 1.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": 1}], "cannot be told from the fields a. Known are hacks: kind, domain"),
        ([expression("7", "7", 2)], r"row 1: label is 2; it must be a number in \[0, 1\]"),
        ([expression("7", "7", 1), {"kind": "expr"}], "row 2: no field 'candidate'"),
        ([expression("7", 7, 1)], "row 1: candidate is 7; it must be text"),
        ([attack("attack", "x", 0, domain="maths")], "domain is 'maths'; it must be one of math"),
        ([attack("hack", "x", 0)], "kind is 'hack'; it must be one of attack, benign, data_error"),
        ([], "there is no row in it"),
    ],
    ids=["form", "label", "missing", "type", "domain", "kind", "empty"],
)
def test_a_row_that_cannot_be_read_is_an_error_that_says_where(tmp_path, rows, message):
    path = written(tmp_path, rows)
    with pytest.raises(ValueError, match=message) as caught:
        read_cases(path)
    assert str(path) in str(caught.value)


def test_a_line_that_is_no_json_is_an_error_with_its_number(tmp_path, capsys):
    path = written(tmp_path, [expression("7", "7", 1)])
    path.write_text(path.read_text() + "{oops\n")
    code, _, err = run(capsys, "reward", "bench", str(path))
    assert code == 2
    assert f"{path}, line 2: not JSON" in err


def test_an_unknown_verifier_says_how_many_rows_need_it(tmp_path):
    rows = [{"completion": "x", "answer": "x", "label": 1, "verifier": "exakt"}] * 3
    with pytest.raises(ValueError, match=r"3 of 3 rows need the verifier exakt: .*'exact'"):
        figures(tmp_path, rows, verifier=None)


def test_options_of_several_verifiers_are_refused(tmp_path):
    rows = [attack("benign", "x", 1), attack("benign", "x", 1, domain="mcq")]
    with pytest.raises(ValueError, match="of one verifier, and these rows need math, choice"):
        figures(tmp_path, rows, verifier=None, options=["deadline=1"])


def test_files_and_orphans_that_are_left_are_seen_and_those_of_others_are_not(tmp_path):
    there, marker = tmp_path / "there", tmp_path / "marker"
    there.touch()
    own = subprocess.Popen(["sleep", "30"])
    # the shell ends, its child lives on
    script = f"touch {marker}; sleep 31 >/dev/null 2>&1 & echo $!"
    with Watch([str(there), str(marker)]) as watch:
        orphan = int(subprocess.check_output(["sh", "-c", script], start_new_session=True))
    assert watch.left_by(f"{marker} exists on the host, or {there}") == [str(marker)]
    assert watch.processes == ["sleep 31"]
    own.kill()
    own.wait()
    os.kill(orphan, signal.SIGKILL)
    os.waitpid(orphan, 0)


def test_a_mark_that_judging_a_case_leaves_is_reported_with_its_id(tmp_path):
    marker = tmp_path / "marker"
    path = tmp_path / "leaky.py"
    path.write_text(f"def leaky(sample):\n    open({str(marker)!r}, 'w').close()\n    return 0\n")
    rows = [attack("attack", "x", 0, must_not=f"{marker} exists on the host")]
    found = figures(tmp_path, rows, verifier=f"{path}:leaky")
    assert found["left_behind"] == [{"id": "attack-1", "path": str(marker)}]
    assert found["left_running"] == []


def test_a_quantile_is_a_value_that_most_do_not_exceed():
    values = [float(i) for i in range(1, 1001)]
    assert 990 <= quantile(values, 0.99) <= 991
    assert quantile([], 0.99) == 0.0


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("verifier_bench/dev.jsonl.gz", "verifier_bench"),
        ("hacks/math_mcq_format.dev.jsonl", "hacks"),
        ("hacks/code.dev.jsonl", "hacks"),
        ("hacks/sql.dev.jsonl", "hacks"),
        ("hacks/ifeval_puzzle.dev.jsonl", "hacks"),
        ("code_bench/HumanEval.jsonl.gz", "human_eval"),
        ("code_bench/mbpp.jsonl.gz", "mbpp"),
        ("code_bench/codegen16b_humaneval.dev.jsonl.gz", "code_samples"),
        ("sql_bench/dev.jsonl", "sql_bench"),
        ("ifeval_bench/dev.jsonl.gz", "ifeval_bench"),
        ("puzzle_bench/dev.jsonl.gz", "puzzle_bench"),
    ],
)
def test_every_row_of_the_benches_becomes_a_case_of_its_own(name, form):
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"no bench at {path}; set RLVR_SHARED_DATA to the folder of the benches")
    found, cases = read_cases(path)
    assert found == form
    assert len({case.id for case in cases}) == len(cases)
    assert all(case.expected is not None or case.kind == "data_error" for case in cases) or (
        form == "puzzle_bench"
    )
