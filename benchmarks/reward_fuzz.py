"""Hostile completions through every verifier, and workers killed by the thousand: `python -m benchmarks.reward_fuzz`.

Half of the completions are drawn by hypothesis, half are mutations of real ones. For each there must be a verdict, in
order, and none may take more than a second over its deadline. The exit code says whether that held.
"""

import argparse
import contextlib
import json
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.rewards import kills
from rlvr.reward.attack import GAMING, hostile
from rlvr.reward.example import OPTIONS, Example, load_examples
from rlvr.reward.trial import DEADLINE
from rlvr.reward.wrapping import PARAPHRASES, WRAPPINGS
from rlvr.rewards.entry import parse_entries
from rlvr.rewards.registry import names
from rlvr.rewards.scorer import Scored, Scorer

GRACE = 1.0  # seconds over the deadline
UNHURRIED = 1e6  # seconds
BATCH = 2_000
MAX_LENGTH = 200_000  # characters of a mutation
SNIPPETS = (
    *("\\boxed{", "}", "{", "$", "\\[", "\\frac{1}{", "\\sqrt[", "^{9^{9}}", "_{", "!", "\\infty"),
    *("\\text{", "\\begin{pmatrix}", "\\\\", "&", "\\pm", "\\cup", "%", "°", "½", "１２", "²", "٣"),
    *("<think>", "</think>", "<answer>", "</answer>", "####", "The answer is ", "Answer: (B)"),
    *(
        "```python\n",
        "```sql\n",
        "```json\n",
        "```",
        "def double(x):",
        "    return ",
        "while True: pass",
    ),
    *(
        "import os\n",
        "SELECT ",
        " FROM sale",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n FROM t)",
    ),
    *(
        '{"name": ',
        "[1, ",
        "null",
        "NaN",
        "1e999",
        '"\\ud800"',
        "\x00",
        "\ud800",
        "\u202e",
        "\u200b",
    ),
    *("9" * 400, "(" * 200, "-", "+", "*", "/", "=", "or", "and", ",", "\n", "\r\n", "\t", " "),
)


@dataclass(frozen=True)
class Outcome:
    """What became of the completions of one verifier."""

    verifier: str
    count: int
    lost: int
    late: int
    slowest: float
    seconds: float
    outcomes: Mapping[str, int]

    @property
    def holds(self) -> bool:
        """Whether each got a verdict in time."""
        return not self.lost and not self.late


def text() -> st.SearchStrategy[str]:
    """Return completions: any text at all, and snippets of what verifiers read, put together."""
    anything = st.text(st.characters(exclude_categories=()), max_size=60)  # lone surrogates too
    pieces = st.one_of(st.sampled_from(SNIPPETS), anything, st.integers().map(str))
    return st.one_of(anything, st.lists(pieces, max_size=25).map("".join))


