"""What every reward should hold to: checks of a verifier, each with a result in one line."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rlvr.data.source import missing_columns
from rlvr.reward.attack import FULL_WIDTH, GAMING
from rlvr.reward.summary import quantile
from rlvr.reward.trial import DEADLINE, GIVEN, Known, Trial
from rlvr.reward.wrapping import PARAPHRASES, WRAPPINGS
from rlvr.rewards.entry import parse_entries
from rlvr.rewards.plugin import is_reference
from rlvr.rewards.scorer import Scored
from rlvr.rewards.verdict import Outcome

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"
GRACE = 1.0  # seconds over the deadline that a kill may take
AT_ONCE = 4  # threads, and tasks of an event loop
SHOWN = 60  # characters of a completion in a detail

_BROKEN = (Outcome.CRASHED, Outcome.TIMEOUT)


@dataclass(frozen=True)
class Result:
    """Outcome of one check, with what it was seen in."""

    name: str
    state: str
    detail: str


def check(trial: Trial) -> Iterator[Result]:
    """Yield the result of every check."""
    rows = _rows(trial)
    yield rows
    if rows.state == FAILED:
        return  # nothing else can be told of rows that cannot be judged
    yield _ordinary(trial)
    yield from _answers(trial)
    yield from _gaming(trial)
    yield from _hostile(trial)
    yield from _sameness(trial)
    yield _latency(trial)
    yield _deadline(trial)


def _rows(trial: Trial) -> Result:
    name = "rows"
    rows = [example.row for example in trial.given]
    needed = trial.scorer.columns
    if missing := missing_columns(rows, needed):
        have = ", ".join(dict.fromkeys(key for row in rows for key in row))
        detail = f"no row has the column {missing[0]!r}; columns: {have}. Give others with --data"
        return Result(name, FAILED, detail)
    detail = f"{len(trial.examples)} usable; columns needed: {', '.join(needed) or '-'}"
    if trial.unusable:
        detail += f"; {len(trial.unusable)} unusable, such as {trial.unusable[0]}"
    return Result(name, PASSED if trial.examples else FAILED, detail)


def _ordinary(trial: Trial) -> Result:
    name = "ordinary completions"
    broken = [item.verdict for item in trial.first if item.verdict.outcome in _BROKEN]
    skipped = [item.verdict for item in trial.first if item.verdict.outcome is Outcome.SKIPPED]
    if len(skipped) == len(trial.first):
        broken = skipped
    if broken:
        verdict = broken[0]
        detail = f"{len(broken)} of {len(trial.first)} {verdict.outcome.value}: {verdict.reason}"
        return Result(name, FAILED, detail)
    counts = Counter(item.verdict.outcome.value for item in trial.first)
    return Result(name, PASSED, ", ".join(f"{count} {name}" for name, count in counts.items()))


def _answers(trial: Trial) -> Iterator[Result]:
    how, known = trial.stated
    names = ("right answer passes", "wrong answer fails", "paraphrase passes")
    if how is None:
        # a built-in verifier that needs an answer must tell answers apart
        is_bad = bool(trial.scorer.columns) and not is_reference(next(iter(trial.verifier)))
        state = FAILED if is_bad else NOT_APPLICABLE
        yield from (Result(name, state, _blind(trial)) for name in names)
        return
    stated = "as the rows say" if how == GIVEN else f"stated by {how}"
    failing = [k for k in known if not k.passes]
    yield _counted(names[0], len(known), [k.right for k in failing], f"get more, {stated}")
    with_wrong = [k for k in known if k.wrong is not None]
    equal = [k.wrong or "" for k in with_wrong if k.wrong_reward >= k.right_reward]
    yield _counted(names[1], len(with_wrong), equal, "get less than the right one")
    passing = [k for k in known if k.passes]
    pairs = [(k, f(str(k.example.answer))) for k in passing for f in PARAPHRASES.get(how, ())]
    yield _compared(trial, names[2], pairs, should_pay=True)


def _gaming(trial: Trial) -> Iterator[Result]:
    how, known = trial.stated
    why = _no_game(trial)
    for name, make in GAMING.items():
        if why or how is None:
            yield Result(name, NOT_APPLICABLE, why)
            continue
        pairs = [
            (k, text)
            for k in known
            if k.passes
            for text in make(
                how, _text(k.example.prompt), str(k.example.answer), trial.others(k.example)
            )
        ]
        yield _compared(trial, name, pairs, should_pay=False)


def _no_game(trial: Trial) -> str:
    """Return why nothing can be gained by a completion without an answer; "" where it can."""
    if trial.stated[0] is None:
        return _blind(trial)
    is_own = is_reference(next(iter(trial.verifier)))
    if not is_own and not trial.scorer.columns:
        return "it judges no answer: list a verifier that does before it"
    return ""


def _blind(trial: Trial) -> str:
    if len({str(example.answer) for example in trial.examples}) < 2:
        return "needs rows with different answers, or with completions: columns right and wrong"
    return "right and wrong answers get the same"


def _compared(
    trial: Trial, name: str, pairs: Sequence[tuple[Known, str]], *, should_pay: bool
) -> Result:
    """Return whether completions get as much as the right one of their row, or less."""
    scored = trial.in_place(pairs)
    bad = [
        text
        for (known, text), item in zip(pairs, scored, strict=True)
        if known.rewards(item) != should_pay
    ]
    ending = "get as much as the right one" if should_pay else "get less than the right one"
    return _counted(name, len(pairs), bad, ending)


def _counted(name: str, total: int, bad: Sequence[str], ending: str) -> Result:
    if not total:
        return Result(name, NOT_APPLICABLE, "there is no such completion of these rows")
    detail = f"{total - len(bad)} of {total} {ending}"
    if bad:
        detail += f"; not {_short(bad[0])}"
    return Result(name, FAILED if bad else PASSED, detail)


def _hostile(trial: Trial) -> Iterator[Result]:
    known = next((k for k in trial.stated[1] if k.passes), None)
    is_judged = not _no_game(trial)
    for name, group in trial.hostile.items():
        crashed = [
            f"{_short(text)}: {item.verdict.reason[: 2 * SHOWN]}"
            for text, item in group
            if item.verdict.outcome is Outcome.CRASHED
        ]
        paid = [_short(text) for text, item in group if is_judged and known and known.rewards(item)]
        late = sum(item.verdict.outcome is Outcome.TIMEOUT for _, item in group)
        detail = f"{len(group)} answered" + (f", {late} by ending them in time" if late else "")
        if crashed or (paid and name != "unicode digits"):
            detail = f"crashed on {crashed[0]}" if crashed else f"rewards {paid[0]}"
            yield Result(name, FAILED, detail)
        else:
            full_width = _full_width(trial) if name == "unicode digits" else ""
            yield Result(name, PASSED, detail + full_width)


def _full_width(trial: Trial) -> str:
    how, known = trial.stated
    if how is None or how not in WRAPPINGS:
        return ""
    pairs = [(k, str(k.example.answer)) for k in known if k.passes]
    pairs = [(k, gold) for k, gold in pairs if gold.translate(FULL_WIDTH) != gold]
    pairs = [(k, WRAPPINGS[how](gold.translate(FULL_WIDTH))) for k, gold in pairs]
    taken = sum(k.rewards(i) for (k, _), i in zip(pairs, trial.in_place(pairs), strict=True))
    return f"; full-width digits pass in {taken} of {len(pairs)}" if pairs else ""


def _sameness(trial: Trial) -> Iterator[Result]:
    for name, again in _AGAIN.items():
        different = 0
        for scored in again(trial):
            different += sum(
                not _is_same(one, other) for one, other in zip(trial.first, scored, strict=True)
            )
        total = len(trial.first)
        detail = f"{total} verdicts are the same" if not different else f"{different} differ"
        yield Result(name, FAILED if different else PASSED, detail)


def _reversed(trial: Trial) -> list[list[Scored]]:
    samples, rows = trial.ordinary
    with trial.new_scorer() as scorer:
        return [scorer.score(samples[::-1], rows[::-1])[::-1]]


def _repeated(trial: Trial) -> list[list[Scored]]:
    with trial.new_scorer(workers=1) as scorer:
        return [scorer.score(*trial.ordinary) for _ in range(2)]


def _threads(trial: Trial) -> list[list[Scored]]:
    with trial.new_scorer() as scorer, ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(lambda _: scorer.score(*trial.ordinary), range(AT_ONCE)))


def _event_loop(trial: Trial) -> list[list[Scored]]:
    async def everything() -> list[list[Scored]]:
        inside = scorer.score(*trial.ordinary)  # holds up the loop, and must work all the same
        waited = await asyncio.gather(*(scorer.ascore(*trial.ordinary) for _ in range(AT_ONCE)))
        return [inside, *waited]

    with trial.new_scorer() as scorer:
        return asyncio.run(everything())


def _two_scorers(trial: Trial) -> list[list[Scored]]:
    def one(_: int) -> list[Scored]:
        with trial.new_scorer(workers=1) as scorer:
            return scorer.score(*trial.ordinary)

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(one, range(2)))


_AGAIN: dict[str, Callable[[Trial], list[list[Scored]]]] = {
    "order does not matter": _reversed,
    "asked again": _repeated,
    f"from {AT_ONCE} threads": _threads,
    "inside asyncio": _event_loop,
    "two scorers at once": _two_scorers,
}
"""Ways to ask for the ordinary completions' verdicts again, by the name of the check."""


