"""A tracker that raises, hangs or is not there costs a run nothing: it is said once, and sent later."""

import importlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from rlvr.monitor import trackers
from rlvr.monitor.trackers import Tracker
from tests.run import launch

# what transformers' callback calls of it, with a fault at one place
WANDB = """
import threading
run = None
config = {{}}
taken = []
release = threading.Event()
class Run:
    def _label(self, code): pass
def at(place):
    if place == "{place}":
        {fault}
def init(**given):
    global run
    at("init")
    run = Run()
def log(row):
    at("log")
    taken.append(row["train/global_step"])
"""
RAISES = 'raise ConnectionError("no route to host\\nsecond line")'
HANGS = "release.wait()"


@pytest.fixture
def wandb(tmp_path, monkeypatch) -> Iterator[Callable[[str, str], Any]]:
    """Return a function that puts a wandb with a fault in place, and returns it."""
    folder = tmp_path / "path" / "wandb"
    (folder / "sdk" / "lib").mkdir(parents=True)
    for package in (folder / "sdk", folder / "sdk" / "lib"):
        (package / "__init__.py").touch()
    (folder / "sdk/lib/config_util.py").write_text("class ConfigError(Exception): pass\n")
    monkeypatch.syspath_prepend(str(folder.parent))

    def make(place: str, fault: str) -> Any:
        (folder / "__init__.py").write_text(WANDB.format(place=place, fault=fault))
        return importlib.import_module("wandb")

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        if name == "wandb":
            sys.modules[name].release.set()
        del sys.modules[name]


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Return what is said, as it grows."""
    messages: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Kept()
    logging.getLogger("rlvr").addHandler(handler)
    yield messages
    logging.getLogger("rlvr").removeHandler(handler)


def played(tracker: Tracker, folder: Path, updates: int = 3) -> None:
    """Have a tracker live through a run."""
    args = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to=[])
    state, control = TrainerState(is_world_process_zero=True), TrainerControl()
    tracker.on_train_begin(args, state, control, model=None)
    for update in range(1, updates + 1):
        state.global_step = update
        tracker.on_log(args, state, control, model=None, logs={"reward": update / 8})
    tracker.on_train_end(args, state, control, model=None)


def tracker(**seconds: float) -> Tracker:
    return Tracker(
        "wandb",
        trackers._maker("wandb"),
        later="rlvr monitor runs/x",
        **{"start": 20, "end": 20} | seconds,
    )


def test_a_tracker_gets_every_row_with_its_update(wandb, said, tmp_path):
    made = wandb("nothing", "pass")
    played(tracker(), tmp_path)
    assert made.taken == [1, 2, 3]
    assert said == []


@pytest.mark.parametrize("fault", ["init", "log"])
def test_a_tracker_that_raises_is_said_once_and_not_called_again(wandb, said, tmp_path, fault):
    made = wandb(fault, RAISES)
    played(tracker(), tmp_path)
    [text] = said
    assert (
        "the tracker wandb failed and is not called again (ConnectionError: no route to host)"
        in text
    )
    assert "metrics.jsonl has every row; to send them later: rlvr monitor runs/x" in text
    assert made.taken == []


def test_a_tracker_that_is_not_installed_is_said(said, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    played(tracker(), tmp_path)
    [text] = said
    assert "the tracker wandb failed" in text


def test_a_tracker_that_hangs_is_waited_for_at_start_and_end_only_so_long(wandb, said, tmp_path):
    made = wandb("init", HANGS)
    played(tracker(start=0.2, end=0.3), tmp_path)
    assert made.taken == []
    assert len(said) == 2
    assert "wandb is not set up after 0.2 s; training goes on, and the rows wait for it" in said[0]
    assert "wandb has not taken all rows after another 0.3 s and is left behind" in said[1]
    assert "to send them later" in said[1]


def test_a_tracker_that_wakes_up_late_gets_every_row(wandb, said, tmp_path):
    made = wandb("init", HANGS)
    threading.Timer(0.6, made.release.set).start()
    played(tracker(start=0.1), tmp_path)
    assert made.taken == [1, 2, 3]
    [text] = said
    assert "is not set up after 0.1 s" in text


def scalars(folder: Path, name: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(f"train/{name}")}


def test_a_run_whose_tracker_cannot_write_is_whole_and_is_sent_later(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "tensorboard").write_text("where the folder should be")
    done = launch.train(run, *launch.UNEVALUATED, "monitor.report_to=[tensorboard]")
    assert done.out.count("the tracker tensorboard failed and is not called again") == 1
    rows = launch.rows(run)
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert (run / "final" / "model.safetensors").is_file()
    later = f"rlvr monitor {run} --report-to tensorboard"
    assert later in done.out
    (run / "tensorboard").unlink()
    sent = launch.command(*later.split()[1:])
    assert sent.code == 0, sent.err
    assert f"4 updates of {run} to tensorboard" in sent.out
    for name in ("reward", "entropy"):
        assert scalars(run, name) == pytest.approx({row["update"]: row[name] for row in rows})


def test_sending_to_a_tracker_that_is_unknown_or_refuses_is_an_error(wandb, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"update": 1, "reward": 0.5}\n')
    result = launch.command("monitor", tmp_path, "--report-to", "wandbb")
    assert result.code == 2
    assert "Did you mean 'wandb'?" in result.err
    wandb("init", RAISES)
    result = launch.command("monitor", tmp_path, "--report-to", "wandb")
    assert result.code == 2
    assert (
        f"wandb did not take the rows of {tmp_path}: ConnectionError: no route to host"
        in result.err
    )
