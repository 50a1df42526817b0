"""Evaluation of a policy on held-out sets: sample, judge, count.

The policy is a function from prompts to completions, the verifiers are a scorer, so the same code
serves the trainer (in training, on every process) and `rlvr eval`. Rows are dealt to the processes
round-robin and padded, so that each process calls `generate` equally often with equally many
prompts: under ZeRO-3 a process that calls it once less would hang the others.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from rlvr.evaluate.passk import interval, pass_at_k_each
from rlvr.monitor.metrics import OUTCOMES
from rlvr.rewards.verdict import Sample

Prompt = str | list[dict[str, Any]]
Record = dict[str, Any]
"""One judged sample: set, row, sample, prompt, answer, completion, verdict, reason, reward,
tokens, truncated, entropy."""


@dataclass(frozen=True)
class Generation:
    """One sampled completion."""

    text: str
    tokens: int
    """Completion tokens, the end token included."""
    truncated: bool
    """Cut at the length limit."""
    entropy: float | None = None
    """Mean entropy of the tokens, nats; None if it was not measured."""


Generate = Callable[[list[Prompt], int], list[list[Generation]]]
"""(prompts, n) -> n completions for each prompt, in order."""
Steps = Callable[[Sequence[int], str], Iterable[int]]
"""(steps, name of the set) -> the steps, shown while they pass."""


class ScorerLike(Protocol):
    """What is needed of `rlvr.rewards.scorer.Scorer`."""

    def score(
        self, samples: Sequence[Sample], groups: Sequence[int] | None = None
    ) -> Sequence[Any]:
        """Return one `Scored` per sample, in order."""


def prepare_rows(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    fault: Callable[[Mapping[str, Any]], str | None] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows that count, each once, and notes about those left out.

    Args:
        name: Name of the set, for the notes.
        rows: Rows with `prompt` and `answer`. A prompt that comes again with the same answer is
            dropped: some files repeat each problem 32 times to stand for samples.
        fault: Tells why no completion of a row can be judged (`Scorer.fault`), or None.
    """
    notes: list[str] = []
    seen: set[str] = set()
    reasons: Counter[str] = Counter()
    kept: list[dict[str, Any]] = []
    for row in rows:
        key = json.dumps([row["prompt"], row.get("answer")], sort_keys=True, default=str)
        if key in seen:
            continue
        seen.add(key)
        reason = fault(row) if fault else None
        if reason is None:
            kept.append(dict(row))
        else:
            reasons[reason] += 1
    if len(seen) < len(rows):
        notes.append(
            f"{name}: {len(rows)} rows are {len(seen)} different prompts; each counts once"
        )
    if reasons:
        most, count = reasons.most_common(1)[0]
        notes.append(
            f"{name}: {sum(reasons.values())} of {len(seen)} prompts are left out because their "
            f"gold answer is unusable (most often, {count}: {most})"
        )
    if not kept:
        raise ValueError(
            f"{name}: no row is left to evaluate. {' '.join(notes) or 'The set is empty.'}"
        )
    return kept, notes


