"""What a machine without locks is told, tried on one: a process whose kernel refuses Landlock."""

import json
import subprocess
import sys

import pytest

from rlvr.rewards.sandbox import bubblewrap, seccomp
from rlvr.rewards.sandbox.local import LocalSandbox
from rlvr.rewards.sandbox.probe import probe, rows
from rlvr.rewards.sandbox.request import Status
from tests.sandbox.programs import attempts, run

# a filter of our own that takes Landlock away from a process and all that it starts
WEAK = """
import ctypes, errno, json, struct, sys
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x50000 | errno.ENOSYS), (0x06, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("=HBBI", *step) for step in steps)
buffer = ctypes.create_string_buffer(code, len(code))
libc = ctypes.CDLL(None)
libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 4
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, struct.pack("=HxxxxxxQ", len(steps), ctypes.addressof(buffer)), 0, 0) == 0

from rlvr.rewards import code
from rlvr.rewards.sandbox.probe import probe, rows
from rlvr.rewards.verdict import Sample
"""


def weak(script):
    if not probe().seccomp:
        pytest.skip("no seccomp here")
    done = subprocess.run([sys.executable, "-c", WEAK + script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_table_says_what_holds_programs_here():
    table = {name: (state, detail) for name, state, detail in rows()}
    assert set(table) == {"sandbox", "landlock", "seccomp", "user id", "limits", "bubblewrap"}
    strong = probe().strong or bubblewrap.failure() is None
    assert table["sandbox"][0] == ("strong" if strong else "weak")
    assert all(detail for _, detail in table.values())


def test_without_landlock_programs_are_refused_before_anything_runs():
    script = """
said = []
for call in (code.ready, code.build):
    try:
        call(code.Config())
    except ValueError as error:
        said.append(str(error))
json.dump([said, probe().strong, [row[:2] for row in rows()]], sys.stdout)
"""
    said, strong, table = weak(script)
    assert not strong
    assert ["landlock", "no"] in table
    assert len(said) == 2
    for word in ("Landlock", "backend: bwrap", "backend: http", "unsafe: true"):
        assert word in said[0]


def test_unsafe_runs_them_all_the_same_with_the_locks_that_are_left():
    script = """
verify = code.build(code.Config(unsafe=True))
row = {"tests": [{"args": [2], "expected": 4}], "entry_point": "f"}
right = verify(Sample("", "import os\\ndef f(x): return x * 2", None, row))
try_fork = "import os\\ndef f(x): return x * 2 if os.fork() else 0"
forked = verify(Sample("", try_fork, None, row))
json.dump([right.outcome, forked.outcome, forked.reason], sys.stdout)
"""
    right, forked, reason = weak(script)
    assert right == "correct"
    assert forked == "wrong"
    assert "PermissionError" in reason


@pytest.mark.skipif(bubblewrap.failure() is not None, reason=str(bubblewrap.failure()))
def test_bubblewrap_alone_keeps_files_processes_and_network_away():
    script = """
from rlvr.rewards.sandbox.local import LocalSandbox
from rlvr.rewards.sandbox.request import ExecutionRequest, Limits
verify = code.build(code.Config(backend="bwrap"))
program = '''
import os
def f(x):
    seen = [os.path.exists(p) for p in ("/etc/passwd", "/home", "/var", "/sys", "/proc/1/root/etc/passwd")]
    try:
        open("/usr/lib/x", "w")
        seen.append(True)
    except OSError:
        pass
    return seen, len(os.listdir("/proc/self/net")) >= 0 and len(open("/proc/net/dev").readlines())
'''
row = {"tests": [{"args": [2], "expected": [[False] * 5, 3]}], "entry_point": "f"}
verdict = verify(Sample("", program, None, row))
json.dump([verdict.outcome, verdict.reason], sys.stdout)
"""
    assert weak(script)[0] == "correct", weak(script)


@pytest.mark.skipif(bubblewrap.failure() is not None, reason=str(bubblewrap.failure()))
def test_bubblewrap_adds_to_the_other_locks():
    box = LocalSandbox(bwrap=True)
    try:
        program = attempts(
            read="open('/etc/hostname').read()",
            fork="os.fork()",
            write="open('/tmp/x', 'w')",
            other="os.kill(1, 0)",
        )
        result = run(box, program)
        assert (result.status, result.stdout) == (Status.FINISHED, b"done\n")
        assert run(box, "open('a', 'w').write('b'); print(open('a').read())").stdout == b"b\n"
    finally:
        box.close()


def test_numbers_are_known_for_this_machine_or_it_is_not_called_strong():
    assert seccomp.machine() is not None or not probe().strong
