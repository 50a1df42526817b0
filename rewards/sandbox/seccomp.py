"""The system-call filter of sandboxed code: a deny-list in BPF, installed through ctypes.

Standard library only: it is loaded by the process that forks the executions. What code needs to
compute, to use its memory, its threads, its files and its pipes stays; what reaches other processes,
the network, the clock, the kernel or a file's attributes is refused with EPERM. A call of a foreign
ABI kills the process, since its numbers mean something else. Landlock says which files can be
opened; this filter closes what Landlock does not see (chmod, chown, times, truncate, signals).
"""

import ctypes
import errno
import os
import platform
import struct

# name, number on x86-64, number on aarch64; - where the machine has no such call
_DENIED = """
execve 59 221  execveat 322 281  fork 57 -  vfork 58 -
ptrace 101 117  process_vm_readv 310 270  process_vm_writev 311 271  process_madvise 440 440
process_mrelease 448 448  kcmp 312 272  pidfd_open 434 434  pidfd_getfd 438 438
pidfd_send_signal 424 424  tkill 200 130  rt_sigqueueinfo 129 138  rt_tgsigqueueinfo 297 240
socket 41 198  connect 42 203  bind 49 200  listen 50 201  accept 43 202  accept4 288 242
sendmsg 46 211  sendmmsg 307 269  recvmsg 47 212  recvmmsg 299 243  setsockopt 54 208
chmod 90 -  fchmod 91 52  fchmodat 268 53  chown 92 -  fchown 93 55  lchown 94 -  fchownat 260 54
utime 132 -  utimes 235 -  futimesat 261 -  utimensat 280 88  truncate 76 45
setxattr 188 5  lsetxattr 189 6  fsetxattr 190 7
removexattr 197 14  lremovexattr 198 15  fremovexattr 199 16  mknod 133 -  mknodat 259 33
mount 165 40  umount2 166 39  pivot_root 155 41  chroot 161 51  open_tree 428 428
move_mount 429 429  fsopen 430 430  fsconfig 431 431  fsmount 432 432  fspick 433 433
mount_setattr 442 442  unshare 272 97  setns 308 268
swapon 167 224  swapoff 168 225  reboot 169 142  sethostname 170 161  setdomainname 171 162
init_module 175 105  finit_module 313 273  delete_module 176 106
kexec_load 246 104  kexec_file_load 320 294  acct 163 89  quotactl 179 60  quotactl_fd 443 443
syslog 103 116  settimeofday 164 170  clock_settime 227 112  clock_adjtime 305 266
adjtimex 159 171  vhangup 153 58  personality 135 92  iopl 172 -  ioperm 173 -  modify_ldt 154 -
bpf 321 280  perf_event_open 298 241  userfaultfd 323 282
io_uring_setup 425 425  io_uring_enter 426 426  io_uring_register 427 427
seccomp 317 277  landlock_create_ruleset 444 444  landlock_add_rule 445 445
landlock_restrict_self 446 446  add_key 248 217  request_key 249 218  keyctl 250 219
memfd_create 319 279  memfd_secret 447 447  name_to_handle_at 303 264  open_by_handle_at 304 265
lookup_dcookie 212 18  shmget 29 194  shmat 30 196  shmctl 31 195
msgget 68 186  msgsnd 69 189  msgrcv 70 188  msgctl 71 187
semget 64 190  semop 65 193  semtimedop 220 192  semctl 66 191  mq_open 240 180  mq_unlink 241 181
inotify_init 253 -  inotify_init1 294 26  inotify_add_watch 254 27
fanotify_init 300 262  fanotify_mark 301 263
setpriority 141 140  ioprio_set 251 30  sched_setaffinity 203 122  sched_setscheduler 144 119
sched_setparam 142 118  sched_setattr 314 274  migrate_pages 256 238  move_pages 279 239
set_mempolicy_home_node 450 450  vmsplice 278 75
setuid 105 146  setgid 106 144  setreuid 113 145  setregid 114 143  setresuid 117 147
setresgid 119 149  setgroups 116 159  setfsuid 122 151  setfsgid 123 152  capset 126 91
"""
# calls whose arguments decide
_JUDGED = """
clone 56 220  clone3 435 435  openat2 437 437  open 2 -  openat 257 56  kill 62 129
tgkill 234 131  prctl 157 167  ioctl 16 29  fcntl 72 25  socketpair 53 199  sendto 44 206
prlimit64 302 261
"""
_LAST_KNOWN = 450  # newer calls have one number on both machines: refused as not implemented
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, audit architecture
_X32 = 0x40000000

_CLONE_THREAD = 0x10000
_PR_SET_NAME, _PR_GET_NAME = 15, 16
# F_DUPFD ... F_SETLKW, and the Linux ones without owners, leases, seals and notifications
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1031, 1032)
_IOCTL = (
    0x5401,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
)  # is a terminal, sizes, non-blocking, cloexec
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE = 1, 1, 0xF
_O_TRUNC, _O_ACCMODE = 0o1000, 0o3

_LOAD, _EQUAL, _ABOVE, _HAS_BITS, _AND, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_PR_SET_SECCOMP, _FILTER_MODE = 22, 2
_GET_ACTION_AVAIL = 2
_SOME_PID = 0x7D5A3C1E  # above every process id; stands for that of the process to be locked


