"""Local files of every type become rows; what is broken is counted, what is impossible is said."""

import gzip
import json
import logging
import os
from pathlib import Path

import pytest

from rlvr.data.layout import Row
from rlvr.data.source import check_columns, load_rows, missing_columns
from rlvr.recipe import DataSource

SHARED = Path(
    os.environ.get("RLVR_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)

ROWS = [{"problem": f"{n}+1=", "answer": str(n + 1), "level": n} for n in range(5)]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_json(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def write_json_lines_named_json(path, rows):
    return write_jsonl(path, rows)


def write_wrapped_json(path, rows):
    path.write_text(json.dumps({"version": 1, "data": rows}), encoding="utf-8")
    return str(path)


def write_csv(path, rows):
    import csv

    with path.open("w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_parquet(path, rows):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def write_gzip(path, rows):
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return str(path)


WRITERS = [
    ("sums.jsonl", write_jsonl),
    ("sums.json", write_json),
    ("sums.json", write_json_lines_named_json),
    ("sums.json", write_wrapped_json),
    ("sums.csv", write_csv),
    ("sums.parquet", write_parquet),
    ("sums.jsonl.gz", write_gzip),
]


def load(path, *, fault=None, leave_out=False, **options):
    return load_rows(DataSource(path=str(path), **options), fault=fault, leave_out=leave_out)


def pairs(rows):
    return sorted((row["prompt"], row["answer"]) for row in rows)


@pytest.mark.parametrize(
    ("name", "write"), WRITERS, ids=lambda value: getattr(value, "__name__", value)
)
def test_every_file_type_gives_the_same_rows(tmp_path, name, write):
    rows = load(write(tmp_path / name, ROWS))
    assert pairs(rows) == [(f"{n}+1=", str(n + 1)) for n in range(5)]
    assert {row["task"] for row in rows} == {"sums"}
    assert sorted(int(row["level"]) for row in rows) == [0, 1, 2, 3, 4]


def test_a_folder_gives_the_files_of_the_split_and_those_of_no_split(tmp_path):
    write_jsonl(tmp_path / "train-00.jsonl", ROWS[:2])
    write_parquet(tmp_path / "more.parquet", ROWS[2:3])
    write_csv(tmp_path / "test.csv", ROWS[3:])
    assert len(load(tmp_path)) == 3
    assert len(load(tmp_path, split="test")) == 3
    (tmp_path / "more.parquet").unlink()
    with pytest.raises(
        ValueError,
        match=r"data\.split is 'validation', of which .* has no file.*test\.csv, train-00\.jsonl",
    ):
        load(tmp_path, split="validation")


def test_lines_are_not_split_at_unicode_separators(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a\u2028b", "answer": "1"}\n', encoding="utf-8")
    assert load(path)[0]["prompt"] == "a\u2028b"


KNOWN_LAYOUTS = [
    ({"problem": "p", "answer": "4", "solution": "long"}, "p", "4"),
    ({"question": "p", "answer": "3*400=1200\n#### 1,200"}, "p", "1200"),
    ({"prompt": "p", "solution": "34"}, "p", "34"),
    ({"problem": "p", "solution": r"so \boxed{1} and \boxed{\frac{1}{2}}."}, "p", r"\frac{1}{2}"),
    ({"problem": "p", "expected_answer": "7"}, "p", "7"),
    ({"problem": "p", "answer": "working", "final_answer": ["7"]}, "p", ["7"]),
    (
        {
            "prompt": [{"role": "user", "content": "p"}],
            "reward_model": {"ground_truth": "5", "style": "rule"},
            "answer": "another",
        },
        [{"role": "user", "content": "p"}],
        "5",
    ),
]


@pytest.mark.parametrize(("row", "prompt", "answer"), KNOWN_LAYOUTS)
def test_known_layouts_are_detected(tmp_path, row, prompt, answer):
    (loaded,) = load(write_jsonl(tmp_path / "a.jsonl", [row]))
    assert (loaded["prompt"], loaded["answer"]) == (prompt, answer)


def test_the_column_data_source_names_the_task(tmp_path):
    rows = [{"prompt": "a", "answer": "1", "data_source": "aime"}, {"prompt": "b", "answer": "1"}]
    loaded = load(write_jsonl(tmp_path / "mixed.jsonl", rows))
    assert {row["prompt"]: row["task"] for row in loaded} == {"a": "aime", "b": "mixed"}


def test_mapped_columns_win_over_detected_ones_and_are_taken_as_they_are(tmp_path):
    row = {
        "prompt": "x",
        "answer": "1",
        "text": "q #### 3",
        "meta": {"golds": ["5", "6"], "numbers": [1, 2]},
        "extra": '{"target": 3}',
    }
    columns = {"prompt": "text", "answer": "meta.golds.1"}
    columns |= {"numbers": "meta.numbers", "target": "extra.target"}
    (loaded,) = load(write_jsonl(tmp_path / "a.jsonl", [row]), columns=columns)
    assert loaded["prompt"] == "q #### 3"
    assert loaded["answer"] == "6"
    assert loaded["numbers"] == [1, 2]
    assert loaded["target"] == 3


def test_a_template_is_filled_from_the_columns(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"a": 1, "b": {"c": 2}, "answer": "3"}])
    (row,) = load(path, template="{a}+{b[c]}= in \\boxed{{}}")
    assert row["prompt"] == "1+2= in \\boxed{}"


def test_a_template_fills_the_last_user_message_of_a_chat(tmp_path):
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "1+1="}]
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": chat, "answer": "2"}])
    (row,) = load(path, template="{prompt} Be brief.")
    assert row["prompt"] == [chat[0], {"role": "user", "content": "1+1= Be brief."}]


def test_a_system_message_makes_text_a_chat_and_an_empty_one_adds_none(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "1+1=", "answer": "2"}])
    user = {"role": "user", "content": "1+1="}
    assert load(path, system="s")[0]["prompt"] == [{"role": "system", "content": "s"}, user]
    assert load(path, system="")[0]["prompt"] == [user]
    assert load(path)[0]["prompt"] == "1+1="


