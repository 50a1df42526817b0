"""A pool of worker processes that can be killed: every request gets an answer in bounded time.

A worker past its request's deadline is killed and replaced while the others go on; a worker that
dies gives the request it had a crashed verdict. Answers come back in the order of the requests.
"""

import os
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlvr.rewards.nursery import STARTUP_DEADLINE, Nursery, NurseryDied
from rlvr.rewards.verdict import Outcome, Verdict, crashed
from rlvr.rewards.wire import unpack, verdict_from

MAX_ANSWER = 1 << 22  # bytes of one answer's line; reasons are cut long before
_FAILED_STARTS = 3  # in a row, before it is said that workers cannot start


@dataclass(frozen=True)
class Request:
    """What a worker is asked.

    Attributes:
        line: Message with the verifier's index and the samples.
        deadline: Seconds it may take.
    """

    line: bytes
    deadline: float


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        verdicts: One for each sample; empty where the request failed as a whole.
        failure: Verdict on the failure: a timeout or a crash; None without one.
        seconds: Wall time of the whole request.
    """

    verdicts: list[Verdict]
    failure: Verdict | None
    seconds: float


@dataclass(eq=False)
class _Worker:
    pid: int
    connection: socket.socket
    deadline: float
    """Monotonic time at which it is killed unless it answers; infinite while it is idle."""
    ready: bool = False
    task: int | None = None
    began: float = 0.0
    outgoing: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytearray = field(default_factory=bytearray)

    @property
    def idle(self) -> bool:
        return self.ready and self.task is None


class Pool:
    """Worker processes for the verifiers of one scorer, started at the first need.

    Usable from any thread (one batch at a time) and from any process: a process forked off this
    one starts its own workers.

    Args:
        builtin: Name, options and deadline of one sample of each built-in verifier, by its index.
        plugin: Reference, deadline of one sample and name of the form of each user's function, by
            its index.
        workers: Number of processes.
        memory: Bytes of address space of one worker; None is unlimited.
    """

    def __init__(
        self,
        builtin: Mapping[int, tuple[str, Mapping[str, Any], float]],
        plugin: Mapping[int, tuple[str, float, str]],
        *,
        workers: int,
        memory: int | None,
    ) -> None:
        self._setup = {"builtin": dict(builtin), "plugin": dict(plugin), "memory": memory}
        self._references = ", ".join(reference for reference, *_ in plugin.values())
        self.size = workers
        """Number of processes."""
        self._forget()

    def start(self) -> None:
        """Start all workers and wait for them.

        Raises:
            ValueError: Where a user's function cannot be loaded.
            RuntimeError: Where workers cannot be started.
        """
        self.run([], batch_deadline=float("inf"), warm=True)

    def run(
        self,
        requests: Sequence[Request],
        *,
        batch_deadline: float,
        late: str = "the batch took too long",
        warm: bool = False,
        settled: Callable[[int], object] | None = None,
    ) -> list[Answer]:
        """Return the answer to each request, in order.

        Args:
            requests: For the workers.
            batch_deadline: Seconds for all of them; what is not done by then times out.
            late: Reason of those verdicts.
            warm: Wait until every worker is ready.
            settled: Told the index of each request that is done.
        """
        if os.getpid() != self._owner:
            self._forget()
        with self._lock:
            batch = _Batch(requests, batch_deadline, late, settled)
            try:
                with selectors.DefaultSelector() as self._selector:
                    for worker in self._workers:
                        self._selector.register(worker.connection, selectors.EVENT_READ, worker)
                    while batch.left or (warm and not self._all_ready()):
                        self._advance(batch, self.size if warm else min(self.size, batch.left))
            except BaseException:
                self._shut()  # a worker may be left with half a sample
                raise
            return batch.answers()

    def close(self) -> None:
        """End all processes; a later `run` starts them again."""
        if os.getpid() == self._owner:
            with self._lock:
                self._shut()

    def pids(self) -> list[int]:
        """Return the process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def _forget(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._nursery: Nursery | None = None
        self._finalizer: weakref.finalize | None = None
        self._failed_starts = 0
        self._proved = False  # a worker has loaded every user's function

    def _shut(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._nursery = None

    def _all_ready(self) -> bool:
        return len(self._workers) == self.size and all(w.ready for w in self._workers)

    def _advance(self, batch: "_Batch", wanted: int) -> None:
        """Fork, send, wait for one event or deadline, and handle what came."""
        try:
            while len(self._workers) < wanted:
                self._fork()
            for worker in [w for w in self._workers if w.idle]:
                if batch.waiting:
                    self._assign(worker, batch)
            if len(self._workers) < wanted:
                return  # one was found dead: replace it before waiting for anything
            next_event = min([batch.end, *(w.deadline for w in self._workers)])
            for key, events in self._selector.select(max(0.0, next_event - time.monotonic())):
                if events & selectors.EVENT_WRITE:
                    self._send(key.data)
                if events & selectors.EVENT_READ:
                    self._receive(key.data, batch)
            self._expire(batch)
        except NurseryDied as death:
            self._start_failed(f"the process that forks the workers died ({death})")
            batch.put_back(worker.task for worker in self._workers)
            for worker in self._workers:
                self._selector.unregister(worker.connection)
            self._shut()

    def _fork(self) -> None:
        if self._nursery is None:
            self._nursery = Nursery(self._setup)
            self._finalizer = weakref.finalize(self, _end, self._nursery, self._workers)
        pid, connection = self._nursery.fork()
        worker = _Worker(pid, connection, time.monotonic() + STARTUP_DEADLINE)
        self._workers.append(worker)
        self._selector.register(connection, selectors.EVENT_READ, worker)

    def _stop(self, worker: _Worker) -> str:
        """Kill and forget a worker; return how it ended."""
        if self._nursery is None:
            raise NurseryDied("closed")
        ending = self._nursery.stop(worker.pid)  # if this fails, its sample is still on record
        self._workers.remove(worker)
        self._selector.unregister(worker.connection)
        worker.connection.close()
        return ending

    def _assign(self, worker: _Worker, batch: "_Batch") -> None:
        try:
            worker.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            pass
        else:  # nothing was asked of it: it is dead, and no sample is to blame
            self._stop(worker)
            return
        task = batch.waiting.popleft()
        worker.task, worker.began = task, time.monotonic()
        worker.deadline = worker.began + batch.requests[task].deadline
        worker.outgoing = memoryview(batch.requests[task].line)
        self._send(worker)

    def _send(self, worker: _Worker) -> None:
        try:
            while worker.outgoing:
                worker.outgoing = worker.outgoing[worker.connection.send(worker.outgoing) :]
        except BlockingIOError:
            pass
        except OSError:
            worker.outgoing = memoryview(b"")  # dead: reading says so
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.outgoing else 0)
        if self._selector.get_key(worker.connection).events != events:
            self._selector.modify(worker.connection, events, worker)

    def _receive(self, worker: _Worker, batch: "_Batch") -> None:
        try:
            piece = worker.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        worker.received += piece
        if not piece or len(worker.received) > MAX_ANSWER:
            self._died(worker, batch)
        elif worker.received.endswith(b"\n"):
            line = bytes(worker.received)
            worker.received.clear()
            self._take(worker, line, batch)

    def _take(self, worker: _Worker, line: bytes, batch: "_Batch") -> None:
        try:
            message = unpack(line)
            answer = _answer(message, time.monotonic() - worker.began) if worker.ready else None
        except (KeyError, TypeError, ValueError):  # somebody else wrote on its socket
            self._died(worker, batch)
            return
        worker.deadline = float("inf")
        if answer is None:
            self._is_ready(worker, message)
        elif worker.task is not None:
            batch.settle(worker.task, answer)
            worker.task = None

    def _is_ready(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        worker.ready = True
        self._failed_starts = 0
        if message["errors"] and not self._proved:
            raise ValueError("reward " + "; ".join(message["errors"].values()))
        self._proved = True

    def _died(self, worker: _Worker, batch: "_Batch") -> None:
        ending = self._stop(worker)
        if not worker.ready:
            self._start_failed(f"a worker died while it started: {ending}")
        elif worker.task is not None:
            seconds = time.monotonic() - worker.began
            failure = crashed(f"the verifier's process died: {ending}")
            batch.settle(worker.task, Answer([], failure, seconds))

    def _start_failed(self, reason: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= _FAILED_STARTS:
            self._failed_starts = 0
            loaded = self._references
            raise RuntimeError(
                f"reward workers cannot start: {reason}, {_FAILED_STARTS} times in a row. "
                + (f"Check that importing {loaded} works in a fresh Python. " if loaded else "")
                + "Its messages are on stderr."
            )

    def _expire(self, batch: "_Batch") -> None:
        now = time.monotonic()
        over = now >= batch.end
        for worker in list(self._workers):
            if worker.task is not None and (over or now >= worker.deadline):
                task, seconds = worker.task, now - worker.began
                allowed = batch.requests[task].deadline
                reason = batch.late if over else f"no verdict after {allowed:g} s"
                batch.settle(task, _late(reason, seconds))
                worker.task = None
                self._stop(worker)
            elif not worker.ready and now >= worker.deadline:
                self._stop(worker)
                self._start_failed(f"a worker was not ready after {STARTUP_DEADLINE:g} s")
        if over:
            while batch.waiting:
                batch.settle(batch.waiting.popleft(), _late(batch.late, 0.0))


def _late(reason: str, seconds: float) -> Answer:
    return Answer([], Verdict(Outcome.TIMEOUT, reason=reason), seconds)


def _answer(message: Mapping[str, Any], seconds: float) -> Answer:
    if "failed" in message:
        return Answer([], verdict_from(message["failed"]), seconds)
    return Answer([verdict_from(item) for item in message["verdicts"]], None, seconds)


def _end(nursery: Nursery, workers: list[_Worker]) -> None:
    # no method of the pool: the finalizer must not keep it alive
    for worker in workers:
        worker.connection.close()
    workers.clear()
    nursery.close()


class _Batch:
    """The requests of one call and what is known of them."""

    def __init__(
        self,
        requests: Sequence[Request],
        seconds: float,
        late: str,
        settled: Callable[[int], object] | None,
    ) -> None:
        self.requests = requests
        self.end = time.monotonic() + seconds
        self.waiting = deque(range(len(requests)))
        self.left = len(requests)
        self.late = late
        self._answers: dict[int, Answer] = {}
        self._settled = settled

    def settle(self, task: int, answer: Answer) -> None:
        self._answers[task] = answer
        self.left -= 1
        if self._settled is not None:
            self._settled(task)

    def put_back(self, tasks: Any) -> None:
        self.waiting.extendleft(task for task in tasks if task is not None)

    def answers(self) -> list[Answer]:
        return [self._answers[index] for index in range(len(self.requests))]
