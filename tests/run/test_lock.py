"""A run folder that a process trains in is refused to every other one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr.lock import locked
from tests.run import launch

HOLDER = """
import sys
from pathlib import Path
from rlvr.lock import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that trains in `run`."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(
        command, cwd=launch.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_is_refused_while_another_process_has_it(tmp_path, holder):
    with pytest.raises(ValueError, match=f"another process .number {holder.pid},"):
        locked(tmp_path / "run").__enter__()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "run"):
        pass


def test_neither_a_new_start_nor_a_resumed_one_joins_a_run_that_goes_on(tmp_path, holder):
    # a launcher that was killed leaves its processes
    model = launch.without_weights(tmp_path / "model")
    for more in (["--resume"], []):
        arguments = (*launch.SMALL, f"model.path={model}", f"output={tmp_path / 'run'}", *more)
        result = launch.command("train", "demo", *arguments)
        assert result.code == 2
        assert "being trained by another process" in result.err
    assert [*(tmp_path / "run").iterdir()] == []


def test_a_folder_in_which_nothing_was_written_is_not_left(tmp_path):
    folder: Path = tmp_path / "new"
    with pytest.raises(KeyError), locked(folder):
        raise KeyError
    assert not folder.exists()
    with locked(folder):
        (folder / "metrics.jsonl").touch()
    assert folder.exists()
