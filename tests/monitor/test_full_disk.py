"""A disk that is full: rows wait until there is room, completions are left out, nothing is torn."""

import logging
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvr.monitor.store import RunWriter, read_completions, read_rows
from tests.full_disk import files_up_to


@pytest.fixture
def said(caplog, monkeypatch) -> Callable[[str], int]:
    """Return a function that counts what was said with these words in it."""
    monkeypatch.setattr(
        logging.getLogger("rlvr"), "propagate", True
    )  # the command's set-up ends it
    caplog.set_level(logging.INFO, "rlvr")
    return lambda words: sum(words in record.getMessage() for record in caplog.records)


def fill(path: Path) -> None:
    """Write zeros until there is no room."""
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def row(update: int) -> dict[str, float]:
    return {"update": update, "reward": update / 8}


@pytest.mark.parametrize("room", [0, 1, 40, 41])
def test_rows_wait_for_room_and_come_in_order_and_whole(tmp_path, said, room):
    writer = RunWriter(tmp_path)
    writer.log(row(1))
    taken = (tmp_path / "metrics.jsonl").read_bytes()
    with files_up_to(len(taken) + room):
        for update in (2, 3, 4):
            writer.log(row(update))
        there = (tmp_path / "metrics.jsonl").read_bytes()
        # whole rows, as many as there is room for
        assert there.count(b"\n") == 1 + room // len(taken)
        assert there.endswith(b"\n")
    writer.log(row(5))
    assert writer.close() is None
    assert read_rows(tmp_path) == [row(update) for update in range(1, 6)]
    assert said("wait in memory") == said("that had waited are written") == 1


def test_rows_that_find_no_room_to_the_end_are_saved_elsewhere_and_named(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    # a device that takes nothing, in place of the file
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
    writer = RunWriter(tmp_path / "run")
    writer.log(row(1))
    writer.log(row(2))
    lacks = writer.close()
    [saved] = elsewhere.iterdir()
    assert lacks is not None
    assert "No space left" in lacks
    assert "the last 2 rows" in lacks
    assert str(saved) in lacks
    assert saved.read_text().splitlines() == [
        '{"update": 1, "reward": 0.125}',
        '{"update": 2, "reward": 0.25}',
    ]


def test_completions_are_left_out_until_there_is_room(tmp_path, said):
    rows = [{"prompt": str(number), "completion": "x"} for number in range(50)]
    writer = RunWriter(tmp_path)
    with files_up_to(200):
        for update in (1, 2):
            writer.log(row(update))
            assert writer.completions(update, rows) is None
        assert list((tmp_path / "completions").iterdir()) == []
    assert writer.completions(3, rows) == tmp_path / "completions" / "update_00003.parquet"
    assert len(read_completions(tmp_path, 3)) == 50
    assert [item["update"] for item in read_rows(tmp_path)] == [1, 2]
    assert said("completions are left out") == 1


def test_a_file_system_that_is_full_takes_the_metrics_again_when_it_has_room(tmp_path):
    """On a real one, where this process may make one."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("only root may mount a file system")
    try:
        writer = RunWriter(tmp_path)
        writer.log(row(1))
        ballast = tmp_path / "ballast"
        with pytest.raises(OSError, match="No space"):
            fill(ballast)
        for update in range(2, 300):
            writer.log(row(update))
        assert writer.completions(1, [{"prompt": "p", "completion": "c"}]) is None
        assert 1 <= len(read_rows(tmp_path)) < 299
        ballast.unlink()
        writer.log(row(300))
        assert writer.close() is None
        assert read_rows(tmp_path) == [row(update) for update in range(1, 301)]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
