"""A locked program computes, and reaches nothing else: files, processes, network, the kernel."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlvr.rewards.sandbox import lockdown
from rlvr.rewards.sandbox.local import LocalSandbox
from rlvr.rewards.sandbox.request import Limits, Status
from tests.sandbox.programs import attempts, needs_locks, run

pytestmark = needs_locks


@pytest.fixture(scope="module")
def box():
    made = LocalSandbox()
    yield made
    made.close()


def passed(box, **actions):
    """Names of the actions that a program could do."""
    result = run(box, attempts(**actions))
    assert result.status is Status.FINISHED, result
    *names, done = result.stdout.decode().split("\n")[:-1]
    assert done == "done"
    return names


def test_what_a_program_needs_to_compute_works(box):
    program = """
import asyncio, bisect, collections, csv, ctypes, dataclasses, decimal, fractions, heapq, json
import sqlite3, statistics, tempfile, threading, typing, xml.etree.ElementTree, zoneinfo
from concurrent.futures import ThreadPoolExecutor

@dataclasses.dataclass
class Point:
    x: int

async def later():
    await asyncio.sleep(0.001)
    return 4

with open("notes.txt", "w") as file:
    file.write(input())
with tempfile.TemporaryFile() as file:
    file.write(b"x")
print(open("notes.txt").read(), Point(2), list(ThreadPoolExecutor(2).map(abs, [-3])), asyncio.run(later()))
print(sqlite3.connect(":memory:").execute("select 5").fetchone(), decimal.Decimal("0.1") * 3)
exit()
"""
    result = run(box, program, "one\n")
    assert result.status is Status.FINISHED, result.reason
    assert result.stdout == b"one Point(x=2) [3] 4\n(5,) 0.3\n"


def test_files_outside_the_scratch_folder_are_neither_read_nor_written(box, tmp_path):
    tmp_path.chmod(0o777)
    secret = tmp_path / "expected.json"
    secret.write_text("42")
    secret.chmod(0o666)
    place, folder = str(secret), str(tmp_path)
    assert not passed(
        box,
        read=f"open({place!r}).read()",
        write=f"open({place!r}, 'w')",
        append=f"open({place!r}, 'a')",
        truncate=f"os.truncate({place!r}, 0)",
        truncating_read=f"os.open({place!r}, os.O_RDONLY | os.O_TRUNC)",
        remove=f"os.unlink({place!r})",
        rename=f"os.rename({place!r}, {place + '2'!r})",
        take=f"os.rename({place!r}, 'mine')",
        link=f"os.link({place!r}, 'mine')",
        symlink=f"os.symlink({place!r}, 'mine')",
        mode=f"os.chmod({place!r}, 0)",
        owner=f"os.chown({place!r}, 0, 0)",
        times=f"os.utime({place!r}, (0, 0))",
        attribute=f"os.setxattr({place!r}, 'user.x', b'x')",
        list_it=f"os.listdir({folder!r})",
        make=f"open({folder + '/new'!r}, 'w')",
        folder=f"os.mkdir({folder + '/new'!r})",
        shared_memory="open('/dev/shm/rlvr-test', 'w')",
        temporary="open('/tmp/rlvr-test', 'w')",
        library="open(os.__file__, 'r+')",
    )
    assert secret.read_text() == "42"
    assert os.listdir(tmp_path) == ["expected.json"]


def test_secrets_of_the_machine_and_of_other_processes_are_out_of_sight(box):
    assert not passed(
        box,
        passwords="open('/etc/passwd').read()",
        processes="os.listdir('/proc')",
        own_memory="open('/proc/self/mem', 'rb')",
        own_environment="open('/proc/self/environ').read()",
        parents_environment="open(f'/proc/{os.getppid()}/environ').read()",
        parents_memory="open(f'/proc/{os.getppid()}/mem', 'rb')",
        descriptors="os.listdir('/proc/self/fd')",
        interpreter="open(sys.executable, 'rb')",
        devices="os.listdir('/dev')",
    )


def test_the_environment_is_empty_and_no_descriptor_is_inherited(box):
    os.environ["RLVR_TEST_SECRET"] = "token"
    try:
        result = run(
            box,
            """
import os, stat
print(sorted(os.environ))
for number in range(3, 200):
    try:
        mode = os.fstat(number).st_mode
    except OSError:
        continue
    assert stat.S_ISDIR(mode), (number, oct(mode))  # folders of the library
    try:
        os.open("../" * 20 + "etc/passwd", os.O_RDONLY, dir_fd=number)
        print("out")
    except PermissionError:
        pass
