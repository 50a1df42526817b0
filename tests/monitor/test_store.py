"""What a run writes is what is read, also after a crash."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rlvr.monitor.store import RunWriter, read_completions, read_run


def write(folder: Path, updates: range) -> None:
    with RunWriter(folder) as writer:
        for update in updates:
            writer.log({"update": update, "reward": update / 10})
            writer.completions(update, [{"prompt": "p", "completion": f"c{update}"}])


def test_what_is_logged_is_read_back_as_columns(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as writer:
        writer.log({"update": 1, "reward": torch.tensor(0.5), "entropy": np.float32(0.25)})
        writer.log({"update": 2, "reward": 0.75, "eval/x/pass@1": 1})
    run = read_run(tmp_path / "run")
    np.testing.assert_array_equal(run.updates, [1, 2])
    np.testing.assert_array_equal(run.columns["reward"], [0.5, 0.75])
    np.testing.assert_array_equal(run.columns["entropy"], [0.25, math.nan])
    assert run.series("eval/x/pass@1") == (np.array([2]), np.array([1]))
    assert run.last("entropy") == 0.25
    assert math.isnan(run.last("no such metric"))


def test_rows_reach_the_file_before_the_writer_is_closed(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    writer.log({"update": 1, "reward": 1.0})
    assert read_run(tmp_path).last("reward") == 1.0
    writer.close()


def test_values_that_are_not_finite_are_written_as_null(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.log({"update": 1, "loss": math.nan, "kl": math.inf, "reward": 1.0})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "update": 1,
        "loss": None,
        "kl": None,
        "reward": 1.0,
    }
    assert math.isnan(read_run(tmp_path).last("loss"))


def test_rows_of_the_same_update_are_one_row(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.log({"update": 1, "reward": 0.5})
        writer.log({"update": 1, "eval/x/pass@1": 0.25})
    run = read_run(tmp_path)
    assert (len(run.updates), run.last("reward"), run.last("eval/x/pass@1")) == (1, 0.5, 0.25)


@pytest.mark.parametrize(
    "torn", ['{"update": 3, "rew', "{", '{"update"', '{"update": 3, "x": "\u00e9']
)
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: str) -> None:
    write(tmp_path, range(1, 3))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn.encode()[:-1] if torn.endswith("\u00e9") else torn.encode())
    np.testing.assert_array_equal(read_run(tmp_path).updates, [1, 2])


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"update": 1}\n{"upd\n{"update": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_run(tmp_path)


def test_resuming_sets_later_updates_aside_and_says_so(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 6, "to')
    with RunWriter(tmp_path, resume_from=3) as writer:
        writer.log({"update": 4, "reward": 9.0})
    np.testing.assert_array_equal(read_run(tmp_path).columns["reward"], [0.1, 0.2, 0.3, 9.0])
    aside = tmp_path / "set_aside" / "after_update_00003"
    np.testing.assert_array_equal(read_run(aside).updates, [4, 5])
    assert sorted(p.name for p in aside.glob("*.parquet")) == [
        "update_00004.parquet",
        "update_00005.parquet",
    ]
    assert not (tmp_path / "completions" / "update_00004.parquet").exists()
    assert "2 rows" in writer.notes[0]
    assert "torn" in writer.notes[1]


def test_resuming_twice_at_the_same_update_keeps_both_sets(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    for _ in range(2):
        with RunWriter(tmp_path, resume_from=1) as writer:
            writer.log({"update": 2, "reward": 0.0})
    assert len(list((tmp_path / "set_aside").iterdir())) == 2


def test_resuming_where_nothing_is_repeated_says_nothing(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    before = (tmp_path / "metrics.jsonl").read_text()
    with RunWriter(tmp_path, resume_from=3) as writer:
        assert writer.notes == []
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_folder_that_holds_a_run_is_refused_and_unchanged(tmp_path: Path) -> None:
    write(tmp_path, range(1, 3))
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match=r"holds another run.*--resume"):
        RunWriter(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_completions_come_back_as_written(tmp_path: Path) -> None:
    rows = [
        {
            "generation": 1,
            "prompt": [{"role": "user", "content": "2+2?"}],
            "completion": "é 4",
            "answer": 4,
            "reward": 1.0,
            "verdict": "correct",
            "rewards": {"math": 1.0, "format": math.nan},
            "length": torch.tensor(3),
            "truncated": False,
            "advantage": np.float32(0.5),
            "temperature": 1.2,
        },
        {"completion": "", "reward": math.nan, "verdict": "timeout", "reason": "5 s"},
    ]
    with RunWriter(tmp_path) as writer:
        writer.completions(7, rows)
    first, second = read_completions(tmp_path, 7)
    assert json.loads(first["prompt"]) == rows[0]["prompt"]
    assert first["completion"] == "é 4"
    assert (first["update"], first["answer"], first["length"]) == (7, "4", 3)
    assert (first["rewards/math"], first["rewards/format"]) == (1.0, None)
    assert (first["advantage"], first["temperature"]) == (0.5, 1.2)
    assert second["reward"] is None
    assert second["reason"] == "5 s"
    assert not list(tmp_path.glob("completions/*.partial"))


def test_asking_for_completions_that_are_not_there_says_which_are(tmp_path: Path) -> None:
    write(tmp_path, range(2, 5))
    with pytest.raises(ValueError, match="updates 2 to 4"):
        read_completions(tmp_path, 9)


def test_the_name_of_a_run_comes_from_its_recipe(tmp_path: Path) -> None:
    write(tmp_path / "folder", range(1, 2))
    assert read_run(tmp_path / "folder").name == "folder"
    (tmp_path / "folder" / "resolved.yaml").write_text(
        "name: clip_cov  # recipe\nmodel: {path: x}\n"
    )
    run = read_run(tmp_path / "folder")
    assert (run.name, run.recipe["model"]) == ("clip_cov", {"path": "x"})


@pytest.mark.parametrize("row", [{}, {"update": 1.5}, {"reward": 1.0}, {"update": None}])
def test_a_row_without_an_update_is_refused(tmp_path: Path, row: dict) -> None:
    with RunWriter(tmp_path) as writer, pytest.raises(ValueError, match="update"):
        writer.log(row)


def test_a_value_that_is_no_number_is_refused_by_name(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer, pytest.raises(TypeError, match="'reward' is a list"):
        writer.log({"update": 1, "reward": [1.0]})
