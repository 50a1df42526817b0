"""The progress of a run: lines where output is a file, one live bar on a terminal."""

import io
import os
import pty
import re
import threading

import pytest
from rich.console import Console

from rlvr.console import say
from rlvr.monitor.progress import Progress, evaluation_lines


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(updates: int, seconds: float, *, done: int = 0, stop: int | None = None) -> list[str]:
    """Return what a run of so many updates, each so long, writes to a file."""
    clock, file = Clock(), io.StringIO()
    with Progress(updates, done=done, console=Console(file=file), clock=clock) as progress:
        for update in range(done + 1, (stop or updates) + 1):
            clock.now += seconds
            progress.update({"update": update, "reward": update / 1000, "entropy": 0.5})
    return file.getvalue().splitlines()


def shown(text: list[str]) -> list[int]:
    return [int(line.split()[1].split("/")[0]) for line in text]


def test_fast_updates_have_a_line_for_each_tenth_of_the_run() -> None:
    assert shown(lines(400, 0.01)) == list(range(40, 401, 40))


def test_slow_updates_have_a_line_when_ten_seconds_have_passed() -> None:
    assert shown(lines(100, 4.0))[:4] == [3, 6, 9, 10]  # the last by its tenth
    assert shown(lines(5, 60.0)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("updates", [1, 3, 7, 11, 99, 101])
def test_the_last_update_always_has_a_line(updates: int) -> None:
    text = lines(updates, 0.001)
    assert shown(text)[-1] == updates
    assert len(text) <= 11


def test_what_was_reached_is_written_when_a_run_is_interrupted() -> None:
    assert shown(lines(400, 0.01, stop=93)) == [40, 80, 93]


def test_a_resumed_run_counts_from_where_it_was() -> None:
    assert shown(lines(100, 0.01, done=55)) == [60, 70, 80, 90, 100]


def test_a_line_holds_update_reward_entropy_and_the_time_left() -> None:
    text = lines(4, 30.0)
    assert text[0] == "update    1/4  reward 0.001  entropy 0.500"
    assert text[1] == "update    2/4  reward 0.002  entropy 0.500  0:01:00 left"


def test_values_that_were_not_measured_are_a_dash() -> None:
    file = io.StringIO()
    with Progress(1, console=Console(file=file)) as progress:
        progress.update({"update": 1, "reward": float("nan"), "entropy": None})
    assert file.getvalue() == "update    1/1  reward -  entropy -\n"


def test_an_evaluation_is_one_line_for_each_set_with_the_smallest_and_the_largest_k() -> None:
    file = io.StringIO()
    row = {"update": 0, "eval/A-[1]/pass@1": 0.25, "eval/A-[1]/pass@4": 0.4}
    row |= {"eval/A-[1]/pass@16": 0.5, "eval/A-[1]/pass@1/low": 0.2, "eval/A-[1]/pass@1/high": 0.3}
    with Progress(10, console=Console(file=file, width=20)) as progress:
        progress.update(row | {"eval/B/pass@1": 1.0})
    assert file.getvalue().splitlines() == [
        "eval      update 0, A-[1]: pass@1 0.250 [0.200, 0.300], pass@16 0.500",
        "eval      update 0, B: pass@1 1.000",
    ]
    assert list(evaluation_lines({"update": 3, "reward": 1.0})) == []


def test_quick_steps_write_nothing_to_a_file_and_slow_ones_say_how_far_they_are() -> None:
    clock, file = Clock(), io.StringIO()
    progress = Progress(console=Console(file=file), clock=clock)
    assert list(progress.steps(range(0, 40, 10), "A")) == [0, 10, 20, 30]
    assert file.getvalue() == ""
    for _ in progress.steps(range(4), "A"):
        clock.now += 6
    assert file.getvalue().splitlines() == [
        "eval      A 2/4  0:00:12 left",
        "eval      A 4/4",
    ]


class Terminal:
    """A console on a real terminal, whose output a thread reads."""

    def __init__(self, width: int) -> None:
        reader, writer = pty.openpty()
        self._file = os.fdopen(writer, "w")
        self.console = Console(file=self._file, width=width)
        self._read: list[bytes] = []
        self._thread = threading.Thread(target=self._collect, args=(reader,))
        self._thread.start()

    def _collect(self, reader: int) -> None:
        try:
            while data := os.read(reader, 1 << 16):
                self._read.append(data)
        except OSError:  # the writer has closed
            os.close(reader)

    def close(self) -> str:
        """Return what a user saw, without colours."""
        self._file.close()
        self._thread.join()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(self._read).decode())


@pytest.mark.parametrize("width", [80, 140])
def test_a_terminal_shows_a_bar_above_which_printed_lines_stay_whole(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(width)
    with Progress(4, console=terminal.console) as progress:
        for update in (1, 2, 3, 4):
            row = {"update": update, "reward": 0.25, "entropy": 0.5, "length/mean": 7.0}
            progress.update(row | {"eval/A/pass@1": 0.5, "group/zero_advantage_fraction": 0.1})
            for _ in progress.steps(range(2), "countdown"):
                say(f"note      line {update} of another part")
    lines = [line.strip() for line in re.split(r"[\r\n]+", terminal.close())]
    assert lines.count("eval      update 3, A: pass@1 0.500") == 1
    assert lines.count("note      line 3 of another part") == 2
    last = next(line for line in reversed(lines) if line)
    assert last.startswith("update ━━━━")
    length = "  length 7.0" if width == 140 else ""
    assert last.endswith(f"4/4  reward 0.250  entropy 0.500{length}  no signal 10%")


def test_colours_that_are_forced_make_no_terminal_of_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    with Progress(1, console=Console(file=file)) as progress:
        progress.update({"update": 1, "reward": 0.5})
    assert file.getvalue() == "update    1/1  reward 0.500\n"
