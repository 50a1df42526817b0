"""What each rank does is written by a process beside it, whatever the rank is caught in; a stall is reported once."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest

from rlvr.monitor.command import now
from rlvr.watch import record
from rlvr.watch.beat import FOLDER, Beat, describe, read_beat, status
from rlvr.watch.heartbeat import NO_HEARTBEAT, Heartbeat, stack_signal, watched
from rlvr.watch.stall import blame
from tests.run import launch, watched_rank

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a heartbeat needs Linux")

NEVER = 1000.0


def start(run: Path, rank: int, processes: int, scenario: str, stall_after: float = NEVER):
    """Start a rank; without torch it is there in a tenth of a second."""
    run.mkdir(exist_ok=True)
    command = [sys.executable, watched_rank.__file__, run, rank, processes, stall_after, scenario]
    with (run / f"said-{rank}").open("w") as said:
        return subprocess.Popen([str(item) for item in command], stderr=said)


@contextmanager
def ranks(run: Path, *scenarios: str, stall_after: float = NEVER) -> Iterator[list]:
    """Start the ranks of a run, and end them."""
    started = [
        start(run, rank, len(scenarios), scenario, stall_after)
        for rank, scenario in enumerate(scenarios)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def until(found: Callable[[], object], seconds: float = 8.0):
    """Return what a function returns as soon as that is something."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def beat(run: Path, rank: int = 0) -> Beat | None:
    return read_beat(run / FOLDER, rank)


def doing(run: Path, phase: str, rank: int = 0) -> Callable[[], Beat | None]:
    """Return a function that returns the rank's beat if it is in the phase."""

    def look() -> Beat | None:
        found = beat(run, rank)
        return found if found and found.phase == phase else None

    return look


def stalls(run: Path) -> list[Path]:
    return sorted((run / FOLDER).glob("stall-*.txt"))