def evaluate_set(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    generate: Generate,
    scorer: ScorerLike,
    *,
    samples: int,
    ks: Sequence[int],
    batch_size: int = 64,
    rank: int = 0,
    world: int = 1,
    gather: Callable[[list[Record]], list[Record]] = lambda records: records,
    left_out: int = 0,
    steps: Steps | None = None,
) -> tuple[dict[str, float], list[Record]]:
    """Sample completions for every row, judge them and return (metrics, records).

    Args:
        name: Name of the set; the metrics are called `eval/<name>/...`.
        rows: As `prepare_rows` returns them; the same on every process.
        generate: The policy; called equally often on every process.
        scorer: Judges this process's samples.
        samples: Samples per prompt.
        ks: pass@k is computed for those that are <= samples.
        batch_size: Completions of one call of `generate` on one process.
        rank: Of this process.
        world: Number of processes.
        gather: Returns the records of all processes in one list, on every process.
        left_out: Rows that were left out before; added to the metric `left_out`.
        steps: Passes on the numbers of the calls and shows how far they are; None: silent.

    Returns:
        The metrics, and one record per sample ordered by row and sample; the same everywhere.
    """
    ks = sorted({k for k in ks if k <= samples})
    if not ks or ks[0] < 1:
        raise ValueError(
            f"evaluation of {name}: no k in 1..{samples} to estimate pass@k; set evaluation.k, "
            "for example [1], or raise evaluation.samples"
        )
    if not rows:
        raise ValueError(f"evaluation of {name}: the set is empty")
    share = [i % len(rows) for i in range(rank, math.ceil(len(rows) / world) * world, world)]
    padded = rank + (len(share) - 1) * world >= len(rows)
    records: list[Record] = []
    prompts_per_call = max(1, batch_size // samples)
    starts = range(0, len(share), prompts_per_call)
    for start in steps(starts, name) if steps else starts:
        chosen = share[start : start + prompts_per_call]
        generations = _sample([rows[i]["prompt"] for i in chosen], generate, samples, batch_size)
        if padded and start == starts[-1]:
            chosen, generations = chosen[:-1], generations[:-1]
        records += _judge(name, rows, chosen, generations, scorer)
    everything = sorted(gather(records), key=lambda r: (r["row"], r["sample"]))
    return summarize(name, everything, ks, left_out=left_out), everything


def summarize(
    name: str, records: Sequence[Record], ks: Sequence[int], *, left_out: int = 0
) -> dict[str, float]:
    """Return the metrics of one set from its records.

    A skipped sample was not judged and does not count; a prompt with fewer than max(ks) judged
    samples is left out. A verifier that timed out or crashed counts as not correct.
    """
    by_row: dict[int, list[Record]] = {}
    for record in records:
        by_row.setdefault(record["row"], []).append(record)
    judged = [[r for r in group if r["verdict"] != "skipped"] for group in by_row.values()]
    usable = [group for group in judged if len(group) >= max(ks)]
    correct = [[r for r in group if r["verdict"] == "correct"] for group in usable]
    counts = [(len(group), len(right)) for group, right in zip(usable, correct, strict=True)]
    metrics: dict[str, float] = {}
    for k in ks:
        values = pass_at_k_each(counts, k)
        metrics[f"pass@{k}"] = float(values.mean()) if len(values) else math.nan
        metrics[f"pass@{k}/low"], metrics[f"pass@{k}/high"] = interval(values)
    metrics["distinct_correct"] = _mean(
        [len({" ".join(r["completion"].split()) for r in right}) for right in correct]
    )
    metrics["length"] = _mean([r["tokens"] for r in records])
    metrics["truncated_fraction"] = _mean([r["truncated"] for r in records])
    measured = [r for r in records if r["entropy"] is not None and r["tokens"]]
    if measured:
        total = sum(r["tokens"] for r in measured)
        metrics["entropy"] = sum(r["entropy"] * r["tokens"] for r in measured) / total
    outcomes = Counter(r["verdict"] for r in records)
    for outcome in OUTCOMES:
        metrics[f"verdict/{outcome}"] = outcomes[outcome] / len(records)
    metrics["prompts"] = len(usable)
    metrics["left_out"] = left_out + len(by_row) - len(usable)
    metrics["samples"] = max(len(group) for group in by_row.values())
    return {f"eval/{name}/{key}": value for key, value in metrics.items()}


def _sample(
    prompts: list[Prompt], generate: Generate, samples: int, batch_size: int
) -> list[list[Generation]]:
    """Draw `samples` completions for each prompt in calls of at most `batch_size` completions."""
    drawn: list[list[Generation]] = [[] for _ in prompts]
    left = samples
    while left:
        n = min(left, max(1, batch_size // len(prompts)))
        for mine, new in zip(drawn, generate(prompts, n), strict=True):
            if len(new) != n:
                raise RuntimeError(f"generate returned {len(new)} completions, asked for {n}")
            mine += new
        left -= n
    return drawn


def _judge(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    chosen: Sequence[int],
    generations: Sequence[Sequence[Generation]],
    scorer: ScorerLike,
) -> list[Record]:
    pairs = [
        (i, number, generation)
        for i, group in zip(chosen, generations, strict=True)
        for number, generation in enumerate(group)
    ]
    if not pairs:
        return []
    judged = scorer.score(
        [
            Sample(
                prompt=rows[i]["prompt"],
                completion=generation.text,
                answer=rows[i].get("answer"),
                row={k: v for k, v in rows[i].items() if k not in ("prompt", "answer")},
                truncated=generation.truncated,
                length=generation.tokens,
            )
            for i, _, generation in pairs
        ],
        [i for i, _, _ in pairs],
    )
    return [
        {
            "set": name,
            "row": i,
            "sample": number,
            "prompt": rows[i]["prompt"],
            "answer": rows[i].get("answer"),
            **{"completion" if k == "text" else k: v for k, v in asdict(generation).items()},
            "verdict": str(scored.verdict.outcome),
            "reason": scored.verdict.reason,
            "reward": scored.reward,
        }
        for (i, number, generation), scored in zip(pairs, judged, strict=True)
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
