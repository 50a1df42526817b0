"""The pool: a verdict for every sample in bounded time, whatever a verifier does."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Outcome, Sample

REWARD = """
import os, signal, sys, time

def reward(sample):
    word = sample.completion
    if word == "hang":
        while True: pass
    if word == "sleep": time.sleep(60)
    if word == "exit": os._exit(3)
    if word == "leave": sys.exit(4)
    if word == "segfault": os.kill(os.getpid(), signal.SIGSEGV)
    if word == "memory": bytearray(64 << 30)
    if word == "child":
        if os.fork() == 0: time.sleep(60)
        while True: pass
    if word == "print":
        print('{"outcome": "correct"}', flush=True)
        os.write(1, b"garbage\\n" * 1000)
    if word == "close": os.closerange(3, 100)
    if word.startswith("slow"): time.sleep(0.02)
    return word.endswith("good")
"""


@pytest.fixture
def reward(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(REWARD)
    return f"{path}:reward"


def samples(*words):
    return [Sample("p", word) for word in words]


def outcomes(scored):
    return [item.verdict.outcome for item in scored]


def descendants(pid):
    """Process ids below pid, zombies included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == pid:
                found += [int(entry.name), *descendants(int(entry.name))]
    return found


def gone(pid):
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


def test_results_come_in_the_order_of_the_samples(reward):
    words = [("slow" if i % 3 == 0 else "") + ("good" if i % 2 else "bad") for i in range(40)]
    with Scorer([reward], workers=2) as scorer:
        scored = scorer.score(samples(*words))
    assert [item.reward for item in scored] == [float(i % 2) for i in range(40)]


def test_a_late_verifier_is_killed_while_the_others_are_scored(reward):
    with Scorer([reward], workers=2, deadline=0.5) as scorer:
        scorer.start()
        began = time.monotonic()
        scored = scorer.score(samples("good", "hang", "good", "sleep", "bad", "good"))
        seconds = time.monotonic() - began
    assert outcomes(scored) == ["correct", "timeout", "correct", "timeout", "wrong", "correct"]
    assert [item.reward for item in scored if item.verdict.outcome == "timeout"] == pytest.approx(
        [float("nan")] * 2, nan_ok=True
    )
    assert "0.5 s" in scored[1].verdict.reason
    assert seconds < 3


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("exit", "exit code 3"),
        ("segfault", "Segmentation fault"),
        ("memory", "MemoryError"),
        ("leave", "SystemExit: 4"),
        ("close", "died"),
    ],
)
def test_a_verifier_that_dies_is_a_crash_and_never_wrong(reward, word, reason):
    with Scorer([reward], workers=1, deadline=10) as scorer:
        scored = scorer.score(samples("good", word, "good"))
    assert outcomes(scored) == ["correct", "crashed", "correct"]
    assert reason in scored[1].verdict.reason
    assert scored[1].reward != scored[1].reward


def test_what_a_verifier_prints_cannot_be_taken_for_a_verdict(reward):
    with Scorer([reward], workers=1) as scorer:
        scored = scorer.score(samples("print", "good", "print"))
    assert outcomes(scored) == ["wrong", "correct", "wrong"]


def test_the_batch_deadline_ends_the_batch(reward):
    with Scorer([reward], workers=2, deadline=60, batch_deadline=1.5) as scorer:
        scorer.start()
        began = time.monotonic()
        scored = scorer.score(samples("good", *["hang"] * 6))
        assert time.monotonic() - began < 4
        assert outcomes(scored) == ["correct"] + ["timeout"] * 6
        assert "batch" in scored[-1].verdict.reason
        assert outcomes(scorer.score(samples("good"))) == ["correct"]


def test_thirty_kills_leave_no_zombie_and_no_open_file(reward):
    with Scorer([reward], workers=2, deadline=0.1) as scorer:
        scorer.score(samples("good", "bad"))
        files, processes = os.listdir("/proc/self/fd"), descendants(os.getpid())
        scored = scorer.score(samples(*["hang"] * 29, "child"))
        assert set(outcomes(scored)) == {"timeout"}
        scorer.score(samples("good", "bad"))  # as many workers as before
        assert len(os.listdir("/proc/self/fd")) == len(files)
        assert len(descendants(os.getpid())) == len(processes)
    assert not descendants(os.getpid())


