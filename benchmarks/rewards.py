"""Rewards per second, side by side in one run: `python -m benchmarks.rewards [--json] [--quick]`.

The same completions go through our pool, through math-verify called in a loop, and through TRL's `accuracy_reward`, in
interleaved rounds; medians and ratios are printed. Then: workers killed and replaced a second, and untrusted programs run
a second. Golds are put into a box for math-verify and TRL, which read bare ones wrongly.
"""

import argparse
import itertools
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlvr.rewards.registry import names
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Outcome, Sample

Item = tuple[str, str]
"""Gold and completion."""

# math-verify needs its alarm of 5 s for each; of others TRL never comes back, not even with the alarm
HANGING = (
    r"9^{9^{9^{9}}}",
    r"10000000!",
    r"7^{7^{7^7}} \mod 10",
    r"\sum_{n=1}^{10000000} \frac{1}{n^2}",
)
HANGING_SHARE = 0.01
GROUP = 8
WARM_UP = 60  # completions that nobody is timed on
KILL_DEADLINE = 0.002  # seconds
UNHURRIED = 1e6  # seconds


def integer(rng: random.Random) -> tuple[str, str]:
    """Return a gold and the same typed otherwise."""
    number = rng.randint(1_000, 999_999)
    return str(number), f"{number:,}"


def fraction(rng: random.Random) -> tuple[str, str]:
    """Return a gold and the same typed otherwise."""
    top, bottom, factor = rng.randint(1, 999), rng.randint(2, 99), rng.randint(2, 9)
    return rf"\frac{{{top}}}{{{bottom}}}", rf"\dfrac{{{top * factor}}}{{{bottom * factor}}}"


def surd(rng: random.Random) -> tuple[str, str]:
    """Return a gold and the same typed otherwise."""
    factor, root = rng.randint(2, 30), rng.choice((2, 3, 5, 7, 11, 13))
    return rf"{factor}\sqrt{{{root}}}", rf"\sqrt{{{factor * factor * root}}}"


def polynomial(rng: random.Random) -> tuple[str, str]:
    """Return a gold and the same typed otherwise."""
    one, two = rng.randint(1, 60), rng.randint(1, 60)
    return f"x^2+{one + two}x+{one * two}", f"(x+{one})(x+{two})"


def interval(rng: random.Random) -> tuple[str, str]:
    """Return a gold and the same typed otherwise."""
    low, width = rng.randint(-500, 500), rng.randint(1, 500)
    return f"({low}, {low + width}]", rf"\left({low},{low + width}\right]"


MIXED = (integer, integer, fraction, surd, polynomial, interval)
ALGEBRA = (surd, polynomial)
"""Nothing of it can be settled without computer algebra."""


def items(kinds: Sequence[Callable[..., tuple[str, str]]], count: int, seed: int) -> list[Item]:
    """Return completions of which half are right; none states the same answer to the same gold."""
    rng = random.Random(seed)
    found: dict[Item, None] = {}
    while len(found) < count:
        make = rng.choice(kinds)
        gold, same = make(rng)
        stated = same if rng.random() < 0.5 else make(rng)[1]
        found[gold, completion(stated)] = None
    return list(found)


def completion(stated: str) -> str:
    """Return an answer as a model states it."""
    steps = " ".join(f"Step {i}: we simplify the terms of the sum once more." for i in range(12))
    return f"<think>{steps}</think>{steps}\n\nThe final answer is $\\boxed{{{stated}}}$."


