"""A checkpoint is there whole or not at all, and one that cannot be written costs nothing but itself."""

import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from rlvr import checkpoint
from tests.run import launch


def write(folder: Path, update: int) -> Path:
    path = checkpoint.place(folder) / f"checkpoint-{update}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"x" * 1000)
    (path / "trainer_state.json").write_text("{}")
    return path


def test_what_is_being_written_is_not_found(tmp_path):
    write(tmp_path, 2)
    assert checkpoint.checkpoints(tmp_path) == []
    checkpoint.publish(tmp_path, "checkpoint-2", keep=2)
    assert checkpoint.checkpoints(tmp_path) == [tmp_path / "checkpoint-2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2"]


def test_what_a_killed_process_left_is_removed_by_the_next_checkpoint(tmp_path):
    write(tmp_path, 2)
    (tmp_path / checkpoint.DELETING / "half").mkdir(parents=True)
    write(tmp_path, 4)
    checkpoint.publish(tmp_path, "checkpoint-4", keep=None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_the_oldest_go_and_numbers_are_compared_as_numbers(tmp_path):
    for update in (8, 9, 10, 100):
        write(tmp_path, update)
        checkpoint.publish(tmp_path, f"checkpoint-{update}", keep=2)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [
        "checkpoint-100",
        "checkpoint-10",
    ]


def test_a_checkpoint_that_is_written_again_replaces_the_old_one(tmp_path):
    for text in ("{}", '{"epoch": 1}'):
        path = write(tmp_path, 2)
        (path / "trainer_state.json").write_text(text)
        checkpoint.publish(tmp_path, "checkpoint-2", keep=2)
    assert (tmp_path / "checkpoint-2" / "trainer_state.json").read_text() == '{"epoch": 1}'


@pytest.mark.parametrize("content", [None, "", '{"epo'])
def test_a_torn_checkpoint_is_known_by_its_last_file(tmp_path, content):
    path = write(tmp_path, 2)
    assert checkpoint.is_whole(path)
    (path / "trainer_state.json").unlink()
    if content is not None:
        (path / "trainer_state.json").write_text(content)
    assert not checkpoint.is_whole(path)


ARGUMENTS = (*launch.UNEVALUATED, "training.save_every=2", "monitor.completions_every=0")


@pytest.mark.slow
def test_a_disk_that_takes_no_checkpoint_lets_training_go_on_and_says_so(tmp_path):
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (180_000, 180_000))

    output = tmp_path / "run"
    # the model fits, the optimizer's state, twice its size, does not
    done = subprocess.run(
        launch.apart(output, *ARGUMENTS),
        cwd=launch.ROOT,
        env=launch.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=small_files_only,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "checkpoint of update 2 was not written" in done.stdout
    assert "checkpoint of update 4 was not written" in done.stdout
    assert list((output / "checkpoints").iterdir()) == []
    assert [row["update"] for row in launch.rows(output)] == [1, 2, 3, 4]
    assert (output / "final" / "model.safetensors").is_file()


def test_a_checkpoint_is_not_begun_where_there_is_no_room(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    output = tmp_path / "run"
    result = launch.train(output, *ARGUMENTS)
    assert "checkpoint of update 2 was not written" in result.out
    assert "0.0 are free" in result.out
    assert list((output / "checkpoints").iterdir()) == []
    assert (output / "final" / "model.safetensors").is_file()