def test_a_system_message_replaces_the_one_of_the_data(tmp_path):
    chat = [{"role": "system", "content": "old"}, {"role": "user", "content": "q"}]
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": chat, "answer": "2"}])
    assert load(path, system="new")[0]["prompt"][0]["content"] == "new"
    assert len(load(path, system="new")[0]["prompt"]) == 2


def test_broken_rows_are_counted_and_left_out_with_one_warning(tmp_path, caplog):
    rows = [
        {"prompt": "a", "answer": "1"},
        {"prompt": " ", "answer": "1"},
        {"prompt": None, "answer": "1"},
        {"prompt": [], "answer": "1"},
        {"prompt": [{"role": "user", "content": ""}], "answer": "1"},
        {"prompt": [{"content": "no role"}], "answer": "1"},
        {"prompt": "b", "answer": ""},
        {"prompt": "c", "answer": []},
        {"prompt": "d"},
        {"prompt": "e", "answer": float("nan")},
        {"prompt": "f", "answer": 0},
    ]
    with caplog.at_level(logging.INFO, logger="rlvr"):
        loaded = load(write_jsonl(tmp_path / "a.jsonl", rows))
    assert sorted(row["prompt"] for row in loaded) == ["a", "f"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "5 broken: no prompt; 4 broken: no answer" in record.getMessage()


def test_repeated_prompts_are_left_out_and_counted_with_those_that_disagree(tmp_path, caplog):
    rows = [{"prompt": p, "answer": a} for p, a in ("a1", "a1", "b2", "a3")]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with caplog.at_level(logging.INFO, logger="rlvr"):
        assert pairs(load(path)) == [("a", "1"), ("b", "2")]
    assert "2 with a prompt that occurred before; 1 of these" in caplog.text
    assert len(load(path, deduplicate=False)) == 4


def test_shuffling_depends_on_the_seed_only_and_limit_takes_the_first(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": f"p{n}", "answer": n} for n in range(50)])
    order = [row["prompt"] for row in load(path, seed=1)]
    assert order == [row["prompt"] for row in load(path, seed=1)]
    assert order != [row["prompt"] for row in load(path, seed=2)]
    assert order[:7] == [row["prompt"] for row in load(path, seed=1, limit=7)]


def test_columns_that_are_not_json_are_left_out(tmp_path):
    rows = [{"prompt": "a", "answer": "1", "image": b"\x89PNG", "level": 3}]
    (row,) = load(write_parquet(tmp_path / "a.parquet", rows))
    assert "image" not in row
    assert row["level"] == 3


ERRORS = [
    (
        {"columns": {"answer": "reward_model.ground_thruth"}},
        "Did you mean 'reward_model.ground_truth'",
    ),
    (
        {"columns": {"numbers": "extra.numbers"}},
        r"columns\.numbers is 'extra\.numbers', which no row",
    ),
    ({"template": "{problem} ="}, r"field \{problem\}, which is no column.* Columns: prompt, "),
    ({"template": "{prompt} \\boxed{}"}, r"Write \{\{ and \}\}"),
    ({"template": "{prompt} {"}, r"Write \{\{ and \}\}"),
    ({"revision": "main"}, "revision is 'main', but a local path has none"),
    ({"subset": "main"}, "subset is 'main', but a local path has none"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_errors_name_the_data_set_and_the_columns_there_are(tmp_path, options, message):
    rows = [{"prompt": "1+1=", "reward_model": {"ground_truth": "2"}}]
    path = write_jsonl(tmp_path / "sums.jsonl", rows)
    with pytest.raises(ValueError, match=message) as caught:
        load(path, **options)
    assert str(caught.value).startswith("data.")
    assert "sums.jsonl" in str(caught.value)


def test_a_data_set_without_an_answer_is_refused_only_where_a_verifier_needs_one(tmp_path):
    rows = load(write_jsonl(tmp_path / "a.jsonl", [{"prompt": "a", "result": "1"}]))
    assert [row["answer"] for row in rows] == [None]
    check_columns(rows, ["result"])
    with pytest.raises(ValueError, match=r"need a column 'answer'.*Columns: .*result.*answer="):
        check_columns(rows, ["answer"])


def no_letters(row):
    return None if row["answer"].isdigit() else "exact: not a number"


def test_a_row_that_cannot_be_judged_is_an_error_with_its_number_or_left_out(tmp_path, caplog):
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": ""}, {"prompt": "b", "answer": "x"}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    message = r"data: row 2 cannot be judged: exact: not a number; its answer is 'x'.*1 of 2 rows"
    with pytest.raises(ValueError, match=message):
        load(path, fault=no_letters)
    kept = load(path, fault=no_letters, leave_out=True)
    assert [row["prompt"] for row in kept] == ["a"]
    assert "1 broken: no completion could be judged" in caplog.text
    with pytest.raises(ValueError, match="row 0 cannot be judged"):
        load(path, fault=lambda _: "nothing can", leave_out=True)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_data_set_is_an_error(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match="is empty; check path and split"):
        load(path)


def test_a_data_set_of_broken_rows_is_an_error(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "", "answer": "1"}] * 3)
    with pytest.raises(ValueError, match=r"none of the 3 rows is usable \(3 broken: no prompt"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
        ("a.jsonl", b"[1, 2]\n", "line 1: an object is needed"),
        ("a.json", b"[1, 2]", "one object a row"),
        ("a.json", b"[{", "not JSON"),
        ("a.csv", b"prompt,answer\na,b,c\n", "line 2: more cells than the header"),
        ("a.csv", b"prompt,answer\n\xff\xfe,1\n", "not UTF-8"),
        ("a.parquet", b"nothing", "not a parquet file"),
        ("a.jsonl.gz", b"nothing", "broken archive"),
        ("a.txt", b"1+1", "unknown file type"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / name)
    assert name in str(caught.value)


def test_a_mistyped_path_is_answered_with_the_file_next_to_it(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(ValueError, match=r"Did you mean .*train\.jsonl"):
        load(tmp_path / "trian.jsonl")
    with pytest.raises(ValueError, match="There is no folder"):
        load(tmp_path / "nowhere" / "train.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no data files in it"):
        load(tmp_path / "empty")


def test_a_hub_data_set_that_cannot_be_reached_says_how_to_use_local_files(monkeypatch):
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"(?s)nobody/nothing: could not be loaded.*hf download"):
        load("nobody/nothing")


def test_a_task_gives_rows_through_the_same_function():
    source = DataSource(task="countdown", task_options={"numbers": 3}, size=20, seed=3, system="s")
    rows = load_rows(source)
    assert len(rows) == 20
    assert rows[0]["prompt"][0] == {"role": "system", "content": "s"}
    assert {row["task"] for row in rows} == {"countdown"}
    with pytest.raises(ValueError, match=r"evaluation\.sets\[0\]\.task: unknown task 'countdwn'"):
        load_rows(DataSource(task="countdwn"), at=("evaluation", "sets", 0))


def test_columns_that_verifiers_need_are_missed_before_a_model_loads():
    rows: list[Row] = [
        {"prompt": "a", "answer": "1", "numbers": [1]},
        {"prompt": "b", "answer": "2"},
    ]
    assert missing_columns(rows, ["answer", "numbers", "target"]) == ["target"]
    check_columns(rows, ["answer", "numbers"])
    with pytest.raises(
        ValueError, match=r"'target', which no row has.*data\.columns\.target=COLUMN"
    ):
        check_columns(rows, ["answer", "target"])


MATH = {
    "DAPO-Math-17k": 17398,
    "gsm8k_test": 1319,
    "math500": 500,
    "aime24": 30,
    "aime25": 30,
    "amc23": 40,
    "minerva_math": 272,
    "olympiadbench": 675,
}


@pytest.mark.parametrize(("name", "problems"), MATH.items(), ids=MATH)
def test_the_fields_math_sets_are_read_without_a_mapping(name, problems):
    path = SHARED / "math" / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there; set RLVR_SHARED_DATA to the folder that holds math/")
    rows = load(path)
    assert len(rows) == problems
    assert all(row["prompt"][-1]["content"].strip() for row in rows)
    assert all(row["answer"] == row["reward_model"]["ground_truth"] for row in rows)
    assert all(row["task"] == row["data_source"] for row in rows)


def test_broken_texts_inside_a_row_are_data_and_do_not_stop_the_load():
    path = SHARED / "math" / "aime25.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there; set RLVR_SHARED_DATA to the folder that holds math/")
    # raw_problem starts in the middle of a sentence in this set as published
    rows = load(path, columns={"prompt": "extra_info.raw_problem"})
    assert len(rows) == 30
    assert any(row["prompt"].startswith(" by step.") for row in rows)
