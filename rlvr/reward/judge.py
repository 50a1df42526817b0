"""Put cases before their verifiers: verdicts, times, and what judging them did to the machine."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from rlvr.reward.case import Case
from rlvr.reward.side_effect import Watch
from rlvr.rewards.scorer import Scored, Scorer
from rlvr.rewards.verdict import Outcome

UNHURRIED = 1e6
"""Seconds for a batch: the deadline of each completion is what bounds a bench."""


@dataclass(frozen=True)
class Judged:
    """A case and what the verifier made of it."""

    case: Case
    verifier: str
    scored: Scored

    @property
    def accepted(self) -> bool:
        """Whether the completion was taken for wholly right."""
        return self.scored.verdict.outcome is Outcome.CORRECT

    @property
    def paid(self) -> bool:
        """Whether the completion got any reward, be it a share."""
        return self.scored.reward > 0  # false for nan


@dataclass(frozen=True)
class Judgement:
    """Of all cases.

    Attributes:
        judged: In the order of the cases.
        seconds: Wall time, without the start of the workers.
        marks: Ids of cases and the path that they must not leave behind, and did.
        left: Command lines of processes that live on after the workers were ended.
    """

    judged: list[Judged]
    seconds: float
    marks: list[tuple[str, str]]
    left: list[str]


def judge(
    cases: Sequence[Case],
    *,
    verifier: str | None = None,
    options: Mapping[str, Any] | None = None,
    workers: int | None = None,
) -> Judgement:
    """Return the verdicts on the cases.

    Args:
        cases: At least one.
        verifier: Judges all of them; None: the one that each is made for.
        options: Of the verifier; only where there is one verifier.
        workers: Processes; None: one a core.

    Raises:
        ValueError: For an unknown verifier or option, or options where there are several verifiers.
    """
    names = [verifier or case.verifier for case in cases]
    wanted = list(dict.fromkeys(names))
    if options and len(wanted) > 1:
        raise ValueError(
            f"--options are of one verifier, and these rows need {', '.join(wanted)}; "
            "choose one with --verifier"
        )
    scorers = [_scorer(name, names, options or {}, workers) for name in wanted]
    results: dict[int, Judged] = {}
    seconds = 0.0
    watch = Watch(_paths(cases))
    with watch:
        for name, scorer in zip(wanted, scorers, strict=True):
            chosen = [i for i, own in enumerate(names) if own == name]
            with scorer:
                scorer.start()
                began = perf_counter()
                scored = scorer.score(
                    [cases[i].sample for i in chosen], groups=chosen, progress=name
                )
                seconds += perf_counter() - began
            for i, item in zip(chosen, scored, strict=True):
                results[i] = Judged(cases[i], name, item)
    judged = [results[i] for i in range(len(cases))]
    marks = [(case.id, path) for case in cases for path in watch.left_by(case.must_not)]
    return Judgement(judged, seconds, marks, watch.processes)


def _scorer(
    name: str, names: Sequence[str], options: Mapping[str, Any], workers: int | None
) -> Scorer:
    try:
        return Scorer([{name: dict(options)}], workers=workers, batch_deadline=UNHURRIED)
    except ValueError as error:
        rows = f"{names.count(name)} of {len(names)} rows"
        raise ValueError(f"{rows} need the verifier {name}: {error}") from None


def _paths(cases: Iterable[Case]) -> set[str]:
    return {path for case in cases for path in Watch.paths_in(case.must_not)}