""",
        )
    finally:
        del os.environ["RLVR_TEST_SECRET"]
    assert result.status is Status.FINISHED, result.reason
    names = [
        "HOME",
        "LANG",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "PATH",
        "PYTHONHASHSEED",
        "TMPDIR",
    ]
    assert result.stdout.decode().strip() == str(names)


def test_no_process_is_started_signalled_traced_or_changed(box):
    assert not passed(
        box,
        fork="os.fork()",
        system="1 if os.system('true') == 0 else -1",
        spawn="__import__('subprocess').Popen(['true'])",
        execute="os.execv('/bin/true', ['true'])",
        kill="os.kill(os.getppid(), 9)",
        kill_all="os.kill(-1, 9)",
        kill_group="os.killpg(os.getpgid(os.getppid()), 9)",
        process_handle="os.pidfd_open(os.getppid())",
        trace="libc.ptrace(16, os.getppid(), 0, 0)",
        limits="__import__('resource').prlimit(os.getppid(), 7, (1, 1))",
        priority="os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        affinity="os.sched_setaffinity(os.getppid(), {0})",
        signals_by_files="__import__('fcntl').fcntl(0, 8, os.getppid())",
        outlive_the_parent="libc.prctl(1, 0, 0, 0, 0)",
        namespaces="libc.unshare(0x10000000)",
        memory_file="os.memfd_create('x')",
        shared_memory="libc.shmget(0, 4096, 0o1600)",
    )


def test_no_socket_is_reached(box, tmp_path):
    reached = []
    tmp_path.chmod(0o777)
    path = str(tmp_path / "socket")
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(path)
    Path(path).chmod(0o777)
    abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    abstract.bind("\0rlvr-test")
    for listener in (tcp, udp, unix, abstract):
        listener.settimeout(0.5)
    unix.listen()

    def wait(listener, receive):
        try:
            receive()
            reached.append(listener)
        except OSError:
            pass

    waits = [(tcp, tcp.accept), (unix, unix.accept)]
    waits += [(udp, lambda: udp.recv(9)), (abstract, lambda: abstract.recv(9))]
    threads = [threading.Thread(target=wait, args=pair) for pair in waits]
    for thread in threads:
        thread.start()
    new = "__import__('socket').socket"
    pair = "__import__('socket').socketpair"
    refused = passed(
        box,
        tcp=f"{new}().connect(('127.0.0.1', {tcp.getsockname()[1]}))",
        udp=f"{new}(type=2).sendto(b'x', ('127.0.0.1', {udp.getsockname()[1]}))",
        unix=f"{new}(1).connect({path!r})",
        abstract=f"{new}(1, 2).sendto(b'x', '\\0rlvr-test')",
        pair_to_abstract=f"{pair}(1, 2)[0].sendto(b'x', '\\0rlvr-test')",
        stream_pair_to_abstract=f"{pair}()[0].sendto(b'x', '\\0rlvr-test')",
        reconnected=f"{pair}()[0].connect({path!r})",
        by_message=f"{pair}()[0].sendmsg([b'x'], [], 0, '\\0rlvr-test')",
        internet=f"{new}().connect(('192.0.2.1', 80))",
        raw=f"{new}(16, 3, 0)",
    )
    for thread in threads:
        thread.join()
    for listener in (tcp, udp, unix, abstract):
        listener.close()
    assert not refused
    assert not reached


@pytest.mark.skipif(not lockdown.can_change_uid(), reason="needs a root that can change users")
def test_as_root_a_program_is_nobody_without_groups_or_rights(box):
    program = "import os; print(os.getresuid(), os.getgroups(), os.access('/root', os.R_OK))"
    uid, groups_and_access = run(box, program).stdout.decode().split(") ")
    first, *others = map(int, uid.strip("(").split(", "))
    assert others == [first, first]
    assert lockdown.FIRST_UID <= first < lockdown.FIRST_UID + lockdown.UIDS
    assert groups_and_access.strip() == "[] False"


FOREIGN = """
import ctypes, mmap, sys
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("{}"))
print("running", flush=True)
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86-64")
@pytest.mark.parametrize(
    "code",
    ["b814000000cd80c3", "b827000040" + "0f05c3"],
    ids=["int 0x80, 32-bit getpid", "x32 getpid"],
)
def test_system_calls_of_another_abi_kill(box, code):
    result = run(box, FOREIGN.format(code))
    assert result.status is Status.FAILED
    assert result.stdout == b"running\n"
    assert result.reason == "signal 31"  # SIGSYS


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [
        ("while True: pass", Status.TIMEOUT, "s"),
        ("import time; time.sleep(60)", Status.TIMEOUT, "no answer"),
        ("import signal; signal.signal(24, signal.SIG_IGN)\nwhile True: pass", Status.TIMEOUT, "s"),
        ("bytearray(8 << 30)", Status.FAILED, "MemoryError"),
        ("x = 'x'\nwhile True: x += x", Status.FAILED, "MemoryError"),
        ("while True: print('x' * 9999)", Status.LIMIT, "output"),
        ("import sys\nwhile True: sys.stderr.write('x' * 9999)", Status.TIMEOUT, "s"),
        ("open('big', 'wb').write(bytes(64 << 20))", Status.FAILED, "File too large"),
        ("i = 0\nwhile True:\n  open(f'{i}', 'w'); i += 1", Status.LIMIT, "files"),
        ("[open('x', 'w') for _ in range(99)]", Status.FAILED, "Too many open files"),
        ("f = lambda n: f(n + 1)\nf(0)", Status.FAILED, "RecursionError"),
        ("import os; os.abort()", Status.FAILED, "signal 6"),
        ("import ctypes; ctypes.string_at(0)", Status.FAILED, "signal 11"),
        ("import sys; sys.exit('no')", Status.FAILED, "no"),
        ("import os; os._exit(7)", Status.FAILED, "exit code 7"),
        ("def f(:", Status.FAILED, "SyntaxError"),
        ("x = '\0'", Status.FAILED, "null bytes"),
        ("raise type('E', (Exception,), {'__str__': lambda s: 1 / 0})", Status.FAILED, "E"),
    ],
)
def test_a_program_that_goes_too_far_is_ended_with_the_reason(box, program, status, reason):
    seconds = 0.4 if status is Status.TIMEOUT else 5.0
    result = run(box, program, limits=Limits(seconds, memory=256 << 20, output=10_000))
    assert (result.status, reason in result.reason) == (status, True), result


