"""The filter of system calls, run step by step: what each machine's kernel would decide."""

import errno
import struct

import pytest

from rlvr.rewards.sandbox import seccomp

PID = 4321
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, EPERM, ENOSYS = "allow", "kill", errno.EPERM, errno.ENOSYS
# numbers from the kernel's tables
NUMBERS = {
    "x86_64": {
        "read": 0, "openat": 257, "clone": 56, "clone3": 435, "execve": 59, "kill": 62, "tgkill": 234,
        "socket": 41, "socketpair": 53, "sendto": 44, "prctl": 157, "prlimit64": 302, "ptrace": 101,
        "fchmodat": 268, "mmap": 9, "futex": 202, "fcntl": 72, "unshare": 272,
    },
    "aarch64": {
        "read": 63, "openat": 56, "clone": 220, "clone3": 435, "execve": 221, "kill": 129, "tgkill": 131,
        "socket": 198, "socketpair": 199, "sendto": 206, "prctl": 167, "prlimit64": 261, "ptrace": 117,
        "fchmodat": 53, "mmap": 222, "futex": 98, "fcntl": 25, "unshare": 97,
    },
}  # fmt: skip
THREAD = 0x3D0F00  # what the C library passes to start a thread
FORK = 0x1200011
CASES = [
    ("read", (0, 0, 10), ALLOW),
    ("mmap", (0, 4096, 3, 34), ALLOW),
    ("futex", (), ALLOW),
    ("execve", (), EPERM),
    ("ptrace", (16, 1), EPERM),
    ("unshare", (0x10000000,), EPERM),
    ("fchmodat", (), EPERM),
    ("socket", (2, 1), EPERM),
    ("clone", (THREAD,), ALLOW),
    ("clone", (FORK,), EPERM),
    ("clone3", (1, 88), ENOSYS),
    ("kill", (PID, 9), ALLOW),
    ("kill", (1, 9), EPERM),
    ("kill", (2**32 - 1, 9), EPERM),
    ("tgkill", (PID, PID, 6), ALLOW),
    ("tgkill", (PID + 1, PID + 1, 6), EPERM),
    ("prlimit64", (0, 3), ALLOW),
    ("prlimit64", (PID - 1, 3), EPERM),
    ("prctl", (15,), ALLOW),
    ("prctl", (1, 0), EPERM),
    ("fcntl", (0, 3), ALLOW),
    ("fcntl", (0, 8, 1), EPERM),
    ("socketpair", (1, 1 | 0x80000, 0), ALLOW),
    ("socketpair", (1, 2, 0), EPERM),
    ("socketpair", (2, 1, 0), EPERM),
    ("sendto", (3, 0, 1, 0, 0, 0), ALLOW),
    ("sendto", (3, 0, 1, 0, 0x7F00_0000_0000, 16), EPERM),
    ("sendto", (3, 0, 1, 0, 16, 16), EPERM),
    ("openat", (0, 0, 0o100000), ALLOW),
    ("openat", (0, 0, 0o1001), ALLOW),
    ("openat", (0, 0, 0o1000), EPERM),
]


def decide(program, architecture, number, arguments=()):
    """Run the filter as the kernel does; only the instructions that it uses are known."""
    arguments = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<iIQ6Q", number, architecture, 0, *(a & (1 << 64) - 1 for a in arguments))
    place = accumulator = 0
    while True:
        code, true, false, constant = struct.unpack_from("=HBBI", program, 8 * place)
        place += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, constant)[0]
        elif code == 0x54:
            accumulator &= constant
        elif code == 0x06:
            action, value = constant & 0xFFFF0000, constant & 0xFFFF
            return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(action, value)
        else:
            tests = {0x15: accumulator == constant, 0x25: accumulator > constant}
            tests[0x45] = bool(accumulator & constant)
            place += true if tests[code] else false


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize(("call", "arguments", "decision"), CASES)
def test_calls_that_reach_out_are_refused_and_computing_goes_on(machine, call, arguments, decision):
    program = seccomp.program(machine, PID)
    number = NUMBERS[machine][call]
    assert decide(program, ARCHITECTURES[machine], number, arguments) == decision


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_every_call_of_a_foreign_abi_kills(machine):
    program = seccomp.program(machine, PID)
    for architecture in (0x40000003, 0x40000028, 0):  # 32-bit x86, 32-bit ARM, none
        assert decide(program, architecture, 0) == KILL
    assert decide(program, ARCHITECTURES[machine], 0x40000000) == KILL  # x32


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_calls_newer_than_the_table_are_not_implemented(machine):
    program = seccomp.program(machine, PID)
    assert decide(program, ARCHITECTURES[machine], 452) == ENOSYS
    assert decide(program, ARCHITECTURES[machine], 10_000) == ENOSYS


def test_the_template_becomes_the_filter_of_the_process_that_installs_it():
    for machine in ARCHITECTURES:
        template = seccomp.program(machine, seccomp._SOME_PID)
        for pid in (1, PID, 4_194_303):
            given, wanted = struct.pack("=I", seccomp._SOME_PID), struct.pack("=I", pid)
            assert template.replace(given, wanted) == seccomp.program(machine, pid)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_every_path_through_the_filter_ends(machine):
    program = seccomp.program(machine, PID)
    assert len(program) // 8 <= 4096  # the kernel's limit
    for number in range(460):
        for first in (0, 1, PID, 0x10000):
            decide(program, ARCHITECTURES[machine], number, (first, first, first, 0, first))