def watchers(process: subprocess.Popen) -> list[int]:
    """Return the processes that were started by a rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_rank_is_reported_with_its_phase_and_growing_seconds(tmp_path):
    with ranks(tmp_path, "score"):
        first = until(doing(tmp_path, "rollout/scoring"))
        later = until(lambda: beat(tmp_path) if beat(tmp_path).seconds > first.seconds else None)
    assert (later.rank, later.processes, later.update, later.state) == (0, 1, 3, "sleeping")
    assert later.host == os.uname().nodename
    assert later.cores < 0.5


def test_a_rank_that_holds_pythons_lock_is_reported_with_its_stack(tmp_path):
    with ranks(tmp_path, "hold_the_lock", stall_after=0.4):
        assert until(doing(tmp_path, "statistics")).state == "sleeping"
        [path] = until(lambda: stalls(tmp_path))
    assert "in hold_the_lock" in path.read_text()


def test_a_rank_that_is_stopped_is_reported_as_stopped(tmp_path):
    with ranks(tmp_path, "score", stall_after=0.8) as [process]:
        until(doing(tmp_path, "rollout/scoring"))
        os.kill(process.pid, signal.SIGSTOP)
        stopped = until(lambda: beat(tmp_path) if beat(tmp_path).state == "stopped" else None)
        until(lambda: beat(tmp_path).seconds > stopped.seconds)
        [line] = status(tmp_path)
        assert re.fullmatch(r"rank 0: scoring, \d+ s, stopped by a signal", line)
        [path] = until(lambda: stalls(tmp_path))
        assert "no stack: the process is stopped" in path.read_text()
        os.kill(process.pid, signal.SIGCONT)
        until(lambda: beat(tmp_path).state == "sleeping")
        assert process.poll() is None


@pytest.mark.parametrize(
    ("scenario", "number"),
    [
        ("score", signal.SIGKILL),
        ("score", signal.SIGTERM),
        ("score", signal.SIGABRT),
        ("fork", signal.SIGKILL),
    ],
)
def test_a_killed_rank_leaves_where_it_ended_and_no_process(tmp_path, scenario, number):
    with ranks(tmp_path, scenario) as [process]:
        until(doing(tmp_path, "rollout/scoring"))
        watcher = min(watchers(process))  # a fork comes after it
        assert is_alive(watcher)
        os.kill(process.pid, number)
        process.wait()
        until(lambda: beat(tmp_path).state == "ended", seconds=2.0)
        until(lambda: not is_alive(watcher), seconds=2.0)
    assert status(tmp_path) == ["rank 0: ended in scoring"]


def test_a_signal_to_the_whole_group_does_not_end_the_watcher_first(tmp_path):
    with ranks(tmp_path, "score") as [process]:
        until(doing(tmp_path, "rollout/scoring"))
        [watcher] = watchers(process)
        os.kill(watcher, signal.SIGTERM)
        os.kill(watcher, signal.SIGINT)
        seconds = beat(tmp_path).seconds
        until(lambda: beat(tmp_path).seconds > seconds + 0.3)
        process.kill()
        until(lambda: beat(tmp_path).state == "ended")


def test_an_error_leaves_the_phase_in_which_it_came(tmp_path):
    with ranks(tmp_path, "fail") as [process]:
        assert process.wait() == 1
    assert status(tmp_path) == ["rank 0: ended in sampling"]


def test_a_rank_that_has_done_its_work_has_finished_and_is_not_spoken_of(tmp_path):
    with ranks(tmp_path, "succeed") as [process]:
        assert process.wait() == 0
    found = beat(tmp_path)
    assert (found.state, found.update) == ("finished", 7)
    assert status(tmp_path) == []


def test_a_stall_names_who_waits_for_whom_with_all_stacks_and_is_reported_once(tmp_path):
    with ranks(tmp_path, "wait", "score", "wait", stall_after=1.0) as processes:
        [path] = until(lambda: stalls(tmp_path))
        time.sleep(2.0)
        assert stalls(tmp_path) == [path]
        assert all(process.poll() is None for process in processes)
    said = [(tmp_path / f"said-{rank}").read_text() for rank in range(3)]
    text = path.read_text()
    assert "ranks 0, 2 wait for rank 1 (scoring)" in text
    head, first, *others = re.split(r"\n(?=rank \d, .* process \d+\n)", text)
    assert "rank 1: scoring" in head
    assert first.startswith("rank 1,")
    assert "in a_verifier_that_hangs" in first
    assert len(others) == 2
    assert all(" in wait" in part for part in others)
    [line] = [line for text in said for line in text.splitlines()]
    assert re.match(r"stall +rank 1: scoring, \d s; ranks 0, 2 wait for rank 1 \(scoring\)", line)
    assert str(path) in line
    # a watcher may be writing its last
    left = {file.name.removesuffix(".part") for file in (tmp_path / FOLDER).iterdir()}
    assert left == {path.name, *(f"rank-{rank:05d}.json" for rank in range(3))}


def test_without_the_first_rank_the_next_reports(tmp_path):
    with ranks(tmp_path, "wait", "wait", "score", stall_after=1.0) as processes:
        until(lambda: all(beat(tmp_path, rank) for rank in range(3)))
        processes[0].kill()
        [path] = until(lambda: stalls(tmp_path))
    text = path.read_text()
    assert "rank 2: scoring" in text.splitlines()[0]
    assert "rank 1 waits for rank 2 (scoring); rank 0 (gone)" in text
    assert "rank 0: ended in waiting for others" in text


def test_a_phase_that_always_takes_long_is_no_stall(tmp_path):
    # 0.8 s are more than 0.5 s: reported when nobody knows better, then not again
    with ranks(tmp_path, "cycle", stall_after=0.5) as [process]:
        assert process.wait() == 0
    assert len(stalls(tmp_path)) == 1


def test_a_stall_report_does_not_end_the_run(tmp_path):
    with ranks(tmp_path, "go_on", stall_after=0.3) as [process]:
        assert process.wait() == 0
    assert "in go_on" in stalls(tmp_path)[0].read_text()
    assert beat(tmp_path).state == "finished"


def test_monitor_says_of_which_run_a_rank_is_where_there_are_several(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    with ranks(one, "score"), ranks(other, "wait"):
        until(lambda: doing(one, "rollout/scoring")() and beat(other))
        scoring, waiting = now([tmp_path])
        assert re.fullmatch(rf"now +{one}, rank 0: scoring, \d+ s", scoring)
        assert re.fullmatch(rf"now +{other}, rank 0: waiting for others, \d+ s", waiting)
        assert [line.split()[1] for line in now([one])] == ["rank"]


def test_what_an_earlier_run_left_is_not_taken_for_this_ones(tmp_path):
    with ranks(tmp_path, "score", "wait", "wait"):
        until(lambda: all(beat(tmp_path, rank) for rank in range(3)))
    request = tmp_path / FOLDER / "stall-request.json"
    request.write_text(json.dumps({"rank": 2, "time": time.time()}))
    with ranks(tmp_path, "score", "wait"):
        until(lambda: beat(tmp_path, 2) is None)
        until(doing(tmp_path, "rollout/scoring"))
        time.sleep(0.5)
        assert stalls(tmp_path) == []


def test_a_run_folder_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    with ranks(tmp_path, "succeed") as [process]:
        assert process.wait() == 0
    assert (tmp_path / "said-0").read_text() == ""


def test_a_run_that_ends_at_once_leaves_no_folder(tmp_path):
    run = tmp_path / "run"
    options = {"rank": 0, "processes": 1, "stall_after": NEVER, "patience": NEVER}
    with pytest.raises(ValueError, match="a wrong recipe"), watched(run, every=5.0, **options):
        raise ValueError("a wrong recipe")
    assert not run.exists()


def test_saying_a_phase_takes_microseconds_and_nothing_without_a_watcher():
    file = os.memfd_create("record")
    try:
        for heartbeat, most in ((Heartbeat(file), 200e-6), (NO_HEARTBEAT, 50e-6)):
            times = []
            for _ in range(200):
                before = time.perf_counter()
                with heartbeat.phase("scoring"):
                    pass
                times.append(time.perf_counter() - before)
            assert median(times) < most
    finally:
        os.close(file)


def test_a_record_is_read_as_it_was_written():
    file = os.memfd_create("record")
    try:
        for phase in ("rollout/scoring", "x" * 600, "Bewertung/Prüfung"):
            said = record.Record(phase, 17, time.monotonic(), finished=True)
            record.write(file, said)
            found = record.read(file)
            assert said.phase.startswith(found.phase)
            assert len(found.phase) > 10
            assert (found.update, found.since, found.finished) == (17, said.since, True)
    finally:
        os.close(file)


def test_the_signal_is_none_that_a_scheduler_sends():
    number = stack_signal()
    assert number not in (signal.SIGUSR1, signal.SIGUSR2)
    assert signal.SIGRTMIN < number < signal.SIGRTMAX
    before = signal.signal(number, lambda *_: None)
    try:
        assert stack_signal() != number
    finally:
        signal.signal(number, before)


def of(rank: int, phase: str, state: str = "sleeping", at: float = 1000.0) -> Beat:
    return Beat(rank, 4, "node", 1, state, phase, 100.0, 3, 0.0, 1.0, at, 5.0)


WAIT = f"rollout/{record.WAITING}"


@pytest.mark.parametrize(
    ("beats", "expected"),
    [
        ([of(0, WAIT), of(1, "rollout/scoring"), of(2, WAIT), of(3, WAIT)], "ranks 0, 2-3 wait for rank 1 (scoring)"),
        ([of(0, WAIT), of(1, "training", "ended"), of(2, WAIT), of(3, WAIT)], "ranks 0, 2-3 wait for rank 1 (gone)"),
        ([of(0, WAIT), of(1, WAIT, at=500.0), of(2, WAIT), of(3, WAIT)], "ranks 0, 2-3 wait for rank 1 (gone)"),
        (
            [of(0, WAIT), of(1, WAIT)],
            "ranks 0-1 wait for ranks 2-3 (no heartbeat file: is the run folder shared?)",
        ),
        (
            [of(rank, "training") for rank in (0, 1, 3)] + [of(2, "rollout/scoring", "stopped")],
            "no rank waits for others: rank 2 (scoring, stopped by a signal), ranks 0-1, 3 (training)",
        ),
        (
            [of(rank, WAIT) for rank in range(4)],
            "every rank waits for the others: they have come to different collectives",
        ),
        ([of(rank, "training") for rank in range(4)], "every rank is in it: a collective inside it does not end, or it is slow"),
    ],
    ids=["one is late", "one was killed", "one is silent", "not shared", "none waits", "all wait", "all train"],
)  # fmt: skip
def test_the_cause_of_a_stall_is_who_is_not_in_the_collective(beats, expected):
    assert blame({beat.rank: beat for beat in beats}, 4, now=1001.0) == expected


def test_a_rank_whose_machine_is_gone_is_said_to_be_silent():
    assert describe(of(3, "training", at=1000.0), now=1024.0) == "rank 3: training, 124 s"
    assert "no sign of it for 26 s" in describe(of(3, "training", at=1000.0), now=1026.0)


@pytest.mark.parametrize(
    ("item", "texts"),
    [
        ("monitor.heartbeat_every=0.01", ["monitor.heartbeat_every", "at least 0.1"]),
        ("monitor.stall_after=2", ["monitor.stall_after", "every 5 s"]),
        ("monitor.stall_after=1800", ["monitor.stall_after", "training.ddp_timeout", "80 %"]),
        ("monitor={stall_after: 60, heartbeat_every: 0}", ["stall_after", "nobody looks"]),
    ],
)
def test_a_setting_that_cannot_work_is_refused(item, texts):
    from rlvr.recipe import RecipeError, load_recipe

    with pytest.raises(RecipeError) as error:
        load_recipe("demo", overrides=[item])
    assert all(text in str(error.value) for text in texts)


def test_a_watched_run_is_bitwise_the_run_that_nobody_watches(tmp_path):
    from safetensors.torch import load_file

    arguments = (*launch.UNEVALUATED, "training.save_every=2")
    launch.train(tmp_path / "alone", *arguments, "monitor.heartbeat_every=0")
    # it is disturbed all the time: every phase of a tenth of a second is a stall
    often = ("monitor.heartbeat_every=0.1", "monitor.stall_after=0.1")
    launch.train(tmp_path / "watched", *arguments, *often)
    assert not (tmp_path / "alone" / FOLDER).exists()
    assert stalls(tmp_path / "watched")
    assert beat(tmp_path / "watched").state == "finished"
    rows, others = (launch.rows(tmp_path / name) for name in ("alone", "watched"))
    assert [launch.numbers(row) for row in others] == [launch.numbers(row) for row in rows]
    one, other = (
        load_file(tmp_path / name / "final/model.safetensors") for name in ("alone", "watched")
    )
    assert all(one[name].equal(other[name]) for name in one)


HANGS_ONCE = """
import os, pathlib, time