def test_a_worker_that_was_killed_from_outside_is_replaced(reward):
    with Scorer([reward], workers=1) as scorer:
        scorer.start()
        os.kill(scorer._pool.pids()[0], signal.SIGKILL)
        time.sleep(0.1)
        assert outcomes(scorer.score(samples("good", "bad"))) == ["correct", "wrong"]


def test_a_nursery_that_was_killed_from_outside_is_replaced(reward):
    with Scorer([reward], workers=2) as scorer:
        scorer.start()
        os.kill(scorer._pool._nursery._process.pid, signal.SIGKILL)
        assert outcomes(scorer.score(samples("good", "bad"))) == ["correct", "wrong"]


def test_a_nursery_that_dies_during_a_batch_costs_no_verdict(reward):
    with Scorer([reward], workers=2) as scorer:
        scorer.start()
        pid = scorer._pool._nursery._process.pid
        killer = threading.Timer(0.1, os.kill, (pid, signal.SIGKILL))
        killer.start()
        assert set(outcomes(scorer.score(samples(*["slow good"] * 40)))) == {"correct"}
        killer.join()
        assert scorer._pool._nursery._process.pid != pid


def test_threads_share_one_scorer(reward):
    results = {}
    with Scorer([reward], workers=2) as scorer:

        def score(index):
            results[index] = outcomes(scorer.score(samples("good", "slow", "bad", "good")))

        threads = [threading.Thread(target=score, args=(index,)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert list(results.values()) == [["correct", "wrong", "wrong", "correct"]] * 6


def test_a_forked_process_starts_its_own_workers(reward):
    with Scorer([reward], workers=1) as scorer:
        scorer.start()
        ours = scorer._pool.pids()
        pid = os.fork()
        if pid == 0:
            good = outcomes(scorer.score(samples("good"))) == ["correct"]
            differs = scorer._pool.pids() != ours
            scorer.close()
            os._exit(0 if good and differs else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert scorer._pool.pids() == ours
        assert outcomes(scorer.score(samples("good", "bad"))) == ["correct", "wrong"]


def test_workers_die_with_a_trainer_that_is_killed(reward, tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys
        sys.path[:0] = {sys.path!r}
        from rlvr.rewards.scorer import Scorer
        from rlvr.rewards.verdict import Sample
        scorer = Scorer([{reward!r}], workers=2)
        scorer.start()
        print(*scorer._pool.pids(), scorer._pool._nursery._process.pid, flush=True)
        scorer.score([Sample("p", "hang")])
        """)
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert len(pids) == 3
    assert all(gone(pid) for pid in pids)


def test_a_large_completion_with_any_character_arrives_whole(tmp_path):
    path = tmp_path / "length.py"
    path.write_text("def reward(sample):\n    return float(len(sample.completion))\n")
    text = "é\n\x00\ud800\U0001f600" * 400_000
    with Scorer([f"{path}:reward"], workers=1) as scorer:
        assert scorer.score(samples(text))[0].reward == len(text)


def test_bounded_verifiers_start_no_process():
    with Scorer(["countdown", "format"]) as scorer:
        scorer.start()
        row = {"numbers": [3, 5, 7], "target": 8}
        assert scorer.score([Sample("p", "3*5-7", None, row)])[0].reward == 1.0
        assert not descendants(os.getpid())


def test_an_exponent_tower_holds_nobody_up():
    tower = r"The answer is \boxed{9^{9^{9^{9}}}}."
    others = [rf"The answer is \boxed{{{i} + x}}." for i in range(12)]
    with Scorer(["math"], workers=2, deadline=2) as scorer:
        scorer.start()
        began = time.monotonic()
        scored = scorer.score([Sample("p", text, "x+7") for text in [tower, *others]])
        seconds = time.monotonic() - began
    assert scored[0].verdict.outcome in (Outcome.TIMEOUT, Outcome.WRONG)
    assert [item.reward for item in scored[1:]] == [float(i == 7) for i in range(12)]
    assert seconds < 8
