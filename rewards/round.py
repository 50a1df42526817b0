"""One scoring round: every sample gets each verifier's verdict, inline, from the cache, or by the pool."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rlvr.rewards.cache import VerdictCache
from rlvr.rewards.calling import describe
from rlvr.rewards.entry import Entry
from rlvr.rewards.pool import Answer, Pool, Request
from rlvr.rewards.verdict import Outcome, Sample, Verdict, crashed
from rlvr.rewards.wire import request_line, sample_item

Settled = Callable[[int, int], object]
"""Told how many samples got a verdict (below 0: lost it), and how many more are waiting for one."""


@dataclass(frozen=True)
class _Question:
    """What is asked once: a packed sample, and the samples that it stands for."""

    item: bytes
    samples: list[int]


@dataclass(frozen=True)
class _Call:
    """What one request asks a verifier."""

    verifier: int
    questions: list[_Question]


class Round:
    """The verdicts on some samples.

    Args:
        entries: The verifiers.
        pool: Runs those that are not run here.
        cache: Of built-in verifiers' verdicts.
        samples: Completions.
        groups: Of each sample, equal for completions of one prompt.
        seconds: For everything; what is not done by then times out.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        pool: Pool,
        cache: VerdictCache,
        samples: Sequence[Sample],
        groups: Sequence[int],
        seconds: float,
    ) -> None:
        self._entries, self._pool, self._cache = entries, pool, cache
        self._samples, self._groups = samples, groups
        self._seconds, self._end = seconds, time.monotonic() + seconds
        self.of: list[dict[str, Verdict]] = [{} for _ in samples]
        """Verdicts of each sample by verifier."""

    def correct(self) -> list[int]:
        """Return the samples that the first verifier calls correct."""
        first = self._entries[0].name
        return [i for i, found in enumerate(self.of) if found[first].outcome is Outcome.CORRECT]

    def judge(
        self, verifiers: Sequence[int], settled: Settled, *, only: Sequence[int] | None = None
    ) -> None:
        """Let verifiers judge all samples, or only some of them."""
        wanted = range(len(self._samples)) if only is None else only
        calls = [call for verifier in verifiers for call in self._calls(verifier, wanted)]
        settled(0, sum(len(call.questions) for call in calls))
        self._ask(self._ask(calls, settled), settled)

    def _calls(self, verifier: int, wanted: Sequence[int]) -> list[_Call]:
        """Settle what can be settled here; return the calls for the rest."""
        entry = self._entries[verifier]
        # a user's function may be random: it is asked for each of equal samples
        is_same_again = entry.builtin is not None
        questions: dict[bytes | int, _Question] = {}
        for index in wanted:
            try:
                verdict = _inline(entry, self._samples[index])
                item = b"" if verdict else _item(entry, self._samples[index])
            except Exception as error:  # no completion and no row may end the run
                verdict, item = crashed(describe(error)), b""
            if verdict is None and is_same_again:
                verdict = self._cache.get(_key(verifier, item))
            if verdict is None:
                place = item if is_same_again else index
                questions.setdefault(place, _Question(item, [])).samples.append(index)
            else:
                self.of[index][entry.name] = verdict
        return [_Call(verifier, part) for part in self._parts(entry, list(questions.values()))]

    def _parts(self, entry: Entry, questions: list[_Question]) -> list[list[_Question]]:
        """Return the questions of each call."""
        if entry.form.size is None:
            by_group: dict[int, list[_Question]] = {}
            for question in questions:
                by_group.setdefault(self._groups[question.samples[0]], []).append(question)
            return list(by_group.values())
        size = max(1, min(entry.form.size, -(-len(questions) // self._pool.size)))
        return [questions[i : i + size] for i in range(0, len(questions), size)]

    def _ask(self, calls: list[_Call], settled: Settled) -> list[_Call]:
        """Have the pool answer; return the calls to make in place of those that failed."""
        if not calls:
            return []
        answers = self._pool.run(
            [self._request(call) for call in calls],
            batch_deadline=max(0.0, self._end - time.monotonic()),
            late=f"the batch took longer than its deadline of {self._seconds:g} s",
            settled=lambda i: settled(len(calls[i].questions), 0),
        )
        again: list[_Call] = []
        for call, answer in zip(calls, answers, strict=True):
            if self._is_to_repeat(call, answer):
                again += [_Call(call.verifier, [question]) for question in call.questions]
            else:
                self._settle(call, answer)
        settled(-len(again), 0)
        return again

    def _request(self, call: _Call) -> Request:
        entry = self._entries[call.verifier]
        line = request_line(call.verifier, [question.item for question in call.questions])
        return Request(line, entry.form.seconds(len(call.questions), entry.deadline))

    def _is_to_repeat(self, call: _Call, answer: Answer) -> bool:
        """Return whether a call for several samples failed, of which each can be asked alone."""
        separable = self._entries[call.verifier].form.separable and len(call.questions) > 1
        return answer.failure is not None and separable and time.monotonic() < self._end

    def _settle(self, call: _Call, answer: Answer) -> None:
        entry = self._entries[call.verifier]
        count = len(call.questions)
        verdicts = [answer.failure] * count if answer.failure else answer.verdicts
        for question, verdict in zip(call.questions, verdicts, strict=True):
            if not verdict.seconds:  # known where samples are waited for together
                verdict = replace(verdict, seconds=answer.seconds / count)
            for index in question.samples:
                self.of[index][entry.name] = verdict
            if entry.builtin is not None:
                self._cache.put(_key(call.verifier, question.item), verdict)


@contextmanager
def bar(label: str | None) -> Iterator[Settled]:
    """Show how many samples have a verdict, on a terminal's stderr."""
    if label is None:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    total = 0
    shown = Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )
    with shown:
        task = shown.add_task(label, total=0)

        def settled(done: int, more: int) -> None:
            nonlocal total
            total += more
            shown.update(task, advance=done, total=total)

        yield settled


def _inline(entry: Entry, sample: Sample) -> Verdict | None:
    if entry.inline is None:
        return None
    began = time.perf_counter()
    verdict = entry.inline(sample)
    return verdict and replace(verdict, seconds=time.perf_counter() - began)


def _item(entry: Entry, sample: Sample) -> bytes:
    if entry.answer_text is not None:
        sample = replace(sample, completion=entry.answer_text(sample))
    return sample_item(sample, entry.sent_columns)


def _key(verifier: int, item: bytes) -> bytes:
    return b"%d " % verifier + item