def reward(sample):
    if os.environ["RANK"] == "1":
        try:
            pathlib.Path(__file__).with_name("hung").touch(exist_ok=False)
        except FileExistsError:
            return True
        time.sleep(8)
    return "*" in sample.completion
"""


@pytest.mark.slow
def test_a_verifier_that_hangs_on_one_of_two_ranks_is_named_with_both_stacks_and_the_run_goes_on(
    tmp_path,
):
    (tmp_path / "hangs.py").write_text(HANGS_ONCE)
    run = tmp_path / "run"
    arguments = (
        *launch.UNEVALUATED,
        f"rewards.verifiers=['{tmp_path}/hangs.py:reward']",
        "rewards.deadline=60",
        "monitor.heartbeat_every=0.2",
        "monitor.stall_after=3",
    )
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    python, *rest = launch.apart(run, *arguments)
    with (tmp_path / "err").open("w+") as err:
        process = subprocess.Popen(
            [python, *torchrun, *rest],
            cwd=launch.ROOT,
            env=launch.environment(),
            stdout=subprocess.DEVNULL,
            stderr=err,
        )
        try:
            scoring = doing(run, "rollout/scoring", rank=1)
            until(lambda: scoring() or process.poll() is not None, seconds=120)
            assert process.poll() is None, (tmp_path / "err").read_text()[-3000:]
            # a run that hangs in its first rollout has no metrics, and says what it does all the same
            said = until(lambda: launch.command("monitor", run).out, seconds=5)
            assert re.search(r"now +rank 1: scoring, \d+ s", said)
            path = until(scoring_stall(run))
            assert process.poll() is None
            assert process.wait(120) == 0
        finally:
            process.terminate()
            process.wait()
        err.seek(0)
        assert "rank 0 waits for rank 1 (scoring)" in err.read()
    text = path.read_text()
    assert "rank 1: scoring" in text.splitlines()[0]
    parts = re.split(r"\n(?=rank \d, .* process \d+\n)", text)[1:]
    assert [part.partition(",")[0] for part in parts] == ["rank 1", "rank 0"]
    assert "in score" in parts[0]
    assert "in gather" in parts[1]
    assert [beat(run, rank).state for rank in range(2)] == ["finished", "finished"]
    assert len(launch.rows(run)) == 4


def scoring_stall(run: Path) -> Callable[[], Path | None]:
    """Return a function that returns the report which says that somebody waits for one that scores."""

    def look() -> Path | None:
        found = [path for path in stalls(run) if "wait" in path.read_text().splitlines()[0]]
        return found[-1] if found else None

    return look