def _is_same(one: Scored, other: Scored) -> bool:
    rewards = one.reward, other.reward
    is_equal = rewards[0] == rewards[1] or all(map(math.isnan, rewards))
    return is_equal and one.verdict.outcome is other.verdict.outcome


def _latency(trial: Trial) -> Result:
    seconds = [item.verdict.seconds for item in trial.first]
    late = [item for item in trial.first if item.verdict.outcome is Outcome.TIMEOUT]
    detail = (
        f"p50 {1000 * quantile(seconds, 0.5):.1f} ms, p99 {1000 * quantile(seconds, 0.99):.1f} ms"
    )
    if late:
        detail += f"; {len(late)} of {len(seconds)} ordinary completions took longer than allowed"
    return Result("latency", FAILED if late else PASSED, detail)


def _deadline(trial: Trial) -> Result:
    allowed = parse_entries([trial.verifier], deadline=DEADLINE)[0].deadline
    longest = max(i.verdict.seconds for group in trial.hostile.values() for _, i in group)
    detail = f"the slowest took {longest:.2f} s of {allowed:g} s"
    return Result("deadline", PASSED if longest <= allowed + GRACE else FAILED, detail)


def _text(prompt: object) -> str:
    """Return the last message of a prompt."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], dict):
        return str(prompt[-1].get("content", ""))
    return prompt if isinstance(prompt, str) else ""


def _short(text: str) -> str:
    """Return how a completion ends, or how a long one begins."""
    if len(text) <= SHOWN:
        return repr(text)
    if len(text) <= 10 * SHOWN:
        return f"...{text[-SHOWN:]!r}"
    return f"{text[:SHOWN]!r}... ({len(text):,} characters)"