def machine() -> str | None:
    """Return the machine whose numbers are known here, None where there are none."""
    name = platform.machine()
    return name if name in _MACHINES and struct.calcsize("P") == 8 else None


def available(libc: ctypes.CDLL) -> bool:
    """Return whether a filter can be installed here; changes nothing."""
    name = machine()
    if name is None:
        return False
    errno_action = ctypes.c_uint32(_ERRNO)
    number = _numbers(_DENIED, name)["seccomp"]
    return libc.syscall(number, _GET_ACTION_AVAIL, 0, ctypes.byref(errno_action)) == 0


def program(name: str, pid: int) -> bytes:
    """Return the filter for a machine, and for a process that may signal itself only."""
    _, architecture = _MACHINES[name]
    code = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_ABOVE, 0, 1, _X32 - 1),
        (_RETURN, 0, 0, _KILL),
        (_ABOVE, 0, 1, _LAST_KNOWN),
        _refuse(errno.ENOSYS),
    ]
    for number in _numbers(_DENIED, name).values():
        code += [(_EQUAL, 0, 1, number), _refuse(errno.EPERM)]
    for call, number in _numbers(_JUDGED, name).items():
        block = _judge(call, pid)
        code += [(_EQUAL, 0, len(block), number), *block]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def template() -> bytes:
    """Return the filter for this machine, to be installed in any process of it."""
    name = machine()
    if name is None:
        raise OSError(errno.ENOSYS, f"no system-call numbers for {platform.machine()}")
    return program(name, _SOME_PID)


def install(libc: ctypes.CDLL, filter_template: bytes) -> None:
    """Lock this process and its threads for good; `no_new_privs` must be set."""
    here = struct.pack("=I", os.getpid())
    filter_code = filter_template.replace(struct.pack("=I", _SOME_PID), here)
    buffer = ctypes.create_string_buffer(filter_code, len(filter_code))
    header = struct.pack("=HxxxxxxQ", len(filter_code) // 8, ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, header, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the system-call filter was refused")


def _numbers(table: str, name: str) -> dict[str, int]:
    column, _ = _MACHINES[name]
    words = iter(table.split())
    rows = {call: numbers for call, *numbers in zip(words, words, words, strict=True)}
    return {call: int(row[column]) for call, row in rows.items() if row[column] != "-"}


def _judge(call: str, pid: int) -> list[tuple[int, int, int, int]]:
    """Return the steps that end a call whose arguments decide."""
    blocks = {
        # clone3 and openat2 hide their flags behind a pointer; the C library then uses the old call
        "clone3": [_refuse(errno.ENOSYS)],
        "openat2": [_refuse(errno.ENOSYS)],
        "clone": [_argument(0), (_HAS_BITS, 1, 0, _CLONE_THREAD), _refuse(errno.EPERM), _allow()],
        "open": _no_truncating_read(1),
        "openat": _no_truncating_read(2),
        "kill": _only(0, (pid,)),
        "tgkill": _only(0, (pid,)),
        "prlimit64": _only(0, (0, pid)),
        "prctl": _only(0, (_PR_SET_NAME, _PR_GET_NAME)),
        "fcntl": _only(1, _FCNTL),
        "ioctl": _only(1, _IOCTL, errno.ENOTTY),
        # a datagram socket of a pair can still send to any address
        "socketpair": [
            _argument(0),
            (_EQUAL, 1, 0, _AF_UNIX),
            _refuse(errno.EPERM),
            _argument(1),
            (_AND, 0, 0, _SOCK_TYPE),
            (_EQUAL, 1, 0, _SOCK_STREAM),
            _refuse(errno.EPERM),
            _allow(),
        ],
        # send() is sendto() without an address
        "sendto": [
            _argument(4),
            (_EQUAL, 1, 0, 0),
            _refuse(errno.EPERM),
            (_LOAD, 0, 0, 16 + 8 * 4 + 4),
            (_EQUAL, 1, 0, 0),
            _refuse(errno.EPERM),
            _allow(),
        ],
    }
    return blocks[call]


def _no_truncating_read(argument: int) -> list[tuple[int, int, int, int]]:
    # Landlock before its third version lets O_RDONLY | O_TRUNC empty a file that may be read
    return [
        _argument(argument),
        (_AND, 0, 0, _O_TRUNC | _O_ACCMODE),
        (_EQUAL, 0, 1, _O_TRUNC),
        _refuse(errno.EPERM),
        _allow(),
    ]


def _only(
    argument: int, values: tuple[int, ...], refusal: int = errno.EPERM
) -> list[tuple[int, int, int, int]]:
    steps = [_argument(argument)]
    for value in values:
        steps += [(_EQUAL, 0, 1, value), _allow()]
    return [*steps, _refuse(refusal)]


def _argument(index: int) -> tuple[int, int, int, int]:
    # the lower half: these arguments are 32-bit integers for the kernel; both machines are little-endian
    return (_LOAD, 0, 0, 16 + 8 * index)


def _allow() -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ALLOW)


def _refuse(number: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ERRNO | number)
