"""How a verifier is called: every form of function becomes one that takes a list of samples.

    sample    def reward(sample) -> verdict                            one at a time
    async     async def reward(sample) -> verdict                      many at once in one worker
    batch     def reward(samples) -> list of verdicts                  some at a time
    group     def reward(group) -> list of verdicts                    all completions of one prompt
    trl       def reward(completions, **columns) -> list of floats     all completions of one prompt

The name of the first parameter declares the form. Where a call with several samples fails, they
are asked again one by one, so that one completion does not take the others with it; only a `group`
function needs all of them.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlvr.rewards.verdict import Outcome, Sample, Verdict, crashed

Judge = Callable[[Sequence[Sample]], list[Verdict]]
"""One verdict for each sample; raises where a call for several failed as a whole."""

GRACE = 1.0  # seconds that an async function has to end by itself before its worker is killed
LAG = 0.5  # seconds past the deadline that say that the event loop was held up
PATIENCE = 4  # deadlines that a call for several may take before they are asked one by one


@dataclass(frozen=True)
class Form:
    """How many samples one call takes.

    Attributes:
        name: As in the table above.
        size: Samples of one call; None: all completions of one prompt.
        separable: A verdict needs no other sample, so a failed call may be repeated one by one.
        at_once: The samples of a call are waited for together: they share one deadline.
    """

    name: str
    size: int | None
    separable: bool = True
    at_once: bool = False

    def seconds(self, samples: int, deadline: float) -> float:
        """Return how long a call may take where one sample may take `deadline` seconds.

        Example:
            >>> BATCH.seconds(32, 5.0), GROUP.seconds(8, 5.0)
            (20.0, 40.0)
        """
        if self.at_once:
            return deadline + GRACE
        return deadline * (min(samples, PATIENCE) if self.separable else samples)


SAMPLE = Form("sample", 1)
ASYNC = Form("async", 64, at_once=True)
BATCH = Form("batch", 32)
GROUP = Form("group", None, separable=False)
TRL = Form("trl", None)

LISTS = {"samples": BATCH, "group": GROUP, "completions": TRL}
"""Forms by the parameter that declares them; any other single parameter is a sample."""


def each(verify: Callable[[Sample], Verdict]) -> Judge:
    """Return a judge that asks one by one; what is raised is that sample's verdict."""

    def one(sample: Sample) -> Verdict:
        try:
            return verify(sample)
        except BaseException as error:  # whatever a verifier raises is its verdict
            return crashed(describe(error))

    return lambda samples: [one(sample) for sample in samples]


def at_once(verify: Callable[[Sample], Awaitable[Verdict]], deadline: float) -> Judge:
    """Return a judge that waits for all samples together, for each at most `deadline` seconds."""
    wait = Waiting()

    async def guarded(sample: Sample) -> Verdict:
        try:
            return await verify(sample)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # a TimeoutError of its own, too, is no missed deadline
            return crashed(describe(error))

    async def one(sample: Sample, *, alone: bool) -> Verdict:
        began = time.monotonic()
        try:
            verdict = await asyncio.wait_for(guarded(sample), deadline)
        except TimeoutError:
            if not alone and time.monotonic() - began > deadline + LAG:
                raise RuntimeError("one of the samples held up the event loop") from None
            verdict = Verdict(Outcome.TIMEOUT, reason=f"no verdict after {deadline:g} s")
        return replace(verdict, seconds=time.monotonic() - began)

    async def everything(samples: Sequence[Sample]) -> list[Verdict]:
        alone = len(samples) == 1
        return list(await asyncio.gather(*(one(sample, alone=alone) for sample in samples)))

    return lambda samples: wait.run(everything(samples))


class Waiting:
    """One event loop for the life of a worker, so that connections are kept between calls."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what the coroutine returns."""
        if self._runner is None:  # made where it runs: a loop does not survive a fork
            self._runner = asyncio.Runner()
        return self._runner.run(work)


def as_judge(verify: Callable[[Sample], Any], deadline: float) -> Judge:
    """Return a built-in verifier's judge."""
    if inspect.iscoroutinefunction(verify):
        return at_once(verify, deadline)
    return each(verify)


def describe(error: BaseException) -> str:
    """Return an exception's type and message in one line."""
    try:
        message = str(error)
    except Exception:  # a user's exception may not even have a text
        message = ""
    return " ".join(f"{type(error).__name__}: {message}".split()).rstrip(": ")
