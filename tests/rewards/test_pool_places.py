"""The pool works wherever Python does, leaves nothing behind, and does not grow."""

import os
import pty
import re
import resource
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Sample
from tests.rewards.test_pool import descendants, gone, outcomes, samples

SCRIPT = """
import os, sys
sys.path[:0] = {path!r}
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Sample
{before}
with Scorer([{reference!r}], workers=2, deadline=0.5) as scorer:
    items = [Sample("p", text) for text in ("good", "bad", "hang", "good")]
    print([item.verdict.outcome.value for item in scorer.score(items, progress="Scoring")])
"""
EXPECTED = "['correct', 'wrong', 'timeout', 'correct']"

BEFORE = {
    "as it is": "",
    "stdin closed": "os.close(0)",
    "stdin, stdout and stderr closed": "out = os.dup(1); os.closerange(0, 3)",
    "folder deleted": "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')",
    "a Path in sys.path": "import pathlib; sys.path.append(pathlib.Path('x'))",
    "many open files": (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048))\\n"
        "held = [open(os.devnull) for _ in range(1100)]"
    ).replace("\\n", "\n"),
    "one of several processes": "os.environ |= dict(LOCAL_WORLD_SIZE='2', RANK='1', WORLD_SIZE='2')",
    "a module of the trainer's": "import types; sys.modules['__main__'] = types.ModuleType('main')",
}


@pytest.fixture
def reward(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        textwrap.dedent("""
        def reward(sample):
            while sample.completion == "hang": pass
            return sample.completion == "good"
        """)
    )
    return f"{path}:reward"


def script(reward, before=""):
    return SCRIPT.format(path=[os.getcwd()], reference=reward, before=before)


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
def test_it_works_in_any_state_of_the_process(reward, tmp_path, before):
    code = script(reward, before)
    if "closerange" in before:
        code = code.replace("print(", "print(*").replace("])", "], file=os.fdopen(out, 'w'))", 1)
        code = code.replace("print(*[", "print([")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == EXPECTED, done.stderr


@pytest.mark.parametrize("how", ["script", "standard input", "module"])
def test_it_works_however_python_was_started(reward, tmp_path, how):
    path = tmp_path / "trainer.py"
    path.write_text(script(reward))
    arguments = {"script": [str(path)], "standard input": ["-"], "module": ["-m", "trainer"]}
    done = subprocess.run(
        [sys.executable, *arguments[how]],
        cwd=tmp_path,
        input=path.read_text() if how == "standard input" else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == EXPECTED, done.stderr


def test_progress_is_shown_on_a_terminal_and_nowhere_else(reward, tmp_path):
    command = [sys.executable, "-c", script(reward)]
    piped = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "Scoring" not in piped.stderr
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            shown += piece
        assert process.stdout.read().strip() == EXPECTED
    os.close(ours)
    assert b"Scoring" in shown
    counts = re.findall(rb"(\d+)/(\d+)", shown)
    assert counts[-1][0] == counts[-1][1] != b"0"


def test_what_a_killed_worker_started_ends_with_it(tmp_path):
    path = tmp_path / "starts.py"
    path.write_text(
        textwrap.dedent("""
        import os, subprocess
        def reward(sample):
            for own_session in (False, True):
                child = subprocess.Popen(["sleep", "300"], start_new_session=own_session)
                print(child.pid, file=open(sample.completion, "a"))
            if os.fork() == 0:  # a daemon: its parent is gone
                os.setsid()
                pid = os.fork()
                if pid: os._exit(0)
                print(os.getpid(), file=open(sample.completion, "a"))
                os.execvp("sleep", ["sleep", "300"])
            while True: pass
        """)
    )
    said = tmp_path / "pids"
    with Scorer([f"{path}:reward"], workers=1, deadline=1.0) as scorer:
        scorer.start()
        before = len(descendants(os.getpid()))
        assert outcomes(scorer.score(samples(str(said)))) == ["timeout"]
        pids = [int(pid) for pid in said.read_text().split()]
        assert len(pids) == 3
        assert all(gone(pid) for pid in pids)
        assert len(descendants(os.getpid())) == before - 1  # the worker


def test_what_workers_started_ends_with_the_scorer(tmp_path):
    path = tmp_path / "starts.py"
    path.write_text(
        "import subprocess\n"
        "def reward(sample):\n"
        "    return subprocess.Popen(['sleep', '300'], start_new_session=True).pid\n"
    )
    with Scorer([f"{path}:reward"], workers=2) as scorer:
        pids = [int(item.reward) for item in scorer.score(samples(*"abcd"))]
    assert all(gone(pid) for pid in pids)


def memory(pid):
    """Kilobytes that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


def state(scorer):
    """Open files and memory of this process and of the nursery."""
    nursery = scorer._pool._nursery._process.pid
    files = [len(os.listdir(f"/proc/{pid}/fd")) for pid in (os.getpid(), nursery)]
    return [*files, len(descendants(os.getpid()))], [memory(os.getpid()), memory(nursery)]


ENDED = {"crashed", "timeout"}


@pytest.mark.slow
def test_two_thousand_kills_leave_nothing_behind(tmp_path):
    path = tmp_path / "ends.py"
    path.write_text(
        textwrap.dedent("""
        import os, signal, subprocess
        def reward(sample):
            kind = sample.completion
            if kind == "exit": os._exit(3)
            if kind == "segfault": os.kill(os.getpid(), signal.SIGSEGV)
            if kind == "orphan" and os.fork() == 0:
                os.setsid()
                os.execvp("sleep", ["sleep", "300"])
            while kind in ("hang", "orphan"): pass
            return True
        """)
    )
    others = set(descendants(os.getpid()))  # of tests that ran here before
    with Scorer([f"{path}:reward"], workers=2, deadline=0.04, batch_deadline=600) as scorer:
        kinds = [*["exit"] * 6, "segfault", "segfault", "hang", "orphan", "good", "good"] * 20
        scorer.score(samples(*kinds))  # 200 kills: caches and pools of the allocator are full
        scorer.score(samples("good", "good"))
        counts, before = state(scorer)
        for _ in range(9):
            scored = scorer.score(samples(*kinds))
            found = [str(item.verdict.outcome) for item in scored]
            # on a busy machine any of them may come late
            assert {found[place] for place in range(len(found)) if place % 12 < 10} <= ENDED
        scorer.score(samples("good", "good"))
        counts_after, after = state(scorer)
        assert counts_after == counts
        assert all(end < begin + 4096 for begin, end in zip(before, after, strict=True))
    assert set(descendants(os.getpid())) <= others


def test_a_limit_on_open_files_is_not_reached_by_many_scorers(reward):
    limit = len(os.listdir("/proc/self/fd")) + 60
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        for _ in range(12):
            scorer = Scorer([reward], workers=2)
            assert outcomes(scorer.score([Sample("p", "good")])) == ["correct"]
            scorer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    time.sleep(0)