def groups(given: list[Item], seed: int) -> list[Item]:
    """Return as many completions, of which those to one gold state few different answers."""
    rng = random.Random(seed)
    found: list[Item] = []
    for gold, text in given[: len(given) // GROUP]:
        wrong = rng.choice(given)[1]
        found += [(gold, text if rng.random() < 0.6 else wrong) for _ in range(GROUP)]
    return found


def hanging(given: list[Item], seed: int) -> list[Item]:
    """Return the completions with a share of towers among them."""
    rng = random.Random(seed)
    found = list(given)
    for number in range(max(1, round(HANGING_SHARE * len(found)))):
        place = rng.randrange(len(found))
        found[place] = (found[place][0], completion(HANGING[number % len(HANGING)]))
    return found


def of_file(path: Path, count: int) -> list[Item]:
    """Return rows of a bench file, spread over it."""
    from rlvr.reward.forms import read_cases

    cases = [case for case in read_cases(path)[1] if case.verifier == "math"]
    spread = cases[:: max(1, len(cases) // count)][:count]
    return [(str(case.sample.answer), case.sample.completion) for case in spread]


def pool(scorer: Scorer, given: Sequence[Item]) -> dict[str, float]:
    """Return the seconds that our pool needs for completions that are new to it, and for the same ones again."""
    samples = [Sample("", text, gold) for gold, text in given]
    return {
        "pool": seconds_of(lambda: scorer.score(samples)),
        "pool, asked again": seconds_of(lambda: scorer.score(samples)),
    }


def math_verify(given: Sequence[Item]) -> dict[str, float]:
    """Return the seconds of math-verify in its default configuration, one after the other."""
    from math_verify import parse, verify

    def everything() -> None:
        for gold, text in given:
            verify(parse(boxed(gold)), parse(text))

    return {"math-verify": seconds_of(everything)}


def trl(given: Sequence[Item]) -> dict[str, float]:
    """Return the seconds of TRL's reward."""
    from trl.rewards import accuracy_reward

    completions = [[{"role": "assistant", "content": text}] for _, text in given]
    golds = [boxed(gold) for gold, _ in given]
    return {"TRL accuracy_reward": seconds_of(lambda: accuracy_reward(completions, golds))}


def boxed(gold: str) -> str:
    """Return the gold as these libraries read it best."""
    return gold if "\\boxed" in gold else rf"\boxed{{{gold}}}"


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(
    work: Sequence[Sequence[Item]], contenders: Sequence[Callable[..., dict[str, float]]]
) -> dict[str, Any]:
    """Return items a second of each contender, the median over rounds, and our ratios.

    Args:
        work: Completions of each round; who begins a round changes.
        contenders: Each returns seconds by name.
    """
    found: dict[str, list[float]] = {}
    for number, given in enumerate(work):
        turn = number % len(contenders)
        for contender in (*contenders[turn:], *contenders[:turn]):
            for name, seconds in contender(given).items():
                found.setdefault(name, []).append(len(given) / seconds)
    rates = {name: statistics.median(values) for name, values in found.items()}
    others = [name for name in rates if not name.startswith("pool")]
    ratios = {f"pool / {name}": ratio(found["pool"], found[name]) for name in others}
    return {"items_per_s": {name: round(rate, 1) for name, rate in rates.items()}, "ratio": ratios}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over rounds of one rate over the other."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2)


def kills(count: int, workers: int | None) -> dict[str, Any]:
    """Return how many workers are killed at their deadline and replaced in a second, and what is left of them."""
    before = descriptors()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "endless.py"
        path.write_text("def endless(sample):\n    while True:\n        pass\n")
        settings: dict[str, Any] = {"deadline": KILL_DEADLINE, "batch_deadline": UNHURRIED}
        with Scorer([f"{path}:endless"], workers=workers, **settings) as scorer:
            scorer.start()
            samples = [Sample("", str(number)) for number in range(count)]
            began = time.perf_counter()
            scored = scorer.score(samples)
            seconds = time.perf_counter() - began
            dead = zombies()  # those of the process that forks the workers end with it
    late = sum(item.verdict.outcome is Outcome.TIMEOUT for item in scored)
    return {
        "kills": late,
        "kills_per_s": round(late / seconds, 1),
        "leaked_descriptors": descriptors() - before,
        "zombies": dead,
    }


def descriptors() -> int:
    """Return how many files and sockets this process holds."""
    return len(os.listdir("/proc/self/fd"))


def zombies() -> int:
    """Return how many processes below this one have ended and are not reaped."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        parents.setdefault(int(parent), []).append((int(path.parent.name), state))
    below, dead = [os.getpid()], 0
    while below:
        for pid, state in parents.get(below.pop(), []):
            below.append(pid)
            dead += state == "Z"
    return dead


def programs(count: int, workers: int | None) -> dict[str, Any] | None:
    """Return how many programs are run against unit tests in a second; None without the verifier."""
    if "code" not in names():
        return None
    tests = ["assert double(2) == 4", "assert double(-3) == -6", "assert double(0) == 0"]
    text = "```python\n# program {}\ndef double(x):\n    return {} * x\n```"
    samples = [
        Sample("", text.format(number, 2 + number % 2), None, {"tests": tests})
        for number in range(count)
    ]
    with Scorer(["code"], workers=workers, batch_deadline=UNHURRIED) as scorer:
        scorer.start()
        seconds = seconds_of(lambda: scorer.score(samples))
    return {"programs": count, "programs_per_s": round(count / seconds, 1)}


def machine() -> dict[str, Any]:
    """Return what the numbers were taken on."""
    packages = ("math-verify", "sympy", "trl", "torch")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Return all figures."""
    count, rounds = (100, 1) if given.quick else (given.items, given.rounds)
    seeds = itertools.count()  # no two batches share completions: the cache knows none of them
    work: dict[str, list[list[Item]]] = {
        "mixed": [items(MIXED, count, next(seeds)) for _ in range(rounds)],
        "algebra": [items(ALGEBRA, count, next(seeds)) for _ in range(rounds)],
        "groups of 8": [groups(items(MIXED, count, next(seeds)), i) for i in range(rounds)],
        "1 % hanging": [hanging(items(MIXED, count, next(seeds)), i) for i in range(rounds)],
    }
    if given.data:
        rows = of_file(given.data, count * rounds)
        work[given.data.name] = [rows[number::rounds] for number in range(rounds)]
    found: dict[str, Any] = {"machine": machine(), "items": count, "rounds": rounds}
    with Scorer(["math"], workers=given.workers, batch_deadline=UNHURRIED) as scorer:
        contenders = (partial(pool, scorer), math_verify, trl)
        for contender in contenders:
            contender(items(MIXED, WARM_UP, next(seeds)))
        for name, batches in work.items():
            print(f"{name} ...", file=sys.stderr, flush=True)
            found[name] = compare(batches, contenders)
    found["kills"] = kills(100 if given.quick else given.kills, given.workers)
    found["programs"] = programs(40 if given.quick else 400, given.workers)
    return found


def show(found: dict[str, Any]) -> None:
    """Print the figures as tables."""
    print("machine: " + ", ".join(f"{name} {value}" for name, value in found["machine"].items()))
    print(f"{found['items']} completions, median of {found['rounds']} rounds, items a second\n")
    head = ["pool", "pool, asked again", "math-verify", "TRL accuracy_reward"]
    print(f"| completions | {' | '.join(head)} | pool / math-verify | pool / TRL |")
    print("|---" * (len(head) + 3) + "|")
    for name, figures in found.items():
        if isinstance(figures, dict) and "ratio" in figures:
            rates = [f"{figures['items_per_s'][one]:.0f}" for one in head]
            ratios = [f"{value:.1f}x" for value in figures["ratio"].values()]
            print(f"| {name} | {' | '.join(rates + ratios)} |")
    for name in ("kills", "programs"):
        figures = found[name] or {"no": "code verifier"}
        print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))


def main() -> None:
    """Measure, print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=300, help="completions of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=None, help="of our pool; default: cores")
    parser.add_argument("--kills", type=int, default=1000, help="workers to be killed")
    parser.add_argument("--data", type=Path, default=None, help="a verifier_bench file, besides")
    parser.add_argument("--quick", action="store_true", help="one round of 100: minutes less")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    found = measure(given)
    if given.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
