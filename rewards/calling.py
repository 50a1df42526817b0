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
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.rewards.verdict import Outcome, Sample, Verdict, crashed

Judge = Callable[[Sequence[Sample]], list[Verdict]]
"""One verdict for each sample; raises where a call for several failed as a whole."""

GRACE = 1.0  # seconds that an async function has to end by itself before its worker is killed


@dataclass(frozen=True)
class Form:
    """How many samples one call takes.

    Attributes:
        size: Samples of one call; None: all completions of one prompt.
        separable: A verdict needs no other sample, so a failed call may be repeated one by one.
        at_once: The samples of a call are waited for together: they share one deadline.
    """

    size: int | None
    separable: bool = True
    at_once: bool = False

    def seconds(self, samples: int, deadline: float) -> float:
        """Return how long a call may take where one sample may take `deadline` seconds."""
        return deadline + GRACE if self.at_once else deadline * samples


SAMPLE = Form(1)
ASYNC = Form(64, at_once=True)
BATCH = Form(32)
GROUP = Form(None, separable=False)
TRL = Form(None)

NAMES = {"samples": BATCH, "group": GROUP, "completions": TRL}
"""Forms by the parameter that declares them; any other single parameter is a sample."""


def each(verify: Callable[[Sample], Verdict]) -> Judge:
    """Return a judge that asks one by one; what is raised is that sample's verdict."""

    def judge(samples: Sequence[Sample]) -> list[Verdict]:
        return [_guarded(verify, sample) for sample in samples]

    return judge


def at_once(verify: Callable[[Sample], Awaitable[Verdict]], deadline: float) -> Judge:
    """Return a judge that waits for all samples together, for each at most `deadline` seconds."""
    wait = Waiting()

    async def one(sample: Sample) -> Verdict:
        try:
            return await asyncio.wait_for(verify(sample), deadline)
        except TimeoutError:
            return Verdict(Outcome.TIMEOUT, reason=f"no verdict after {deadline:g} s")
        except Exception as error:  # the user's function may raise anything
            return crashed(describe(error))

    async def everything(samples: Sequence[Sample]) -> list[Verdict]:
        return list(await asyncio.gather(*map(one, samples)))

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
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")


def _guarded(verify: Callable[[Sample], Verdict], sample: Sample) -> Verdict:
    try:
        return verify(sample)
    except BaseException as error:  # whatever a verifier raises is its verdict
        return crashed(describe(error))