def test_threads_are_bounded(box):
    program = """
import threading, time
threading.stack_size(1 << 15)
for count in range(100_000):
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
"""
    result = run(box, program)
    assert result.status in (Status.FAILED, Status.LIMIT)
    assert "thread" in result.reason


def test_nothing_passes_from_one_run_to_the_next(box):
    run(box, "open('left', 'w').write('x'); import os; os.environ['LEFT'] = 'x'")
    result = run(box, "import os; print(os.listdir('.'), os.environ.get('LEFT'))")
    assert result.stdout == b"[] None\n"


def test_the_programs_that_a_normal_user_runs_are_locked_too(tmp_path):
    """As root: the same attempts by an unprivileged user, with an interpreter that it can reach."""
    python = "/usr/bin/python3"
    if os.geteuid() != 0 or not Path(python).exists():
        pytest.skip("needs root, and a Python that others can reach")
    if subprocess.run(
        [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    ).returncode:
        pytest.skip(f"{python} is older than 3.11")
    mine = tmp_path / "mine"
    mine.write_text("mine")
    os.chown(mine, 12345, 12345)
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o001)
    program = attempts(
        read=f"open({str(mine)!r}).read()",
        mode=f"os.chmod({str(mine)!r}, 0)",
        times=f"os.utime({str(mine)!r}, (0, 0))",
        truncate=f"os.truncate({str(mine)!r}, 0)",
        kill="os.kill(os.getppid(), 9)",
        limits="__import__('resource').prlimit(os.getppid(), 7, (1, 1))",
        environment="open(f'/proc/{os.getppid()}/environ').read()",
        fork="os.fork()",
        socket="__import__('socket').socket()",
    )
    script = f"""
import os, sys
os.setgroups([]), os.setgid(12345), os.setuid(12345)
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from rlvr.rewards.sandbox.local import LocalSandbox
from rlvr.rewards.sandbox.request import ExecutionRequest, Limits
result = LocalSandbox().run(ExecutionRequest({program!r}, "", Limits()))
print(result.status.value, result.stdout.decode(), result.reason)
"""
    command = [python, "-B", "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd="/", env={"TMPDIR": "/tmp"}
    )
    assert done.stdout.split() == ["finished", "done"], done.stderr
    assert mine.read_text() == "mine"


def test_packages_are_importable_where_they_are_named_and_nothing_else_is(box):
    program = "import numpy.linalg, numpy.ma; print(int(numpy.linalg.det(numpy.eye(2))))"
    assert "No module named 'numpy'" in run(box, program).reason
    with_numpy = LocalSandbox(["numpy"])
    try:
        assert run(with_numpy, program).stdout == b"1\n"
        assert "No module named 'pydantic'" in run(with_numpy, "import pydantic").reason
        folder = str(Path(sys.modules["pytest"].__file__).parent)
        assert "Permission" in run(with_numpy, f"open({folder + '/__init__.py'!r})").reason
    finally:
        with_numpy.close()