@cache
def drawn(count: int, seed: int) -> tuple[str, ...]:
    """Return completions from hypothesis, the same ones for each verifier."""
    found: list[str] = []

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(text())
    def keep(value: str) -> None:
        found.append(value)

    keep()
    random.Random(seed).shuffle(found)
    return tuple((found * (count // max(1, len(found)) + 1))[:count])


def mutated(rows: Sequence[Example], count: int, seed: int) -> list[str]:
    """Return mutations of completions that models write for these rows."""
    rng = random.Random(seed)
    real = real_completions(rows)
    return [_mutate(rng.choice(real), real, rng) for _ in range(count)]


def real_completions(rows: Sequence[Example]) -> list[str]:
    """Return right, wrong, gaming and hostile completions of rows."""
    found = [text for texts in hostile(None).values() for text in texts if len(text) < MAX_LENGTH]
    for row in rows:
        answer = "" if row.answer is None else str(row.answer)
        found += [text for text in (row.right, row.wrong) if text]
        found += [wrap(answer) for wrap in WRAPPINGS.values()]
        found += [wrap(answer) for several in PARAPHRASES.values() for wrap in several]
        for make in GAMING.values():
            found += make("box", str(row.prompt), answer, ["12", "x+1"])
    return found


def _mutate(text: str, others: Sequence[str], rng: random.Random) -> str:
    if rng.random() < 0.2:  # two of them, spliced
        other = rng.choice(others)
        text = text[: rng.randint(0, len(text))] + other[rng.randint(0, len(other)) :]
    for _ in range(rng.randint(1, 6)):
        text = rng.choice(_MUTATIONS)(text, rng)[:MAX_LENGTH]
    return text


def _cut(text: str, rng: random.Random) -> str:
    start, end = sorted(rng.randint(0, len(text)) for _ in range(2))
    return text[:start] + text[end:]


def _repeat(text: str, rng: random.Random) -> str:
    start, end = sorted(rng.randint(0, len(text)) for _ in range(2))
    return text[:end] + text[start:end] * rng.choice((1, 2, 50)) + text[end:]


def _insert(text: str, rng: random.Random) -> str:
    place = rng.randint(0, len(text))
    return text[:place] + rng.choice(SNIPPETS) * rng.choice((1, 1, 1, 30)) + text[place:]


def _replace(text: str, rng: random.Random) -> str:
    if not text:
        return text
    place = rng.randrange(len(text))
    return (
        text[:place]
        + chr(rng.choice((rng.randrange(128), rng.randrange(0x11_0000))))
        + text[place + 1 :]
    )


def _case(text: str, rng: random.Random) -> str:
    return rng.choice((str.upper, str.lower, str.swapcase))(text)


_MUTATIONS: tuple[Callable[[str, random.Random], str], ...] = (
    _cut,
    _repeat,
    _insert,
    _insert,
    _replace,
    _case,
)


def fuzz(verifier: str, count: int, *, seed: int = 0, workers: int | None = None) -> Outcome:
    """Return what became of this many completions.

    Args:
        verifier: Name of a built-in one.
        count: Half are drawn, half mutated.
        seed: Of both.
        workers: Processes; None: one a core.
    """
    rows = load_examples(verifier, None)
    texts = [*drawn(count // 2, seed), *mutated(rows, count - count // 2, seed)]
    samples = [rows[i % len(rows)].sample(completion) for i, completion in enumerate(texts)]
    scored: list[Scored] = []
    with contextlib.ExitStack() as stack:
        options = dict(OPTIONS.get(verifier, {}))
        if verifier == "judge":
            options = {
                "model": "refusing",
                "url": stack.enter_context(service()),
                "api_key_env": None,
            }
        named = {verifier: options}
        allowed = parse_entries([named], deadline=DEADLINE)[0].deadline
        settings_: dict[str, Any] = {"workers": workers, "batch_deadline": UNHURRIED}
        scorer = stack.enter_context(Scorer([named], deadline=DEADLINE, **settings_))
        began = time.perf_counter()
        for start in range(0, len(samples), BATCH):
            scored += scorer.score(samples[start : start + BATCH], progress=verifier)
        seconds = time.perf_counter() - began
    taken = [item.verdict.seconds for item in scored]
    return Outcome(
        verifier,
        count,
        lost=count - len(scored),
        late=sum(seconds > allowed + GRACE for seconds in taken),
        slowest=max(taken, default=0.0),
        seconds=seconds,
        outcomes=Counter(item.verdict.outcome.value for item in scored),
    )


@contextlib.contextmanager
def service() -> Iterator[str]:
    """Serve a chat model that says no whatever it is asked; yield the address."""

    class Refusing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            code = re.findall(r"VERDICT (\w+): <", asked)[-1]
            message = {"role": "assistant", "content": f"VERDICT {code}: NO"}
            reply = json.dumps({"choices": [{"index": 0, "message": message}]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


def main() -> None:
    """Put the completions through the verifiers, kill workers, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50_000, help="completions for each verifier")
    parser.add_argument("--only", nargs="*", default=None, help="names of verifiers")
    parser.add_argument("--kills", type=int, default=0, help="workers to be killed, besides")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given_ = parser.parse_args()
    chosen = names() if given_.only is None else given_.only
    found: dict[str, Any] = {}
    holds = True
    for name in chosen:
        outcome = fuzz(name, given_.count, seed=given_.seed, workers=given_.workers)
        found[name] = vars(outcome)
        holds &= outcome.holds
        if not given_.json:
            shown = ", ".join(f"{count} {what}" for what, count in outcome.outcomes.items())
            print(
                f"{name:<14}{'ok' if outcome.holds else 'FAILED':<8}{outcome.count} in {outcome.seconds:.0f} s, "
                f"slowest {outcome.slowest:.2f} s: {shown}",
                flush=True,
            )
    if given_.kills:
        found["kills"] = kills(given_.kills, given_.workers)
        holds &= not (found["kills"]["leaked_descriptors"] or found["kills"]["zombies"])
        if not given_.json:
            print(", ".join(f"{name} {value}" for name, value in found["kills"].items()))
    if given_.json:
        print(json.dumps(found))
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
