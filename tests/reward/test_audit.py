"""Gold answers of a data set are checked against themselves, and by a second verifier."""

import json

import pytest

from rlvr.reward.audit import audit
from tests.test_cli import run


@pytest.fixture
def dataset(tmp_path):
    def write(golds, **columns):
        path = tmp_path / "data.jsonl"
        rows = [{"prompt": f"{i}?", "answer": gold, **columns} for i, gold in enumerate(golds)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def problems(tmp_path, dataset, **options):
    path = tmp_path / "problems.jsonl"
    ok = audit(dataset, to=path, workers=1, **options)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert ok == (not found)
    return found


def test_golds_that_verify_against_themselves_are_no_problem(dataset, tmp_path):
    assert problems(tmp_path, dataset(["7", r"\frac{1}{2}", "(1, 2)", "x+1"])) == []


def test_an_unusable_gold_is_named_with_its_row(dataset, tmp_path):
    (found,) = problems(tmp_path, dataset(["7", " ", "8"]), verifier="exact")
    assert (found["row"], found["kind"]) == (2, "unusable")
    assert found["reason"]


def test_a_gold_that_its_verifier_refuses_fails(dataset, tmp_path):
    path = tmp_path / "even.py"
    path.write_text("def even(sample):\n    return int(sample.answer) % 2 == 0\n")
    found = problems(tmp_path, dataset(["2", "3", "4", "5"]), verifier=f"{path}:even")
    assert [(item["row"], item["kind"]) for item in found] == [(2, "fails"), (4, "fails")]


def test_rows_on_which_two_verifiers_differ_are_listed(dataset, tmp_path):
    path = tmp_path / "small.py"
    path.write_text("def small(sample):\n    return float(sample.answer) < 5\n")
    found = problems(tmp_path, dataset(["1", "9"]), verifier="exact", second=f"{path}:small")
    assert [(item["row"], item["kind"], item["second"]) for item in found] == [
        (2, "disagrees", "wrong")
    ]


def test_a_column_may_be_named_and_the_exit_code_says_what_was_found(tmp_path, capsys):
    path = tmp_path / "data.jsonl"
    path.write_text('{"question": "?", "result": "4"}\n')
    code, _, err = run(capsys, "reward", "audit", str(path))
    assert code == 2
    assert "no row has an answer; say which with --column answer=COLUMN" in err
    arguments = ["reward", "audit", str(path), "--column", "answer=result"]
    arguments += ["--verifier", "exact"]
    code, out, _ = run(capsys, *arguments, "--json")
    assert (code, json.loads(out)["verified"]) == (0, 1)
    path.write_text('{"question": "?", "result": ""}\n{"question": "?", "result": "4"}\n')
    code, out, _ = run(capsys, *arguments)
    assert code == 1
    assert "1 unusable" in out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--wrap", "boxes"], "unknown wrapping 'boxes'. Did you mean 'box'?"),
        (["--column", "answer"], "write OURS=THEIRS"),
        (["--column", "answer=gold"], "--column answer is 'gold', which no row of"),
        (["--verifier", "nath"], "unknown verifier 'nath'"),
    ],
    ids=["wrap", "column", "missing", "verifier"],
)
def test_bad_input_is_an_error_without_a_traceback(dataset, capsys, option, message):
    code, _, err = run(capsys, "reward", "audit", dataset(["7"]), *option)
    assert code == 2
    assert message in err
