"""What a sandbox leaves behind: nothing, however it ends."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from rlvr.rewards.sandbox import scratch
from rlvr.rewards.sandbox.local import LocalSandbox
from rlvr.rewards.sandbox.request import ExecutionRequest, Limits, SandboxBroken, Status
from tests.sandbox.programs import LIMITS, below, gone, needs_locks, run

pytestmark = needs_locks


@pytest.fixture(autouse=True)
def place(monkeypatch):
    """A temporary folder of our own: other tests have theirs at the same time."""
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o711)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    yield folder
    shutil.rmtree(folder)


def folders():
    return set(Path(tempfile.gettempdir()).glob(f"{scratch.PREFIX}*"))


def zygote_of(pid):
    return [child for child in below(pid) if b"zygote" in command(child)]


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_closing_ends_all_processes_and_removes_the_folder():
    before = folders(), set(below(os.getpid()))
    box = LocalSandbox()
    during = run(box, "import os; print(os.getcwd())").stdout.decode().strip()
    assert not Path(during).exists()  # an idle sandbox has no folder
    assert folders() <= before[0]
    box.close()
    assert set(below(os.getpid())) <= before[1]
    assert run(box, "print(1)").stdout == b"1\n"  # a closed one starts anew
    box.close()


def test_many_executions_leave_no_descriptor_no_zombie_and_no_file():
    box = LocalSandbox()
    run(box, "print(1)")
    descriptors, children = len(os.listdir("/proc/self/fd")), len(below(os.getpid()))
    for i in range(60):
        run(box, f"open('f{i}', 'w'); raise SystemExit({i % 3})")
        with box.session(LIMITS) as session:
            session.load("", "f = 1")
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert len(below(os.getpid())) == children
    zygote = zygote_of(os.getpid())[-1]
    assert len(os.listdir(f"/proc/{zygote}/fd")) < 20
    box.close()


WORKER = """
from rlvr.rewards.sandbox.local import LocalSandbox
from rlvr.rewards.sandbox.request import ExecutionRequest, Limits
program = "import time\\nopen('mark', 'w')\\nwhile True: time.sleep(1)"
LocalSandbox().run(ExecutionRequest(program, "", Limits(seconds=60)))
"""


@pytest.mark.parametrize("victim", ["worker", "both"])
def test_a_killed_worker_leaves_no_process_and_no_folder(victim, place):
    before = folders()
    worker = subprocess.Popen([sys.executable, "-c", WORKER], env=os.environ | {"TMPDIR": place})
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end and not any((f / "mark").exists() for f in folders() - before):
            time.sleep(0.02)
        descendants = below(worker.pid)
        assert len(descendants) == 2  # a zygote and an execution
        victims = [worker.pid, *(descendants[:1] if victim == "both" else [])]
        for end_it in (
            signal.SIGSTOP,
            signal.SIGKILL,
        ):  # both at once: neither tidies up after the other
            for pid in victims:
                os.kill(pid, end_it)
        worker.wait()
        assert all(gone(pid) for pid in descendants)
    finally:
        worker.kill()
        worker.wait()
    end = time.monotonic() + 10
    while (left := folders() - before) and victim == "worker" and time.monotonic() < end:
        time.sleep(0.02)
    # nobody was left to remove it: the next sandbox does
    assert len(left) == (victim == "both")
    time.sleep(scratch._YOUNG if left else 0)
    box = LocalSandbox()
    run(box, "print(1)")
    box.close()
    assert not left & folders()


def test_a_folder_that_is_in_use_is_not_swept(tmp_path):
    held = scratch.Scratch(str(tmp_path), None)
    path = Path(held.make())
    (path / "a").write_text("a")
    left = tmp_path / f"{scratch.PREFIX}left"
    (left / "deep" / "er").mkdir(parents=True)
    (left / "deep" / "er").chmod(0)
    (tmp_path / "another").mkdir()
    time.sleep(scratch._YOUNG + 0.1)
    scratch.sweep(str(tmp_path))
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, "another"}
    assert held.use() == (1, 1)
    held.remove()
    assert not path.exists()


def test_a_sandbox_that_is_killed_says_so_and_the_next_program_runs():
    box = LocalSandbox()
    run(box, "print(1)")
    (zygote,) = zygote_of(os.getpid())
    killer = threading.Timer(0.3, os.kill, (zygote, signal.SIGKILL))
    killer.start()
    with pytest.raises(SandboxBroken):
        run(box, "import time; time.sleep(30)")
    killer.join()
    assert run(box, "print(2)").stdout == b"2\n"
    box.close()


def test_threads_share_a_sandbox_one_program_at_a_time():
    box = LocalSandbox()
    results = {}

    def work(number):
        results[number] = run(box, f"print({number})").stdout

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    box.close()
    assert results == {number: f"{number}\n".encode() for number in range(8)}


def test_large_inputs_outputs_and_programs_pass():
    box = LocalSandbox()
    program = "import sys\ndata = sys.stdin.read()\nprint(data[::-1], end='')\n" + "#" * 300_000
    text = "0123456789" * 100_000
    result = box.run(ExecutionRequest(program, text, Limits(output=2 << 20)))
    box.close()
    assert result.status is Status.FINISHED
    assert result.stdout.decode() == text[::-1]


def test_what_a_program_reads_is_a_file_with_a_size_that_it_cannot_change():
    box = LocalSandbox()
    read = "import os; print(os.read(0, os.fstat(0).st_size).decode())"
    assert run(box, read, "abc").stdout == b"abc\n"
    for change in ("os.write(0, b'x')", "os.ftruncate(0, 0)", "os.ftruncate(0, 1 << 20)"):
        assert "PermissionError" in run(box, f"import os; {change}", "abc").reason
    box.close()


def test_a_program_that_does_not_read_or_closes_its_streams_is_no_fault():
    box = LocalSandbox()
    assert run(box, "print(1)", "x" * 1_000_000).stdout == b"1\n"
    assert run(box, "import sys; sys.stdin.close(); print(1)", "x" * 1_000_000).stdout == b"1\n"
    closed = run(box, "import os; os.close(1); os.close(2)\nwhile True: pass")
    assert closed.status is Status.FAILED
    box.close()
